/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One client: framing on a stream, replies, deadlines. Descriptors ride with the first byte of a
 * message; each read asks for no more than the message at hand, so that they cannot be taken for
 * another one's. */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HEADER = sizeof(struct vhost_user_header) };

static struct log_limit life_limit; /* clients come and go as often as they like */

#define session_of(timer, member) container_of(timer, struct session, member)

static void next_message(struct session *s)
{
    for (unsigned i = 0; i < s->msg.nfds; i++)
        fd_close(&s->msg.fds[i]);
    s->msg.nfds = 0;
    s->have = 0;
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
    watch_modify(s->vh->o.reactor, &s->watch, events);
}

/* ---- output ---- */

static void out_stalled(struct timer *t)
{
    vh_session_close(session_of(t, out_timer)->vh, "it does not read its replies");
}

static int flush_out(struct session *s)
{
    while (sending(s)) {
        ssize_t n = fd_send(s->fd, s->out + s->out_from, s->out_to - s->out_from, &s->out_fd,
                            s->out_fd >= 0 ? 1 : 0);

        if (n == -EAGAIN || n == -ETOOMANYREFS) {
            if (!s->out_timer.armed)
                timer_arm(s->vh->o.reactor, &s->out_timer, STALL_MS, out_stalled);
            return 0;
        }
        if (n < 0)
            return (int)n;
        fd_close(&s->out_fd);
        s->out_from += (uint32_t)n;
    }
    s->out_from = s->out_to = 0;
    timer_cancel(&s->out_timer);
    return 0;
}

/* Answers the message in s->msg, when it is to be answered. */
static int send_reply(struct session *s, int rc)
{
    bool wanted = vh_message_reply(s->vh, rc);
    struct vhost_user_header h = {
        .request = s->msg.h.request,
        .flags = VHOST_USER_VERSION | VHOST_USER_F_REPLY,
        .size = s->reply.len,
    };

    if (!wanted) {
        fd_close(&s->reply.fd);
        return 0;
    }
    memcpy(s->out, &h, HEADER);
    memcpy(s->out + HEADER, s->reply.payload, h.size);
    s->out_from = 0;
    s->out_to = HEADER + h.size;
    s->out_fd = s->reply.fd;
    s->reply.fd = -1;
    return flush_out(s);
}

/* ---- waiting messages ---- */

void vh_session_finish(struct vhost_user *vh, int rc)
{
    struct session *s = vh->session;
    enum session_wait waited = s->wait;

    s->wait = WAIT_NOTHING;
    rc = vh_message_resume(vh, waited, rc);
    if (rc == MESSAGE_LATER)
        return;
    timer_cancel(&s->wait_timer);
    rc = send_reply(s, rc);
    next_message(s);
    if (rc < 0) {
        vh_session_close(vh, strerror(-rc));
        return;
    }
    update_watch(s); /* what came in meanwhile is handled from the loop, not from here */
}

static void wait_expired(struct timer *t)
{
    static const char *const names[] = {
        [WAIT_MEM] = "removal of memory",
        [WAIT_BASE] = "stop of a ring",
        [WAIT_STOP] = "stop of a ring",
        [WAIT_RESET] = "reset",
    };
    struct session *s = session_of(t, wait_timer);
    struct vhost_user *vh = s->vh;
    enum session_wait wait = s->wait;

    log_limited(&life_limit, LOG_ERROR, "vhost-user", "%s: %s was not finished within %d ms",
                vh->name, names[wait], WAIT_MS);
    if (wait == WAIT_STOP) { /* a QEMU that says status 0 first never gets over a loss here */
        timer_arm(vh->o.reactor, &s->wait_timer, WAIT_MS, wait_expired);
        return;
    }
    if (wait == WAIT_BASE) { /* no honest answer exists; what is in flight stays recorded */
        vh_session_close(vh, "its ring could not be stopped");
        return;
    }
    vh_session_finish(vh, -ETIMEDOUT);
    if (wait == WAIT_MEM)
        vh->o.ops->unmap_expired(vh->o.dev);
}

/* ---- input ---- */

static void input_stalled(struct timer *t)
{
    struct session *s = session_of(t, stall);

    vh_session_close(s->vh, s->agreed ? "half a message and no more" : "it never said anything");
}

static int check_header(const struct vhost_user_header *h)
{
    if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
        (h->flags & VHOST_USER_F_REPLY))
        return -EPROTO; /* we ask nothing here, so there is nothing to be answered */
    return h->size > PAYLOAD_BYTES ? -EMSGSIZE : 0;
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
    ssize_t n;
    int rc;

    while (s->have < HEADER) {
        n = receive(s, (uint8_t *)&s->msg.h + s->have, HEADER - s->have);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->have += (uint32_t)n;
        if (s->have == HEADER && (rc = check_header(&s->msg.h)) < 0)
            return rc;
    }
    while (s->have < HEADER + s->msg.h.size) {
        n = receive(s, s->msg.payload + (s->have - HEADER), HEADER + s->msg.h.size - s->have);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->have += (uint32_t)n;
    }
    return 1;
}

static int handle_one(struct session *s)
{
    struct vhost_user *vh = s->vh;
    int rc;

    timer_cancel(&s->stall); /* the message is whole; how long it waits is another matter */
    if (!s->agreed) {
        s->agreed = true;
        vh->o.ops->connected(vh->o.dev);
    }
    s->reply.len = 0;
    s->reply.fd = -1;
    rc = vh_message_handle(vh);
    if (rc == MESSAGE_LATER) {
        timer_arm(vh->o.reactor, &s->wait_timer, WAIT_MS, wait_expired);
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

    if (s->wait != WAIT_NOTHING) { /* not reading: only the client's end can be reported */
        if (events & (EPOLLHUP | EPOLLERR))
            vh_session_close(s->vh, "it closed the connection");
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
            timer_arm(s->vh->o.reactor, &s->stall, STALL_MS, input_stalled);
        if (rc <= 0)
            break;
        rc = handle_one(s);
    }
    if (rc < 0)
        vh_session_close(s->vh, rc == -ECONNRESET ? "it closed the connection" : strerror(-rc));
    else if (s->closing && !sending(s))
        vh_session_close(s->vh, "its request has no answer");
    else
        update_watch(s);
}

/* ---- life ---- */

void vh_session_open(struct vhost_user *vh, int fd)
{
    struct session *s = vh->session;

    s->agreed = s->closing = false;
    s->have = s->out_from = s->out_to = 0;
    s->msg.nfds = 0;
    s->out_fd = s->reply.fd = -1;
    s->wait = WAIT_NOTHING;
    s->fd = fd;
    if (watch_add(vh->o.reactor, &s->watch, fd, EPOLLIN, ready) < 0) {
        fd_close(&s->fd);
        return;
    }
    timer_arm(vh->o.reactor, &s->stall, STALL_MS, input_stalled);
    log_limited(&life_limit, LOG_INFO, "vhost-user", "%s: client connected", vh->name);
}

static void session_shut(struct session *s)
{
    watch_remove(s->vh->o.reactor, &s->watch);
    timer_cancel(&s->stall);
    timer_cancel(&s->wait_timer);
    timer_cancel(&s->out_timer);
    next_message(s);
    fd_close(&s->out_fd);
    fd_close(&s->reply.fd);
    fd_close(&s->fd);
    s->wait = WAIT_NOTHING;
}

static enum vhost_user_answer removed(void *arg, const struct vhost_user_mem *mem)
{
    struct vhost_user *vh = arg;

    return vh->o.ops->mem_removed(vh->o.dev, mem);
}

void vh_session_close(struct vhost_user *vh, const char *why)
{
    struct session *s = vh->session;

    log_limited(&life_limit, LOG_INFO, "vhost-user", "%s: client gone: %s", vh->name, why);
    session_shut(s);
    if (s->agreed) {
        s->agreed = false;
        vh_message_forget(vh);
        vring_clear_all(vh, true);
        vh->protocol_features = 0;
        channel_close(vh);
        vh->draining = true;
        vh->resetting = vh->o.ops->disconnected(vh->o.dev) == VHOST_USER_LATER;
        mem_keep_only(&vh->mem, NULL, NULL, 0, removed, vh);
    }
    vh_listener_drain(vh);
}

void vh_session_free(struct vhost_user *vh)
{
    if (vh->session && vh->session->fd >= 0)
        session_shut(vh->session);
    free(vh->session);
    vh->session = NULL;
}
