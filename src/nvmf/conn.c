/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The life of a connection: from accept() to the end of its last command. */
#include "nvmf/inside.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/undumped.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TICK_MS = 1000,
    PHASE_TICKS = 10,
    DATA_TICKS = 30,
    WITHHELD_TICKS = 5,
    CAPSULE_MIN_BYTES = 64
};

/* A host that is gone without a word is noticed within 25 s of silence, also without KATO. */
enum { KEEP_IDLE_S = 10, KEEP_INTERVAL_S = 5, KEEP_COUNT = 3 };

static struct log_limit life_limit;

/* ---- the end ---- */

/* Control: nobody on the reactor knows it any more. */
static void gone(struct mail *m)
{
    ctrl_conn_gone(container_of(m, struct nvmf_conn, life));
}

static void free_it(struct mail *m)
{
    struct nvmf_conn *c = container_of(m, struct nvmf_conn, life);

    undumped_free(c->buf, CONN_BUF_BYTES);
    free(c);
}

void conn_free(struct nvmf_conn *c)
{
    /* On its reactor, behind the last mail that control has sent there. */
    c->life.fn = free_it;
    reactor_post(c->shard->reactor, &c->life);
}

void conn_settle(struct nvmf_conn *c)
{
    if (c->state != CONN_CLOSED || c->away > 0 || c->is_gone)
        return;
    c->is_gone = true;
    if (c->is_dirty)
        list_remove(&c->dirty_node);
    c->is_dirty = false;
    conn_ns_free_all(c);
    conn_free_slots(c);
    share_put(c->share);
    c->share = NULL;
    if (c->is_known)
        counter_sub(c->is_io ? &c->shard->current_io : &c->shard->current_admin, 1);
    c->life.fn = gone;
    reactor_post(c->target->o.control, &c->life);
}

/* Control: its commands there are to end. */
static void lost(struct mail *m)
{
    ctrl_conn_lost(container_of(m, struct nvmf_conn, lost_mail));
}

static void shut(struct nvmf_conn *c)
{
    if (c->state == CONN_CLOSED)
        return;
    c->state = CONN_CLOSED;
    watch_remove(c->shard->reactor, &c->watch);
    fd_close(&c->stream.fd);
    timer_cancel(&c->tick);
    share_wait_no_more(c);
    cmd_end_all(c);
    c->lost_mail.fn = lost;
    reactor_post(c->target->o.control, &c->lost_mail);
    conn_dirty(c); /* its end of turn settles it, when no call is under way */
}

void conn_fail(struct nvmf_conn *c, const char *fmt, ...)
{
    char why[200];
    va_list ap;

    if (c->state == CONN_CLOSED)
        return;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_limited(&life_limit, LOG_INFO, "nvmf", "host %s: queue %u: %s", c->peer,
                c->is_known ? c->qid : 0, why);
    shut(c);
}

void conn_fault(struct nvmf_conn *c, const struct nvme_tcp_fault *f, const void *header, size_t len)
{
    const struct list *line = &c->stream.out;
    char pdu[NVME_TCP_TERM_MAX];

    /* Not into the middle of another PDU. */
    if (c->state != CONN_CLOSED && c->ic_left == 0 &&
        (list_empty(line) || !list_entry(line->next, struct nvme_tcp_out, node)->started)) {
        size_t n = nvme_tcp_term_req(pdu, false, f, header, len);

        (void)!send(c->stream.fd, pdu, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        shutdown(c->stream.fd, SHUT_WR);
    }
    conn_fail(c, "protocol error: %s (PDU type %02xh, byte %u)", f->text,
              len ? *(const uint8_t *)header : 0, f->fei);
}

static void close_asked(struct mail *m)
{
    struct nvmf_conn *c = container_of(m, struct nvmf_conn, close_mail);

    shut(c);
}

void conn_close(struct nvmf_conn *c)
{
    if (c->ending)
        return;
    c->ending = true;
    c->close_mail.fn = close_asked;
    reactor_post(c->shard->reactor, &c->close_mail);
}

/* ---- Connect ---- */

void conn_up(struct nvmf_conn *c)
{
    struct shard *s = c->shard;

    if (conn_make_slots(c, c->sq_size, MAX(c->capsule_bytes, (uint32_t)CAPSULE_MIN_BYTES)) < 0) {
        conn_fail(c, "no memory for %u entries", c->sq_size);
        return;
    }
    c->share = share_get(s, (const void *)c->first_data);
    if (!c->share) {
        conn_fail(c, "no memory for its host");
        return;
    }
    c->stream.rules.max_capsule_bytes = c->capsule_bytes;
    c->state = CONN_UP;
    c->is_known = true;
    counter_add(c->is_io ? &s->io_queues : &s->admin_queues, 1);
    counter_add(c->is_io ? &s->current_io : &s->current_admin, 1);
}

/* ---- sending and receiving ---- */

void conn_dirty(struct nvmf_conn *c)
{
    if (c->is_dirty || c->is_gone)
        return;
    c->is_dirty = true;
    list_append(&c->shard->dirty, &c->dirty_node);
}

static void send_ic_resp(struct nvmf_conn *c)
{
    ssize_t n = send(c->stream.fd, c->ic_resp + sizeof(c->ic_resp) - c->ic_left, c->ic_left,
                     MSG_NOSIGNAL | MSG_DONTWAIT);

    if (n > 0)
        c->ic_left -= (unsigned)n;
    else if (n < 0 && errno != EAGAIN && errno != EINTR)
        conn_fail(c, "%s", strerror(errno));
}

void conn_send(struct nvmf_conn *c)
{
    int rc = 0;

    if (c->state != CONN_CLOSED && c->ic_left > 0)
        send_ic_resp(c);
    if (c->state != CONN_CLOSED && c->ic_left == 0)
        rc = nvme_tcp_send(&c->stream);
    if (c->state == CONN_CLOSED) {
        conn_settle(c);
        return;
    }
    watch_modify(c->shard->reactor, &c->watch,
                 rc == -EAGAIN || c->ic_left > 0 ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

static void ready(struct watch *w, uint32_t events)
{
    struct nvmf_conn *c = container_of(w, struct nvmf_conn, watch);

    if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
        atomic_store_explicit(&c->active_ms, clock_coarse_ms(), memory_order_relaxed);
        nvme_tcp_receive(&c->stream);
    }
    conn_dirty(c);
}

/* ---- deadlines ---- */

/* No data have come for so long on the whole connection, which keeps others from working. */
static bool withholds(struct nvmf_conn *c)
{
    if (!share_is_wanted(c->share) || !cmd_awaits_data(c))
        c->withheld_ticks = 0;
    else
        c->withheld_ticks++;
    return c->withheld_ticks > WITHHELD_TICKS;
}

static void tick(struct timer *t)
{
    struct nvmf_conn *c = container_of(t, struct nvmf_conn, tick);

    if (c->is_known && c->is_io && c->away > 0)
        atomic_store_explicit(&c->awaited_ms, clock_coarse_ms(), memory_order_relaxed);
    if ((c->state == CONN_IC || c->state == CONN_NEW) && ++c->phase_ticks > PHASE_TICKS)
        conn_fail(c, "it did not say which queue it is within %d s", PHASE_TICKS);
    else if (nvme_tcp_half_way(&c->stream) && ++c->stream.in_ticks > PHASE_TICKS)
        conn_fail(c, "it stopped in the middle of a PDU");
    else if (!list_empty(&c->stream.out) && ++c->stream.out_ticks > PHASE_TICKS)
        conn_fail(c, "it has not taken any data for %d s", PHASE_TICKS);
    else if (cmd_data_overdue(c, DATA_TICKS))
        conn_fail(c, "data that were asked for have not come within %d s", DATA_TICKS);
    else if (withholds(c))
        conn_fail(c, "data that were asked for have not come within %d s, and others need the room",
                  WITHHELD_TICKS);
    else
        timer_arm(c->shard->reactor, &c->tick, TICK_MS, tick);
}

/* ---- the beginning ---- */

static void set(int fd, int level, int option, int value)
{
    setsockopt(fd, level, option, &value, sizeof(value));
}

static void begin(struct mail *m)
{
    struct nvmf_conn *c = container_of(m, struct nvmf_conn, life);
    int fd = c->stream.fd;

    set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    nvme_tcp_stream_begin(&c->stream, fd, false);
    c->stream.rules.max_capsule_bytes = sizeof(c->first_data);
    c->stream.buf = c->buf;
    c->stream.buf_bytes = CONN_BUF_BYTES;
    c->stream.scratch = c->shard->scratch;
    c->stream.scratch_bytes = SCRATCH_BYTES;
    c->stream.ops = &conn_stream_ops;
    if (watch_add(c->shard->reactor, &c->watch, fd, EPOLLIN, ready) < 0) {
        conn_fail(c, "it cannot be watched");
        return;
    }
    timer_arm(c->shard->reactor, &c->tick, TICK_MS, tick);
}

static struct shard *least_loaded(struct nvmf_target *t)
{
    struct shard *best = &t->shards[0];

    for (unsigned i = 1; i < t->o.nreactors; i++)
        if (t->shards[i].nconns < best->nconns)
            best = &t->shards[i];
    return best;
}

/* Too many have not said which queue they are: the one that is silent for the longest time makes
 * room. Those whose Connect waits for a predecessor are not silent. */
static void make_room(struct nvmf_target *t)
{
    list_for_each(it, &t->new_conns)
    {
        struct nvmf_conn *c = list_entry(it, struct nvmf_conn, node);

        if (c->ending || c->arrived_ms)
            continue;
        log_limited(
            &life_limit, LOG_WARNING, "nvmf",
            "host %s makes room: more than %d connections have not said which queue they are",
            c->peer, CONN_NEW_ENOUGH);
        conn_close(c);
        return;
    }
}

void conn_create(struct nvmf_target *t, struct nvmf_port *port, int fd, const char *peer)
{
    struct nvmf_conn *c =
        t->nconns < CONN_MAX && t->nnew < CONN_MAX_NEW ? calloc(1, sizeof(*c)) : NULL;

    if (t->nnew >= CONN_NEW_ENOUGH)
        make_room(t);
    if (!c) {
        log_limited(&life_limit, LOG_WARNING, "nvmf",
                    "host %s is refused: %u connections, %u of them new, the limits are %d and %d",
                    peer, t->nconns, t->nnew, CONN_MAX, CONN_MAX_NEW);
        close(fd);
        return;
    }
    c->buf = undumped_alloc(CONN_BUF_BYTES);
    if (!c->buf) {
        log_limited(&life_limit, LOG_WARNING, "nvmf", "host %s is refused: no memory", peer);
        free(c);
        close(fd);
        return;
    }
    c->target = t;
    c->shard = least_loaded(t);
    c->shard->nconns++;
    c->port = port;
    port->refs++;
    snprintf(c->peer, sizeof(c->peer), "%s", peer);
    c->stream.fd = fd;
    list_init(&c->dirty_node);
    list_init(&c->starved_node);
    list_init(&c->waiting);
    list_init(&c->free);
    list_init(&c->suitor_node);
    c->max_io_bytes = t->transport.max_io_bytes;
    cmd_init(&c->first, c, 0);
    atomic_init(&c->active_ms, clock_coarse_ms());
    list_append(&t->new_conns, &c->node);
    t->nconns++;
    t->nnew++;
    c->life.fn = begin;
    reactor_post(c->shard->reactor, &c->life);
}
