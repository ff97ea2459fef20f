/* dial.h - connections to a cluster that a test makes by hand, as one user or another. */
#pragma once

#include "tests/support/cluster.h"

/* Give a ZeroMQ socket the keys of `name` (see cluster_make_keys), and `server`'s public key as that of the servers. Does nothing
 * when `name` is NULL. */
void dial_dress(const cluster_t *cluster, void *socket, const char *name, const char *server);

/* A ZeroMQ DEALER connected to that server with these keys, without linger. */
void *dial_as(const cluster_t *cluster, void *context, unsigned server, const char *name, const char *server_name);

/* The key in a file of the cluster's directory. */
void dial_read_key(const cluster_t *cluster, const char *file, char key[41]);
