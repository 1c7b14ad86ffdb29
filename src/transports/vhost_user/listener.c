/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The socket of a device: who may come in and when; and what its owner tells. */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* The client that is here has closed its end, and we have not come to that yet. */
static bool client_leaving(const struct vhost_user *vh)
{
    struct pollfd p = {.fd = vh->session->fd, .events = POLLRDHUP};

    return p.fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void incoming(struct watch *w, uint32_t events)
{
    struct vhost_user *vh = container_of(w, struct vhost_user, listen_watch);
    static struct log_limit limit;
    int fd;

    (void)events;
    if (vh->draining || client_leaving(vh))
        return; /* the next one waits in the backlog until the last one's end has been seen to */
    fd = accept4(vh->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (vh->session->fd < 0) {
        vh_session_open(vh, fd);
        return;
    }
    log_limited(&limit, LOG_WARNING, "vhost-user",
                "%s: a second client is refused: the function has one already", vh->name);
    close(fd); /* the protocol has no words for that */
}

/* While the last client's things are being taken away, the next one waits in the backlog. */
void vh_listener_drain(struct vhost_user *vh)
{
    if (vh->draining && (vh->resetting || mem_removing(&vh->mem) > 0)) {
        watch_modify(vh->o.reactor, &vh->listen_watch, 0);
        return;
    }
    vh->draining = false;
    watch_modify(vh->o.reactor, &vh->listen_watch, EPOLLIN);
}

int vhost_user_listen(struct vhost_user *vh, struct err *err)
{
    int rc;

    if (vh->listening)
        return 0;
    if (listen(vh->listen_fd, 8) < 0)
        return err_set(err, -errno, "cannot listen on '%s': %s", vh->path, strerror(errno));
    rc = watch_add(vh->o.reactor, &vh->listen_watch, vh->listen_fd, EPOLLIN, incoming);
    if (rc < 0)
        return err_set(err, rc, "cannot watch '%s': %s", vh->path, strerror(-rc));
    vh->listening = true;
    return 0;
}

/* ---- what the owner tells ---- */

void vhost_user_reset_done(struct vhost_user *vh)
{
    vh->resetting = false;
    if (vh->draining)
        vh_listener_drain(vh);
    else if (vh->session->wait == WAIT_RESET)
        vh_session_finish(vh, 0);
}

void vhost_user_mem_detached(struct vhost_user *vh, uint32_t id)
{
    unsigned left = mem_detached(&vh->mem, id);

    if (vh->draining)
        vh_listener_drain(vh);
    else if (vh->session->wait == WAIT_MEM && left == 0)
        vh_session_finish(vh, 0);
}

void vhost_user_mem_detached_all(struct vhost_user *vh)
{
    vhost_user_mem_detached(vh, 0);
}

void vhost_user_config_changed(struct vhost_user *vh, bool broken)
{
    channel_config_changed(vh);
    if (broken)
        vring_signal_errors(vh);
}

void vhost_user_mem_for_each(struct vhost_user *vh,
                             void (*fn)(void *arg, const struct vhost_user_mem *mem), void *arg)
{
    for (unsigned i = 0; i < vh->mem.count; i++)
        if (!vh->mem.region[i].removing)
            fn(arg, &vh->mem.region[i].mem);
}

bool vhost_user_has_client(const struct vhost_user *vh)
{
    return vh->session->fd >= 0 && vh->session->agreed;
}

/* ---- life ---- */

struct vhost_user *vhost_user_create(const struct vhost_user_opts *opts, struct err *err)
{
    struct vhost_user *vh = calloc(1, sizeof(*vh));

    if (!vh || !(vh->session = calloc(1, sizeof(*vh->session)))) {
        free(vh);
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
        return NULL;
    }
    vh->o = *opts;
    vh->listen_fd = vh->inflight.fd = vh->channel.fd = -1;
    vh->session->vh = vh;
    vh->session->fd = -1;
    mem_init(&vh->mem);
    vring_init_all(vh);
    vh->name = strdup(opts->name);
    vh->path = strdup(opts->path);
    if (!vh->name || !vh->path)
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
    else
        vh->listen_fd = fd_unix_bind(vh->path, SOCK_STREAM, 0660, err);
    if (vh->listen_fd < 0) {
        vhost_user_destroy(vh);
        return NULL;
    }
    return vh;
}

void vhost_user_destroy(struct vhost_user *vh)
{
    if (!vh)
        return;
    vh_session_free(vh);
    watch_remove(vh->o.reactor, &vh->listen_watch);
    if (vh->listen_fd >= 0)
        unlink(vh->path);
    fd_close(&vh->listen_fd);
    channel_close(vh);
    vring_clear_all(vh, true);
    inflight_clear(vh);
    mem_clear(&vh->mem);
    free(vh->name);
    free(vh->path);
    free(vh);
}
