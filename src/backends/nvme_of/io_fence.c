/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The fence against late writes, as requests meet it: which of them it is for, and which wait. */
#include "backends/nvme_of/io_inside.h"

/* Is something under way on another queue that changes blocks of this one? */
static bool crosses(const struct nof_io *io, const struct nof_queue *q)
{
    const struct nof_lane *lane = io->ch->lane;

    for (unsigned i = 0; i < lane->nqueues; i++) {
        struct nof_queue *other = lane->queues[i];

        for (struct tcp_cmd *cmd = NULL; other != q && (cmd = tcp_next_busy(&other->conn, cmd));) {
            const struct nof_io *there = cmd->arg;

            if (there && there->ch->ns == io->ch->ns && io_changes_blocks(there) &&
                there->req->lba < io_end_lba(io) && io->req->lba < io_end_lba(there))
                return true;
        }
    }
    return false;
}

/* Also lost on another reactor, beside one that
 * overlaps it and is not lost: not seen here, when hosts on two reactors write the same blocks at
 * the same time; who does that does not know which of both stays, anyway. */
void io_guard(struct nof_io *io, const struct nof_queue *q)
{
    struct fence_loss loss = {
        .assoc = q->target.assoc,
        .bound_us = q->target.fence_bound_us,
        .path = q->path->number,
        .marked = q->target.fence_marked,
        .crossed = crosses(io, q),
    };

    fence_add(&io->ch->ns->fence, &loss, io->req->lba, io_end_lba(io), &io->guard);
}

void io_guard_resent(struct nof_io *io)
{
    static const struct fence_loss loss = {
        .bound_us = FENCE_UNKNOWN, .path = FENCE_NO_PATH, .marked = true};

    fence_add(&io->ch->ns->fence, &loss, io->req->lba, io_end_lba(io), &io->guard);
}

uint64_t io_fenced_until(const struct nof_io *io, uint64_t number)
{
    return fence_blocks(&io->ch->ns->fence, reactor_now_us(io->ch->lane->r), io->req->lba,
                        io_end_lba(io), number);
}

static void fence_tick(struct timer *t)
{
    struct nof_lane *lane = container_of(t, struct nof_lane, fence_timer);

    io_look_again(lane);
    io_pump_lane(lane);
}

/* A new association looks again. */
bool io_fenced(struct nof_io *io)
{
    struct nof_lane *lane = io->ch->lane;
    uint64_t until, now = reactor_now_us(lane->r);

    if (!io_changes_blocks(io) || io->issued > 0)
        return false;
    until = io_fenced_until(io, io->guard);
    if (until == FENCE_OVER)
        return false;
    io_wait_in(&lane->fenced, io, IO_FENCED);
    atomic_fetch_add_explicit(&io->ch->ns->fence.waiting, 1, memory_order_relaxed);
    if (until != FENCE_UNKNOWN && (!lane->fence_timer.armed || lane->fence_timer.due_us > until))
        timer_arm(lane->r, &lane->fence_timer, (until - now) / 1000 + 1, fence_tick);
    return true;
}
