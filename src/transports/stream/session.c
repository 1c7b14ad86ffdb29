/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One client: framing on a stream, replies, deadlines. Descriptors ride with the first byte of a
 * message; each read asks for no more than the message at hand, so that they cannot be taken for
 * another one's. */
#include "base/fd.h"
#include "base/util.h"
#include "transports/stream/inside.h"

#include <errno.h>
#include <string.h>

enum {
    MESSAGES_PER_TURN = 64,
    STALL_MS = 5000, /* half a message, none at all, a reply the client does not fetch */
    WAIT_MS = 3000,  /* until a message that is to be answered later is */
};

static void close_fds(struct stream *s)
{
    for (unsigned i = 0; i < s->nfds; i++)
        fd_close(&s->fds[i]);
    s->nfds = 0;
}

static void next_message(struct stream *s)
{
    close_fds(s);
    s->have = s->drop = 0;
}

static bool sending(const struct stream *s)
{
    return s->out_from < s->out_to;
}

static void update_watch(struct stream *s)
{
    uint32_t events = 0;

    if (sending(s))
        events = EPOLLOUT;
    else if (!s->wait && !s->closing)
        events = EPOLLIN;
    watch_modify(s->reactor, &s->watch, events);
}

/* ---- output ---- */

static void out_stalled(struct timer *t)
{
    stream_close(container_of(t, struct stream, out_timer), "it does not read its replies");
}

static void done_with_out_fd(struct stream *s)
{
    if (s->protocol->closes_fd)
        fd_close(&s->out_fd);
    s->out_fd = -1;
}

static int flush_out(struct stream *s)
{
    while (sending(s)) {
        ssize_t n = fd_send(s->fd, s->out + s->out_from, s->out_to - s->out_from, &s->out_fd,
                            s->out_fd >= 0 ? 1 : 0);

        if (n == -EAGAIN || n == -ETOOMANYREFS) {
            if (!s->out_timer.armed)
                timer_arm(s->reactor, &s->out_timer, STALL_MS, out_stalled);
            return 0;
        }
        if (n < 0)
            return (int)n;
        done_with_out_fd(s);
        s->out_from += (uint32_t)n;
    }
    s->out_from = s->out_to = 0;
    timer_cancel(&s->out_timer);
    return 0;
}

/* One sendmsg carries it all: clients read the header alone first and want it whole. */
int stream_reply(struct stream *s, const void *buf, uint32_t bytes, int fd)
{
    close_fds(s);
    s->out = buf;
    s->out_from = 0;
    s->out_to = bytes;
    s->out_fd = fd;
    return flush_out(s);
}

/* ---- waiting messages ---- */

void stream_finish(struct stream *s, int rc)
{
    timer_cancel(&s->wait_timer);
    s->wait = 0;
    next_message(s);
    if (rc < 0)
        stream_close(s, strerror(-rc));
    else
        update_watch(s); /* what came in meanwhile is handled from the loop, not from here */
}

static void wait_expired(struct timer *t)
{
    struct stream *s = container_of(t, struct stream, wait_timer);
    struct stream_log *log = s->protocol->log;

    log_limited(&log->life, LOG_ERROR, log->room, "%s: %s was not finished within %d ms", s->name,
                s->protocol->waits[s->wait], WAIT_MS);
    s->protocol->expired(s);
}

void stream_wait_on(struct stream *s)
{
    timer_arm(s->reactor, &s->wait_timer, WAIT_MS, wait_expired);
}

/* ---- input ---- */

static void input_stalled(struct timer *t)
{
    struct stream *s = container_of(t, struct stream, stall);

    stream_close(s, s->agreed ? "half a message and no more" : s->protocol->silent);
}

static ssize_t receive(struct stream *s, void *buf, size_t len)
{
    unsigned nfds;
    ssize_t n = fd_recv(s->fd, buf, len, s->fds + s->nfds, STREAM_FDS - s->nfds, &nfds);

    if (n >= 0)
        s->nfds += nfds;
    return n == 0 ? -ECONNRESET : n;
}

/* This and the next two: 1: done; 0: no more bytes now; -errno. */
static int read_up_to(struct stream *s, uint32_t bytes)
{
    while (s->have < bytes) {
        ssize_t n = receive(s, s->in + s->have, bytes - s->have);

        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->have += (uint32_t)n;
    }
    return 1;
}

static int drop_payload(struct stream *s)
{
    uint8_t scratch[4096];

    for (unsigned reads = 0; s->drop > 0; reads++) {
        ssize_t n;

        if (reads == MESSAGES_PER_TURN)
            return 0; /* the rest next turn */
        n = receive(s, scratch, MIN(s->drop, (uint32_t)sizeof(scratch)));
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        s->drop -= (uint32_t)n;
    }
    return 1;
}

static int read_message(struct stream *s)
{
    const struct stream_protocol *p = s->protocol;
    bool begun = s->have >= p->header_bytes;
    int rc = read_up_to(s, p->header_bytes);

    if (rc > 0 && !begun) {
        int len = p->payload(s);

        if (len < 0)
            return len;
        s->drop = (uint32_t)len > p->payload_bytes ? (uint32_t)len : 0;
        s->size = p->header_bytes + (s->drop ? 0 : (uint32_t)len);
    }
    if (rc > 0)
        rc = drop_payload(s);
    return rc > 0 ? read_up_to(s, s->size) : rc;
}

static int handle_one(struct stream *s)
{
    int rc;

    timer_cancel(&s->stall); /* the message is whole; how long it waits is another matter */
    rc = s->protocol->handle(s);
    if (rc == STREAM_LATER) {
        stream_wait_on(s);
        return 0;
    }
    next_message(s);
    return rc;
}

static void ready(struct watch *w, uint32_t events)
{
    struct stream *s = container_of(w, struct stream, watch);
    int rc = 1;

    if (s->wait) { /* not reading: only the client's end can have been reported */
        if (events & (EPOLLHUP | EPOLLERR))
            stream_close(s, "it closed the connection");
        return;
    }
    if (sending(s)) {
        rc = flush_out(s);
        if (rc == 0 && (events & EPOLLERR))
            rc = -ECONNRESET;
    }
    for (unsigned n = 0; rc >= 0 && n < MESSAGES_PER_TURN && !sending(s) && !s->closing && !s->wait;
         n++) {
        rc = read_message(s);
        if (rc == 0 && s->have > 0 && !s->stall.armed)
            timer_arm(s->reactor, &s->stall, STALL_MS, input_stalled);
        if (rc <= 0)
            break;
        rc = handle_one(s);
    }
    if (rc < 0)
        stream_close(s, rc == -ECONNRESET ? "it closed the connection" : strerror(-rc));
    else if (s->closing && !sending(s))
        stream_close(s, s->protocol->closing);
    else
        update_watch(s);
}

/* ---- life ---- */

void stream_session_open(struct stream *s, int fd)
{
    struct stream_log *log = s->protocol->log;

    s->agreed = s->closing = false;
    s->have = s->drop = s->out_from = s->out_to = 0;
    s->nfds = 0;
    s->out_fd = -1;
    s->wait = 0;
    s->fd = fd;
    if (watch_add(s->reactor, &s->watch, fd, EPOLLIN, ready) < 0) {
        fd_close(&s->fd);
        return;
    }
    timer_arm(s->reactor, &s->stall, STALL_MS, input_stalled);
    log_limited(&log->life, LOG_INFO, log->room, "%s: client connected", s->name);
}

void stream_session_shut(struct stream *s)
{
    watch_remove(s->reactor, &s->watch);
    timer_cancel(&s->stall);
    timer_cancel(&s->wait_timer);
    timer_cancel(&s->out_timer);
    next_message(s);
    done_with_out_fd(s);
    fd_close(&s->fd);
    s->wait = 0;
}

void stream_close(struct stream *s, const char *why)
{
    struct stream_log *log = s->protocol->log;

    log_limited(&log->life, LOG_INFO, log->room, "%s: client gone: %s", s->name, why);
    stream_session_shut(s);
    if (s->agreed) {
        s->agreed = false;
        s->draining = true;
        s->protocol->closed(s);
    }
    stream_drain(s);
}

void stream_drain(struct stream *s)
{
    s->draining = s->draining && s->protocol->draining(s);
    watch_modify(s->reactor, &s->listen_watch, s->draining ? 0 : EPOLLIN);
}
