/* dial.h - connections to a cluster that a test makes by hand, as one user or another. */
#pragma once

#include "tests/support/cluster.h"

/* Put the keys of `name` (see cluster_make_keys) on a ZeroMQ socket, which takes the servers for those of
 * `server`. Nothing when `name` is NULL. */
void dial_dress(const cluster_t *cluster, void *socket, const char *name, const char *server);

/* A DEALER of ZeroMQ's at that server, so dressed, without linger. */
void *dial_as(const cluster_t *cluster, void *context, unsigned server, const char *name, const char *server_name);

/* The key in a file of the cluster's directory. */
void dial_read_key(const cluster_t *cluster, const char *file, char key[41]);
