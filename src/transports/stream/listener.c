/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The listening socket: who may come in and when. */
#include "base/fd.h"
#include "base/util.h"
#include "transports/stream/inside.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The client that is here has closed its end, and we have not come to that yet. */
static bool client_leaving(const struct stream *s)
{
    struct pollfd p = {.fd = s->fd, .events = POLLRDHUP};

    return p.fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void incoming(struct watch *w, uint32_t events)
{
    struct stream *s = container_of(w, struct stream, listen_watch);
    struct stream_log *log = s->protocol->log;
    int fd;

    (void)events;
    if (s->draining || client_leaving(s))
        return; /* the next one waits in the backlog until the last one's end has been seen to */
    fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (s->fd < 0) {
        stream_session_open(s, fd);
        return;
    }
    log_limited(&log->surplus, LOG_WARNING, log->room,
                "%s: a second client is refused: the function has one already", s->name);
    s->protocol->surplus(s, fd);
}

int stream_listen(struct stream *s, struct err *err)
{
    int rc;

    if (s->listening)
        return 0;
    if (listen(s->listen_fd, 8) < 0)
        return err_set(err, -errno, "cannot listen on '%s': %s", s->path, strerror(errno));
    rc = watch_add(s->reactor, &s->listen_watch, s->listen_fd, EPOLLIN, incoming);
    if (rc < 0)
        return err_set(err, rc, "cannot watch '%s': %s", s->path, strerror(-rc));
    s->listening = true;
    return 0;
}

int stream_create(struct stream *s, const struct stream_opts *opts, struct err *err)
{
    s->protocol = opts->protocol;
    s->reactor = opts->reactor;
    s->in = opts->in;
    s->fd = s->listen_fd = s->out_fd = -1;
    s->name = strdup(opts->name);
    s->path = strdup(opts->path);
    if (!s->name || !s->path)
        return err_set(err, -ENOMEM, "no memory for function %s", opts->name);
    s->listen_fd = fd_unix_bind(s->path, SOCK_STREAM, 0660, err);
    return s->listen_fd < 0 ? s->listen_fd : 0;
}

void stream_destroy(struct stream *s)
{
    if (s->fd >= 0)
        stream_session_shut(s);
    watch_remove(s->reactor, &s->listen_watch);
    if (s->listen_fd >= 0)
        unlink(s->path);
    fd_close(&s->listen_fd);
    free(s->name);
    free(s->path);
}
