/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Surplus clients: told so in their own protocol. */
#include "base/fd.h"
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

void refusal_init(struct vfio_user *vu)
{
    for (unsigned i = 0; i < REFUSALS; i++)
        vu->refusals[i] = (struct refusal){.vu = vu, .fd = -1};
}

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
    int fds[STREAM_FDS];
    uint8_t first[4096]; /* its VERSION; what stays unread would turn our answer into a reset */
    struct vfio_user_header h;
    unsigned nfds;
    ssize_t n;

    (void)events;
    n = fd_recv(f->fd, first, sizeof(first), fds, STREAM_FDS, &nfds);
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

void refusal_begin(struct vfio_user *vu, int fd)
{
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

void refusal_end_all(struct vfio_user *vu)
{
    for (unsigned i = 0; i < REFUSALS; i++)
        if (vu->refusals[i].fd >= 0)
            refusal_end(&vu->refusals[i]);
}
