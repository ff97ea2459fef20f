#include "tests/support/said.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

/* Move a line's first word to `out`. */
static const char *word(char *out, size_t capacity, const char *line)
{
    const size_t n = strcspn(line, " ");
    snprintf(out, capacity, "%.*s", (int)n, line);
    return line + n + (line[n] == ' ');
}

psd_buf_t *said_body(psd_kind_t kind, const char *line, double value)
{
    psd_hello_t hello = { 0 };
    psd_shard_hello_t shard = { 0 };
    psd_admin_request_t request = { .value = value };
    switch (kind) {
    case PSD_MSG_HELLO:
        line = word(hello.job, sizeof hello.job, line);
        snprintf(hello.name, sizeof hello.name, "%s", line);
        return psd_body_of_hello(&hello);
    case PSD_MSG_SHARD_HELLO:
        line = word(shard.job, sizeof shard.job, line);
        line = word(shard.endpoint, sizeof shard.endpoint, line);
        snprintf(shard.settings, sizeof shard.settings, "%s", line);
        return psd_body_of_shard_hello(&shard);
    case PSD_MSG_ADMIN:
        line = word(request.job, sizeof request.job, line);
        line = word(request.verb, sizeof request.verb, line);
        snprintf(request.word, sizeof request.word, "%s", line);
        return psd_body_of_admin_request(&request);
    default:
        return NULL;
    }
}

size_t said_bytes(psd_kind_t kind, const char *line, double value, uint8_t out[SAID_BYTES])
{
    psd_buf_t *body = said_body(kind, line, value);
    if (!body)
        return 0;
    const size_t n = psd_body_encode(psd_kind_payload(kind), body, out, SAID_BYTES);
    psd_buf_unref(&body);
    return n;
}

psd_buf_t *said_with(const psd_msg_t *msg, const void *bytes, size_t n)
{
    psd_buf_t *body;
    psd_err_t err;
    if (!n)
        return said_body(msg->kind, msg->text, msg->value);
    if (psd_kind_payload(msg->kind) < PSD_PAYLOAD_TENSORS)
        return psd_payload_copy(bytes, n);
    const int rc = psd_body_decode(psd_kind_payload(msg->kind), bytes, n, &body, &err);
    assert(rc == PSD_OK && "a test sends well-formed messages");
    return body;
}

size_t said_anything(psd_kind_t kind, uint8_t out[SAID_BYTES])
{
    psd_tensor_desc_t tensor = { .name = "w", .n_dims = 1, .dim = { 4 }, .n_elements = 4 };
    const psd_cluster_t cluster = { .n_servers = 1,
                                    .endpoint = { "tcp://here:1" },
                                    .settings = { .mode = "bsp", .optimizer = "sgd", .part_elements = 1 } };
    switch (psd_kind_payload(kind)) {
    case PSD_PAYLOAD_TENSORS:
        return psd_tensors_encode(&(psd_tensor_list_t){ .n = 1, .tensor = &tensor }, out, SAID_BYTES);
    case PSD_PAYLOAD_CLUSTER:
        return psd_cluster_encode(&cluster, out, SAID_BYTES);
    case PSD_PAYLOAD_ROUND:
        return psd_round_encode(&(psd_round_t){ .clock = 1 }, out, SAID_BYTES);
    case PSD_PAYLOAD_OFFER:
        return psd_offer_encode(&(psd_offer_t){ .name = "psd" }, out, SAID_BYTES);
    default:
        return said_bytes(kind, "another w:1", 0, out);
    }
}
