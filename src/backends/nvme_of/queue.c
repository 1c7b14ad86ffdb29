/* SPDX-License-Identifier: BSD-3-Clause
 *
 * An I/O queue: one TCP connection of a host on one reactor. Requests that cannot be sent (no slot,
 * no connection, namespace held) wait here in the order of their arrival; a lost connection puts
 * all others back among them. */
#include "backends/nvme_of/host.h"
#include "backends/nvme_of/status.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    SLOTS = NOF_MAX_QUEUES - 1, /* a queue of 128 entries holds 127 commands */
    MAX_TRIES = 10,
    RETRY_TICK_MS = 100,
    MAX_BLOCKS = 65536, /* NLB has 16 bits */
    ZERO_PIECE_BYTES = 65536,
    ZERO_PIECES = 16,
};
static_assert(SLOTS + 1 == 128, "queue depth");

enum io_state { IO_PENDING, IO_HELD, IO_DELAYED, IO_ACTIVE, IO_ENDED };

/* Lives in bdev_req.backend. */
struct nof_io {
    struct list node; /* in the list of its state */
    struct bdev_req *req;
    struct nof_ns *ns;
    uint64_t seq; /* order of arrival */
    enum io_state state;
    int rc;
    uint32_t total, issued, finished; /* blocks; flush and unmap: 1 command */
    uint32_t out;                     /* commands with the target */
    uint8_t tries, losses;
    bool retry;
    bool uncertain; /* was with the target when a connection was lost: may still be executed */
    uint8_t wait_ticks;
    char *copy; /* of the data of a write, when the caller's memory may not be used */
    struct iovec copy_iov;
};
static_assert(sizeof(struct nof_io) <= sizeof(((struct bdev_req *)0)->backend), "fits");

/* What control wants of a queue: the newest wish counts. */
struct nof_wish {
    bool up;
    struct nof_target target;
};

struct nof_queue {
    struct tcp_conn conn;
    struct nvme_of_host *host;
    struct reactor *r;
    unsigned refs; /* channels */
    unsigned qid;

    /* The reactor's. */
    bool open;        /* connecting or up, for target.assoc */
    bool up;          /* Connect has succeeded */
    bool have_target; /* target has been filled once */
    unsigned limit;   /* commands at a time */
    uint64_t next_seq;
    struct nof_target target;
    struct list pending, held, delayed, active, ended;
    struct timer ended_timer, retry_timer;
    struct nvme_fabrics_connect_data connect_data;
    struct iovec connect_iov;
    struct nvme_dsm_range ranges[SLOTS]; /* by slot */
    struct iovec range_iovs[SLOTS];

    /* Under host->lock. */
    struct list node;
    bool closed;
    struct nof_wish wish;
    bool wish_posted, report_posted;
    struct mail wish_mail, report_mail;
    struct nof_report report;
};

static char zeroes[ZERO_PIECE_BYTES];
static const struct iovec zero_iov[ZERO_PIECES] = {
    {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)},
    {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)},
    {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)},
    {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)},
    {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)}, {zeroes, sizeof(zeroes)},
    {zeroes, sizeof(zeroes)},
};

static struct nof_io *io_of(struct bdev_req *req)
{
    return (struct nof_io *)(void *)req->backend;
}

/* ---- ends ---- */

static void io_finish(struct nof_io *io, int rc)
{
    struct bdev_req *req = io->req;

    list_remove(&io->node);
    free(io->copy);
    bdev_complete(req, rc);
}

static void run_ended(struct timer *t)
{
    struct nof_queue *q = container_of(t, struct nof_queue, ended_timer);
    struct list batch;

    list_init(&batch);
    list_splice(&batch, &q->ended);
    while (!list_empty(&batch)) {
        struct nof_io *io = list_entry(batch.next, struct nof_io, node);

        io_finish(io, io->rc);
    }
}

/* Ends a request from inside a call of its owner: done() runs later. No command of it is left in a
 * slot. */
static void io_end_later(struct nof_queue *q, struct nof_io *io, int rc)
{
    list_remove(&io->node);
    io->state = IO_ENDED;
    io->rc = rc;
    list_append(&q->ended, &io->node);
    if (!q->ended_timer.armed)
        timer_arm(q->r, &q->ended_timer, 0, run_ended);
}

/* ---- waiting ---- */

static void move_to(struct list *list, struct nof_io *io, enum io_state state)
{
    list_remove(&io->node);
    io->state = state;
    list_append(list, &io->node);
}

/* Back among the waiting ones, where it belongs by its arrival; all of it will be sent again. */
static void requeue(struct nof_queue *q, struct nof_io *io)
{
    struct list *at = q->pending.prev;

    list_remove(&io->node);
    io->state = IO_PENDING;
    io->issued = io->finished = io->out = 0;
    io->rc = 0;
    io->retry = false;
    while (at != &q->pending && list_entry(at, struct nof_io, node)->seq > io->seq)
        at = at->prev;
    list_prepend(at, &io->node);
}

static void requeue_all(struct nof_queue *q, struct list *list)
{
    struct list batch;

    list_init(&batch);
    list_splice(&batch, list);
    while (!list_empty(&batch))
        requeue(q, list_entry(batch.prev, struct nof_io, node));
}

static void pump(struct nof_queue *q);

static void retry_tick(struct timer *t)
{
    struct nof_queue *q = container_of(t, struct nof_queue, retry_timer);

    list_for_each_safe(it, &q->delayed)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (--io->wait_ticks == 0)
            requeue(q, io);
    }
    if (!list_empty(&q->delayed))
        timer_arm(q->r, &q->retry_timer, RETRY_TICK_MS, retry_tick);
    pump(q);
    tcp_flush(&q->conn);
}

/* 0.1, 0.2, 0.4 ... at most 2 s apart. */
static void delay(struct nof_queue *q, struct nof_io *io)
{
    io->wait_ticks = (uint8_t)MIN(1U << MIN(io->tries, 5), 20U);
    move_to(&q->delayed, io, IO_DELAYED);
    if (!q->retry_timer.armed)
        timer_arm(q->r, &q->retry_timer, RETRY_TICK_MS, retry_tick);
}

/* ---- reports to the host ---- */

static void report_arrived(struct mail *m)
{
    struct nof_queue *q = container_of(m, struct nof_queue, report_mail);
    struct nvme_of_host *h = q->host;
    struct nof_report report;

    pthread_mutex_lock(&h->lock);
    q->report_posted = false;
    report = q->report;
    memset(&q->report, 0, sizeof(q->report));
    pthread_mutex_unlock(&h->lock);
    host_report(h, q, &report);
}

/* Under host->lock. */
static void post_report(struct nof_queue *q)
{
    if (q->report_posted)
        return;
    q->report_posted = true;
    q->report_mail.fn = report_arrived;
    reactor_post(q->host->of->control, &q->report_mail);
}

static void report_lost(struct nof_queue *q, const struct err *why)
{
    pthread_mutex_lock(&q->host->lock);
    q->report.lost_assoc = q->target.assoc;
    q->report.why = *why;
    post_report(q);
    pthread_mutex_unlock(&q->host->lock);
}

static void report_rescan(struct nof_queue *q)
{
    pthread_mutex_lock(&q->host->lock);
    q->report.rescan = true;
    post_report(q);
    pthread_mutex_unlock(&q->host->lock);
}

/* ---- sending ---- */

static bool make_copy(struct nof_io *io)
{
    struct bdev_req *req = io->req;
    size_t bytes = 0, at = 0;

    if (io->copy)
        return true;
    for (int i = 0; i < req->iovcnt; i++)
        bytes += req->iov[i].iov_len;
    io->copy = malloc(bytes);
    if (!io->copy)
        return false;
    for (int i = 0; i < req->iovcnt; i++) {
        memcpy(io->copy + at, req->iov[i].iov_base, req->iov[i].iov_len);
        at += req->iov[i].iov_len;
    }
    io->copy_iov = (struct iovec){io->copy, bytes};
    return true;
}

static void use_data(struct nof_io *io, struct tcp_cmd *cmd, size_t skip)
{
    cmd->iov = io->copy ? &io->copy_iov : io->req->iov;
    cmd->iovcnt = io->copy ? 1 : io->req->iovcnt;
    cmd->skip = skip;
}

/* Data of writes, and of the zeroes of a target that has no Write Zeroes. */
static uint32_t blocks_per_command(const struct nof_queue *q, const struct nof_io *io,
                                   bool own_zeroes)
{
    uint32_t bytes = q->target.max_io_bytes;

    if (own_zeroes)
        bytes = MIN(bytes, (uint32_t)ZERO_PIECE_BYTES * ZERO_PIECES);
    return MIN(MAX(bytes / io->ns->id.block_bytes, 1U), (uint32_t)MAX_BLOCKS);
}

static void fill_transfer(struct nof_queue *q, struct nof_io *io, struct tcp_cmd *cmd)
{
    struct bdev_req *req = io->req;
    bool own_zeroes = req->op == BDEV_WRITE_ZEROES && !q->target.write_zeroes;
    uint32_t blocks = MIN(io->total - io->issued, blocks_per_command(q, io, own_zeroes));
    uint64_t slba = req->lba + io->issued;
    uint32_t bytes = io->ns->id.block_bytes;

    cmd->arg_blocks = blocks;
    cmd->sqe.cdw10 = le32_of((uint32_t)slba);
    cmd->sqe.cdw11 = le32_of((uint32_t)(slba >> 32));
    cmd->sqe.cdw12 =
        le32_of((blocks - 1) | (req->flags & BDEV_FUA && req->op != BDEV_READ ? NVME_RW_FUA : 0));
    switch (req->op) {
    case BDEV_READ:
        cmd->sqe.opc = NVME_CMD_READ;
        cmd->to_host = true;
        break;
    case BDEV_WRITE:
        cmd->sqe.opc = NVME_CMD_WRITE;
        break;
    default:
        cmd->sqe.opc = own_zeroes ? NVME_CMD_WRITE : NVME_CMD_WRITE_ZEROES;
        if (own_zeroes) {
            cmd->iov = zero_iov;
            cmd->iovcnt = ZERO_PIECES;
            cmd->bytes = blocks * bytes;
        }
        return;
    }
    use_data(io, cmd, (size_t)io->issued * bytes);
    cmd->bytes = blocks * bytes;
}

static void fill_unmap(struct nof_queue *q, struct nof_io *io, struct tcp_cmd *cmd)
{
    struct nvme_dsm_range *range = &q->ranges[cmd->slot];

    *range =
        (struct nvme_dsm_range){.nlb = le32_of(io->req->nblocks), .slba = le64_of(io->req->lba)};
    q->range_iovs[cmd->slot] = (struct iovec){range, sizeof(*range)};
    cmd->sqe.opc = NVME_CMD_DSM;
    cmd->sqe.cdw11 = le32_of(NVME_DSM_AD);
    cmd->iov = &q->range_iovs[cmd->slot];
    cmd->iovcnt = 1;
    cmd->bytes = sizeof(*range);
    cmd->arg_blocks = 1;
}

static void issue(struct nof_queue *q, struct nof_io *io, struct tcp_cmd *cmd)
{
    cmd->sqe.nsid = le32_of(io->ns->id.nsid);
    cmd->timeout_ms = q->target.io_timeout_ms;
    cmd->arg = io;
    switch (io->req->op) {
    case BDEV_FLUSH:
        cmd->sqe.opc = NVME_CMD_FLUSH;
        cmd->arg_blocks = 1;
        break;
    case BDEV_UNMAP:
        fill_unmap(q, io, cmd);
        break;
    default:
        fill_transfer(q, io, cmd);
    }
    io->issued += cmd->arg_blocks;
    io->out++;
    if (io->issued == io->total)
        move_to(&q->active, io, IO_ACTIVE);
    tcp_submit(&q->conn, cmd);
}

/* Sends what waits, in order, as far as there are slots. */
static void pump(struct nof_queue *q)
{
    while (q->up && !list_empty(&q->pending) && q->conn.busy < q->limit) {
        struct nof_io *io = list_entry(q->pending.next, struct nof_io, node);

        if (unlikely(atomic_load_explicit(&io->ns->held, memory_order_relaxed)) && !io->out)
            move_to(&q->held, io, IO_HELD);
        else if (unlikely(io->req->op == BDEV_FLUSH && !q->target.volatile_cache))
            io_end_later(q, io, 0);
        else if (unlikely(io->req->op == BDEV_UNMAP && !q->target.dsm))
            io_end_later(q, io, -EOPNOTSUPP);
        else
            issue(q, io, tcp_cmd_get(&q->conn));
    }
}

/* ---- the connection ---- */

static void command_failed(struct nof_queue *q, struct nof_io *io, uint16_t status)
{
    if (nof_status_retry(status) && io->tries < MAX_TRIES)
        io->retry = true;
    else if (!io->rc)
        io->rc = nof_status_errno(status);
    if ((status & NVME_STATUS_MASK) == NVME_SC_INVALID_NAMESPACE && io->tries == 0)
        report_rescan(q);
}

static void io_command_done(struct nof_queue *q, struct nof_io *io, uint32_t blocks,
                            uint16_t status)
{
    io->out--;
    if (likely(status == 0))
        io->finished += blocks;
    else
        command_failed(q, io, status);
    if (unlikely((io->rc || io->retry) && io->state == IO_PENDING))
        move_to(&q->active, io, IO_ACTIVE); /* nothing more of it is sent */
    if (io->out > 0)
        return;
    if (unlikely(io->rc)) {
        io_finish(io, io->rc);
    } else if (unlikely(io->retry)) {
        io->tries++;
        delay(q, io);
    } else if (io->finished == io->total) {
        io_finish(io, 0);
    }
}

static void conn_up(struct tcp_conn *c)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    struct tcp_cmd *cmd = tcp_cmd_get(c);
    struct nvme_fabrics_connect *sqe = (void *)&cmd->sqe;

    q->connect_data = (struct nvme_fabrics_connect_data){.cntlid = le16_of(q->target.cntlid)};
    memcpy(q->connect_data.hostid, &q->host->of->hostid, sizeof(q->connect_data.hostid));
    memcpy(q->connect_data.subnqn, q->host->subnqn, sizeof(q->host->subnqn));
    memcpy(q->connect_data.hostnqn, q->host->hostnqn, sizeof(q->host->hostnqn));
    q->connect_iov = (struct iovec){&q->connect_data, sizeof(q->connect_data)};
    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_CONNECT;
    sqe->qid = le16_of((uint16_t)q->qid);
    sqe->sqsize = le16_of((uint16_t)(q->target.entries - 1));
    sqe->cattr = q->target.no_sq_flow ? NVME_CATTR_DISABLE_SQFLOW : 0;
    cmd->iov = &q->connect_iov;
    cmd->iovcnt = 1;
    cmd->bytes = sizeof(q->connect_data);
    cmd->timeout_ms = q->target.tcp.phase_timeout_ms;
    tcp_submit(c, cmd);
}

static void connect_done(struct nof_queue *q, uint16_t status, const struct nvme_cqe *cqe)
{
    char text[160];

    if (status) {
        nof_connect_text(status, le32_get(cqe->dw0), text, sizeof(text));
        tcp_fail(&q->conn, -ECONNREFUSED, "Connect: %s", text);
    } else if (NVME_CONNECT_AUTHREQ(le32_get(cqe->dw0))) {
        tcp_fail(&q->conn, -EACCES, "the target demands authentication, which is not supported");
    } else {
        q->up = true; /* batch_end sends what waits */
    }
}

static void conn_done(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    uint16_t status = le16_get(cmd->cqe.sf) >> 1;
    struct nof_io *io = cmd->arg;
    uint32_t blocks = cmd->arg_blocks;

    if (unlikely(!q->up)) {
        struct nvme_cqe cqe = cmd->cqe;

        tcp_cmd_put(c, cmd);
        connect_done(q, status, &cqe);
        return;
    }
    tcp_cmd_put(c, cmd);
    if (likely(io)) /* else nobody waits for it any more */
        io_command_done(q, io, blocks, status);
}

static void conn_batch_end(struct tcp_conn *c)
{
    pump(container_of(c, struct nof_queue, conn));
}

/* Nothing of this connection remains; all its requests wait again. */
static void hang_up(struct nof_queue *q)
{
    struct tcp_conn *c = &q->conn;

    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(c, cmd));) {
        struct nof_io *io = cmd->arg;

        if (io && cmd->started)
            io->uncertain = true;
    }
    tcp_close(c);
    q->open = q->up = false;
    /* Those of which a part has been sent are the first of pending. */
    list_for_each(it, &q->pending)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        io->issued = io->finished = io->out = 0;
        io->rc = 0;
        io->retry = false;
    }
    list_for_each(it, &q->active)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        /* Whoever changes data that are being sent makes data digests wrong: the third try sends a
         * copy. */
        if (io->losses < UINT8_MAX && ++io->losses >= 2 && io->req->op == BDEV_WRITE &&
            q->target.tcp.ddgst)
            make_copy(io);
    }
    requeue_all(q, &q->active);
    requeue_all(q, &q->delayed);
    timer_cancel(&q->retry_timer);
}

static void conn_down(struct tcp_conn *c, const struct err *why)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    struct err copy = *why;

    hang_up(q);
    report_lost(q, &copy);
}

static const struct tcp_ops conn_ops = {
    .up = conn_up,
    .done = conn_done,
    .down = conn_down,
    .batch_end = conn_batch_end,
};

/* ---- wishes of the host ---- */

static void fulfil(struct nof_queue *q, const struct nof_wish *wish)
{
    struct err err;

    if (q->open && (!wish->up || wish->target.assoc != q->target.assoc))
        hang_up(q);
    if (!wish->up)
        return;
    if (wish->target.assoc != q->target.assoc || !q->have_target) {
        q->target = wish->target;
        q->have_target = true;
        q->limit = MIN(q->target.entries - 1U, (unsigned)SLOTS);
        if (tcp_open(&q->conn, &q->target.tcp, &err))
            report_lost(q, &err);
        else
            q->open = true;
    }
    requeue_all(q, &q->held); /* pump() looks at their namespaces again */
    pump(q);
    tcp_flush(&q->conn);
}

static void wish_arrived(struct mail *m)
{
    struct nof_queue *q = container_of(m, struct nof_queue, wish_mail);
    struct nvme_of_host *h = q->host;
    struct nof_wish wish;
    bool closed;

    pthread_mutex_lock(&h->lock);
    q->wish_posted = false;
    wish = q->wish;
    closed = q->closed;
    if (closed) {
        q->report.closed = true;
        post_report(q);
    }
    pthread_mutex_unlock(&h->lock);
    if (!closed)
        fulfil(q, &wish);
}

void queue_want(struct nof_queue *q, const struct nof_target *t)
{
    if (q->closed)
        return;
    q->wish.up = t != NULL;
    if (t)
        q->wish.target = *t;
    if (q->wish_posted)
        return;
    q->wish_posted = true;
    q->wish_mail.fn = wish_arrived;
    reactor_post(q->r, &q->wish_mail);
}

/* ---- life ---- */

unsigned queue_qid(const struct nof_queue *q)
{
    return q->qid;
}

struct nof_queue *queue_of_node(struct list *node)
{
    return list_entry(node, struct nof_queue, node);
}

struct list *queue_node(struct nof_queue *q)
{
    return &q->node;
}

void queue_free(struct nof_queue *q)
{
    tcp_fini(&q->conn);
    free(q);
}

static struct nof_queue *queue_create(struct nvme_of_host *h, struct reactor *r)
{
    struct nof_queue *q = calloc(1, sizeof(*q));

    if (!q || tcp_init(&q->conn, r, SLOTS, &conn_ops) < 0) {
        free(q);
        return NULL;
    }
    q->host = h;
    q->r = r;
    q->refs = 1;
    list_init(&q->pending);
    list_init(&q->held);
    list_init(&q->delayed);
    list_init(&q->active);
    list_init(&q->ended);
    return q;
}

/* The next free QID; not the one freed last, which the target may still be busy closing. 0: there
 * is none. */
static unsigned take_qid(struct nvme_of_host *h)
{
    for (unsigned i = 0; i < h->max_queues; i++) {
        unsigned qid = (h->last_qid + i) % h->max_queues + 1;

        if (!h->qid_used[qid]) {
            h->qid_used[qid] = true;
            h->last_qid = qid;
            return qid;
        }
    }
    return 0;
}

struct nof_queue *queue_get(struct nvme_of_host *h, struct reactor *r, struct err *err)
{
    struct nof_queue *q;

    pthread_mutex_lock(&h->lock);
    list_for_each(it, &h->queues)
    {
        q = queue_of_node(it);
        if (q->r == r && !q->closed) {
            q->refs++;
            pthread_mutex_unlock(&h->lock);
            return q;
        }
    }
    q = queue_create(h, r);
    if (!q) {
        err_set(err, -ENOMEM, "controller '%s': no memory for an I/O queue", h->name);
        goto out;
    }
    q->qid = take_qid(h);
    if (!q->qid) {
        err_set(err, -EMFILE, "controller '%s': all of its %u I/O queues are in use", h->name,
                h->max_queues);
        queue_free(q);
        q = NULL;
        goto out;
    }
    list_append(&h->queues, &q->node);
    h->nqueues++;
    q->report.opened = true;
    post_report(q);
out:
    pthread_mutex_unlock(&h->lock);
    return q;
}

void queue_put(struct nof_queue *q)
{
    struct nvme_of_host *h = q->host;

    pthread_mutex_lock(&h->lock);
    if (--q->refs > 0) {
        pthread_mutex_unlock(&h->lock);
        return;
    }
    q->closed = true;
    pthread_mutex_unlock(&h->lock);

    timer_cancel(&q->ended_timer);
    timer_cancel(&q->retry_timer);
    tcp_close(&q->conn);

    /* A wish under way is waited for: then nobody but the host knows this queue, which frees it. */
    pthread_mutex_lock(&h->lock);
    if (!q->wish_posted) {
        q->report.closed = true;
        post_report(q);
    }
    pthread_mutex_unlock(&h->lock);
}

/* ---- requests ---- */

int queue_submit(struct nof_queue *q, struct nof_ns *ns, struct bdev_req *req)
{
    struct nof_io *io = io_of(req);

    if (req->op == BDEV_FLUSH && q->have_target && !q->target.volatile_cache)
        return 0;
    if (req->op == BDEV_UNMAP && q->have_target && !q->target.dsm)
        return -EOPNOTSUPP;
    *io = (struct nof_io){
        .req = req,
        .ns = ns,
        .seq = q->next_seq++,
        .state = IO_PENDING,
        .total = req->op == BDEV_FLUSH || req->op == BDEV_UNMAP ? 1 : req->nblocks,
    };
    list_append(&q->pending, &io->node);
    pump(q);
    return BDEV_PENDING;
}

void queue_flush(struct nof_queue *q)
{
    tcp_flush(&q->conn);
}

/* The request's commands end without it. */
static void let_go(struct nof_queue *q, struct nof_io *io)
{
    for (struct tcp_cmd *cmd = NULL; io->out > 0 && (cmd = tcp_next_busy(&q->conn, cmd));) {
        if (cmd->arg != io)
            continue;
        io->out--;
        if (tcp_cmd_withdraw(&q->conn, cmd))
            continue;
        cmd->arg = NULL;
        tcp_cmd_drop(cmd);
    }
}

int queue_detach(struct nof_queue *q, struct bdev_req *req)
{
    struct nof_io *io = io_of(req);

    if (io->state == IO_ENDED)
        return 0;
    if (req->op == BDEV_READ) {
        let_go(q, io);
        io_end_later(q, io, -ECANCELED);
        return 0;
    }
    if (req->op != BDEV_WRITE || io->copy)
        return 0;
    if (!make_copy(io))
        return BDEV_PENDING;
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));)
        if (cmd->arg == io)
            tcp_cmd_move(&q->conn, cmd, &io->copy_iov, 1, cmd->skip);
    return 0;
}

/* No part of it can have an effect from now on, once its commands are withdrawn. */
static bool harmless(struct nof_queue *q, const struct nof_io *io)
{
    if (io->req->op == BDEV_READ || io->req->op == BDEV_FLUSH)
        return true;
    if (io->uncertain)
        return false;
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));)
        if (cmd->arg == io && cmd->started)
            return false;
    return true;
}

void queue_cancel(struct nof_queue *q, struct bdev_req *req)
{
    struct nof_io *io = io_of(req);

    if (io->state == IO_ENDED || !harmless(q, io))
        return;
    let_go(q, io);
    io_end_later(q, io, -ECANCELED);
}
