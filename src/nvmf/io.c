/* SPDX-License-Identifier: BSD-3-Clause
 *
 * I/O commands. */
#include "nvmf/inside.h"

#include <errno.h>

/* NULL: *st says why. */
static struct conn_ns *find_ns(const struct nvmf_conn *c, uint32_t nsid, nvme_status *st)
{
    struct conn_ns *ns = nsid > 0 && nsid <= c->nns ? c->ns[nsid - 1] : NULL;

    *st = !ns || ns->leaving ? NVME_DNR(NVME_SC_INVALID_NAMESPACE) : ns->path;
    return *st == NVME_SC_SUCCESS ? ns : NULL;
}

/* ---- before data come ---- */

static nvme_status check_blocks(struct nvmf_cmd *cmd, const struct conn_ns *ns, bool data)
{
    struct bdev_req *io = &cmd->io;
    nvme_status st = nvme_rw_range(&cmd->sqe, ns->nblocks, &io->lba, &io->nblocks);

    if (st != NVME_SC_SUCCESS)
        return st;
    if (data && ((uint64_t)io->nblocks << ns->block_shift) != cmd->bytes)
        return NVME_DNR(NVME_SC_SGL_DATA_LENGTH);
    io->flags = le32_get(cmd->sqe.cdw12) & NVME_RW_FUA ? BDEV_FUA : 0;
    return NVME_SC_SUCCESS;
}

static nvme_status check_dsm(struct nvmf_cmd *cmd)
{
    cmd->steps = NVME_DSM_NR(le32_get(cmd->sqe.cdw10)) + 1;
    return cmd->bytes < cmd->steps * sizeof(struct nvme_dsm_range)
               ? NVME_DNR(NVME_SC_SGL_DATA_LENGTH)
               : NVME_SC_SUCCESS;
}

nvme_status io_check(struct nvmf_cmd *cmd)
{
    uint32_t nsid = le32_get(cmd->sqe.nsid);
    uint8_t opc = cmd->sqe.opc;
    struct conn_ns *ns;
    nvme_status st;

    if (NVME_SQE_FUSE(cmd->sqe.flags))
        return NVME_DNR(NVME_SC_INVALID_FIELD); /* FUSES is 0 */
    if (opc != NVME_CMD_READ && opc != NVME_CMD_WRITE && opc != NVME_CMD_FLUSH &&
        opc != NVME_CMD_WRITE_ZEROES && opc != NVME_CMD_DSM)
        return NVME_DNR(NVME_SC_INVALID_OPCODE);
    if (opc == NVME_CMD_FLUSH && nsid == NVME_NSID_ALL)
        return NVME_SC_SUCCESS;
    ns = cmd->ns = find_ns(cmd->conn, nsid, &st);
    if (!ns || opc == NVME_CMD_FLUSH)
        return st;
    if (ns->read_only && opc != NVME_CMD_READ)
        return NVME_DNR(NVME_SC_NS_WRITE_PROTECTED);
    if (opc == NVME_CMD_DSM)
        return check_dsm(cmd);
    return check_blocks(cmd, ns, opc != NVME_CMD_WRITE_ZEROES);
}

/* ---- at the bdev ---- */

static nvme_status next_step(struct nvmf_cmd *cmd, struct conn_ns *ns);

static void io_over(struct nvmf_cmd *cmd, struct conn_ns *ns, nvme_status st)
{
    if (st == NVME_SC_SUCCESS && cmd->steps && cmd->conn->state != CONN_CLOSED)
        st = next_step(cmd, ns);
    if (st != NVME_PENDING)
        cmd_finish(cmd, st);
}

static void io_done(struct bdev_req *io, int rc)
{
    struct nvmf_cmd *cmd = container_of(io, struct nvmf_cmd, io);
    struct nvmf_conn *c = cmd->conn;
    struct conn_ns *ns = cmd->ns;

    c->away--;
    counter_sub(&c->shard->pending, 1);
    ns->inflight--;
    io_over(cmd, ns, nvme_status_of(rc, io->op));
    if (ns->leaving)
        conn_ns_settle(c, ns);
    conn_settle(c);
}

static nvme_status submit(struct nvmf_cmd *cmd, struct conn_ns *ns)
{
    struct nvmf_conn *c = cmd->conn;
    int rc;

    cmd->ns = ns;
    cmd->io.done = io_done;
    ns->dirty = true;
    rc = bdev_submit(ns->channel, &cmd->io);
    if (rc != BDEV_PENDING)
        return nvme_status_of(rc, cmd->io.op);
    cmd->state = CMD_BDEV;
    ns->inflight++;
    c->away++;
    counter_add(&c->shard->pending, 1);
    return NVME_PENDING;
}

/* The blocks of io_check(). */
static nvme_status submit_blocks(struct nvmf_cmd *cmd, struct conn_ns *ns, enum bdev_op op)
{
    bool data = op == BDEV_READ || op == BDEV_WRITE;

    cmd->io.op = op;
    cmd->iov[0] = (struct iovec){cmd->data, cmd->bytes};
    cmd->io.iov = data ? cmd->iov : NULL;
    cmd->io.iovcnt = data ? 1 : 0;
    return submit(cmd, ns);
}

static nvme_status submit_range(struct nvmf_cmd *cmd, struct conn_ns *ns, enum bdev_op op,
                                uint64_t lba, uint32_t n)
{
    cmd->io.flags = 0;
    cmd->io.lba = lba;
    cmd->io.nblocks = n;
    return submit_blocks(cmd, ns, op);
}

static nvme_status flush_one(struct nvmf_cmd *cmd, struct conn_ns *ns)
{
    return ns->write_cache ? submit_range(cmd, ns, BDEV_FLUSH, 0, 0) : NVME_SC_SUCCESS;
}

/* step: the NSID that was flushed last. */
static nvme_status flush_step(struct nvmf_cmd *cmd)
{
    struct nvmf_conn *c = cmd->conn;
    nvme_status st = NVME_SC_SUCCESS;

    while (st == NVME_SC_SUCCESS && cmd->step < c->nns) {
        struct conn_ns *ns = find_ns(c, ++cmd->step, &st);

        st = ns ? flush_one(cmd, ns) : NVME_SC_SUCCESS;
    }
    return st;
}

static nvme_status dsm_step(struct nvmf_cmd *cmd, struct conn_ns *ns)
{
    const struct nvme_dsm_range *ranges = (const void *)cmd->data;
    nvme_status st = NVME_SC_SUCCESS;

    while (st == NVME_SC_SUCCESS && cmd->step < cmd->steps) {
        const struct nvme_dsm_range *r = &ranges[cmd->step++];

        if (le32_get(r->nlb) > 0)
            st = submit_range(cmd, ns, BDEV_UNMAP, le64_get(r->slba), le32_get(r->nlb));
    }
    return st;
}

static nvme_status next_step(struct nvmf_cmd *cmd, struct conn_ns *ns)
{
    return cmd->sqe.opc == NVME_CMD_FLUSH ? flush_step(cmd) : dsm_step(cmd, ns);
}

static nvme_status dsm(struct nvmf_cmd *cmd, struct conn_ns *ns)
{
    const struct nvme_dsm_range *ranges = (const void *)cmd->data;

    for (uint32_t i = 0; i < cmd->steps; i++)
        if (!checked_range(le64_get(ranges[i].slba), le32_get(ranges[i].nlb), ns->nblocks))
            return NVME_DNR(NVME_SC_LBA_RANGE);
    if (!(le32_get(cmd->sqe.cdw11) & NVME_DSM_AD) || !ns->can_unmap)
        return NVME_SC_SUCCESS; /* only hints, and we have no use for them */
    return dsm_step(cmd, ns);
}

static nvme_status start(struct nvmf_cmd *cmd)
{
    struct conn_ns *ns = cmd->ns;

    if (cmd->sqe.opc == NVME_CMD_FLUSH && le32_get(cmd->sqe.nsid) == NVME_NSID_ALL) {
        cmd->steps = 1;
        return flush_step(cmd);
    }
    /* It may have left, or moved, while data came. */
    if (!ns || ns->leaving)
        return NVME_DNR(NVME_SC_INVALID_NAMESPACE);
    if (ns->path != NVME_SC_SUCCESS)
        return ns->path;
    switch (cmd->sqe.opc) {
    case NVME_CMD_READ:
        return submit_blocks(cmd, ns, BDEV_READ);
    case NVME_CMD_WRITE:
        return submit_blocks(cmd, ns, BDEV_WRITE);
    case NVME_CMD_WRITE_ZEROES:
        return submit_blocks(cmd, ns, BDEV_WRITE_ZEROES);
    case NVME_CMD_DSM:
        return dsm(cmd, ns);
    default:
        return flush_one(cmd, ns);
    }
}

static void io_restart(struct nvmf_cmd *cmd);

void io_start(struct nvmf_cmd *cmd)
{
    nvme_status st = start(cmd);

    /* The ranges of Dataset Management are data: io_check() has not seen them. */
    if (st == NVME_DNR(NVME_SC_LBA_RANGE) && cmd->sqe.opc == NVME_CMD_DSM && !cmd->looked_again)
        cmd_look_again(cmd, io_restart);
    else if (st != NVME_PENDING)
        cmd_finish(cmd, st);
    conn_dirty(cmd->conn);
}

/* It has its data, and may find another namespace than before. */
static void io_restart(struct nvmf_cmd *cmd)
{
    nvme_status st = io_check(cmd);

    if (st == NVME_SC_SUCCESS)
        io_start(cmd);
    else
        cmd_finish(cmd, st);
}

void io_cancel_all(struct nvmf_conn *c)
{
    for (unsigned i = 0; i < c->depth; i++)
        if (c->cmds[i].state == CMD_BDEV)
            bdev_cancel(c->cmds[i].ns->channel, &c->cmds[i].io);
}

void io_flush_batch(struct nvmf_conn *c)
{
    for (uint32_t i = 0; c->is_known && i < c->nns; i++) {
        if (!c->ns[i] || !c->ns[i]->dirty)
            continue;
        c->ns[i]->dirty = false;
        bdev_flush_batch(c->ns[i]->channel);
    }
}
