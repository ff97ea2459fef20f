/* admin.c - `psdctl pause`, `resume`, `drain`, `set` and `checkpoint save`: sends an operator's request to server 0 of a running
 * job. */
#include "deploy/psdctl/verb.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/config/number.h"
#include "common/net/transport.h"
#include "proto/wire.h"

enum { ASK_MS = 200, WAIT_S = 30 };

/* A request, repeated until it is granted or refused; its number identifies it. */
typedef struct request {
    psd_msg_t msg;
    psd_admin_request_t request;
    const char *join;
    psd_keys_source_t keys;
    psd_net_t *net;
    double timeout_s;
    uv_loop_t loop;
    uv_timer_t ask, deadline;
    psd_socket_t *socket;
    psd_err_t outcome; /* code PSD_EAGAIN: still open; the text is the server's last answer */
} request_t;

static void end(request_t *self, int code, const char *text)
{
    psd_err_set(&self->outcome, code, "%s", text);
    uv_stop(&self->loop);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    request_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    (void)peer;
    psd_buf_t *body;
    const int rc = psd_wire_read(&msg, &body, header, n_header, payload, &err);
    psd_buf_unref(&body);
    if (rc == PSD_EDATA) {
        return; /* damaged on the way: ask again */
    } else if (rc != PSD_OK) {
        end(self, PSD_EPROTO, err.text);
    } else if (msg.seq != self->msg.seq) {
        return;
    } else if (msg.kind == PSD_MSG_WAIT) {
        psd_err_set(&self->outcome, PSD_EAGAIN, "%s", msg.text);
    } else {
        end(self, msg.kind == PSD_MSG_ADMIN ? PSD_OK : PSD_EREFUSED, msg.text);
    }
}

static void on_bad(void *arg, uint64_t peer, const char *why)
{
    (void)peer;
    end(arg, PSD_EPROTO, why);
}

static void on_link(void *arg, uint64_t peer, psd_link_t link)
{
    request_t *self = arg;
    char text[400];
    (void)peer;
    if (link == PSD_LINK_UP)
        return;
    psd_link_describe(self->net, link, self->join, text, sizeof text);
    if (link == PSD_LINK_BROKEN) /* it may be starting */
        psd_err_set(&self->outcome, PSD_EAGAIN, "%s", text);
    else
        end(self, PSD_EAUTH, text);
}

static void on_ask(uv_timer_t *timer)
{
    request_t *self = timer->data;
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_buf_t *body = psd_body_of_admin_request(&self->request), *bytes;
    const size_t n = psd_wire_write(&self->msg, body, psd_net_is_keyed(self->net), header, &bytes);
    psd_socket_send(self->socket, 0, header, n, bytes);
    psd_buf_unref(&bytes);
    psd_buf_unref(&body);
}

static void on_deadline(uv_timer_t *timer)
{
    request_t *self = timer->data;
    char text[sizeof self->outcome.text];
    if (self->outcome.text[0])
        snprintf(text, sizeof text, "not done after %g s: %.400s", self->timeout_s, self->outcome.text);
    else
        snprintf(text, sizeof text,
                 "no server answers at %.200s; check that server 0 is running and that this is its address (--join)", self->join);
    end(self, PSD_EUNAVAILABLE, text);
}

/* A request without keys works only on the server's machine. */
static int open_net(request_t *self)
{
    psd_keys_t keys;
    self->keys.insecure = !self->keys.secret && !self->keys.server;
    int rc = psd_keys_load(&keys, &self->keys, &self->outcome);
    if (rc != PSD_OK)
        return rc;
    if (!keys.insecure)
        psd_keys_guard_process();
    self->net = psd_net_new(&keys, &self->outcome);
    psd_keys_wipe(&keys);
    return self->net ? PSD_OK : self->outcome.code;
}

/* Repeat the request until there is an outcome. */
static int ask(request_t *self)
{
    psd_socket_handler_t handler = { on_message, on_bad, on_link, self };
    psd_err_t *err = &self->outcome;
    if (open_net(self) != PSD_OK)
        return err->code;
    if (uv_loop_init(&self->loop))
        return psd_err_set(err, PSD_ESYSTEM, "cannot start a loop");
    self->socket = psd_socket_connect(self->net, &self->loop, self->join, 1, &handler, err);
    uv_timer_init(&self->loop, &self->ask);
    uv_timer_init(&self->loop, &self->deadline);
    self->ask.data = self->deadline.data = self;
    if (self->socket) {
        err->code = PSD_EAGAIN;
        uv_timer_start(&self->ask, on_ask, 0, ASK_MS);
        uv_timer_start(&self->deadline, on_deadline, (uint64_t)(self->timeout_s * 1e3), 0);
        uv_run(&self->loop, UV_RUN_DEFAULT);
        psd_socket_close(&self->socket, 0);
    }
    uv_close((uv_handle_t *)&self->ask, NULL);
    uv_close((uv_handle_t *)&self->deadline, NULL);
    uv_run(&self->loop, UV_RUN_DEFAULT);
    uv_loop_close(&self->loop);
    psd_net_destroy(&self->net);
    return err->code;
}

/* Split "optimizer.lr=1e-3" into word and value. */
static bool split_setting(char *word, double *value)
{
    char *equals = strchr(word, '=');
    if (!equals || !equals[1] || psd_number_read(equals + 1, value) != strlen(equals + 1) || !isfinite(*value))
        return false;
    *equals = '\0';
    return true;
}

enum { JOIN, JOB, KEY, SERVER_PUBLIC, TIMEOUT };

/* 0, or the exit code of an error, which it has reported. */
static int read_request(request_t *self, const psd_args_t *args)
{
    const psd_verb_t *verb = args->verb;
    const char *const *flag = args->flag, *name = strrchr(verb->name, ' ');
    const char *job = flag[JOB] ? flag[JOB] : "psd", *given = args->word[0] ? args->word[0] : "";
    char *word = self->request.word;
    self->join = flag[JOIN] ? flag[JOIN] : "tcp://127.0.0.1:7470";
    self->keys = (psd_keys_source_t){ .secret = flag[KEY], .server = flag[SERVER_PUBLIC] };
    if (flag[TIMEOUT])
        self->timeout_s = args->value[TIMEOUT].d;
    if (strchr(job, ' ') || !*job || strlen(job) >= sizeof self->request.job)
        return psd_verb_misuse(verb, "--job is the job's name, without blanks; not \"%s\"", job);
    if (args->word[0] && (strchr(given, ' ') || !*given || strlen(given) >= sizeof self->request.word))
        return psd_verb_misuse(verb, "\"%s\" is not a %s", given, verb->words);
    snprintf(word, sizeof self->request.word, "%s", given);
    if (!strcmp(verb->name, "set") && !split_setting(word, &self->request.value))
        return psd_verb_misuse(verb, "%s is not a setting; write optimizer.lr=VALUE, as in optimizer.lr=1e-4", word);
    snprintf(self->request.job, sizeof self->request.job, "%s", job);
    snprintf(self->request.verb, sizeof self->request.verb, "%s", name ? name + 1 : verb->name);
    return 0;
}

static int run(const psd_args_t *args)
{
    request_t self = { .timeout_s = WAIT_S, .msg = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL } };
    int code = read_request(&self, args);
    if (code)
        return code;
    while (!self.msg.seq && getrandom(&self.msg.seq, sizeof self.msg.seq, 0) != sizeof self.msg.seq)
        ;
    int rc = ask(&self);
    FILE *out = rc == PSD_OK ? stdout : stderr;
    if (rc != PSD_OK)
        fprintf(out, "psdctl %s: ", args->verb->name);
    fprintf(out, "%s\n", self.outcome.text);
    return psd_err_exit_code(rc);
}

#define FLAGS                                                                                                                      \
    {                                                                                                                              \
        [JOIN] = { .key = "join",                                                                                                  \
                   .type = PSD_OPTION_STRING,                                                                                      \
                   .argument = "ENDPOINT",                                                                                         \
                   .help = "address of server 0; default tcp://127.0.0.1:7470" },                                                  \
        [JOB] = { .key = "job", .type = PSD_OPTION_STRING, .argument = "NAME", .help = "the job's name; default psd" },            \
        [KEY] = { .key = "key",                                                                                                    \
                  .type = PSD_OPTION_PATH,                                                                                         \
                  .argument = "FILE",                                                                                              \
                  .help = "your secret key, of the role admin; default: without keys, on this machine" },                          \
        [SERVER_PUBLIC] = { .key = "server-public",                                                                                \
                            .type = PSD_OPTION_STRING,                                                                             \
                            .argument = "KEY",                                                                                     \
                            .help = "the servers' public key, or a file with it" },                                                \
        [TIMEOUT] = {                                                                                                              \
            .key = "timeout",                                                                                                      \
            .type = PSD_OPTION_DOUBLE,                                                                                             \
            .argument = "SECONDS",                                                                                                 \
            .range = "0.001..1000000",                                                                                             \
            .help = "how long to wait until it is done; default 30"                                                                \
        }                                                                                                                          \
    }
#define REQUEST(id, title, takes, what, more, example)                                                                             \
    const psd_verb_t psd_verb_##id = { .name = title,                                                                              \
                                       .words = takes,                                                                             \
                                       .does = what,                                                                               \
                                       .about = more,                                                                              \
                                       .flag = FLAGS,                                                                              \
                                       .examples = example,                                                                        \
                                       .exits = "69 when no server answers or it is not done in time; 76 when "                    \
                                                "server 0 refuses; 77 when it refuses this key",                                   \
                                       .run = run }

REQUEST(pause, "pause", "", "hold a running job: it makes no more steps until psdctl resume",
        "Workers stay connected, and wait. A pause also ends when server 0 is restarted.",
        "psdctl pause --join=tcp://ps0:7470 --job=mnist --key=op.key --server-public=ps.pub\n");
REQUEST(resume, "resume", "", "continue after a pause", "", "psdctl resume --job=mnist\n");
REQUEST(drain, "drain", "WORKER", "let a worker finish its round and leave the job",
        "WORKER is its id in psdctl status, or its name. It exits with 0, so that no supervisor restarts it.",
        "psdctl drain 3 --job=mnist\n");
REQUEST(set, "set", "optimizer.lr=VALUE", "set the learning rate of a running job", "On all servers, from the next step on.",
        "psdctl set optimizer.lr=1e-4 --job=mnist\n");
REQUEST(checkpoint_save, "checkpoint save", "", "make a running job write a checkpoint, and wait until it is on disk", "",
        "psdctl checkpoint save --job=mnist\n");
