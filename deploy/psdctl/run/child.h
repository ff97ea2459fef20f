/* child.h - a child process of psdctl run: starts it, reads its lines and keeps them in a log, and reports its end. The owner may
 * then start it again. It may be on another host: then the process here is a remote shell that runs an agent (agent.h), and
 * everything works as if the program were here. All calls on the loop's thread. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <uv.h>

enum { PSD_CHILD_LINE = 8192 }; /* bytes of a line; longer ones are split */

typedef struct psd_child psd_child_t;

/* The lines of one of a child's streams. */
typedef struct psd_child_stream {
    uv_pipe_t pipe;
    char line[PSD_CHILD_LINE];
    size_t n;
} psd_child_stream_t;

struct psd_child {
    /* Set by the owner. */
    void *owner;
    bool is_server;
    unsigned index; /* from 0, of its kind */
    char role[160]; /* "server 0", "server 0 on node1" */
    void (*said)(psd_child_t *self, bool on_stderr, const char *line);
    void (*gone)(psd_child_t *self); /* all its output is read, and it is reaped */
    /* Read by the owner. */
    int64_t code;        /* exit status */
    int signal;          /* the signal that killed it; 0: none */
    uint64_t started_ms; /* uv_now() then */
    char last[400];      /* its last warning or error */
    /* Private. */
    uv_process_t process;
    bool is_far;   /* through an agent */
    uv_pipe_t far; /* the pipe to it */
    psd_child_stream_t out, err;
    unsigned open; /* of process and streams; 0: gone, or not started */
    FILE *log;
};

/* Start `words` through psd_ctl_child of the program `psdctl`, and append its output to the file `log`. `order` is NULL, or the
 * first line for the agent that `words` start. 0, or a code of uv_strerror; `gone` may still be called. */
int psd_child_start(psd_child_t *self, uv_loop_t *loop, const char *psdctl, char **words, const char *order, const char *log);

/* Send a line to the agent, "alive\n". Not for a child on this machine. */
void psd_child_tell(psd_child_t *self, const char *line);

/* Whether it has been started and is not gone. */
bool psd_child_is_here(const psd_child_t *self);

/* Send a signal, if it still runs. On another host, SIGKILL closes the connection, after which the agent kills it there. */
void psd_child_kill(psd_child_t *self, int number);

/* "was killed by signal 9 (Killed): its last warning or error". */
void psd_child_describe_end(const psd_child_t *self, char *text, size_t n);

/* Whether a line of stderr is worth showing: a warning, an error, or a line that is not from the log. */
bool psd_child_is_loud(const char *line);
