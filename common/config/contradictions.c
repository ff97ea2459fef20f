#include "common/config/contradictions.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* True, with the sentence. */
static bool says(char *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool says(char *why, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    vsnprintf(why, PSD_OPTION_WHY, format, list);
    va_end(list);
    return true;
}

static bool wants_fewer_than_least(const psd_values_t *o, char *why)
{
    const int64_t least = o->at(o->arg, PSD_OPT_workers_min)->i, want = o->at(o->arg, PSD_OPT_workers_want)->i;
    return want && want < least &&
           says(why, "workers.want is %" PRId64 ", less than workers.min, %" PRId64 "; make it as many, or leave it out", want,
                least);
}

static bool index_is_none_of_the_servers(const psd_values_t *o, char *why)
{
    const int64_t index = o->at(o->arg, PSD_OPT_server_index)->i, n = o->at(o->arg, PSD_OPT_servers)->i;
    return index >= n &&
           says(why, "server.index is %" PRId64 " of %" PRId64 " servers, which count from 0; set servers, or 0 to %" PRId64, index,
                n, n - 1);
}

static bool has_labels_of_no_test_set(const psd_values_t *o, char *why)
{
    return *o->at(o->arg, PSD_OPT_data_test_labels)->text && !*o->at(o->arg, PSD_OPT_data_test)->text &&
           says(why, "data.test_labels is set, but data.test is not; set both, or neither");
}

static bool uses_a_port_twice(const psd_values_t *o, char *why)
{
    const char *listen = strrchr(o->at(o->arg, PSD_OPT_listen)->text, ':'),
               *status = strrchr(o->at(o->arg, PSD_OPT_status_listen)->text, ':');
    return listen && status && !strncmp(o->at(o->arg, PSD_OPT_listen)->text, "tcp://", 6) && strcmp(listen, ":0") &&
           !strcmp(listen, status) &&
           says(why, "status.listen has port %s, and so has listen; give one of them another, or 0 for any free one", status + 1);
}

static const struct contradiction {
    psd_option_id_t id; /* whose place is told */
    bool (*is_there)(const psd_values_t *o, char *why);
} contradictions[] = {
    { PSD_OPT_workers_want, wants_fewer_than_least },
    { PSD_OPT_server_index, index_is_none_of_the_servers },
    { PSD_OPT_data_test_labels, has_labels_of_no_test_set },
    { PSD_OPT_status_listen, uses_a_port_twice },
};

int psd_contradiction(const psd_values_t *values, size_t i, psd_option_id_t *id, char why[PSD_OPTION_WHY])
{
    if (i >= sizeof contradictions / sizeof *contradictions)
        return -1;
    *id = contradictions[i].id;
    return contradictions[i].is_there(values, why);
}
