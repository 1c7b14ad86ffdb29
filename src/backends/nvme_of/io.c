/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The requests of an I/O queue. Those that cannot be sent (no slot, no connection, namespace held)
 * wait in the order of their arrival; a lost connection puts all others back among them. */
#include "backends/nvme_of/queue.h"
#include "backends/nvme_of/status.h"
#include "base/undumped.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_TRIES = 10,
    RETRY_TICK_MS = 100,
    MAX_BLOCKS = 65536, /* NLB has 16 bits */
    ZERO_PIECE_BYTES = 65536,
    ZERO_PIECES = 16,
};

enum io_state { IO_PENDING, IO_HELD, IO_FENCED, IO_DELAYED, IO_ACTIVE, IO_ENDED };

/* Lives in bdev_req.backend. */
struct nof_io {
    struct list node; /* in the list of its state */
    struct bdev_req *req;
    struct nof_ns *ns;
    uint64_t seq;   /* order of arrival */
    uint64_t guard; /* number, see fence.h; 0: none */
    enum io_state state;
    int rc;
    uint32_t total, issued, finished; /* blocks; flush and unmap: 1 command */
    uint32_t out;                     /* commands with the target */
    uint8_t tries, losses;
    bool retry;
    bool uncertain; /* was with the target when a connection was lost: may still be executed, as
                       long as the fence lasts */
    bool lost;      /* now; for io_connection_lost() */
    uint8_t wait_ticks;
    char *copy; /* of the data of a write, when the caller's memory may not be used */
    struct iovec copy_iov;
};
static_assert(sizeof(struct nof_io) <= sizeof(((struct bdev_req *)0)->backend), "fits");

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

static bool changes_blocks(const struct nof_io *io)
{
    return io->req->op != BDEV_READ && io->req->op != BDEV_FLUSH;
}

/* Takes it out of its list. */
static void leave_list(struct nof_io *io)
{
    list_remove(&io->node);
    if (unlikely(io->state == IO_FENCED))
        atomic_fetch_sub_explicit(&io->ns->fence.waiting, 1, memory_order_relaxed);
}

/* ---- ends ---- */

static void io_finish(struct nof_io *io, int rc)
{
    struct bdev_req *req = io->req;

    list_remove(&io->node);
    undumped_free(io->copy, io->copy_iov.iov_len);
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
    leave_list(io);
    io->state = IO_ENDED;
    io->rc = rc;
    list_append(&q->ended, &io->node);
    if (!q->ended_timer.armed)
        timer_arm(q->r, &q->ended_timer, 0, run_ended);
}

/* ---- waiting ---- */

static void move_to(struct list *list, struct nof_io *io, enum io_state state)
{
    leave_list(io);
    io->state = state;
    list_append(list, &io->node);
}

static void start_over(struct nof_io *io)
{
    io->issued = io->finished = io->out = 0;
    io->rc = 0;
    io->retry = false;
}

/* Back among the waiting ones, where it belongs by its arrival; all of it will be sent again. */
static void requeue(struct nof_queue *q, struct nof_io *io)
{
    struct list *at = q->pending.prev;

    leave_list(io);
    io->state = IO_PENDING;
    start_over(io);
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
    io_pump(q);
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

/* ---- the fence against late writes ---- */

static uint64_t end_of(const struct nof_io *io)
{
    return io->req->lba + io->req->nblocks;
}

/* Of association assoc (0: of another process) it may be executed late. */
static void guard(struct nof_io *io, uint64_t assoc)
{
    fence_add(&io->ns->fence, assoc, io->req->lba, end_of(io), &io->guard);
}

static uint64_t fenced_until(struct nof_queue *q, const struct nof_io *io, uint64_t number)
{
    return fence_blocks(&io->ns->fence, reactor_now_us(q->r), io->req->lba, end_of(io), number);
}

static void fence_tick(struct timer *t)
{
    struct nof_queue *q = container_of(t, struct nof_queue, fence_timer);

    io_look_again(q);
    io_pump(q);
    tcp_flush(&q->conn);
}

/* Waits when it would overtake the late copy of another one. A new association looks again. */
static bool fenced(struct nof_queue *q, struct nof_io *io)
{
    uint64_t until, now = reactor_now_us(q->r);

    if (!changes_blocks(io) || io->issued > 0)
        return false;
    until = fenced_until(q, io, io->guard);
    if (until == FENCE_OVER)
        return false;
    move_to(&q->fenced, io, IO_FENCED);
    atomic_fetch_add_explicit(&io->ns->fence.waiting, 1, memory_order_relaxed);
    if (until != FENCE_UNKNOWN && (!q->fence_timer.armed || q->fence_timer.due_us > until))
        timer_arm(q->r, &q->fence_timer, (until - now) / 1000 + 1, fence_tick);
    return true;
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
    io->copy = undumped_alloc(bytes);
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

void io_pump(struct nof_queue *q)
{
    while (q->up && !list_empty(&q->pending) && q->conn.busy < q->limit) {
        struct nof_io *io = list_entry(q->pending.next, struct nof_io, node);

        if (unlikely(atomic_load_explicit(&io->ns->held, memory_order_relaxed)) && !io->out)
            move_to(&q->held, io, IO_HELD);
        else if (unlikely(io->req->op == BDEV_FLUSH && !q->target.volatile_cache))
            io_end_later(q, io, 0);
        else if (unlikely(io->req->op == BDEV_UNMAP && !q->target.dsm))
            io_end_later(q, io, -EOPNOTSUPP);
        else if (unlikely(atomic_load_explicit(&io->ns->fence.active, memory_order_relaxed)) &&
                 fenced(q, io))
            continue;
        else
            issue(q, io, tcp_cmd_get(&q->conn));
    }
}

/* ---- answers ---- */

static void command_failed(struct nof_queue *q, struct nof_io *io, uint16_t status)
{
    if (nof_status_retry(status) && io->tries < MAX_TRIES)
        io->retry = true;
    else if (!io->rc)
        io->rc = nof_status_errno(status);
    if ((status & NVME_STATUS_MASK) == NVME_SC_INVALID_NAMESPACE && io->tries == 0)
        queue_ask_rescan(q);
}

void io_command_done(struct nof_queue *q, void *arg, uint32_t blocks, uint16_t status)
{
    struct nof_io *io = arg;

    if (unlikely(!io)) /* nobody waits for it any more */
        return;
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

/* ---- a lost connection ---- */

void io_connection_lost(struct nof_queue *q)
{
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));) {
        struct nof_io *io = cmd->arg;

        if (io && tcp_cmd_started(cmd))
            io->uncertain = io->lost = true;
    }
    /* Those of which a part has been sent are the first of pending. */
    list_for_each(it, &q->pending)
    {
        start_over(list_entry(it, struct nof_io, node));
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
    /* In the order of arrival: the first of two that overlap is sent at once, the second waits. */
    list_for_each(it, &q->pending)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (io->lost && changes_blocks(io))
            guard(io, q->target.assoc);
        io->lost = false;
    }
}

void io_look_again(struct nof_queue *q)
{
    requeue_all(q, &q->held);
    timer_cancel(&q->fence_timer);
    requeue_all(q, &q->fenced);
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
    if (unlikely(req->flags & BDEV_RESENT) && changes_blocks(io)) {
        io->uncertain = true;
        guard(io, 0);
    }
    io_pump(q);
    return BDEV_PENDING;
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
        tcp_cmd_drop(&q->conn, cmd);
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
    if (io->uncertain && fenced_until(q, io, 0) != FENCE_OVER)
        return false;
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));)
        if (cmd->arg == io && tcp_cmd_started(cmd))
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

/* ---- life ---- */

void io_init(struct nof_queue *q)
{
    list_init(&q->pending);
    list_init(&q->held);
    list_init(&q->fenced);
    list_init(&q->delayed);
    list_init(&q->active);
    list_init(&q->ended);
}

void io_stop(struct nof_queue *q)
{
    timer_cancel(&q->ended_timer);
    timer_cancel(&q->fence_timer);
    timer_cancel(&q->retry_timer);
}
