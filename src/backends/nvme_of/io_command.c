/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The commands of the requests: as many as a request needs are sent while there are slots; their
 * answers end it, or have it tried again. */
#include "backends/nvme_of/io_inside.h"
#include "backends/nvme_of/status.h"

#include <errno.h>

enum {
    MAX_TRIES = 10,
    MAX_BLOCKS = 65536, /* NLB has 16 bits */
    ZERO_PIECE_BYTES = 65536,
    ZERO_PIECES = 16,
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

/* ---- sending ---- */

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
                 io_fenced(io))
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
        io_try_again(io);
    } else if (io->finished == io->total) {
        io_finish(io, 0);
    }
}
