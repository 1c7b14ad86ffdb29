/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The connection of a queue to its target: its begin, its deadlines, its end. */
#include "backends/nvme_of/tcp_inside.h"

#include "base/fd.h"
#include "base/undumped.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { TICK_MS = 250 };

void tcp_addr_text(const struct sockaddr_storage *addr, char *out, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";

    if (addr->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const void *)addr;

        inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
        snprintf(out, size, "[%s]:%u", host, ntohs(in6->sin6_port));
    } else {
        const struct sockaddr_in *in = (const void *)addr;

        inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
        snprintf(out, size, "%s:%u", host, ntohs(in->sin_port));
    }
}

int tcp_init(struct tcp_conn *c, struct reactor *r, unsigned depth, const struct tcp_ops *ops)
{
    memset(c, 0, sizeof(*c));
    c->r = r;
    c->ops = ops;
    nvme_tcp_stream_begin(&c->stream, -1, true);
    c->stream.ops = &tcp_stream_ops;
    c->rx = undumped_alloc(TCP_RX_BYTES + TCP_SCRATCH_BYTES);
    if (!c->rx)
        return -ENOMEM;
    c->stream.buf = c->rx;
    c->stream.buf_bytes = TCP_RX_BYTES;
    c->stream.scratch = c->rx + TCP_RX_BYTES;
    c->stream.scratch_bytes = TCP_SCRATCH_BYTES;
    list_init(&c->free);
    depth = MIN(depth, 1U << TCP_SLOT_BITS);
    c->cmds = calloc(depth, sizeof(*c->cmds));
    if (!c->cmds) {
        tcp_fini(c);
        return -ENOMEM;
    }
    c->depth = depth;
    for (unsigned i = 0; i < depth; i++) {
        c->cmds[i].slot = (uint8_t)i;
        list_init(&c->cmds[i].out.node);
        list_append(&c->free, &c->cmds[i].node);
    }
    return 0;
}

void tcp_fini(struct tcp_conn *c)
{
    undumped_free(c->rx, TCP_RX_BYTES + TCP_SCRATCH_BYTES);
    c->rx = NULL;
    free(c->cmds);
    c->cmds = NULL;
    c->depth = 0;
}

/* ---- the end of a connection ---- */

/* Abrupt: what the kernel has not sent yet never leaves, also when this process is killed: commands
 * that are sent again on another connection must not be overtaken by their old selves. */
static void set_abrupt(struct tcp_conn *c, bool abrupt)
{
    struct linger linger = {.l_onoff = abrupt, .l_linger = 0};

    setsockopt(c->stream.fd, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
}

static void hang_up(struct tcp_conn *c)
{
    if (c->stream.fd < 0)
        return;
    if (c->busy == 0)
        set_abrupt(c, false);
    watch_remove(c->r, &c->watch);
    fd_close(&c->stream.fd);
    timer_cancel(&c->tick);
}

static void report_down(struct timer *t)
{
    struct tcp_conn *c = container_of(t, struct tcp_conn, down_timer);

    c->ops->down(c, &c->why);
}

void tcp_fail(struct tcp_conn *c, int code, const char *fmt, ...)
{
    va_list ap;

    if (c->state == TCP_CLOSED || c->state == TCP_DOWN)
        return;
    c->why.code = code;
    va_start(ap, fmt);
    vsnprintf(c->why.msg, sizeof(c->why.msg), fmt, ap);
    va_end(ap);
    hang_up(c);
    c->state = TCP_DOWN;
    timer_arm(c->r, &c->down_timer, 0, report_down);
}

void tcp_fault(struct tcp_conn *c, const struct nvme_tcp_fault *fault, const void *header,
               size_t len)
{
    const struct list *line = &c->stream.out;
    struct nvme_tcp_out *first =
        list_empty(line) ? NULL : list_entry(line->next, struct nvme_tcp_out, node);
    char pdu[NVME_TCP_TERM_MAX];

    /* Not into the middle of another PDU. */
    if (c->stream.fd >= 0 && c->state >= TCP_IC && (!first || !first->started)) {
        size_t n = nvme_tcp_term_req(pdu, true, fault, header, len);

        set_abrupt(c, false);
        (void)!send(c->stream.fd, pdu, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        shutdown(c->stream.fd, SHUT_WR);
    }
    tcp_fail(c, -EPROTO, "protocol error: %s (PDU type %02xh, byte %u)", fault->text,
             len ? *(const uint8_t *)header : 0, fault->fei);
}

void tcp_close(struct tcp_conn *c)
{
    hang_up(c);
    timer_cancel(&c->down_timer);
    c->state = TCP_CLOSED;
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(c, cmd));)
        tcp_cmd_put(c, cmd);
}

/* ---- deadlines ---- */

static void tick(struct timer *t);

void tcp_arm_tick(struct tcp_conn *c)
{
    timer_arm(c->r, &c->tick, TICK_MS, tick);
}

static void tick(struct timer *t)
{
    struct tcp_conn *c = container_of(t, struct tcp_conn, tick);
    uint32_t limit = MAX(c->opts.phase_timeout_ms / TICK_MS, 1U);

    if (c->state != TCP_UP) {
        if (++c->phase_ticks > limit) {
            tcp_fail(c, -ETIMEDOUT, "no answer within %u ms (%s)", c->opts.phase_timeout_ms,
                     c->state == TCP_CONNECTING ? "TCP connect" : "IC exchange");
            return;
        }
        tcp_arm_tick(c);
        return;
    }
    if (nvme_tcp_half_way(&c->stream) && ++c->stream.in_ticks > limit) {
        tcp_fail(c, -ETIMEDOUT, "the target stopped in the middle of a PDU");
        return;
    }
    if (!list_empty(&c->stream.out) && ++c->stream.out_ticks > limit) {
        tcp_fail(c, -ETIMEDOUT, "the target has not taken any data for %u ms",
                 c->opts.phase_timeout_ms);
        return;
    }
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(c, cmd));) {
        if (cmd->patient || ++cmd->age_ticks <= cmd->timeout_ms / TICK_MS)
            continue;
        tcp_fail(c, -ETIMEDOUT, "no answer to command %02xh (CID %u) within %u ms", cmd->sqe.opc,
                 le16_get(cmd->sqe.cid), cmd->timeout_ms);
        return;
    }
    if (c->busy)
        tcp_arm_tick(c);
}

/* ---- sending ---- */

static void send_line(struct tcp_conn *c)
{
    int rc = nvme_tcp_send(&c->stream);

    if (rc == 0 || rc == -EAGAIN)
        watch_modify(c->r, &c->watch, rc ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void tcp_flush(struct tcp_conn *c)
{
    if (c->state == TCP_UP && !c->receiving && !list_empty(&c->stream.out))
        send_line(c);
}

/* ---- life ---- */

static void send_ic_req(struct tcp_conn *c)
{
    while (c->ic_sent < sizeof(c->ic_req)) {
        ssize_t n = send(c->stream.fd, c->ic_req + c->ic_sent, sizeof(c->ic_req) - c->ic_sent,
                         MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            tcp_fail(c, -errno, "%s", strerror(errno));
            return;
        }
        if (n < 0) {
            watch_modify(c->r, &c->watch, EPOLLIN | EPOLLOUT);
            return;
        }
        c->ic_sent += (unsigned)n;
    }
    watch_modify(c->r, &c->watch, EPOLLIN);
}

static void connected(struct tcp_conn *c)
{
    struct nvme_tcp_ic_req *req = (void *)c->ic_req;
    int code = 0, one = 1;
    socklen_t len = sizeof(code);

    if (getsockopt(c->stream.fd, SOL_SOCKET, SO_ERROR, &code, &len) < 0)
        code = errno;
    if (code) {
        tcp_fail(c, -code, "%s", strerror(code));
        return;
    }
    setsockopt(c->stream.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    /* HPDA 0: Linux targets know no other. MAXR2T 0: one at a time. */
    *req = (struct nvme_tcp_ic_req){
        .ch = {.type = NVME_TCP_IC_REQ,
               .hlen = NVME_TCP_IC_BYTES,
               .plen = le32_of(NVME_TCP_IC_BYTES)},
        .dgst = (c->opts.hdgst ? NVME_TCP_DGST_HDR : 0) | (c->opts.ddgst ? NVME_TCP_DGST_DATA : 0),
    };
    c->ic_sent = 0;
    c->state = TCP_IC;
    send_ic_req(c);
}

static void ready(struct watch *w, uint32_t events)
{
    struct tcp_conn *c = container_of(w, struct tcp_conn, watch);

    if (c->state == TCP_CONNECTING) {
        connected(c);
        return;
    }
    if (c->state == TCP_IC && c->ic_sent < sizeof(c->ic_req)) {
        send_ic_req(c);
        if (c->state != TCP_IC)
            return;
    }
    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        c->receiving = true;
        nvme_tcp_receive(&c->stream);
        if (c->state == TCP_UP)
            c->ops->batch_end(c);
        c->receiving = false;
    }
    if (c->state == TCP_UP && !list_empty(&c->stream.out))
        send_line(c);
}

int tcp_open(struct tcp_conn *c, const struct tcp_opts *opts, struct err *err)
{
    socklen_t len =
        opts->addr.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
    int rc, fd = socket(opts->addr.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    c->opts = *opts;
    nvme_tcp_stream_begin(&c->stream, fd, true);
    if (fd < 0)
        return err_set(err, -errno, "socket: %s", strerror(errno));
    if (opts->local.ss_family &&
        bind(c->stream.fd, (const struct sockaddr *)&opts->local,
             opts->local.ss_family == AF_INET6 ? sizeof(struct sockaddr_in6)
                                               : sizeof(struct sockaddr_in)) < 0) {
        rc = err_set(err, -errno, "cannot use the local address: %s", strerror(errno));
        goto out;
    }
    if (connect(c->stream.fd, (const struct sockaddr *)&opts->addr, len) < 0 &&
        errno != EINPROGRESS) {
        rc = err_set(err, -errno, "%s", strerror(errno));
        goto out;
    }
    set_abrupt(c, true);
    rc = watch_add(c->r, &c->watch, c->stream.fd, EPOLLIN | EPOLLOUT, ready);
    if (rc) {
        err_set(err, rc, "epoll: %s", strerror(-rc));
        goto out;
    }
    c->state = TCP_CONNECTING;
    c->phase_ticks = 0;
    c->rx_cmd = NULL;
    tcp_arm_tick(c);
    return 0;
out:
    fd_close(&c->stream.fd);
    return rc;
}
