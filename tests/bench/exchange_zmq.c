/* exchange_zmq.c - the minimal work of a parameter server on libzmq: two processes and one TCP connection, on loopback or
 * on a link; the gradient goes there and as many weights come back, in messages of 1 MiB without a header, sent uncopied; nothing is
 * computed and nothing is checked. Received data end up in an array of the program, as psd's weights do. A gradient that fits into
 * one message is a ping-pong.
 *
 * "barrier": nothing is sent back before everything has arrived, as in a synchronous round of one worker. "echo": each message is
 * sent back at once, so that both directions overlap; a server that steps after the whole gradient cannot do that, and only one
 * that steps part by part comes near. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <zmq.h>

#include "common/config/usage.h"
#include "tests/bench/repeat.h"

enum { MESSAGE = 1 << 20 };

typedef struct link {
    void *socket;
    size_t n_bytes; /* each way */
} link_t;

static size_t length_at(const link_t *self, size_t at) { return self->n_bytes - at < MESSAGE ? self->n_bytes - at : MESSAGE; }

static void *open_socket(void)
{
    const int no_bound = 0;
    void *socket = zmq_socket(zmq_ctx_new(), ZMQ_PAIR);
    if (!socket || zmq_setsockopt(socket, ZMQ_SNDHWM, &no_bound, sizeof no_bound) ||
        zmq_setsockopt(socket, ZMQ_RCVHWM, &no_bound, sizeof no_bound))
        repeat_die("exchange_zmq: %s", zmq_strerror(zmq_errno()));
    return socket;
}

static void leave(void *data, void *hint) { (void)data, (void)hint; }

static void send_all(const link_t *self, const float *from)
{
    for (size_t at = 0; at < self->n_bytes; at += MESSAGE) {
        zmq_msg_t msg;
        zmq_msg_init_data(&msg, (char *)(uintptr_t)from + at, length_at(self, at), leave, NULL);
        if (zmq_msg_send(&msg, self->socket, 0) < 0)
            repeat_die("exchange_zmq: %s", zmq_strerror(zmq_errno()));
    }
}

static void receive_all(const link_t *self, float *to)
{
    for (size_t at = 0; at < self->n_bytes; at += MESSAGE) {
        zmq_msg_t msg;
        zmq_msg_init(&msg);
        if (zmq_msg_recv(&msg, self->socket, 0) < 0 || zmq_msg_size(&msg) != length_at(self, at))
            repeat_die("exchange_zmq: %s", zmq_strerror(zmq_errno()));
        memcpy((char *)to + at, zmq_msg_data(&msg), zmq_msg_size(&msg));
        zmq_msg_close(&msg);
    }
}

/* ---- the server: a way to answer is a row ---- */

static void answer_barrier(const link_t *self, float *gradient, const float *weights)
{
    receive_all(self, gradient);
    send_all(self, weights);
}

static void answer_echo(const link_t *self, float *gradient, const float *weights)
{
    (void)gradient, (void)weights;
    for (size_t at = 0; at < self->n_bytes; at += MESSAGE) {
        zmq_msg_t msg;
        zmq_msg_init(&msg);
        if (zmq_msg_recv(&msg, self->socket, 0) < 0 || zmq_msg_send(&msg, self->socket, 0) < 0)
            repeat_die("exchange_zmq: %s", zmq_strerror(zmq_errno()));
    }
}

static const struct {
    const char *name;
    void (*answer)(const link_t *self, float *gradient, const float *weights);
} ways[] = { { "barrier", answer_barrier }, { "echo", answer_echo } };

static _Noreturn void serve(size_t way, size_t n_bytes, bool far, int port_fd)
{
    char endpoint[128] = "", any_port[64];
    size_t n = sizeof endpoint;
    snprintf(any_port, sizeof any_port, "tcp://%s:*", repeat_place(far));
    const link_t self = { open_socket(), n_bytes };
    float *gradient = repeat_floats(n_bytes / sizeof(float), 0), *weights = repeat_floats(n_bytes / sizeof(float), 0.5f);
    if (zmq_bind(self.socket, any_port) || zmq_getsockopt(self.socket, ZMQ_LAST_ENDPOINT, endpoint, &n) ||
        write(port_fd, endpoint, sizeof endpoint) != sizeof endpoint)
        repeat_die("exchange_zmq: cannot bind: %s", zmq_strerror(zmq_errno()));
    for (;;)
        ways[way].answer(&self, gradient, weights);
}

/* ---- the worker ---- */

typedef struct worker {
    link_t link;
    float *gradient, *weights;
} worker_t;

static void exchange(void *arg)
{
    worker_t *self = arg;
    send_all(&self->link, self->gradient);
    receive_all(&self->link, self->weights);
}

enum { PARAMETERS, ANSWER, FAR, KEEP_HEAP, UNITS };
static const psd_option_t flags[] = {
    [PARAMETERS] = REPEAT_PARAMETERS,
    [ANSWER] = { .key = "answer",
                 .type = PSD_OPTION_STRING,
                 .preset = "barrier",
                 .range = "barrier|echo",
                 .help = "of the server" },
    [FAR] = REPEAT_FAR,
    [KEEP_HEAP] = REPEAT_KEEP_HEAP,
    [UNITS] = REPEAT_UNITS,
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "exchange_zmq",
                                   .words = "",
                                   .does = "exchange a model over bare libzmq, whenever a line is read",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const size_t n = given->value[PARAMETERS].u;
    size_t way = 0;
    int port[2];
    char endpoint[128];
    while (strcmp(ways[way].name, given->value[ANSWER].text))
        way++;
    if (given->flag[KEEP_HEAP])
        repeat_keep_heap();
    if (pipe(port))
        repeat_die("exchange_zmq: no pipe");
    if (repeat_fork() == 0)
        serve(way, n * sizeof(float), given->flag[FAR], port[1]);
    close(port[1]); /* so that the end of the server is the end of what is read */
    worker_t self = { { open_socket(), n * sizeof(float) }, repeat_floats(n, 1e-3f), repeat_floats(n, 0) };
    if (read(port[0], endpoint, sizeof endpoint) != sizeof endpoint || zmq_connect(self.link.socket, endpoint))
        repeat_die("exchange_zmq: cannot connect");
    repeat_serve(exchange, &self, given->value[UNITS].u);
    return 0;
}
