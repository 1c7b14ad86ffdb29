/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The socket of a function: who may come in and when. */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* ---- surplus clients: told so in their own protocol ---- */

static void refusal_end(struct refusal *f)
{
    watch_remove(f->vu->o.reactor, &f->watch);
    timer_cancel(&f->timer);
    fd_close(&f->fd);
}

static void refusal_expired(struct timer *t)
{
    refusal_end(container_of(t, struct refusal, timer));
}

static void refusal_ready(struct watch *w, uint32_t events)
{
    struct refusal *f = container_of(w, struct refusal, watch);
    int fds[FDS_RECEIVED];
    uint8_t first[4096]; /* its VERSION; what stays unread would turn our answer into a reset */
    struct vfio_user_header h;
    unsigned nfds;
    ssize_t n;

    (void)events;
    n = fd_recv(f->fd, first, sizeof(first), fds, FDS_RECEIVED, &nfds);
    if (n == -EAGAIN)
        return;
    for (unsigned i = 0; i < nfds; i++)
        close(fds[i]);
    if (n >=
        (ssize_t)sizeof(
            h)) { /* its header in one piece, as all clients send it; else it just sees the end */
        memcpy(&h, first, sizeof(h));
        h.size = sizeof(h);
        h.flags = VFIO_USER_F_REPLY | VFIO_USER_F_ERROR;
        h.error = EBUSY;
        (void)fd_send(f->fd, &h, sizeof(h), NULL, 0);
    }
    refusal_end(f);
}

static void refuse(struct vfio_user *vu, int fd)
{
    static struct log_limit limit;

    log_limited(&limit, LOG_WARNING, "vfio-user",
                "%s: a second client is refused: the function has one already", vu->name);
    for (unsigned i = 0; i < REFUSALS; i++) {
        struct refusal *f = &vu->refusals[i];

        if (f->fd >= 0)
            continue;
        f->fd = fd;
        if (watch_add(vu->o.reactor, &f->watch, fd, EPOLLIN, refusal_ready) < 0)
            break;
        timer_arm(vu->o.reactor, &f->timer, REFUSAL_MS, refusal_expired);
        return;
    }
    close(fd);
}

/* ---- the listener ---- */

/* The client that is here has closed its end, and we have not come to that yet. */
static bool client_leaving(const struct vfio_user *vu)
{
    struct pollfd p = {.fd = vu->session->fd, .events = POLLRDHUP};

    return p.fd >= 0 && poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

static void incoming(struct watch *w, uint32_t events)
{
    struct vfio_user *vu = container_of(w, struct vfio_user, listen_watch);
    int fd;

    (void)events;
    if (vu->draining || client_leaving(vu))
        return; /* the next one waits in the backlog until the last one's end has been seen to */
    fd = accept4(vu->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    if (vu->session->fd >= 0)
        refuse(vu, fd);
    else
        session_open(vu, fd);
}

/* While the last client's things are being taken away, the next one waits in the backlog. */
void listener_drain(struct vfio_user *vu)
{
    if (vu->draining && (vu->draining_reset || dma_removing(&vu->dma) > 0)) {
        watch_modify(vu->o.reactor, &vu->listen_watch, 0);
        return;
    }
    vu->draining = false;
    watch_modify(vu->o.reactor, &vu->listen_watch, EPOLLIN);
}

int vfio_user_listen(struct vfio_user *vu, struct err *err)
{
    int rc;

    if (vu->listening)
        return 0;
    if (listen(vu->listen_fd, 8) < 0)
        return err_set(err, -errno, "cannot listen on '%s': %s", vu->path, strerror(errno));
    rc = watch_add(vu->o.reactor, &vu->listen_watch, vu->listen_fd, EPOLLIN, incoming);
    if (rc < 0)
        return err_set(err, rc, "cannot watch '%s': %s", vu->path, strerror(-rc));
    vu->listening = true;
    return 0;
}

/* ---- what the owner tells ---- */

void vfio_user_hide(struct vfio_user *vu, bool hidden)
{
    vu->hidden = hidden;
}

void vfio_user_reset_done(struct vfio_user *vu)
{
    if (vu->draining) {
        vu->draining_reset = false;
        listener_drain(vu);
    } else if (vu->session->wait == WAIT_RESET || vu->session->wait == WAIT_CONFIG) {
        session_finish(vu, 0);
    }
}

void vfio_user_dma_detached(struct vfio_user *vu, uint32_t id)
{
    unsigned left = dma_detached(&vu->dma, id);

    if (vu->draining)
        listener_drain(vu);
    else if (vu->session->wait == WAIT_UNMAP && left == 0)
        session_finish(vu, 0);
}

void vfio_user_dma_detached_all(struct vfio_user *vu)
{
    vfio_user_dma_detached(vu, 0);
}

void vfio_user_dma_for_each(struct vfio_user *vu,
                            void (*fn)(void *arg, const struct vfio_user_dma *dma), void *arg)
{
    for (unsigned i = 0; i < vu->dma.count; i++)
        if (vu->dma.ranges[i].file && !vu->dma.ranges[i].removing)
            fn(arg, &vu->dma.ranges[i].dma);
}

int vfio_user_irq_fd(const struct vfio_user *vu, unsigned vector)
{
    return vector < vu->irqs.vectors ? vu->irqs.fds[vector] : -1;
}

bool vfio_user_has_client(const struct vfio_user *vu)
{
    return vu->session->fd >= 0 && vu->session->agreed;
}

/* ---- life ---- */

struct vfio_user *vfio_user_create(const struct vfio_user_opts *opts, struct err *err)
{
    struct vfio_user *vu = calloc(1, sizeof(*vu));

    if (!vu || !(vu->session = calloc(1, sizeof(*vu->session)))) {
        free(vu);
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
        return NULL;
    }
    vu->o = *opts;
    vu->listen_fd = vu->session->fd = -1;
    vu->session->vu = vu;
    for (unsigned i = 0; i < REFUSALS; i++)
        vu->refusals[i] = (struct refusal){.vu = vu, .fd = -1};
    dma_init(&vu->dma);
    irq_init(&vu->irqs, pci_msix_vectors(opts->pci));
    vu->name = strdup(opts->name);
    vu->path = strdup(opts->path);
    if (!vu->name || !vu->path)
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
    else
        vu->listen_fd = fd_unix_bind(vu->path, SOCK_STREAM, 0660, err);
    if (vu->listen_fd < 0) {
        vfio_user_destroy(vu);
        return NULL;
    }
    return vu;
}

void vfio_user_destroy(struct vfio_user *vu)
{
    if (!vu)
        return;
    session_free(vu);
    for (unsigned i = 0; i < REFUSALS; i++)
        if (vu->refusals[i].fd >= 0)
            refusal_end(&vu->refusals[i]);
    watch_remove(vu->o.reactor, &vu->listen_watch);
    if (vu->listen_fd >= 0)
        unlink(vu->path);
    fd_close(&vu->listen_fd);
    dma_clear(&vu->dma);
    irq_clear(&vu->irqs);
    free(vu->name);
    free(vu->path);
    free(vu);
}
