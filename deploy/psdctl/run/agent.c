#include "deploy/psdctl/run/agent.h"

#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "deploy/psdctl/run/command.h"
#include "deploy/psdctl/run/order.h"
#include "deploy/psdctl/run/place.h"
#include "deploy/psdctl/run/run.h"

enum { MAX_LINE = 1 << 20, MAX_WORDS = PSD_ORDER_WORDS + 4 + PSD_SECRETS, STDIO = 3, SILENT_TURNS = 10 };

/* -- the order, on the host --------------------------------------------------------------------------- */

typedef struct agent {
    uv_loop_t loop;
    uv_pipe_t near;
    uv_timer_t silence;
    unsigned silent_turns; /* ticks since the last message */
    uv_process_t program;
    char *line; /* being read */
    size_t n;
    bool started, refused;
    int code;
    psd_place_t place;
    char *word[MAX_WORDS + 1]; /* the program */
    size_t n_words;
    uv_stdio_container_t stdio[STDIO + PSD_SECRETS];
    int n_stdio;
} agent_t;

/* All this happens before a process is started. */
static void refuse(agent_t *self, int code, const psd_err_t *err)
{
    fprintf(stderr, "psdctl: %s\n", err->text);
    self->code = psd_err_exit_code(code);
    self->refused = true;
    uv_stop(&self->loop);
}

/* Append a word made of three pieces. */
static int add_word(agent_t *self, const char *a, const char *b, const char *c, psd_err_t *err)
{
    if (self->n_words == MAX_WORDS || asprintf(&self->word[self->n_words], "%s%s%s", a, b, c) < 0)
        return psd_err_set(err, PSD_ENOMEM, "no memory for %zu words", self->n_words);
    self->word[++self->n_words] = NULL;
    return PSD_OK;
}

/* Make a file that exists only in memory, readable by its owner, with the descriptor that the program will see. */
static int add_secret(agent_t *self, const char *flag, const char *text, psd_err_t *err)
{
    char name[32];
    int fd = memfd_create("psd", MFD_CLOEXEC);
    const size_t n = strlen(text);
    if (fd < 0 || fchmod(fd, 0600) || write(fd, text, n) != (ssize_t)n)
        return psd_err_set(err, PSD_ESYSTEM, "cannot keep a secret in memory: %s", strerror(errno));
    snprintf(name, sizeof name, "/dev/fd/%d", self->n_stdio);
    self->stdio[self->n_stdio++] = (uv_stdio_container_t){ .flags = UV_INHERIT_FD, .data.fd = fd };
    return add_word(self, flag, "=", name, err);
}

/* The secrets that a program takes. */
static bool takes(const char *program, const char *flag)
{
    return (strcmp(flag, "--worker-key") == 0) == (strcmp(program, "psd") != 0);
}

/* "psdctl --as-child PID BIN/PROGRAM words": so that it dies with this process. */
static int add_words(agent_t *self, const psd_order_t *order, psd_err_t *err)
{
    static const char *const programs[] = { "psd", "psd-worker" };
    const char *program = order->word[0], *flag;
    const bool is_users = strcmp(program, PSD_COMMAND_OF_USER) == 0;
    char pid[32];
    json_t *value;
    bool known = is_users;
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++)
        known = known || strcmp(program, programs[i]) == 0;
    if (!known)
        return psd_err_set(err, PSD_EUSAGE, "\"%.40s\" is not a program of psd", program);
    snprintf(pid, sizeof pid, "%ld", (long)getpid());
    int rc = add_word(self, "psdctl", "", "", err);
    rc = rc ? rc : add_word(self, PSD_CTL_CHILD, "", "", err);
    rc = rc ? rc : add_word(self, pid, "", "", err);
    if (rc == PSD_OK && !is_users)
        rc = add_word(self, self->place.bin, "/", strcmp(program, "psd") == 0 ? PSD_PROGRAM_NAME : program, err);
    for (size_t i = 1; rc == PSD_OK && !is_users && i < order->n_words; i++)
        rc = add_word(self, order->word[i], "", "", err);
    json_object_foreach((json_t *)(uintptr_t)order->secrets, flag,
                        value) if (rc == PSD_OK && self->n_stdio < STDIO + PSD_SECRETS && takes(program, flag)) rc =
        add_secret(self, is_users ? "PSD_WORKER__KEY" : flag, json_string_value(value), err);
    for (size_t i = 1; rc == PSD_OK && is_users && i < order->n_words; i++)
        rc = add_word(self, order->word[i], "", "", err);
    return rc;
}

static int settle(const psd_order_t *order, psd_err_t *err)
{
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)order->environment, name, value) setenv(name, json_string_value(value), 1);
    if (chdir(order->directory))
        return psd_err_set(err, PSD_ENOINPUT, "%s: %s; the job's directory must exist on every host (a shared one, or a copy)",
                           order->directory, strerror(errno));
    return psd_place_make(order->make, err);
}

static void on_ended(uv_process_t *process, int64_t code, int number)
{
    agent_t *self = process->data;
    self->code = number ? PSD_AGENT_GONE + number : (int)code;
    uv_stop(&self->loop);
}

static int start(agent_t *self, psd_err_t *err)
{
    uv_process_options_t options = {
        .exit_cb = on_ended, .file = self->place.self, .args = self->word, .stdio = self->stdio, .stdio_count = self->n_stdio
    };
    self->program.data = self;
    int rc = uv_spawn(&self->loop, &self->program, &options);
    if (rc)
        return psd_err_set(err, PSD_ESYSTEM, "cannot start %s: %s", self->word[3], uv_strerror(rc));
    self->started = true;
    return PSD_OK;
}

static int obey(agent_t *self, const char *line, size_t n, psd_err_t *err)
{
    psd_order_t order;
    int rc = psd_order_parse(&order, line, n, err);
    if (rc)
        return rc;
    rc = psd_place_find(&self->place, err);
    rc = rc ? rc : settle(&order, err);
    rc = rc ? rc : add_words(self, &order, err);
    rc = rc ? rc : start(self, err);
    psd_order_clear(&order);
    return rc;
}

/* -- while it runs --------------------------------------------------------------------------------------- */

static void end(agent_t *self, const char *why)
{
    if (*why)
        fprintf(stderr, "psdctl: %s\n", why);
    if (!self->started || uv_process_kill(&self->program, SIGKILL))
        uv_stop(&self->loop);
}

/* Count a tick without a message; messages that waited while the agent itself was suspended are read before the next. */
static void on_silence(uv_timer_t *timer)
{
    agent_t *self = timer->data;
    if (++self->silent_turns >= SILENT_TURNS)
        end(self, "psdctl launch has gone silent; ending");
}

static void take_line(agent_t *self)
{
    psd_err_t err;
    int number, rc;
    const size_t n = self->n;
    self->line[n] = '\0';
    self->n = 0;
    if (self->refused)
        return;
    if (!self->started && (rc = obey(self, self->line, n, &err)) != PSD_OK)
        refuse(self, rc, &err);
    else if (sscanf(self->line, "signal %d", &number) == 1)
        uv_process_kill(&self->program, number);
    explicit_bzero(self->line, strlen(self->line));
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[65536];
    (void)handle, (void)suggested;
    *buf = uv_buf_init(bytes, sizeof bytes);
}

static void on_read(uv_stream_t *near, ssize_t n, const uv_buf_t *buf)
{
    agent_t *self = near->data;
    self->silent_turns = 0;
    for (ssize_t i = 0; i < n; i++)
        if (buf->base[i] == '\n')
            take_line(self);
        else if (self->n < MAX_LINE)
            self->line[self->n++] = buf->base[i];
    if (n > 0)
        explicit_bzero(buf->base, (size_t)n);
    if (n < 0)
        end(self, "");
}

static int serve(agent_t *self)
{
    psd_err_t err;
    uv_loop_init(&self->loop);
    uv_timer_init(&self->loop, &self->silence);
    uv_pipe_init(&self->loop, &self->near, 0);
    self->near.data = self->silence.data = self;
    uv_timer_start(&self->silence, on_silence, PSD_AGENT_SILENCE_MS / SILENT_TURNS, PSD_AGENT_SILENCE_MS / SILENT_TURNS);
    if (uv_pipe_open(&self->near, STDIN_FILENO) || uv_read_start((uv_stream_t *)&self->near, on_alloc, on_read)) {
        psd_err_set(&err, PSD_EUSAGE, "%s is started through a remote shell by psdctl launch, not by hand", PSD_CTL_AGENT);
        refuse(self, PSD_EUSAGE, &err);
        return self->code;
    }
    uv_run(&self->loop, UV_RUN_DEFAULT);
    return self->code;
}

int psd_ctl_agent(int argc, char **argv)
{
    static agent_t self;
    (void)argc, (void)argv;
    self = (agent_t){ .code = psd_err_exit_code(PSD_ESTOPPED), .line = malloc(MAX_LINE + 1), .n_stdio = STDIO };
    self.stdio[0].flags = UV_IGNORE;
    for (int fd = STDOUT_FILENO; fd <= STDERR_FILENO; fd++)
        self.stdio[fd] = (uv_stdio_container_t){ .flags = UV_INHERIT_FD, .data.fd = fd };
    if (!self.line)
        return psd_err_exit_code(PSD_ENOMEM);
    psd_keys_guard_process();
    printf(PSD_AGENT_HELLO "%s\n", PSD_VERSION);
    fflush(stdout);
    int code = serve(&self);
    free(self.line);
    return code; /* the rest ends with the process */
}
