#include "deploy/psdctl/admin.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "common/number.h"
#include "common/transport.h"
#include "proto/codec.h"

enum { ASK_MS = 200, WAIT_S = 30 };

static const struct verb {
    const char *name, *title; /* as the protocol and as the user calls it */
    const char *words;        /* what follows */
    const char *does;
} verbs[] = {
    { "pause", "psdctl pause", "", "Close no more rounds until `psdctl resume`; workers stay, and wait." },
    { "resume", "psdctl resume", "", "Go on after `psdctl pause`." },
    { "drain", "psdctl drain", " WORKER",
      "Have a worker (its id in psdctl status, or its name) leave after its open round." },
    { "save", "psdctl checkpoint save", "", "Write a checkpoint now, and wait until it is safe." },
    { "set", "psdctl set", " optimizer.lr=VALUE",
      "Set the learning rate of all servers, from the next step on." },
};

static void print_usage(FILE *out, const struct verb *verb)
{
    fprintf(out,
            "Usage: %s [options]%s\n%s\n"
            "  --join ENDPOINT   where server 0 takes messages; default tcp://127.0.0.1:7470\n"
            "  --job NAME        the job's name; default psd\n"
            "  --key FILE        your secret key, of the role admin; and\n"
            "  --server-public KEY  the servers' public key, or a file with it. Default: without keys, on this machine\n"
            "  --timeout SECONDS how long to wait until it is done; default %d\n",
            verb->title, verb->words, verb->does, WAIT_S);
}

/* One wish, asked again and again until it is granted or refused: it is known by its number. */
typedef struct wish {
    const struct verb *verb;
    psd_msg_t msg;
    const char *join, *job;
    psd_keys_source_t keys;
    psd_net_t *net;
    double timeout_s;
    uv_loop_t loop;
    uv_timer_t ask, deadline;
    psd_socket_t *socket;
    psd_err_t outcome; /* code PSD_EAGAIN: still open; its text is the server's last word */
} wish_t;

static void end(wish_t *self, int code, const char *text)
{
    psd_err_set(&self->outcome, code, "%s", text);
    uv_stop(&self->loop);
}

static void on_message(void *arg, uint64_t peer, const void *header, size_t n_header, psd_buf_t *payload)
{
    wish_t *self = arg;
    psd_msg_t msg;
    psd_err_t err;
    (void)peer;
    int rc = psd_msg_open(&msg, header, n_header, payload ? payload->data : NULL, payload ? payload->n_bytes : 0, &err);
    if (rc == PSD_EDATA) {
        return; /* damaged on the way: it is asked again */
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
    wish_t *self = arg;
    char text[400];
    (void)peer;
    if (link == PSD_LINK_UP)
        return;
    psd_link_describe(self->net, link, self->join, text, sizeof text);
    if (link == PSD_LINK_BROKEN) /* it may be coming up */
        psd_err_set(&self->outcome, PSD_EAGAIN, "%s", text);
    else
        end(self, PSD_EAUTH, text);
}

static void on_ask(uv_timer_t *timer)
{
    wish_t *self = timer->data;
    uint8_t header[PSD_MAX_FRAME_HEADER];
    psd_socket_send(self->socket, 0, header, psd_msg_seal(&self->msg, NULL, 0, header), NULL);
}

static void on_deadline(uv_timer_t *timer)
{
    wish_t *self = timer->data;
    char text[sizeof self->outcome.text];
    if (self->outcome.text[0])
        snprintf(text, sizeof text, "not done after %g s: %.400s", self->timeout_s, self->outcome.text);
    else
        snprintf(text, sizeof text,
                 "nobody answers at %.200s; is server 0 running, and this its address (--join)?", self->join);
    end(self, PSD_EUNAVAILABLE, text);
}

/* Without keys it is somebody of this machine who asks. */
static int open_net(wish_t *self)
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

/* Ask until there is an outcome. */
static int ask(wish_t *self)
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

static bool read_number(const char *text, double *value)
{
    return *text && psd_number_read(text, value) == strlen(text);
}

/* "optimizer.lr=1e-3" becomes the word and the value. */
static bool split_setting(char *word, double *value)
{
    char *equals = strchr(word, '=');
    if (!equals || !read_number(equals + 1, value) || !isfinite(*value))
        return false;
    *equals = '\0';
    return true;
}

/* 0 to go on; else the exit code, plus one. */
static int parse(wish_t *self, int argc, char **argv)
{
    static const struct option long_options[] = { { "join", required_argument, NULL, 'j' },
                                                  { "job", required_argument, NULL, 'n' },
                                                  { "timeout", required_argument, NULL, 't' },
                                                  { "key", required_argument, NULL, 'k' },
                                                  { "server-public", required_argument, NULL, 's' },
                                                  { "help", no_argument, NULL, 'h' },
                                                  { 0 } };
    const int usage_code = psd_err_exit_code(PSD_EUSAGE);
    for (int option; (option = getopt_long(argc, argv, "h", long_options, NULL)) != -1;) {
        if (option == 'h')
            return print_usage(stdout, self->verb), 1;
        if (option == '?' || (option == 't' && !(read_number(optarg, &self->timeout_s) &&
                                                 self->timeout_s > 0 && self->timeout_s < 1e6)))
            return print_usage(stderr, self->verb), usage_code + 1;
        self->join = option == 'j' ? optarg : self->join;
        self->job = option == 'n' ? optarg : self->job;
        self->keys.secret = option == 'k' ? optarg : self->keys.secret;
        self->keys.server = option == 's' ? optarg : self->keys.server;
    }
    const int n_words = *self->verb->words ? 1 : 0;
    char *word = argc - optind == 1 && n_words ? argv[optind] : NULL;
    bool sets = !strcmp(self->verb->name, "set");
    if (argc - optind != n_words || (word && (strchr(word, ' ') || !*word)) || strchr(self->job, ' ') ||
        (sets && !split_setting(word, &self->msg.value)))
        return print_usage(stderr, self->verb), usage_code + 1;
    snprintf(self->msg.text, sizeof self->msg.text, "%.127s %s%s%.255s", self->job, self->verb->name,
             word ? " " : "", word ? word : "");
    return 0;
}

int psd_ctl_admin(int argc, char **argv)
{
    wish_t self = { .join = "tcp://127.0.0.1:7470",
                    .job = "psd",
                    .timeout_s = WAIT_S,
                    .msg = { .kind = PSD_MSG_ADMIN, .protocol = PSD_PROTOCOL } };
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(argv[0], verbs[i].title))
            self.verb = &verbs[i];
    int code = parse(&self, argc, argv);
    if (code)
        return code - 1;
    while (!self.msg.seq && getrandom(&self.msg.seq, sizeof self.msg.seq, 0) != sizeof self.msg.seq)
        ;
    int rc = ask(&self);
    FILE *out = rc == PSD_OK ? stdout : stderr;
    if (rc != PSD_OK)
        fprintf(out, "%s: ", self.verb->title);
    fprintf(out, "%s\n", self.outcome.text);
    return psd_err_exit_code(rc);
}
