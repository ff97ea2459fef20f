#include "deploy/psdctl/run/child.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "deploy/psdctl/run/agent.h"

bool psd_child_is_loud(const char *line)
{
    bool is_log = strncmp(line, "ts=", 3) == 0 || *line == '{';
    return !is_log || strstr(line, "level=warn") || strstr(line, "level=error") || strstr(line, "\"level\":\"warn\"") ||
           strstr(line, "\"level\":\"error\"");
}

bool psd_child_is_here(const psd_child_t *self) { return self->open > 0; }

/* Send a signal to its process group (psd_ctl_child), which includes programs that it has started; at first the group may not exist
 * yet. */
static void kill_group(pid_t pid, int number)
{
    if (kill(-pid, number))
        kill(pid, number);
}

void psd_child_kill(psd_child_t *self, int number)
{
    char line[32];
    if (!self->open || !uv_is_active((uv_handle_t *)&self->process))
        return;
    snprintf(line, sizeof line, "signal %d\n", number);
    if (self->is_far && number != SIGKILL)
        psd_child_tell(self, line);
    else
        kill_group(self->process.pid, number);
}

void psd_child_describe_end(const psd_child_t *self, char *text, size_t n)
{
    const char *colon = *self->last ? ": " : "";
    if (self->signal)
        snprintf(text, n, "was killed by signal %d (%s)%s%s", self->signal, strsignal(self->signal), colon, self->last);
    else
        snprintf(text, n, "ended with %" PRId64 "%s%s", self->code, colon, self->last);
}

/* -- its end ----------------------------------------------------------------------------------------------- */

static void on_closed(uv_handle_t *handle)
{
    psd_child_t *self = handle->data;
    if (--self->open)
        return;
    if (self->log)
        fclose(self->log);
    self->log = NULL;
    self->gone(self);
}

static void close_stream(psd_child_stream_t *stream)
{
    if (!uv_is_closing((uv_handle_t *)&stream->pipe))
        uv_close((uv_handle_t *)&stream->pipe, on_closed);
}

/* The remote shell ends as the agent does, and that as its program. */
static void read_far_end(psd_child_t *self)
{
    if (self->code == PSD_AGENT_UNREACHED) {
        self->code = psd_err_exit_code(PSD_EUNAVAILABLE);
    } else if (self->code > PSD_AGENT_GONE) {
        self->signal = (int)self->code - PSD_AGENT_GONE;
        self->code = 0;
    }
}

static void on_ended(uv_process_t *process, int64_t code, int number)
{
    psd_child_t *self = process->data;
    self->code = code;
    self->signal = number;
    if (self->is_far) {
        read_far_end(self);
        uv_close((uv_handle_t *)&self->far, on_closed);
    }
    uv_close((uv_handle_t *)process, on_closed);
}

/* -- its output ------------------------------------------------------------------------------------------ */

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[65536]; /* used at once, and there is only one loop */
    (void)handle, (void)suggested;
    *buf = uv_buf_init(bytes, sizeof bytes);
}

static void take_line(psd_child_t *self, psd_child_stream_t *stream)
{
    const char *line = stream->line;
    const bool on_stderr = stream == &self->err;
    stream->line[stream->n] = '\0';
    stream->n = 0;
    if (self->log)
        fprintf(self->log, "%s\n", line);
    if (on_stderr && psd_child_is_loud(line))
        snprintf(self->last, sizeof self->last, "%.*s", (int)sizeof self->last - 1, line);
    self->said(self, on_stderr, line);
}

static void on_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buf)
{
    psd_child_t *self = pipe->data;
    psd_child_stream_t *stream = (uv_pipe_t *)pipe == &self->out.pipe ? &self->out : &self->err;
    for (ssize_t i = 0; i < n; i++) {
        if (buf->base[i] == '\n' || stream->n == PSD_CHILD_LINE - 1)
            take_line(self, stream);
        if (buf->base[i] != '\n')
            stream->line[stream->n++] = buf->base[i];
    }
    if (n < 0) {
        if (stream->n)
            take_line(self, stream);
        close_stream(stream);
    }
    if (self->log)
        fflush(self->log);
}

/* -- messages to it --------------------------------------------------------------------------------------- */

static void on_told(uv_write_t *write, int status)
{
    char *line = write->data;
    (void)status; /* if the reader is gone, the process ends, and on_exit handles that */
    explicit_bzero(line, strlen(line));
    free(line);
    free(write);
}

void psd_child_tell(psd_child_t *self, const char *line)
{
    uv_write_t *write = malloc(sizeof *write);
    char *copy = strdup(line);
    uv_buf_t buf = uv_buf_init(copy, (unsigned)strlen(line));
    bool told = write && copy && self->open && !uv_is_closing((uv_handle_t *)&self->far);
    if (told) {
        write->data = copy;
        told = uv_write(write, (uv_stream_t *)&self->far, &buf, 1, on_told) == 0;
    }
    if (!told) {
        free(copy);
        free(write);
    }
}

/* -- its start --------------------------------------------------------------------------------------------- */

static uv_stdio_container_t to_be_read(psd_child_stream_t *stream)
{
    return (uv_stdio_container_t){ .flags = (uv_stdio_flags)(UV_CREATE_PIPE | UV_WRITABLE_PIPE),
                                   .data.stream = (uv_stream_t *)&stream->pipe };
}

/* Handles for a new process; each counts until it is closed. */
static void open_handles(psd_child_t *self, uv_loop_t *loop)
{
    uv_pipe_init(loop, &self->out.pipe, 0);
    uv_pipe_init(loop, &self->err.pipe, 0);
    if (self->is_far)
        uv_pipe_init(loop, &self->far, 0);
    self->process.data = self->out.pipe.data = self->err.pipe.data = self->far.data = self;
    self->out.n = self->err.n = 0;
    self->open = self->is_far ? 4 : 3;
}

int psd_child_start(psd_child_t *self, uv_loop_t *loop, const char *psdctl, char **words, const char *order, const char *log)
{
    uv_stdio_container_t stdio[3] = { { .flags = UV_IGNORE }, to_be_read(&self->out), to_be_read(&self->err) };
    uv_process_options_t options = { .exit_cb = on_ended, .file = psdctl, .args = words, .stdio = stdio, .stdio_count = 3 };
    self->is_far = order != NULL;
    open_handles(self, loop);
    if (self->is_far)
        stdio[0] = (uv_stdio_container_t){ .flags = (uv_stdio_flags)(UV_CREATE_PIPE | UV_READABLE_PIPE),
                                           .data.stream = (uv_stream_t *)&self->far };
    self->code = self->signal = 0;
    self->last[0] = '\0';
    self->started_ms = uv_now(loop);
    self->log = fopen(log, "ae"); /* after the output of earlier starts */
    int rc = self->log ? 0 : -errno;
    int spawned = uv_spawn(loop, &self->process, &options);
    if (spawned) {
        uv_close((uv_handle_t *)&self->process, on_closed);
        if (self->is_far)
            uv_close((uv_handle_t *)&self->far, on_closed);
        close_stream(&self->out);
        close_stream(&self->err);
        return spawned;
    }
    uv_read_start((uv_stream_t *)&self->out.pipe, on_alloc, on_read);
    uv_read_start((uv_stream_t *)&self->err.pipe, on_alloc, on_read);
    if (self->is_far)
        psd_child_tell(self, order);
    return rc;
}
