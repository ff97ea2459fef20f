#include "tests/support/dial.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <zmq.h>

void dial_read_key(const cluster_t *cluster, const char *file, char key[41])
{
    char *text = cluster_file(cluster, file);
    int n = text ? sscanf(text, "%*[^\n] %*s %40s", key) : 0;
    assert(n == 1 && "the cluster has made this key");
    free(text);
}

static void put_on(const cluster_t *cluster, void *socket, int option, const char *name, const char *end)
{
    char file[32], key[41];
    snprintf(file, sizeof file, "%s.%s", name, end);
    dial_read_key(cluster, file, key);
    zmq_setsockopt(socket, option, key, sizeof key);
}

void dial_dress(const cluster_t *cluster, void *socket, const char *name, const char *server)
{
    if (!name)
        return;
    put_on(cluster, socket, ZMQ_CURVE_SECRETKEY, name, "key");
    put_on(cluster, socket, ZMQ_CURVE_PUBLICKEY, name, "pub");
    put_on(cluster, socket, ZMQ_CURVE_SERVERKEY, server, "pub");
}

void *dial_as(const cluster_t *cluster, void *context, unsigned server, const char *name, const char *server_name)
{
    void *socket = zmq_socket(context, ZMQ_DEALER);
    const int linger = 0;
    zmq_setsockopt(socket, ZMQ_LINGER, &linger, sizeof linger);
    dial_dress(cluster, socket, name, server_name);
    int rc = zmq_connect(socket, cluster->data[server]);
    assert(!rc && "a server's address");
    return socket;
}
