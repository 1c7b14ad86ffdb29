/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The requests of a lane: given by the bdev, detached from their memory, cancelled, ended. One that
 * has a queue waits there for a slot (pending) or is with the target (active); the others wait in
 * the lane: for a path, for the fence, or for another try. */
#include "backends/nvme_of/io_inside.h"
#include "base/undumped.h"

#include <errno.h>
#include <string.h>

/* ---- ends ---- */

void io_finish(struct nof_io *io, int rc)
{
    struct bdev_req *req = io->req;

    io_leave_list(io);
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

void io_end_later(struct nof_io *io, int rc)
{
    struct nof_lane *lane = io->ch->lane;

    io_leave_list(io);
    io->state = IO_ENDED;
    io->rc = rc;
    list_append(&lane->ended, &io->node);
    if (!lane->ended_timer.armed)
        timer_arm(lane->r, &lane->ended_timer, 0, run_ended);
}

/* ---- data ---- */

bool io_copy_data(struct nof_io *io)
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
    if (unlikely(req->flags & BDEV_RESENT) && io_changes_blocks(io)) {
        io->uncertain = true;
        io_guard_resent(io);
    }
    io_dispatch(io);
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
    if (!io_copy_data(io))
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
    if (io->uncertain && io_fenced_until(io, 0) != FENCE_OVER)
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
