/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One client: framing on a stream, replies, deadlines. Descriptors ride with the first byte of a
 * message; each read asks for no more than the message at hand, so that they cannot be taken for
 * another one's. */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HEADER = sizeof(struct vfio_user_header) };

static struct log_limit life_limit; /* clients come and go as often as they like */

#define session_of(timer, member) container_of(timer, struct session, member)

static void close_fds(struct message *m)
{
    for (unsigned i = 0; i < m->nfds; i++)
        fd_close(&m->fds[i]);
    m->nfds = 0;
}

static void next_message(struct session *s)
{
    close_fds(&s->msg);
    s->have = s->skip = 0;
    s->too_long = false;
}

static bool sending(const struct session *s)
{
    return s->out_from < s->out_to;
}

static void update_watch(struct session *s)
{
    uint32_t events = 0;

    if (sending(s))
        events = EPOLLOUT;
    else if (s->wait == WAIT_NOTHING && !s->closing)
        events = EPOLLIN;
    watch_modify(s->vu->o.reactor, &s->watch, events);
}

/* ---- output ---- */

static void out_stalled(struct timer *t)
{
    session_close(session_of(t, out_timer)->vu, "it does not read its replies");
}

static int flush_out(struct session *s)
{
    while (sending(s)) {
        ssize_t n = fd_send(s->fd, s->out + s->out_from, s->out_to - s->out_from, &s->out_fd,
                            s->out_fd >= 0 ? 1 : 0);

        if (n == -EAGAIN || n == -ETOOMANYREFS) {
            if (!s->out_timer.armed)
                timer_arm(s->vu->o.reactor, &s->out_timer, STALL_MS, out_stalled);
            return 0;
        }
        if (n < 0)
            return (int)n;
        s->out_fd = -1;
        s->out_from += (uint32_t)n;
    }
    s->out_from = s->out_to = 0;
    timer_cancel(&s->out_timer);
    return 0;
}

/* Answers the message in s->msg. One sendmsg carries it all: clients read the header alone first
 * and want it whole. */
static int send_reply(struct session *s, int rc)
{
    struct vfio_user_header h = {
        .id = s->msg.h.id,
        .command = s->msg.h.command,
        .flags = VFIO_USER_F_REPLY | (rc < 0 ? VFIO_USER_F_ERROR : 0),
        .error = rc < 0 ? (uint32_t)-rc : 0,
        .size = HEADER + (rc < 0 ? 0 : s->reply.len),
    };

    if (s->msg.h.flags & VFIO_USER_F_NO_REPLY)
        return 0;
    memcpy(s->out, &h, HEADER);
    memcpy(s->out + HEADER, s->reply.payload, h.size - HEADER);
    s->out_from = 0;
    s->out_to = h.size;
    s->out_fd = rc < 0 ? -1 : s->reply.fd;
    return flush_out(s);
}

/* ---- waiting messages ---- */

void session_finish(struct vfio_user *vu, int rc)
{
    struct session *s = vu->session;

    timer_cancel(&s->wait_timer);
    s->wait = WAIT_NOTHING;
    rc = send_reply(s, rc);
    next_message(s);
    if (rc < 0) {
        session_close(vu, strerror(-rc));
        return;
    }
    update_watch(s); /* what came in meanwhile is handled from the loop, not from here */
}

static void wait_expired(struct timer *t)
{
    struct session *s = session_of(t, wait_timer);
    struct vfio_user *vu = s->vu;
    enum session_wait wait = s->wait;

    log_limited(&life_limit, LOG_ERROR, "vfio-user", "%s: %s was not finished within %d ms",
                vu->name, wait == WAIT_UNMAP ? "DMA_UNMAP" : "reset", WAIT_MS);
    /* A configuration write has been done all the same. */
    session_finish(vu, wait == WAIT_CONFIG ? 0 : -ETIMEDOUT);
    if (wait == WAIT_UNMAP)
        vu->o.ops->unmap_expired(vu->o.dev);
}

/* ---- input ---- */

static void input_stalled(struct timer *t)
{
    struct session *s = session_of(t, stall);

    session_close(s->vu, s->agreed ? "half a message and no more" : "it never sent VERSION");
}

/* The header is there: how long is the rest? 0 or -errno. */
static int check_header(struct session *s)
{
    const struct vfio_user_header *h = &s->msg.h;

    if ((h->flags & VFIO_USER_F_TYPE_MASK) != VFIO_USER_F_COMMAND)
        return -EBADMSG; /* we ask nothing, so there is nothing to be answered */
    if (h->size < HEADER || h->size > HEADER + VFIO_USER_MAX_DATA_XFER + 64) {
        s->closing = true; /* where the next message begins is anybody's guess */
        s->too_long = true;
        s->msg.len = 0;
        return 0;
    }
    s->msg.len = h->size - HEADER;
    if (s->msg.len > MESSAGE_BYTES) {
        s->skip = s->msg.len;
        s->too_long = true;
    }
    return 0;
}

static ssize_t receive(struct session *s, void *buf, size_t len)
{
    struct message *m = &s->msg;
    unsigned nfds;
    ssize_t n = fd_recv(s->fd, buf, len, m->fds + m->nfds, FDS_RECEIVED - m->nfds, &nfds);

    if (n >= 0)
        m->nfds += nfds;
    return n == 0 ? -ECONNRESET : n;
}

/* 1: a message is complete; 0: no more bytes now; -errno. */
static int read_message(struct session *s)
{
    uint8_t scratch[4096];
    ssize_t n;
    int rc;

    while (s->have < HEADER) {
        n = receive(s, (uint8_t *)&s->msg.h + s->have, HEADER - s->have);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->have += (uint32_t)n;
        if (s->have == HEADER && (rc = check_header(s)) < 0)
            return rc;
    }
    if (s->closing)
        return 1;
    for (unsigned reads = 0; s->skip > 0; reads++) {
        if (reads == MESSAGES_PER_TURN)
            return 0; /* the rest next turn */
        n = receive(s, scratch, MIN(s->skip, (uint32_t)sizeof(scratch)));
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->skip -= (uint32_t)n;
    }
    while (!s->too_long && s->have < HEADER + s->msg.len) {
        n = receive(s, s->msg.payload + (s->have - HEADER), HEADER + s->msg.len - s->have);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->have += (uint32_t)n;
    }
    return 1;
}

static int handle_one(struct session *s)
{
    struct vfio_user *vu = s->vu;
    int rc;

    s->reply.len = 0;
    s->reply.fd = -1;
    rc = s->closing ? -EINVAL : message_handle(vu);
    close_fds(&s->msg);
    if (s->agreed)
        timer_cancel(&s->stall); /* the message is whole; how long it waits is another matter */
    if (rc == MESSAGE_LATER) {
        timer_arm(vu->o.reactor, &s->wait_timer, WAIT_MS, wait_expired);
        return 0;
    }
    rc = send_reply(s, rc);
    next_message(s);
    return rc;
}

static void ready(struct watch *w, uint32_t events)
{
    struct session *s = container_of(w, struct session, watch);
    int rc = 1;

    if (s->wait !=
        WAIT_NOTHING) { /* not reading: only the end of the client can have been reported */
        if (events & (EPOLLHUP | EPOLLERR))
            session_close(s->vu, "it closed the connection");
        return;
    }
    if (sending(s)) {
        rc = flush_out(s);
        if (rc == 0 && (events & EPOLLERR))
            rc = -ECONNRESET;
    }
    for (unsigned n = 0;
         rc >= 0 && n < MESSAGES_PER_TURN && !sending(s) && !s->closing && s->wait == WAIT_NOTHING;
         n++) {
        rc = read_message(s);
        if (rc == 0 && s->have > 0 && !s->stall.armed)
            timer_arm(s->vu->o.reactor, &s->stall, STALL_MS, input_stalled);
        if (rc <= 0)
            break;
        rc = handle_one(s);
    }
    if (rc < 0)
        session_close(s->vu, rc == -ECONNRESET ? "it closed the connection" : strerror(-rc));
    else if (s->closing && !sending(s))
        session_close(s->vu, "it does not speak our language");
    else
        update_watch(s);
}

/* ---- life ---- */

void session_open(struct vfio_user *vu, int fd)
{
    struct session *s = vu->session;

    s->vu = vu;
    s->agreed = s->closing = s->too_long = false;
    s->have = s->skip = s->out_from = s->out_to = 0;
    s->msg.nfds = 0;
    s->out_fd = -1;
    s->wait = WAIT_NOTHING;
    s->fd = fd;
    if (watch_add(vu->o.reactor, &s->watch, fd, EPOLLIN, ready) < 0) {
        fd_close(&s->fd);
        return;
    }
    timer_arm(vu->o.reactor, &s->stall, STALL_MS, input_stalled);
    log_limited(&life_limit, LOG_INFO, "vfio-user", "%s: client connected", vu->name);
}

static void session_shut(struct session *s)
{
    watch_remove(s->vu->o.reactor, &s->watch);
    timer_cancel(&s->stall);
    timer_cancel(&s->wait_timer);
    timer_cancel(&s->out_timer);
    close_fds(&s->msg);
    fd_close(&s->fd);
    s->wait = WAIT_NOTHING;
}

static enum vfio_user_answer removed(void *arg, const struct vfio_user_dma *dma)
{
    struct vfio_user *vu = arg;

    return vu->o.ops->dma_removed(vu->o.dev, dma);
}

void session_close(struct vfio_user *vu, const char *why)
{
    struct session *s = vu->session;

    log_limited(&life_limit, LOG_INFO, "vfio-user", "%s: client gone: %s", vu->name, why);
    session_shut(s);
    if (s->agreed) {
        vu->mapped = false;
        irq_clear(&vu->irqs);
        vu->draining = true;
        vu->draining_reset = vu->o.ops->disconnected(vu->o.dev) == VFIO_USER_LATER;
        dma_remove(&vu->dma, 0, 0, true, removed, vu);
    }
    listener_drain(vu);
}

void session_free(struct vfio_user *vu)
{
    if (vu->session && vu->session->fd >= 0)
        session_shut(vu->session);
    free(vu->session);
    vu->session = NULL;
}
