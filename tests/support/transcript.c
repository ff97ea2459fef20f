#include "tests/support/transcript.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/kept.h"

static FILE *page; /* what is written now: a line, then the whole */
static transcript_name_t *name_of_peer;

/* ---- structs, field by field ---- */

typedef struct field {
    const char *name;
    enum { END, U32, U64, F64, BOOL, TEXT } type;
    size_t at;
} field_t;

#define FIELD(type, of, name)                                                                                                      \
    {                                                                                                                              \
#name, type, offsetof(of, name)                                                                                            \
    }

static const field_t of_msg[] = {
#define F(type, name) FIELD(type, psd_msg_t, name)
    F(U64, job),      F(U64, view_id),      F(U64, map_id),     F(U32, worker), F(U64, incarnation), F(U64, clock),
    F(U64, version),  F(U64, base_version), F(U64, sync_epoch), F(U32, shard),  F(U64, shard_epoch), F(U32, part),
    F(U32, parts),    F(U64, samples),      F(F64, loss),       F(F64, norm2),  F(BOOL, nonfinite),  F(U32, dtype),
    F(U32, codec),    F(BOOL, proven),      F(U32, n_elements), F(U32, chunks), F(U64, seq),         F(U64, saved),
    F(U32, code),     F(U32, rank),         F(U32, world),      F(F64, lr),     F(F64, value),       F(TEXT, text),
    { NULL, END, 0 },
#undef F
};

static const field_t of_member[] = {
#define F(type, name) FIELD(type, psd_member_t, name)
    F(U32, worker), F(U64, incarnation), F(U64, samples), F(F64, loss),
    F(F64, norm2),  F(BOOL, nonfinite),  F(U64, nonce),   { NULL, END, 0 },
#undef F
};

static const field_t of_round[] = {
#define F(type, name) FIELD(type, psd_round_t, name)
    F(U64, clock), F(BOOL, apply), F(F64, lr), F(U64, view_id), { NULL, END, 0 },
#undef F
};

static const field_t of_settings[] = {
#define F(type, name) FIELD(type, psd_job_settings_t, name)
    F(TEXT, text),          F(TEXT, mode),        F(TEXT, optimizer),
    F(TEXT, lr_rule),       F(TEXT, groups),      F(TEXT, schedule),
    F(TEXT, schedule_unit), F(F64, lr),           F(U64, max_staleness),
    F(F64, clip_value),     F(F64, clip_norm),    F(U32, accumulate),
    F(U32, lease_ms),       F(BOOL, has_slow),    F(BOOL, in_rounds),
    F(BOOL, whole_norm),    F(BOOL, checkpoints), F(BOOL, saves_residuals),
    F(U32, part_elements),  { NULL, END, 0 },
#undef F
};

static void print_fields(const field_t *field, const void *of)
{
    for (; field->name; field++) {
        const void *at = (const char *)of + field->at;
        switch (field->type) {
        case U32:
            if (*(const uint32_t *)at)
                fprintf(page, " %s=%" PRIu32, field->name, *(const uint32_t *)at);
            break;
        case U64:
            if (*(const uint64_t *)at)
                fprintf(page, " %s=%" PRIu64, field->name, *(const uint64_t *)at);
            break;
        case F64:
            if (*(const double *)at != 0)
                fprintf(page, " %s=%.9g", field->name, *(const double *)at);
            break;
        case BOOL:
            if (*(const bool *)at)
                fprintf(page, " %s", field->name);
            break;
        case TEXT:
            if (*(const char *)at)
                fprintf(page, " %s=\"%s\"", field->name, (const char *)at);
            break;
        case END:
            break;
        }
    }
}

/* ---- bodies ---- */

static void print_members(const char *word, const psd_member_t *member, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        fprintf(page, " %s(", word);
        print_fields(of_member, &member[i]);
        fprintf(page, " )");
    }
}

static void print_tensors(const psd_tensor_list_t *list)
{
    if (list->rows)
        fprintf(page, " rows=%" PRIu64, list->rows);
    for (uint32_t t = 0; t < list->n; t++) {
        fprintf(page, " %s[", list->tensor[t].name);
        for (uint32_t d = 0; d < list->tensor[t].n_dims; d++)
            fprintf(page, "%s%" PRIu64, d ? ", " : "", list->tensor[t].dim[d]);
        fprintf(page, "]");
        if (list->inherited)
            fprintf(page, " after %" PRIu64 " updates, arrays %" PRIu32, list->inherited[t].t, list->inherited[t].arrays);
    }
}

static void print_cluster(const psd_cluster_t *cluster)
{
    for (uint32_t s = 0; s < cluster->n_servers; s++)
        fprintf(page, " %s", cluster->endpoint[s]);
    print_fields(of_settings, &cluster->settings);
}

static void print_bytes(const uint8_t *bytes, size_t n)
{
    fprintf(page, " 0x");
    for (size_t i = 0; i < n; i++)
        fprintf(page, "%02x", bytes[i]);
}

static void print_part(const psd_msg_t *msg, const psd_buf_t *payload)
{
    const size_t n = (size_t)msg->n_elements * sizeof(float);
    size_t done = 0;
    if (msg->codec == PSD_CODEC_F32 && n <= payload->n_bytes)
        for (; done < n; done += sizeof(float)) {
            float x;
            memcpy(&x, (const char *)payload->data + done, sizeof x);
            fprintf(page, " %.9g", (double)x);
        }
    if (done < payload->n_bytes)
        print_bytes((const uint8_t *)payload->data + done, payload->n_bytes - done);
}

static void print_sums(const psd_buf_t *payload)
{
    for (size_t done = 0; done + sizeof(double) <= payload->n_bytes; done += sizeof(double)) {
        double x;
        memcpy(&x, (const char *)payload->data + done, sizeof x);
        fprintf(page, " %.9g", x);
    }
}

static void print_body(const psd_msg_t *msg, const psd_buf_t *payload)
{
    fprintf(page, " |");
    switch (psd_kind_payload(msg->kind)) {
    case PSD_PAYLOAD_PART:
        print_part(msg, payload);
        break;
    case PSD_PAYLOAD_SUMS:
        print_sums(payload);
        break;
    case PSD_PAYLOAD_TENSORS:
        print_tensors(psd_body_tensors(payload));
        break;
    case PSD_PAYLOAD_CLUSTER:
        print_cluster(psd_body_cluster(payload));
        break;
    case PSD_PAYLOAD_ROUND:
        print_fields(of_round, psd_body_round(payload));
        print_members("contributor", psd_body_round(payload)->contributor, psd_body_round(payload)->n_contributors);
        print_members("member", psd_body_round(payload)->member, psd_body_round(payload)->n_members);
        break;
    case PSD_PAYLOAD_HELLO:
        fprintf(page, " job=\"%s\" name=\"%s\"", psd_body_hello(payload)->job, psd_body_hello(payload)->name);
        break;
    case PSD_PAYLOAD_SHARD_HELLO:
        fprintf(page, " job=\"%s\" endpoint=\"%s\" settings=\"%s\"", psd_body_shard_hello(payload)->job,
                psd_body_shard_hello(payload)->endpoint, psd_body_shard_hello(payload)->settings);
        break;
    default:
        print_bytes(payload->data, payload->n_bytes);
    }
}

/* ---- actions ---- */

static const char *const acts[] = { "SEND",          "WORK",     "LOG",    "FINISH",  "SAVE_BEGIN",   "SAVE_PART",
                                    "SAVE_RESIDUAL", "SAVE_END", "COMMIT", "RESTORE", "LOAD_RESIDUAL" };
static const char *const levels[] = { "ERROR", "WARN", "INFO", "DEBUG" };

static void print_action(const psd_action_t *a)
{
    const char *name = a->act == PSD_ACT_SEND && name_of_peer ? name_of_peer(a->to) : NULL;
    if (a->act == PSD_ACT_SEND) {
        if (name)
            fprintf(page, "to %s: ", name);
        else
            fprintf(page, "to 0x%" PRIx64 ": ", a->to);
        fprintf(page, "%s", psd_kind_name(a->msg.kind));
        if (a->msg.protocol != PSD_PROTOCOL)
            fprintf(page, " protocol=%" PRIu32, a->msg.protocol);
        print_fields(of_msg, &a->msg);
        if (a->payload)
            print_body(&a->msg, a->payload);
    } else if (a->act == PSD_ACT_LOG)
        fprintf(page, "%s %s %s", levels[a->level], a->id, a->msg.text);
    else if (a->act == PSD_ACT_FINISH)
        fprintf(page, "FINISH %d \"%s\"", a->level, a->msg.text);
    else {
        fprintf(page, "%s clock=%" PRIu64 " part=%" PRIu32 " worker=%" PRIu32, acts[a->act], a->clock, a->part, a->worker);
        if (a->payload)
            print_bytes(a->payload->data, a->payload->n_bytes);
    }
}

/* The lines below an event. One that comes again later is written once, with all its times. */
static struct line {
    char *text, *times;
    uint64_t last_ms;
    bool timed;
} lines[4096];
static size_t n_lines;

/* Takes over `text`. */
static void add_line(char *text, bool timed, uint64_t now_ms)
{
    struct line *line = NULL;
    char *times = NULL;
    for (size_t i = 0; timed && i < n_lines && !line; i++)
        if (lines[i].timed && lines[i].last_ms < now_ms && !strcmp(lines[i].text, text))
            line = &lines[i];
    const bool again = line != NULL;
    if (!again) {
        assert(n_lines < sizeof lines / sizeof *lines);
        line = &lines[n_lines++];
        *line = (struct line){ .text = text, .timed = timed };
    } else
        free(text);
    line->last_ms = now_ms;
    const int rc = asprintf(&times, "%s%s%" PRIu64, again ? line->times : "", again ? ", " : "", now_ms);
    assert(rc >= 0);
    free(line->times);
    line->times = times;
}

static void flush_lines(void)
{
    for (size_t i = 0; i < n_lines; i++) {
        fprintf(page, "  %s%s%s\n", lines[i].timed ? lines[i].times : "", lines[i].timed ? " " : "", lines[i].text);
        free(lines[i].text);
        free(lines[i].times);
    }
    n_lines = 0;
}

void transcript_actions(uint64_t now_ms, psd_actions_t *actions)
{
    FILE *const whole = page;
    for (size_t i = 0; i < actions->n; i++) {
        char *text = NULL;
        size_t n;
        page = open_memstream(&text, &n);
        assert(page);
        print_action(&actions->at[i]);
        fclose(page);
        add_line(text, true, now_ms);
    }
    page = whole;
    psd_actions_drop(actions, actions->n);
}

void transcript_say(const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    const int rc = vasprintf(&text, format, args);
    va_end(args);
    assert(rc >= 0);
    add_line(text, false, 0);
}

/* ---- events ---- */

static char present[4096];           /* the present one */
static bool is_read[sizeof present]; /* the words that begin there and were asked for */

/* What stands after "NAME=" at the beginning of a word; NULL when there is none. */
static const char *find(const char *event, const char *name)
{
    const size_t n = strlen(name);
    bool quoted = false;
    for (const char *at = event; *at; at++) {
        quoted ^= *at == '"';
        if (quoted || (at != event && at[-1] != ' ') || strncmp(at, name, n) || at[n] != '=')
            continue;
        if (at >= present && at < present + sizeof present)
            is_read[at - present] = true;
        return at + n + 1;
    }
    return NULL;
}

/* The event from the first word "NAME=..." on for which nobody has asked, as from a misspelt one; NULL: there is none. */
static const char *unread(void)
{
    bool quoted = false;
    for (const char *at = present; *at; at++) {
        quoted ^= *at == '"';
        if (quoted || at == present || at[-1] != ' ' || is_read[at - present])
            continue;
        const size_t n = strspn(at, "abcdefghijklmnopqrstuvwxyz_0123456789");
        if (n && at[n] == '=')
            return at;
    }
    return NULL;
}

double transcript_number(const char *event, const char *name, double otherwise)
{
    const char *at = find(event, name);
    return at ? strtod(at, NULL) : otherwise;
}

const char *transcript_text(const char *event, const char *name)
{
    static char text[4096];
    const char *at = find(event, name);
    if (!at)
        return "";
    const bool quoted = *at == '"';
    at += quoted;
    snprintf(text, sizeof text, "%.*s", (int)strcspn(at, quoted ? "\"" : " "), at);
    return text;
}

void transcript_fields(const char *event, psd_msg_t *msg)
{
    for (const field_t *field = of_msg; field->name; field++) {
        void *at = (char *)msg + field->at;
        const char *value = find(event, field->name);
        if (!value)
            continue;
        if (field->type == U32)
            *(uint32_t *)at = (uint32_t)strtoul(value, NULL, 10);
        else if (field->type == U64)
            *(uint64_t *)at = strtoull(value, NULL, 10);
        else if (field->type == F64)
            *(double *)at = strtod(value, NULL);
        else if (field->type == BOOL)
            *(bool *)at = *value == '1';
        else
            snprintf(at, sizeof msg->text, "%.*s", (int)sizeof msg->text - 1, transcript_text(event, field->name));
    }
}

psd_kind_t transcript_kind(const char *name)
{
    static const psd_kind_t kinds[] = {
#define X(name, number, sender, receiver, payload, may_be_empty, meaning) PSD_MSG_##name,
        PSD_MESSAGES(X)
#undef X
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(psd_kind_name(kinds[i]), name))
            return kinds[i];
    fprintf(stderr, "transcript: there is no message %s\n", name);
    abort();
}

/* ---- the file ---- */

const char *transcript_play(const char *name, transcript_perform_t *perform, transcript_name_t *name_of)
{
    static char odd[4096 + 600];
    char path[512], *got = NULL;
    size_t n;
    *odd = '\0';
    snprintf(path, sizeof path, "tests/golden/transcripts/%s.txt", name);
    char *const wanted = kept_read(path);
    page = open_memstream(&got, &n);
    name_of_peer = name_of;
    assert(page);
    for (const char *at = wanted; *at;) {
        const size_t length = strcspn(at, "\n");
        memset(is_read, 0, sizeof is_read);
        snprintf(present, sizeof present, "%.*s", (int)length, at);
        if (present[0] != ' ')
            fprintf(page, "%s\n", present);
        if (present[0] == '>')
            perform(present + 2);
        flush_lines();
        if (present[0] == '>' && unread() && !*odd)
            snprintf(odd, sizeof odd, "%s: no event of this kind has \"%s\"", path, unread());
        at += length + (at[length] == '\n');
    }
    fclose(page);
    const char *difference = *odd ? odd : *wanted ? kept_difference(path, got) : "there is no such file, or it is empty";
    free(wanted);
    free(got);
    return difference;
}
