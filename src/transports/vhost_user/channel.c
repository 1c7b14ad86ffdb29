/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The back-end channel: the one thing we say to a client unasked is that the configuration has
 * changed. No reply is asked for: the client asks for the new configuration on the main socket
 * first, so whoever waits here waits for ever. While the channel is full one note is kept for all
 * changes. */
#include "base/fd.h"
#include "base/util.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

enum { READS_PER_TURN = 4 };

void channel_close(struct vhost_user *vh)
{
    watch_remove(vh->o.reactor, &vh->channel.watch);
    fd_close(&vh->channel.fd);
    vh->channel.pending = false;
    vh->channel.sent = 0;
}

static void update_watch(struct vhost_user *vh)
{
    bool more = vh->channel.pending || vh->channel.sent > 0;

    watch_modify(vh->o.reactor, &vh->channel.watch, more ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static int send_pending(struct backend_channel *c)
{
    static const struct vhost_user_header h = {
        .request = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, .flags = VHOST_USER_VERSION, .size = 0};

    while (c->pending || c->sent > 0) {
        ssize_t n = fd_send(c->fd, (const char *)&h + c->sent, sizeof(h) - c->sent, NULL, 0);

        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        c->pending = false; /* a change that comes while this one is half out needs another one */
        c->sent = (c->sent + (uint32_t)n) % sizeof(h);
    }
    return 0;
}

/* What the client says here answers nothing we have asked. */
static int drop_input(struct backend_channel *c)
{
    int fds[STREAM_FDS];
    char scratch[4096];
    unsigned nfds;
    ssize_t n = 1;

    for (unsigned i = 0; i < READS_PER_TURN && n > 0; i++) {
        n = fd_recv(c->fd, scratch, sizeof(scratch), fds, STREAM_FDS, &nfds);
        for (unsigned k = 0; n >= 0 && k < nfds; k++)
            close(fds[k]);
    }
    return n == 0 ? -ECONNRESET : n == -EAGAIN || n > 0 ? 0 : (int)n;
}

static void ready(struct watch *w, uint32_t events)
{
    struct backend_channel *c = container_of(w, struct backend_channel, watch);
    struct vhost_user *vh = container_of(c, struct vhost_user, channel);
    int rc = drop_input(c);

    (void)events;
    if (rc == 0)
        rc = send_pending(c);
    if (rc < 0)
        channel_close(vh);
    else
        update_watch(vh);
}

int channel_set(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    int rc, *fd = &vh->stream.fds[0];
    struct stat st;

    (void)m;
    (void)r;
    if (vh->stream.nfds != 1 || fstat(*fd, &st) < 0 || !S_ISSOCK(st.st_mode) ||
        fd_nonblock(*fd) < 0)
        return err_set(err, -EINVAL, "the back-end channel is not a socket");
    channel_close(vh);
    rc = watch_add(vh->o.reactor, &vh->channel.watch, *fd, EPOLLIN, ready);
    if (rc < 0)
        return err_set(err, rc, "back-end channel: the descriptor cannot be watched");
    vh->channel.fd = *fd;
    *fd = -1;
    return 0;
}

void channel_config_changed(struct vhost_user *vh)
{
    struct backend_channel *c = &vh->channel;

    if (c->fd < 0)
        return;
    c->pending = true;
    if (send_pending(c) < 0)
        channel_close(vh);
    else
        update_watch(vh);
}
