/* SPDX-License-Identifier: BSD-3-Clause
 *
 * I/O commands. */
#include "devices/nvme/inside.h"

#include "base/checked.h"
#include "base/crash_point.h"

static nvme_status next_step(struct nvme_req *req);

static void io_done(struct bdev_req *io, int rc)
{
    struct nvme_req *req = container_of(io, struct nvme_req, io);
    struct nvme_dev *dev = req->sq->dev;
    nvme_status st = nvme_status_of(rc, io->op);

    req->in_bdev = false;
    req->ns->inflight--;
    if (unlikely(req->steps && st == NVME_SC_SUCCESS && !dev->dropping)) {
        req->sq->inflight--;
        dev->base.inflight--;
        device_kick(&dev->base);
        st = next_step(req);
        if (st == NVME_PENDING)
            return;
        req->sq->inflight++;
        dev->base.inflight++;
    }
    nvme_req_end(req, st);
}

static nvme_status submit(struct nvme_req *req, struct nvme_dev_ns *ns)
{
    struct nvme_dev *dev = req->sq->dev;
    int rc;

    req->ns = ns;
    req->io.done = io_done;
    if (!ns->dirty) {
        ns->dirty = true;
        ns->next_dirty = dev->dirty_ns;
        dev->dirty_ns = ns;
    }
    rc = bdev_submit(ns->channel, &req->io);
    if (rc != BDEV_PENDING)
        return nvme_status_of(rc, req->io.op);
    req->state = NVME_REQ_PENDING;
    req->in_bdev = true;
    ns->inflight++;
    req->sq->inflight++;
    dev->base.inflight++;
    return NVME_PENDING;
}

/* ---- Read, Write, Write Zeroes ---- */

static uint32_t fua(const struct nvme_req *req)
{
    return le32_get(req->rec->sqe.cdw12) & NVME_RW_FUA ||
                   !req->sq->dev->st->life.features.write_cache
               ? BDEV_FUA
               : 0;
}

/* The data of a read or write, within MDTS, as an iov; prot: what the device does with guest
 * memory. */
static nvme_status map_blocks(struct nvme_req *req, const struct nvme_dev_ns *ns, uint32_t prot,
                              uint64_t *ret_bytes)
{
    uint64_t bytes = (uint64_t)req->io.nblocks << ns->block_shift;

    if (unlikely(bytes > req->sq->dev->max_bytes))
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    *ret_bytes = bytes;
    return nvme_map_data(req, bytes, prot);
}

void nvme_io_expect(const struct nvme_req *req)
{
    const struct nvme_sqe *sqe = &req->rec->sqe;
    struct nvme_dev_ns *ns;

    if ((sqe->opc == NVME_CMD_READ || sqe->opc == NVME_CMD_WRITE) &&
        nvme_dev_ns_get(req->sq->dev, le32_get(sqe->nsid), &ns) == NVME_SC_SUCCESS && ns->copies)
        bdev_expect(ns->channel, nvme_rw_slba(sqe));
}

static nvme_status io_read(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_dev_ns *ns;
    nvme_status st = nvme_dev_ns_get(dev, le32_get(req->rec->sqe.nsid), &ns);
    uint64_t bytes = 0;

    if (st == NVME_SC_SUCCESS)
        st = nvme_rw_range(&req->rec->sqe, ns->nblocks, &req->io.lba, &req->io.nblocks);
    if (unlikely(st != NVME_SC_SUCCESS))
        return st;
    poison(req->io.lba);
    st = map_blocks(req, ns, GUEST_WRITE, &bytes);
    if (unlikely(st != NVME_SC_SUCCESS))
        return st;
    req->io.op = BDEV_READ;
    req->io.flags = 0;
    ns->st->reads++;
    ns->st->bytes_read += bytes;
    counter_add(&dev->stats[req->sq->qid].reads, 1);
    return submit(req, ns);
}

static nvme_status io_write(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_dev_ns *ns;
    nvme_status st = nvme_dev_ns_get(dev, le32_get(req->rec->sqe.nsid), &ns);
    uint64_t bytes = 0;

    if (st == NVME_SC_SUCCESS)
        st = nvme_rw_range(&req->rec->sqe, ns->nblocks, &req->io.lba, &req->io.nblocks);
    if (unlikely(st != NVME_SC_SUCCESS))
        return st;
    if (unlikely(ns->read_only))
        return NVME_DNR(NVME_SC_NS_WRITE_PROTECTED);
    poison(req->io.lba);
    st = map_blocks(req, ns, GUEST_READ, &bytes);
    if (unlikely(st != NVME_SC_SUCCESS))
        return st;
    req->io.op = BDEV_WRITE;
    req->io.flags = fua(req) | req->resent;
    ns->st->writes++;
    ns->st->bytes_written += bytes;
    counter_add(&dev->stats[req->sq->qid].writes, 1);
    return submit(req, ns);
}

static nvme_status io_write_zeroes(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_dev_ns *ns;
    nvme_status st;

    if (!dev->write_zeroes)
        return NVME_DNR(NVME_SC_INVALID_OPCODE);
    st = nvme_dev_ns_get(dev, le32_get(req->rec->sqe.nsid), &ns);
    if (st == NVME_SC_SUCCESS)
        st = nvme_rw_range(&req->rec->sqe, ns->nblocks, &req->io.lba, &req->io.nblocks);
    if (st != NVME_SC_SUCCESS)
        return st;
    if (ns->read_only)
        return NVME_DNR(NVME_SC_NS_WRITE_PROTECTED);
    /* DEAC or not, the blocks read as zeroes; the backend deallocates where it can. */
    req->io.op = BDEV_WRITE_ZEROES;
    req->io.flags = fua(req) | req->resent;
    req->io.iov = NULL;
    req->io.iovcnt = 0;
    ns->st->writes++;
    counter_add(&dev->stats[req->sq->qid].writes, 1);
    return submit(req, ns);
}

/* ---- Flush: of one namespace, or one after the other ---- */

static nvme_status flush_one(struct nvme_req *req, struct nvme_dev_ns *ns)
{
    if (!ns->write_cache)
        return NVME_SC_SUCCESS;
    req->io.op = BDEV_FLUSH;
    req->io.flags = 0;
    req->io.lba = 0;
    req->io.nblocks = 0;
    req->io.iov = NULL;
    req->io.iovcnt = 0;
    return submit(req, ns);
}

/* req->step: the NSID that was flushed last. */
static nvme_status flush_step(struct nvme_req *req)
{
    struct nvme_dev_ns *ns;

    while ((ns = nvme_dev_ns_next(req->sq->dev, req->step))) {
        nvme_status st;

        req->step = ns->nsid;
        st = flush_one(req, ns);
        if (st != NVME_SC_SUCCESS)
            return st;
    }
    return NVME_SC_SUCCESS;
}

static nvme_status io_flush(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    uint32_t nsid = le32_get(req->rec->sqe.nsid);
    struct nvme_dev_ns *ns;
    nvme_status st;

    counter_add(&dev->stats[req->sq->qid].flushes, 1);
    if (nsid == NVME_NSID_ALL) {
        req->step = 0;
        req->steps = 1;
        return flush_step(req);
    }
    st = nvme_dev_ns_get(dev, nsid, &ns);
    return st == NVME_SC_SUCCESS ? flush_one(req, ns) : st;
}

/* ---- Dataset Management: deallocate, range after range ---- */

/* req->step of req->steps ranges in req->big are begun; the last one was submitted. */
static nvme_status dsm_step(struct nvme_req *req)
{
    const struct nvme_dsm_range *ranges = req->big;

    while (req->step < req->steps) {
        const struct nvme_dsm_range *r = &ranges[req->step++];
        nvme_status st;

        if (le32_get(r->nlb) == 0)
            continue;
        req->io.op = BDEV_UNMAP;
        req->io.flags = req->resent;
        req->io.lba = le64_get(r->slba);
        req->io.nblocks = le32_get(r->nlb);
        req->io.iov = NULL;
        req->io.iovcnt = 0;
        st = submit(req, req->ns);
        if (st != NVME_SC_SUCCESS)
            return st;
    }
    return NVME_SC_SUCCESS;
}

static nvme_status io_dsm(struct nvme_req *req)
{
    struct nvme_dsm_range ranges[NVME_DSM_MAX_RANGES];
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t n = NVME_DSM_NR(le32_get(sqe->cdw10)) + 1;
    struct nvme_dev_ns *ns;
    nvme_status st;

    static_assert(sizeof(ranges) <= NVME_IOV_MAX * sizeof(struct iovec), "ranges fit a big iov");
    if (!dev->dsm)
        return NVME_DNR(NVME_SC_INVALID_OPCODE);
    st = nvme_dev_ns_get(dev, le32_get(sqe->nsid), &ns);
    if (st != NVME_SC_SUCCESS)
        return st;
    st = nvme_copy_from_host(req, ranges, n * (uint32_t)sizeof(*ranges));
    if (st != NVME_SC_SUCCESS)
        return st;
    for (uint32_t i = 0; i < n; i++)
        if (!checked_range(le64_get(ranges[i].slba), le32_get(ranges[i].nlb), ns->nblocks))
            return NVME_DNR(NVME_SC_LBA_RANGE);
    if (!(le32_get(sqe->cdw11) & NVME_DSM_AD) || !ns->can_unmap)
        return NVME_SC_SUCCESS; /* only hints, and we have no use for them */
    if (ns->read_only)
        return NVME_DNR(NVME_SC_NS_WRITE_PROTECTED);
    if (!nvme_req_big_iov(req))
        return NVME_SC_INTERNAL_ERROR;
    __builtin_memcpy(req->big, ranges, n * sizeof(*ranges));
    req->ns = ns;
    req->step = 0;
    req->steps = n;
    return dsm_step(req);
}

static nvme_status next_step(struct nvme_req *req)
{
    return req->rec->sqe.opc == NVME_CMD_FLUSH ? flush_step(req) : dsm_step(req);
}

/* ---- the table ---- */

static nvme_status (*const io_cmds[256])(struct nvme_req *req) = {
    [NVME_CMD_FLUSH] = io_flush, [NVME_CMD_WRITE] = io_write,
    [NVME_CMD_READ] = io_read,   [NVME_CMD_WRITE_ZEROES] = io_write_zeroes,
    [NVME_CMD_DSM] = io_dsm,
};

void nvme_io_start(struct nvme_req *req)
{
    const struct nvme_sqe *sqe = &req->rec->sqe;
    nvme_status st = NVME_DNR(NVME_SC_INVALID_OPCODE);

    req->steps = 0;
    if (unlikely(req->sq->dev->nleaving > 0) &&
        nvme_dev_ns_leaves(req->sq->dev, le32_get(sqe->nsid))) {
        nvme_req_hold(req);
        return;
    }
    if (unlikely(NVME_SQE_FUSE(sqe->flags)))
        st = NVME_DNR(NVME_SC_INVALID_FIELD); /* FUSES is 0 */
    else if (likely(io_cmds[sqe->opc]))
        st = io_cmds[sqe->opc](req);
    if (st != NVME_PENDING)
        nvme_req_finish(req, st);
}
