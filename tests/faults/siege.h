/* siege.h - a job under attack, for campaigns against its port: servers as processes, and one member in a thread that trains until
 * the attack is over. Its weights must then be those of a single undisturbed process. */
#pragma once

#include "tests/faults/chaos.h"
#include "tests/support/cluster.h"

enum { SIEGE_MAX = 2, SIEGE_WAIT_MS = 600000 };

extern cluster_t siege_cluster;
extern uint16_t siege_port[SIEGE_MAX]; /* of each server's data */

/* Start `n_servers` with these flags and wait until the job trains; with keys, the member is w0. */
void siege_begin(unsigned n_servers, bool keys, const char *flags);

/* End it: check that all processes succeed, with the right weights. */
void siege_end(void);

/* Memory of the largest server, which must be alive. */
size_t siege_resident(void);

/* Milliseconds per round, measured over at least ten rounds; ends the campaign when the job stands still. */
typedef struct siege_pace {
    uint64_t since_ms, clock;
} siege_pace_t;
siege_pace_t siege_pace_begin(void);
double siege_pace_ms(siege_pace_t since);

/* Seconds that ZeroMQ's thread of server 0 has computed. */
double siege_io_seconds(void);
