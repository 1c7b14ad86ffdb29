/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The socket side: who may connect, how many, and when the server goes away. */
#include "rpc/server.h"

#include "base/fd.h"
#include "base/log.h"
#include "rpc/connection.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ACCEPT_RETRY_MS = 100, ACCEPTS_PER_TURN = 16 };

struct rpc_server {
    struct reactor *reactor;
    const struct rpc_env *env;
    struct list connections;
    unsigned nconnections;
    struct watch watch;
    struct timer retry;
    int fd;
    char *path;
    dev_t dev; /* of the bound socket: only our own file is removed */
    ino_t ino;
    struct log_limit refused;
};

static void listen_ready(struct watch *w, uint32_t events);

static void retry_accept(struct timer *t)
{
    struct rpc_server *s = container_of(t, struct rpc_server, retry);

    watch_modify(s->reactor, &s->watch, EPOLLIN);
}

static void refuse(struct rpc_server *s, int fd)
{
    static const char text[] =
        "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32603,\"message\":"
        "\"too many connections: the limit is 64\"}}\n";

    if (send(fd, text, sizeof(text) - 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        log_line(LOG_DEBUG, "rpc", "cannot tell a client that there are too many: %s",
                 strerror(errno));
    close(fd);
    log_limited(&s->refused, LOG_WARNING, "rpc", "%s: connection refused, %d are open", s->path,
                RPC_MAX_CONNECTIONS);
}

static void connection_gone(void *arg, struct rpc_connection *c)
{
    struct rpc_server *s = arg;

    list_remove(rpc_connection_node(c));
    s->nconnections--;
}

static void accepted(struct rpc_server *s, int fd)
{
    struct rpc_connection *c;

    if (s->nconnections >= RPC_MAX_CONNECTIONS) {
        refuse(s, fd);
        return;
    }
    c = rpc_connection_create(s->reactor, fd, s->env, connection_gone, s);
    if (!c)
        return;
    list_append(&s->connections, rpc_connection_node(c));
    s->nconnections++;
}

static void listen_ready(struct watch *w, uint32_t events)
{
    struct rpc_server *s = container_of(w, struct rpc_server, watch);

    for (unsigned i = 0; i < ACCEPTS_PER_TURN; i++) {
        int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd >= 0) {
            accepted(s, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno !=
            EAGAIN) { /* no descriptors: the socket stays readable, so look away for a moment */
            log_limited(&s->refused, LOG_ERROR, "rpc", "%s: accept: %s", s->path, strerror(errno));
            watch_modify(s->reactor, &s->watch, 0);
            timer_arm(s->reactor, &s->retry, ACCEPT_RETRY_MS, retry_accept);
        }
        return;
    }
}

int rpc_server_create(struct reactor *r, const char *path, const struct rpc_env *env,
                      struct rpc_server **ret, struct err *err)
{
    struct rpc_server *s = calloc(1, sizeof(*s));
    struct stat st;
    int rc;

    if (!s)
        return err_set(err, -ENOMEM, "out of memory");
    s->reactor = r;
    s->env = env;
    s->fd = -1;
    list_init(&s->connections);
    s->path = strdup(path);
    if (!s->path) {
        rc = err_set(err, -ENOMEM, "out of memory");
        goto fail;
    }
    rc = fd_unix_bind(path, SOCK_STREAM, 0600, err);
    if (rc < 0)
        goto fail;
    s->fd = rc;
    if (lstat(path, &st) == 0) {
        s->dev = st.st_dev;
        s->ino = st.st_ino;
    }
    if (listen(s->fd, SOMAXCONN) < 0) {
        rc = err_set(err, -errno, "cannot listen on '%s': %s", path, strerror(errno));
        goto fail;
    }
    rc = watch_add(r, &s->watch, s->fd, EPOLLIN, listen_ready);
    if (rc < 0) {
        err_set(err, rc, "cannot watch '%s': %s", path, strerror(-rc));
        goto fail;
    }
    *ret = s;
    return 0;
fail:
    rpc_server_destroy(s);
    return rc;
}

void rpc_server_destroy(struct rpc_server *s)
{
    struct stat st;

    if (!s)
        return;
    if (s->watch.active)
        watch_remove(s->reactor, &s->watch);
    timer_cancel(&s->retry);
    list_for_each_safe(n, &s->connections) rpc_connection_destroy(rpc_connection_of(n));
    if (s->fd >= 0 && lstat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino)
        unlink(s->path);
    fd_close(&s->fd);
    free(s->path);
    free(s);
}
