/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The requests of a lane. One that has a queue waits there for a slot (pending) or is with the
 * target (active); the others wait in the lane: for a path, for the fence, or for another try. A
 * lost connection, or a path that does not want it, gives a request to another queue, in the order
 * of arrival. */
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

enum io_state { IO_PENDING, IO_ACTIVE, IO_WAITING, IO_FENCED, IO_DELAYED, IO_ENDED };

/* Lives in bdev_req.backend. */
struct nof_io {
    struct list node; /* in the list of its state */
    struct bdev_req *req;
    struct nof_channel *ch;
    struct nof_queue *queue; /* pending or active there */
    uint64_t seq;            /* order of arrival */
    uint64_t guard;          /* number, see fence.h; 0: none */
    enum io_state state;
    int rc;
    uint32_t total, issued, finished; /* blocks; flush and unmap: 1 command */
    uint32_t out;                     /* commands with the target */
    uint8_t tries, losses;
    bool retry;
    bool elsewhere; /* by another path, if there is one */
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
    if (io->state <= IO_ACTIVE)
        io->queue->load--;
    else if (unlikely(io->state == IO_FENCED))
        atomic_fetch_sub_explicit(&io->ch->ns->fence.waiting, 1, memory_order_relaxed);
}

/* ---- ends ---- */

static void io_finish(struct nof_io *io, int rc)
{
    struct bdev_req *req = io->req;

    leave_list(io);
    undumped_free(io->copy, io->copy_iov.iov_len);
    bdev_complete(req, rc);
}

static void run_ended(struct timer *t)
{
    struct nof_lane *lane = container_of(t, struct nof_lane, ended_timer);
    struct list batch;

    list_init(&batch);
    list_splice(&batch, &lane->ended);
    while (!list_empty(&batch)) {
        struct nof_io *io = list_entry(batch.next, struct nof_io, node);

        io_finish(io, io->rc);
    }
}

/* Ends a request from inside a call of its owner: done() runs later. No command of it is left in a
 * slot. */
static void io_end_later(struct nof_io *io, int rc)
{
    struct nof_lane *lane = io->ch->lane;

    leave_list(io);
    io->state = IO_ENDED;
    io->rc = rc;
    list_append(&lane->ended, &io->node);
    if (!lane->ended_timer.armed)
        timer_arm(lane->r, &lane->ended_timer, 0, run_ended);
}

/* ---- waiting, and which queue ---- */

static void wait_in(struct list *list, struct nof_io *io, enum io_state state)
{
    leave_list(io);
    io->state = state;
    list_append(list, &io->node);
}

static void start_over(struct nof_io *io)
{
    io->issued = io->finished = io->out = 0;
    io->rc = 0;
    io->retry = io->elsewhere = false;
}

/* Where it belongs by its arrival: mostly at the end. */
static void insert(struct list *list, struct nof_io *io)
{
    struct list *at = list->prev;

    while (at != list && list_entry(at, struct nof_io, node)->seq > io->seq)
        at = at->prev;
    list_prepend(at, &io->node);
}

static void give_to(struct nof_queue *q, struct nof_io *io)
{
    io->state = IO_PENDING;
    io->queue = q;
    q->load++;
    insert(&q->pending, io);
}

static struct nof_queue *queue_for(struct nof_channel *ch)
{
    return unlikely(ch->spread) ? channel_spread(ch) : ch->queue;
}

/* It is in no list, and nothing of it is sent. */
static void dispatch(struct nof_io *io)
{
    struct nof_queue *q = queue_for(io->ch);

    if (likely(q != NULL)) {
        give_to(q, io);
        return;
    }
    io->state = IO_WAITING;
    insert(&io->ch->lane->waiting, io);
}

static void dispatch_again(struct nof_io *io)
{
    leave_list(io);
    start_over(io);
    dispatch(io);
}

static void dispatch_all(struct list *list)
{
    struct list batch;

    list_init(&batch);
    list_splice(&batch, list);
    while (!list_empty(&batch))
        dispatch_again(list_entry(batch.next, struct nof_io, node));
}

static void retry_tick(struct timer *t)
{
    struct nof_lane *lane = container_of(t, struct nof_lane, retry_timer);

    list_for_each_safe(it, &lane->delayed)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (--io->wait_ticks == 0)
            dispatch_again(io);
    }
    if (!list_empty(&lane->delayed))
        timer_arm(lane->r, &lane->retry_timer, RETRY_TICK_MS, retry_tick);
    io_pump_lane(lane);
}

/* 0.1, 0.2, 0.4 ... at most 2 s apart. */
static void delay(struct nof_io *io)
{
    struct nof_lane *lane = io->ch->lane;

    io->wait_ticks = (uint8_t)MIN(1U << MIN(io->tries, 5), 20U);
    wait_in(&lane->delayed, io, IO_DELAYED);
    if (!lane->retry_timer.armed)
        timer_arm(lane->r, &lane->retry_timer, RETRY_TICK_MS, retry_tick);
}

/* Another queue than q that can be used, the best first. */
static struct nof_queue *other_queue(const struct nof_channel *ch, const struct nof_queue *q)
{
    for (unsigned i = 0; i < ch->nset; i++)
        if (ch->set[i] != q)
            return ch->set[i];
    for (unsigned i = 0; i < ch->lane->nqueues; i++) {
        struct nof_queue *other = ch->lane->queues[i];

        if (other != q && other->up && atomic_load(&ch->ns->access[other->path->number]))
            return other;
    }
    return NULL;
}

/* Refused, by this path perhaps. Two paths that both refuse are not asked in turns without end. */
static void try_again(struct nof_io *io)
{
    struct nof_queue *other = io->elsewhere ? other_queue(io->ch, io->queue) : NULL;

    if (io->tries < UINT8_MAX)
        io->tries++;
    if (!other || io->tries > 2) {
        delay(io);
        return;
    }
    leave_list(io);
    start_over(io);
    give_to(other, io);
    io_pump(other);
    tcp_flush(&other->conn);
}

/* ---- the fence against late writes ---- */

static uint64_t end_of(const struct nof_io *io)
{
    return io->req->lba + io->req->nblocks;
}

/* Is something under way on another queue that changes blocks of this one? */
static bool crosses(const struct nof_io *io, const struct nof_queue *q)
{
    const struct nof_lane *lane = io->ch->lane;

    for (unsigned i = 0; i < lane->nqueues; i++) {
        struct nof_queue *other = lane->queues[i];

        for (struct tcp_cmd *cmd = NULL; other != q && (cmd = tcp_next_busy(&other->conn, cmd));) {
            const struct nof_io *there = cmd->arg;

            if (there && there->ch->ns == io->ch->ns && changes_blocks(there) &&
                there->req->lba < end_of(io) && io->req->lba < end_of(there))
                return true;
        }
    }
    return false;
}

/* It may be executed late, by the connection of q. Also lost on another reactor, beside one that
 * overlaps it and is not lost: not seen here, when hosts on two reactors write the same blocks at
 * the same time; who does that does not know which of both stays, anyway. */
static void guard(struct nof_io *io, const struct nof_queue *q)
{
    struct fence_loss loss = {
        .assoc = q->target.assoc,
        .bound_us = q->target.fence_bound_us,
        .path = q->path->number,
        .marked = q->target.fence_marked,
        .crossed = crosses(io, q),
    };

    fence_add(&io->ch->ns->fence, &loss, io->req->lba, end_of(io), &io->guard);
}

/* By a process before this one. */
static void guard_resent(struct nof_io *io)
{
    static const struct fence_loss loss = {
        .bound_us = FENCE_UNKNOWN, .path = FENCE_NO_PATH, .marked = true};

    fence_add(&io->ch->ns->fence, &loss, io->req->lba, end_of(io), &io->guard);
}

static uint64_t fenced_until(const struct nof_io *io, uint64_t number)
{
    return fence_blocks(&io->ch->ns->fence, reactor_now_us(io->ch->lane->r), io->req->lba,
                        end_of(io), number);
}

static void fence_tick(struct timer *t)
{
    struct nof_lane *lane = container_of(t, struct nof_lane, fence_timer);

    io_look_again(lane);
    io_pump_lane(lane);
}

/* Waits when it would overtake the late copy of another one. A new association looks again. */
static bool fenced(struct nof_io *io)
{
    struct nof_lane *lane = io->ch->lane;
    uint64_t until, now = reactor_now_us(lane->r);

    if (!changes_blocks(io) || io->issued > 0)
        return false;
    until = fenced_until(io, io->guard);
    if (until == FENCE_OVER)
        return false;
    wait_in(&lane->fenced, io, IO_FENCED);
    atomic_fetch_add_explicit(&io->ch->ns->fence.waiting, 1, memory_order_relaxed);
    if (until != FENCE_UNKNOWN && (!lane->fence_timer.armed || lane->fence_timer.due_us > until))
        timer_arm(lane->r, &lane->fence_timer, (until - now) / 1000 + 1, fence_tick);
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
    return MIN(MAX(bytes / io->ch->ns->id.block_bytes, 1U), (uint32_t)MAX_BLOCKS);
}

static void fill_transfer(struct nof_queue *q, struct nof_io *io, struct tcp_cmd *cmd)
{
    struct bdev_req *req = io->req;
    bool own_zeroes = req->op == BDEV_WRITE_ZEROES && !q->target.write_zeroes;
    uint32_t blocks = MIN(io->total - io->issued, blocks_per_command(q, io, own_zeroes));
    uint64_t slba = req->lba + io->issued;
    uint32_t bytes = io->ch->ns->id.block_bytes;

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

/* Nothing more of it is to be sent. */
static void activate(struct nof_queue *q, struct nof_io *io)
{
    list_remove(&io->node);
    io->state = IO_ACTIVE;
    list_append(&q->active, &io->node);
}

static void issue(struct nof_queue *q, struct nof_io *io, struct tcp_cmd *cmd)
{
    cmd->sqe.nsid = le32_of(io->ch->ns->id.nsid);
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
        activate(q, io);
    tcp_submit(&q->conn, cmd);
}

void io_pump(struct nof_queue *q)
{
    while (q->up && !list_empty(&q->pending) && q->conn.busy < q->limit) {
        struct nof_io *io = list_entry(q->pending.next, struct nof_io, node);

        if (unlikely(io->req->op == BDEV_FLUSH && !q->target.volatile_cache))
            io_end_later(io, 0);
        else if (unlikely(io->req->op == BDEV_UNMAP && !q->target.dsm))
            io_end_later(io, -EOPNOTSUPP);
        else if (unlikely(atomic_load_explicit(&io->ch->ns->fence.active, memory_order_relaxed)) &&
                 fenced(io))
            continue;
        else
            issue(q, io, tcp_cmd_get(&q->conn));
    }
}

void io_pump_lane(struct nof_lane *lane)
{
    for (unsigned i = 0; i < lane->nqueues; i++) {
        io_pump(lane->queues[i]);
        tcp_flush(&lane->queues[i]->conn);
    }
}

/* ---- answers ---- */

/* The path is not the one to use: not the medium's error. It is tried again for as long as a path
 * may come back. */
static bool path_refused(struct nof_queue *q, struct nof_io *io, uint16_t status)
{
    io->retry = io->elsewhere = true;
    if (!nof_status_ana(status) || !q->target.ana)
        return false;
    /* The log tells what is usable; until it is read this path is not. */
    if (atomic_exchange(&io->ch->ns->access[q->path->number], NOF_ACCESS_NONE) == NOF_ACCESS_NONE)
        return false;
    queue_ask_ana(q);
    lane_choose(q->lane);
    return true;
}

/* True: other requests have got other queues. */
static bool command_failed(struct nof_queue *q, struct nof_io *io, uint16_t status)
{
    bool moved = false;

    if (nof_status_path(status))
        moved = path_refused(q, io, status);
    else if (nof_status_retry(status) && io->tries < MAX_TRIES)
        io->retry = true;
    else if (!io->rc)
        io->rc = nof_status_errno(status);
    if ((status & NVME_STATUS_MASK) == NVME_SC_INVALID_NAMESPACE && io->tries == 0)
        queue_ask_rescan(q);
    return moved;
}

void io_command_done(struct nof_queue *q, void *arg, uint32_t blocks, uint16_t status)
{
    struct nof_io *io = arg;
    bool moved = false;

    if (unlikely(!io)) /* nobody waits for it any more */
        return;
    io->out--;
    if (likely(status == 0))
        io->finished += blocks;
    else
        moved = command_failed(q, io, status);
    if (unlikely((io->rc || io->retry) && io->state == IO_PENDING))
        activate(q, io); /* nothing more of it is sent */
    if (unlikely(moved))
        io_pump_lane(q->lane);
    if (io->out > 0)
        return;
    if (unlikely(io->rc)) {
        io_finish(io, io->rc);
    } else if (unlikely(io->retry)) {
        try_again(io);
    } else if (io->finished == io->total) {
        io_finish(io, 0);
    }
}

/* ---- a lost connection, another path ---- */

void io_connection_lost(struct nof_queue *q)
{
    struct list batch;

    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));) {
        struct nof_io *io = cmd->arg;

        if (io && tcp_cmd_started(cmd))
            io->uncertain = io->lost = true;
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
    list_init(&batch);
    for (struct list *list = &q->active;; list = &q->pending) {
        while (!list_empty(list)) {
            struct nof_io *io = list_entry(list->next, struct nof_io, node);

            leave_list(io);
            start_over(io);
            insert(&batch, io);
        }
        if (list == &q->pending)
            break;
    }
    /* In the order of arrival: the first of two that overlap is sent at once, the second waits. All
     * are guarded before any is sent. */
    list_for_each(it, &batch)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (io->lost && changes_blocks(io))
            guard(io, q);
        io->lost = false;
    }
    while (!list_empty(&batch)) {
        struct nof_io *io = list_entry(batch.next, struct nof_io, node);

        list_remove(&io->node);
        dispatch(io);
    }
}

void io_leave_queue(struct nof_channel *ch, struct nof_queue *q)
{
    list_for_each_safe(it, &q->pending)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (io->ch == ch && io->issued == 0)
            dispatch_again(io);
    }
}

void io_look_again(struct nof_lane *lane)
{
    timer_cancel(&lane->fence_timer);
    dispatch_all(&lane->waiting);
    dispatch_all(&lane->fenced);
}

/* ---- requests ---- */

int channel_submit(struct nof_channel *ch, struct bdev_req *req)
{
    struct nof_lane *lane = ch->lane;
    struct nof_io *io = io_of(req);

    if (req->op == BDEV_FLUSH && lane->seen && !lane->volatile_cache)
        return 0;
    if (req->op == BDEV_UNMAP && lane->seen && !lane->dsm)
        return -EOPNOTSUPP;
    *io = (struct nof_io){
        .req = req,
        .ch = ch,
        .seq = lane->next_seq++,
        .total = req->op == BDEV_FLUSH || req->op == BDEV_UNMAP ? 1 : req->nblocks,
    };
    if (unlikely(req->flags & BDEV_RESENT) && changes_blocks(io)) {
        io->uncertain = true;
        guard_resent(io);
    }
    dispatch(io);
    if (likely(io->state == IO_PENDING))
        io_pump(io->queue);
    return BDEV_PENDING;
}

/* The request's commands end without it. */
static void let_go(struct nof_io *io)
{
    struct nof_queue *q = io->queue;

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

int channel_detach(struct nof_channel *ch, struct bdev_req *req)
{
    struct nof_io *io = io_of(req);
    struct nof_queue *q = io->state <= IO_ACTIVE ? io->queue : NULL;

    if (io->state == IO_ENDED)
        return 0;
    if (req->op == BDEV_READ) {
        let_go(io);
        io_end_later(io, -ECANCELED);
        return 0;
    }
    if (req->op != BDEV_WRITE || io->copy)
        return 0;
    if (!make_copy(io))
        return BDEV_PENDING;
    for (struct tcp_cmd *cmd = NULL; q && (cmd = tcp_next_busy(&q->conn, cmd));)
        if (cmd->arg == io)
            tcp_cmd_move(&q->conn, cmd, &io->copy_iov, 1, cmd->skip);
    return 0;
}

/* No part of it can have an effect from now on, once its commands are withdrawn. */
static bool harmless(const struct nof_io *io)
{
    struct nof_queue *q = io->state <= IO_ACTIVE ? io->queue : NULL;

    if (io->req->op == BDEV_READ || io->req->op == BDEV_FLUSH)
        return true;
    if (io->uncertain && fenced_until(io, 0) != FENCE_OVER)
        return false;
    for (struct tcp_cmd *cmd = NULL; q && (cmd = tcp_next_busy(&q->conn, cmd));)
        if (cmd->arg == io && tcp_cmd_started(cmd))
            return false;
    return true;
}

void channel_cancel(struct nof_channel *ch, struct bdev_req *req)
{
    struct nof_io *io = io_of(req);

    if (io->state == IO_ENDED || !harmless(io))
        return;
    let_go(io);
    io_end_later(io, -ECANCELED);
}

/* ---- life ---- */

void io_stop(struct nof_lane *lane)
{
    timer_cancel(&lane->ended_timer);
    timer_cancel(&lane->fence_timer);
    timer_cancel(&lane->retry_timer);
}
