#include "deploy/psdctl/run.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#include "common/options.h"

enum {
    MAX_SERVERS = 64,
    MAX_WORKERS = 1024,
    MAX_ARGS = 160,
    LINE = 8192,      /* bytes of a child's line; longer ones are cut in pieces */
    GRACE_MS = 8000,  /* for a stage of stopping; then the next */
    FINISH_MS = 20000 /* for servers to end after the last worker has */
};

typedef struct run run_t;

/* The lines of one of a child's streams. */
typedef struct stream {
    uv_pipe_t pipe;
    char line[LINE];
    size_t n;
} stream_t;

typedef struct child {
    run_t *run;
    bool is_server;
    unsigned index; /* server from 0, worker from 1 */
    char role[24];  /* "server 0" */
    uv_process_t process;
    stream_t out, err;
    unsigned open; /* of process and streams; 0: gone */
    int64_t code;  /* exit status */
    int signal;    /* that killed it */
    FILE *log;
    char last[400]; /* its last warning or error */
} child_t;

/* How far stopping has come; each stage follows when its time is over or nobody is left to wait for. */
typedef enum { RUNNING, STOP_WORKERS, STOP_SERVERS, KILL_ALL } stage_t;

struct run {
    const psd_options_t *options;
    uv_loop_t loop;
    uv_signal_t term, interrupt;
    uv_timer_t timer; /* start of server 0, stages of stopping */
    child_t *child;   /* servers, then workers */
    unsigned n_servers, n_workers, n_alive, n_workers_alive;
    unsigned n_started;
    stage_t stage;
    bool interrupted;
    int code; /* exit code so far */
    char directory[PATH_MAX - 64];
    char self[PATH_MAX], bin[PATH_MAX]; /* psdctl, and the directory that holds the programs */
    char join[256];                     /* where server 0 takes messages; "" until it is ready */
    bool terminal;                      /* stderr can redraw a line */
    bool drawn;                         /* and holds one */
};

/* -- what people see ---------------------------------------------------------------------------------------
 */

static void say(run_t *run, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void say(run_t *run, const char *format, ...)
{
    va_list args;
    if (run->drawn)
        fputs("\r\033[K", stderr);
    run->drawn = false;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

static void show_progress(run_t *run, const char *fields)
{
    if (!run->terminal) {
        say(run, "%s", fields);
        return;
    }
    fprintf(stderr, "\r\033[K%.110s", fields);
    fflush(stderr);
    run->drawn = true;
}

static bool is_loud(const char *line)
{
    bool is_log = strncmp(line, "ts=", 3) == 0 || *line == '{';
    return !is_log || strstr(line, "level=warn") || strstr(line, "level=error") ||
           strstr(line, "\"level\":\"warn\"") || strstr(line, "\"level\":\"error\"");
}

/* A child's log line, to the terminal if it is news: the first worker's progress, anybody's warnings. */
static void show(child_t *child, const char *line)
{
    static const char progress[] = "id=train.progress ";
    const char *fields = strstr(line, progress);
    bool wanted = strcmp(psd_options_string(child->run->options, "progress"), "none") != 0;
    if (fields && !child->is_server && child->index == 1 && wanted)
        show_progress(child->run, fields + sizeof progress - 1);
    else if (is_loud(line) && child->run->stage == RUNNING) /* later, everybody complains of being stopped */
        say(child->run, "[%s] %s", child->role, line);
}

/* -- stopping ----------------------------------------------------------------------------------------------
 */

static void signal_children(run_t *run, bool servers, bool workers, int number)
{
    for (unsigned i = 0; i < run->n_started; i++) {
        child_t *child = &run->child[i];
        if (child->open && uv_is_active((uv_handle_t *)&child->process) &&
            (child->is_server ? servers : workers))
            uv_process_kill(&child->process, number);
    }
}

static void on_stage_over(uv_timer_t *timer);

/* Workers first, so that they can end their round and say goodbye; then servers; then whoever is left, hard. */
static void enter_stage(run_t *run, stage_t stage)
{
    if (stage <= run->stage)
        return;
    run->stage = stage;
    if (stage == STOP_WORKERS && !run->n_workers_alive)
        run->stage = STOP_SERVERS;
    if (run->stage == STOP_WORKERS)
        signal_children(run, false, true, SIGTERM);
    else if (run->stage == STOP_SERVERS)
        signal_children(run, true, true, SIGTERM);
    else
        signal_children(run, true, true, SIGKILL);
    uv_timer_start(&run->timer, on_stage_over, GRACE_MS, 0);
}

static void on_stage_over(uv_timer_t *timer)
{
    run_t *run = timer->data;
    if (run->stage < KILL_ALL)
        enter_stage(run, run->stage + 1);
}

/* Keep the first failure, name it, and stop. */
static void fail(run_t *run, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void fail(run_t *run, int code, const char *format, ...)
{
    char sentence[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(sentence, sizeof sentence, format, args);
    va_end(args);
    if (run->stage == RUNNING && run->code == 0) {
        run->code = code;
        say(run, "psdctl: %s", sentence);
    }
    enter_stage(run, STOP_WORKERS);
}

static void on_signal(uv_signal_t *handle, int number)
{
    run_t *run = handle->data;
    (void)number;
    if (run->interrupted) {
        enter_stage(run, KILL_ALL);
        return;
    }
    run->interrupted = true;
    if (run->code == 0)
        run->code = psd_err_exit_code(PSD_ESTOPPED);
    say(run, "psdctl: stopping after this round; once more to stop at once");
    enter_stage(run, STOP_WORKERS);
}

static void on_unready(uv_timer_t *timer)
{
    run_t *run = timer->data;
    fail(run, psd_err_exit_code(PSD_EUNAVAILABLE),
         "server 0 was not ready within %s; see %s/logs/server-0.log",
         psd_options_text(run->options, "join_timeout"), run->directory);
}

/* -- children ----------------------------------------------------------------------------------------------
 */

static void close_stream(stream_t *stream, uv_close_cb closed)
{
    if (!uv_is_closing((uv_handle_t *)&stream->pipe))
        uv_close((uv_handle_t *)&stream->pipe, closed);
}

static void tell_how_it_ended(child_t *child)
{
    run_t *run = child->run;
    const char *colon = *child->last ? ": " : "";
    if (child->signal)
        fail(run, psd_err_exit_code(PSD_EDIVERGED), "%s was killed by signal %d (%s)%s%s", child->role,
             child->signal, strsignal(child->signal), colon, child->last);
    else if (child->code)
        fail(run, (int)child->code, "%s ended with %" PRId64 "%s%s", child->role, child->code, colon,
             child->last);
}

/* Both streams are read to their end and the process is reaped. */
static void on_gone(child_t *child)
{
    run_t *run = child->run;
    run->n_alive--;
    run->n_workers_alive -= !child->is_server;
    if (child->log)
        fclose(child->log);
    child->log = NULL;
    tell_how_it_ended(child);
    if (child->is_server && !child->code && !child->signal && !*run->join)
        fail(run, psd_err_exit_code(PSD_EUNAVAILABLE), "%s ended before it was ready", child->role);
    if (run->n_alive == 0) {
        uv_timer_stop(&run->timer);
        uv_stop(&run->loop);
    } else if (run->n_workers_alive == 0 && run->stage == STOP_WORKERS) {
        enter_stage(run, STOP_SERVERS);
    } else if (run->n_workers_alive == 0 && run->stage == RUNNING && *run->join) {
        uv_timer_start(&run->timer, on_stage_over, FINISH_MS, 0);
    }
}

static void on_closed(uv_handle_t *handle)
{
    child_t *child = handle->data;
    if (--child->open == 0)
        on_gone(child);
}

static void on_ended(uv_process_t *process, int64_t code, int number)
{
    child_t *child = process->data;
    child->code = code;
    child->signal = number;
    uv_close((uv_handle_t *)process, on_closed);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    static char bytes[65536]; /* read at once by the one loop there is */
    (void)handle, (void)suggested;
    *buf = uv_buf_init(bytes, sizeof bytes);
}

static void start_others(run_t *run);

/* Server 0's "psd ready shard=0/2 data=tcp://... status=http://... job=NAME". */
static void on_ready(child_t *child, const char *line)
{
    run_t *run = child->run;
    char status[256];
    if (child->index != 0 || *run->join)
        return;
    if (sscanf(line, "psd ready shard=%*u/%*u data=%255s status=%255s", run->join, status) != 2) {
        *run->join = '\0';
        fail(run, psd_err_exit_code(PSD_EPROTO), "server 0 says \"%.100s\"; is it of another version?", line);
        return;
    }
    uv_timer_stop(&run->timer);
    say(run, "status %s", status);
    start_others(run);
}

static void on_line(child_t *child, stream_t *stream, char *line)
{
    if (child->log)
        fprintf(child->log, "%s\n", line);
    if (stream == &child->err) {
        if (is_loud(line))
            snprintf(child->last, sizeof child->last, "%.*s", (int)sizeof child->last - 1, line);
        show(child, line);
    } else if (child->is_server && strncmp(line, "psd ready ", 10) == 0) {
        on_ready(child, line);
    }
}

static void take_line(child_t *child, stream_t *stream)
{
    stream->line[stream->n] = '\0';
    stream->n = 0;
    on_line(child, stream, stream->line);
}

static void on_read(uv_stream_t *pipe, ssize_t n, const uv_buf_t *buf)
{
    child_t *child = pipe->data;
    stream_t *stream = (uv_pipe_t *)pipe == &child->out.pipe ? &child->out : &child->err;
    for (ssize_t i = 0; i < n; i++) {
        if (buf->base[i] == '\n' || stream->n == LINE - 1)
            take_line(child, stream);
        if (buf->base[i] != '\n')
            stream->line[stream->n++] = buf->base[i];
    }
    if (n < 0) {
        if (stream->n)
            take_line(child, stream);
        close_stream(stream, on_closed);
    }
    if (child->log)
        fflush(child->log);
}

/* -- starting ----------------------------------------------------------------------------------------------
 */

/* A command line being made; strings are owned. */
typedef struct args {
    char *word[MAX_ARGS + 1];
    size_t n;
} args_t;

static void add(args_t *args, const char *format, ...) __attribute__((format(printf, 2, 3)));

static void add(args_t *args, const char *format, ...)
{
    va_list list;
    assert(args->n < MAX_ARGS);
    va_start(list, format);
    if (vasprintf(&args->word[args->n], format, list) < 0)
        abort(); /* no memory to start a job with */
    va_end(list);
    args->n++;
}

static void args_clear(args_t *args)
{
    while (args->n)
        free(args->word[--args->n]);
}

/* Options that psdctl decides per child; all others are handed on as they were given. */
static bool is_decided_here(const char *key)
{
    static const char *const keys[] = { "listen",   "join",        "status.listen", "run.dir",
                                        "progress", "workers.min", "workers.want",  "servers" };
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strcmp(key, keys[i]) == 0)
            return true;
    return false;
}

/* What the flags of this command line say to a child of `program`; file and environment it reads itself. */
static void add_flags(args_t *args, const run_t *run, psd_program_t program)
{
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_options_row(i)); i++) {
        char flag[64];
        psd_options_flag(row->key, flag, sizeof flag);
        if ((row->programs & program) && !is_decided_here(row->key) &&
            strcmp(psd_options_origin(run->options, row->key), flag) == 0)
            add(args, "%s=%s", flag, psd_options_text(run->options, row->key));
    }
}

/* The value for server 0, who is the one to be found; others take any free port. */
static const char *for_first(const run_t *run, const child_t *child, const char *key, const char *any)
{
    bool given = strcmp(psd_options_origin(run->options, key), "default") != 0;
    const char *text = psd_options_string(run->options, key);
    return strcmp(text, "none") == 0 || (given && child->index == 0) ? text : any;
}

static void add_server_args(args_t *args, const run_t *run, const child_t *child)
{
    add(args, "%s/psd", run->bin);
    add_flags(args, run, PSD_PROGRAM_SERVER);
    add(args, "--server-index=%u", child->index);
    add(args, "--servers=%u", run->n_servers);
    add(args, "--workers-min=%s", psd_options_text(run->options, "workers.min"));
    add(args, "--workers-want=%u", run->n_workers);
    add(args, "--listen=%s", for_first(run, child, "listen", "tcp://127.0.0.1:0"));
    add(args, "--status-listen=%s", for_first(run, child, "status.listen", "127.0.0.1:0"));
    if (child->index)
        add(args, "--join=%s", run->join);
}

static void add_worker_args(args_t *args, const run_t *run, const child_t *child)
{
    add(args, "%s/psd-worker", run->bin);
    add_flags(args, run, PSD_PROGRAM_WORKER);
    add(args, "--worker-id=%u", child->index);
    add(args, "--join=%s", run->join);
    add(args, "--progress=log");
    if (run->terminal && strcmp(psd_options_origin(run->options, "progress_interval"), "default") == 0)
        add(args, "--progress-interval=250ms"); /* a line that is redrawn may be redrawn often */
}

static int open_log(child_t *child)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/logs/%s-%u.log", child->run->directory,
             child->is_server ? "server" : "worker", child->index);
    child->log = fopen(path, "w");
    return child->log ? 0 : -errno;
}

static int spawn(child_t *child, args_t *args)
{
    run_t *run = child->run;
    uv_stdio_container_t stdio[3] = {
        { .flags = UV_IGNORE },
        { .flags = (uv_stdio_flags)(UV_CREATE_PIPE | UV_WRITABLE_PIPE),
          .data.stream = (uv_stream_t *)&child->out.pipe },
        { .flags = (uv_stdio_flags)(UV_CREATE_PIPE | UV_WRITABLE_PIPE),
          .data.stream = (uv_stream_t *)&child->err.pipe },
    };
    uv_process_options_t options = {
        .exit_cb = on_ended, .file = run->self, .args = args->word, .stdio = stdio, .stdio_count = 3
    };
    uv_pipe_init(&run->loop, &child->out.pipe, 0);
    uv_pipe_init(&run->loop, &child->err.pipe, 0);
    child->process.data = child->out.pipe.data = child->err.pipe.data = child;
    run->n_started++;
    run->n_alive++;
    run->n_workers_alive += !child->is_server;
    child->open = 3;
    int rc = uv_spawn(&run->loop, &child->process, &options);
    if (rc) {
        uv_close((uv_handle_t *)&child->process, on_closed);
        close_stream(&child->out, on_closed);
        close_stream(&child->err, on_closed);
        return rc;
    }
    uv_read_start((uv_stream_t *)&child->out.pipe, on_alloc, on_read);
    uv_read_start((uv_stream_t *)&child->err.pipe, on_alloc, on_read);
    return 0;
}

static bool start(run_t *run, unsigned i)
{
    child_t *child = &run->child[i];
    args_t args = { .n = 0 };
    child->run = run;
    child->is_server = i < run->n_servers;
    child->index = child->is_server ? i : i - run->n_servers + 1;
    snprintf(child->role, sizeof child->role, "%s %u", child->is_server ? "server" : "worker", child->index);
    add(&args, "psdctl");
    add(&args, PSD_CTL_CHILD);
    add(&args, "%ld", (long)getpid());
    if (child->is_server)
        add_server_args(&args, run, child);
    else
        add_worker_args(&args, run, child);
    add(&args, "--run-dir=%s", run->directory);
    if (*psd_options_file(run->options))
        add(&args, "%s", psd_options_file(run->options));
    int rc = open_log(child);
    if (!rc)
        rc = spawn(child, &args);
    args_clear(&args);
    if (rc)
        fail(run, psd_err_exit_code(PSD_ESYSTEM), "cannot start %s: %s", child->role, uv_strerror(rc));
    return rc == 0;
}

static void start_others(run_t *run)
{
    for (unsigned i = 1; i < run->n_servers + run->n_workers && run->stage == RUNNING; i++)
        start(run, i);
}

int psd_ctl_child(int argc, char **argv)
{
    if (argc < 3)
        return psd_err_exit_code(PSD_EUSAGE);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if ((long)getppid() != strtol(argv[1], NULL, 10))
        return psd_err_exit_code(PSD_ESTOPPED); /* the parent died before the line above */
    setpgid(0, 0);
    execv(argv[2], argv + 2);
    fprintf(stderr, "cannot run %s: %s\n", argv[2], strerror(errno));
    return psd_err_exit_code(PSD_ENOINPUT);
}

/* -- the run -----------------------------------------------------------------------------------------------
 */

static int make_directory(const char *path)
{
    char copy[PATH_MAX];
    snprintf(copy, sizeof copy, "%s", path);
    for (char *p = copy + 1; *p; p++)
        if (*p == '/') {
            *p = '\0';
            if (mkdir(copy, 0777) != 0 && errno != EEXIST)
                return -1;
            *p = '/';
        }
    return mkdir(copy, 0777) != 0 && errno != EEXIST ? -1 : 0;
}

/* The directory of the run, with its logs/: as told, or runs/JOB-TIME, one that no other run has. */
static int prepare_directory(run_t *run, psd_err_t *err)
{
    const char *told = psd_options_string(run->options, "run.dir");
    char logs[PATH_MAX], stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", localtime_r(&now, &tm));
    snprintf(run->directory, sizeof run->directory, "%s", told);
    for (unsigned i = 0; !*told && i < 100; i++) {
        snprintf(run->directory, sizeof run->directory, "runs/%s-%s", psd_options_string(run->options, "job"),
                 stamp);
        if (i)
            snprintf(run->directory + strlen(run->directory), 16, "-%u", i);
        if (access(run->directory, F_OK) != 0)
            break;
    }
    snprintf(logs, sizeof logs, "%s/logs", run->directory);
    if (make_directory(logs) != 0)
        return psd_err_set(err, PSD_EIO, "cannot make %s: %s; set run.dir", logs, strerror(errno));
    return PSD_OK;
}

static int find_programs(run_t *run, psd_err_t *err)
{
    static const char *const programs[] = { "psd", "psd-worker" };
    char copy[PATH_MAX], path[PATH_MAX + 16];
    ssize_t n = readlink("/proc/self/exe", run->self, sizeof run->self - 1);
    if (n < 0)
        return psd_err_set(err, PSD_ESYSTEM, "cannot find myself: %s", strerror(errno));
    run->self[n] = '\0';
    snprintf(copy, sizeof copy, "%s", run->self);
    snprintf(run->bin, sizeof run->bin, "%s", dirname(copy));
    for (size_t i = 0; i < sizeof programs / sizeof *programs; i++) {
        snprintf(path, sizeof path, "%s/%s", run->bin, programs[i]);
        if (access(path, X_OK) != 0)
            return psd_err_set(err, PSD_ENOINPUT, "%s is missing beside psdctl", path);
    }
    return PSD_OK;
}

static void print_value(const char *key, const json_t *value)
{
    if (json_is_string(value))
        printf("  %-13s %s\n", key, json_string_value(value));
    else if (json_is_integer(value))
        printf("  %-13s %" JSON_INTEGER_FORMAT "\n", key, json_integer_value(value));
    else if (json_is_real(value))
        printf("  %-13s %.6g\n", key, json_real_value(value));
}

/* The first worker's summary, as far as it got. */
static void print_summary(const run_t *run)
{
    static const char *const hidden[] = { "schema", "job", "worker", "rank", "settings" };
    char path[PATH_MAX];
    const char *key;
    json_t *value;
    snprintf(path, sizeof path, "%s/summary.json", run->directory);
    json_t *summary = json_load_file(path, 0, NULL);
    printf("%s: %s\n", psd_options_string(run->options, "job"),
           run->code == 0                                 ? "done"
           : run->code == psd_err_exit_code(PSD_ESTOPPED) ? "stopped early"
                                                          : "failed");
    json_object_foreach(summary, key, value)
    {
        bool hide = false;
        for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
            hide = hide || strcmp(key, hidden[i]) == 0;
        if (!hide)
            print_value(key, value);
    }
    printf("  %-13s %s\n", "kept in", run->directory);
    json_decref(summary);
}

static void ignore_close(uv_handle_t *handle) { (void)handle; }

static int drive(run_t *run)
{
    uv_loop_init(&run->loop);
    uv_timer_init(&run->loop, &run->timer);
    uv_signal_init(&run->loop, &run->term);
    uv_signal_init(&run->loop, &run->interrupt);
    run->timer.data = run->term.data = run->interrupt.data = run;
    uv_signal_start(&run->term, on_signal, SIGTERM);
    uv_signal_start(&run->interrupt, on_signal, SIGINT);
    uv_timer_start(&run->timer, on_unready, psd_options_ms(run->options, "join_timeout"), 0);
    start(run, 0);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_close((uv_handle_t *)&run->timer, ignore_close);
    uv_close((uv_handle_t *)&run->term, ignore_close);
    uv_close((uv_handle_t *)&run->interrupt, ignore_close);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_loop_close(&run->loop);
    if (run->drawn)
        fputc('\n', stderr);
    print_summary(run);
    return run->code;
}

static int prepare(run_t *run, psd_err_t *err)
{
    int64_t least = psd_options_int(run->options, "workers.min"),
            want = psd_options_int(run->options, "workers.want");
    int rc = find_programs(run, err);
    if (!rc)
        rc = prepare_directory(run, err);
    if (rc)
        return rc;
    run->n_servers = (unsigned)psd_options_int(run->options, "servers");
    run->n_workers = (unsigned)(want > least ? want : least);
    run->child = calloc(run->n_servers + run->n_workers, sizeof *run->child);
    const char *term = getenv("TERM"), *mode = psd_options_string(run->options, "progress");
    run->terminal = isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0 && strcmp(mode, "log") != 0;
    return run->child
               ? PSD_OK
               : psd_err_set(err, PSD_ENOMEM, "no memory for %u children", run->n_servers + run->n_workers);
}

int psd_ctl_run(int argc, char **argv)
{
    psd_err_t err = { 0 };
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    static run_t run;
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    int rc = psd_options_load(options, argc, argv, &err), code = 0;
    run = (run_t){ .options = options };
    if (rc == PSD_OK)
        rc = prepare(&run, &err);
    else if (rc < 0 && *psd_options_complaints(options))
        snprintf(err.text, sizeof err.text, "%s", psd_options_complaints(options));
    if (rc == PSD_OK)
        code = drive(&run);
    else if (rc < 0)
        fprintf(stderr, "%s\n", err.text);
    free(run.child);
    psd_options_destroy(&options);
    return rc < 0 ? psd_err_exit_code(rc) : code;
}
