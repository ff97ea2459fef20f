/* main.c - psd, the server: options in, exit code out. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/system/log.h"
#include "common/system/stdfds.h"
#include "server/daemon.h"

static void start_log(const psd_options_t *options)
{
    psd_log_config_t config = { .comp = "server", .job = psd_options_string(options, PSD_OPT_job) };
    psd_log_level_parse(psd_options_string(options, PSD_OPT_log_level), &config.level);
    config.format = psd_options_string(options, PSD_OPT_log_format)[0] == 'j' ? PSD_LOG_JSON : PSD_LOG_AUTO;
    psd_log_init(&config);
}

/* libuv reads the size of its pool from the environment, once. */
static void size_pool(const psd_options_t *options)
{
    char text[24];
    int64_t n = psd_options_int(options, PSD_OPT_threads);
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    snprintf(text, sizeof text, "%ld", n ? (long)n : cores > 0 ? cores : 1);
    setenv("UV_THREADPOOL_SIZE", text, 1);
}

/* Each gradient arrives in a separate block of about a megabyte. By default malloc maps each such block, faults it in page by page
 * and unmaps it again, which costs as much as receiving it. From one heap, the blocks of a round serve the next. */
static void keep_memory(void)
{
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
}

int main(int argc, char **argv)
{
    psd_err_t err = { 0 };
    psd_stdfds_open();
    keep_memory();
    psd_options_t *options = psd_options_new(PSD_PROGRAM_SERVER);
    if (!options)
        return psd_err_exit_code(PSD_ENOMEM);
    int rc = psd_options_load(options, argc, argv, &err);
    if (rc == PSD_OK) {
        start_log(options);
        size_pool(options);
        rc = psd_daemon_run(options, &err);
        psd_log_flush();
        if (rc != PSD_OK) /* the last log line, which psdctl run quotes */
            fprintf(stderr, "psd: %s\n", err.text);
    } else if (rc < 0) {
        fprintf(stderr, "%s\n", psd_options_complaints(options)[0] ? psd_options_complaints(options) : err.text);
    }
    psd_options_destroy(&options);
    return rc > 0 ? psd_stdfds_end("psd", 0) : psd_err_exit_code(rc);
}
