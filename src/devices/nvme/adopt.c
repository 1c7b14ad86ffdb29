/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Taking over what the last service left. At the lease: layout, epoch, queues. At the first resume,
 * when the namespaces are attached: identity, then the records. Of each queue, in this order: what
 * was not published is void, what was posted is freed, stored intents are posted again in their
 * places, the rest is executed again in the order of fetching, reads last. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"
#include "base/log.h"
#include "link/crash.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_STARTS = 2, MAX_RECOVERIES = 2 };

void nvme_adopt_store_identity(struct nvme_dev *dev)
{
    struct nvme_state_identity *id = &dev->st->head.identity;

    memset(id, 0, sizeof(*id));
    strncpy(id->nqn, nvme_subsystem_nqn(dev->ss), sizeof(id->nqn) - 1);
    strncpy(id->sn, nvme_subsystem_sn(dev->ss), sizeof(id->sn) - 1);
    strncpy(id->mn, nvme_subsystem_mn(dev->ss), sizeof(id->mn) - 1);
    id->cntlid = dev->cntlid;
    id->num_queues = dev->num_queues;
    id->max_depth = dev->max_depth;
    id->mdts = dev->mdts;
    id->offers =
        (dev->write_zeroes ? NVME_OFFER_WRITE_ZEROES : 0) | (dev->dsm ? NVME_OFFER_DSM : 0);
}

/* The ID that the host knows, else one that is free. */
static int take_cntlid(struct nvme_dev *dev, struct err *err)
{
    const struct nvme_state_identity *id = &dev->st->head.identity;
    uint32_t want = 0;
    int rc = -EBUSY;

    if (strncmp(id->nqn, nvme_subsystem_nqn(dev->ss), sizeof(id->nqn)) == 0)
        want = id->cntlid;
    if (want)
        rc = nvme_subsystem_cntlid_take(dev->ss, want);
    if (rc < 0) /* taken by another one in the meantime: the identity check decides */
        rc = nvme_subsystem_cntlid_take(dev->ss, 0);
    if (rc < 0)
        return err_set(err, rc, "subsystem %s has no free controller ID",
                       nvme_subsystem_nqn(dev->ss));
    atomic_store(&dev->cntlid, (uint32_t)rc);
    return 0;
}

static bool sane_queue(const struct nvme_dev *dev, unsigned qid, uint32_t size, uint64_t gpa)
{
    uint32_t max = qid ? dev->max_depth : 4096;

    return size >= 2 && size <= max && gpa % NVME_PAGE == 0;
}

static int open_queues(struct nvme_dev *dev, struct err *err)
{
    struct nvme_state *st = dev->st;

    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (!atomic_load_explicit(&st->cq[i].valid, memory_order_acquire))
            continue;
        if (!sane_queue(dev, i, st->cq[i].size, st->cq[i].gpa))
            return err_set(err, -EPROTO, "state memory: completion queue %u makes no sense", i);
        if (!nvme_cq_create(dev, i))
            return err_set(err, -ENOMEM, "no memory for completion queue %u", i);
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        if (!atomic_load_explicit(&st->sq[i].valid, memory_order_acquire))
            continue;
        if (!sane_queue(dev, i, st->sq[i].size, st->sq[i].gpa) || st->sq[i].cqid >= NVME_QUEUES ||
            !dev->cq[st->sq[i].cqid])
            return err_set(err, -EPROTO, "state memory: submission queue %u makes no sense", i);
        if (!nvme_sq_create(dev, i))
            return err_set(err, -ENOMEM, "no memory for submission queue %u", i);
    }
    if (!dev->sq[0] || !dev->cq[0])
        return err_set(err, -EPROTO, "state memory: enabled, but without admin queues");
    return 0;
}

int nvme_adopt(struct nvme_dev *dev, struct err *err)
{
    struct state_memory *mem = function_state(dev->base.f);
    struct nvme_state *st = state_device(mem);
    uint32_t epoch = function_epoch(dev->base.f), recovering;
    int rc;

    if (dev->max_depth < 16 || dev->max_depth > 32768 ||
        nvme_state_bytes(dev->max_depth) > function_device_bytes(dev->base.f))
        return err_set(err, -EPROTO, "state memory has %llu bytes, queue depth %u needs %llu",
                       (unsigned long long)function_device_bytes(dev->base.f), dev->max_depth,
                       (unsigned long long)nvme_state_bytes(dev->max_depth));
    dev->st = st;
    if (st->head.magic == 0) {
        nvme_state_init(st, dev->max_depth);
    } else {
        rc = nvme_state_check(st, dev->max_depth, err);
        if (rc < 0)
            return rc;
    }
    if (atomic_load_explicit(&mem->svc.device_epoch, memory_order_acquire) != epoch) {
        nvme_state_reset(st); /* the host was reset while nobody was here */
        crash_point(nvme_adopt_void);
        atomic_store(&st->life.cc, 0);
        nvme_regs_init(dev);
        function_reg_set(dev->base.f, NVME_REG_CSTS, 0);
        nvme_doorbells_clear_all(dev);
        crash_point(nvme_adopt_epoch);
        atomic_store_explicit(&mem->svc.device_epoch, epoch, memory_order_release);
    } else {
        nvme_regs_init(dev);
    }
    /* Only a holder that died of its own fault is evidence against the commands it had: SIGKILL is
     * not. */
    dev->after_crash = crash_mark_take(mem);
    if (!dev->after_crash)
        atomic_store_explicit(&st->life.recovering, 0, memory_order_release);
    recovering = atomic_load(&st->life.recovering);
    if (recovering >= MAX_RECOVERIES)
        return err_set(err, -EIO, "crash in recovery, %u times: reset the function", recovering);
    atomic_store_explicit(&st->life.recovering, recovering + 1, memory_order_release);
    crash_point(nvme_adopt_counted);
    rc = take_cntlid(dev, err);
    if (rc < 0)
        return rc;
    dev->map_generation = guest_map_generation(dev->map);
    if (atomic_load_explicit(&st->life.enabled, memory_order_acquire)) {
        rc = open_queues(dev, err);
        if (rc < 0) {
            atomic_store_explicit(&st->life.recovering, recovering, memory_order_release);
            return rc;
        }
        dev->adopted = true;
        dev->base.hold &= ~(uint32_t)NVME_HOLD_DISABLED;
        atomic_store(&dev->base.counts.adopted, 1);
    } else {
        nvme_adopt_store_identity(dev); /* no host has seen the old one since its last reset */
        dev->owns_state = true;
        nvme_adopt_store_ns(dev);
    }
    crash_point(nvme_adopt_queues);
    nvme_regs_adopt(dev);
    crash_point(nvme_adopt_registers);
    atomic_store_explicit(&st->life.recovering, recovering, memory_order_release);
    return 0;
}

/* ---- identity ---- */

static int differs(struct nvme_dev *dev, struct err *err, const char *field, const char *was,
                   const char *is)
{
    return err_set(err, -ESTALE, "identity: %s was %s, is %s", field, was, is);
}

static int differs_n(struct nvme_dev *dev, struct err *err, const char *field, uint64_t was,
                     uint64_t is)
{
    return err_set(err, -ESTALE, "identity: %s was %llu, is %llu", field, (unsigned long long)was,
                   (unsigned long long)is);
}

static int compare_ns(const struct nvme_state_ns *st, uint32_t nsid, struct nvme_dev *dev,
                      struct err *err)
{
    const struct nvme_dev_ns *ns = nvme_dev_ns_slow(dev, nsid);
    char was[37], is[37];

    if (!ns)
        return err_set(err, -ESTALE, "identity: namespace %u is not attached", nsid);
    bdev_uuid_format(&st->uuid, was);
    bdev_uuid_format(&ns->uuid, is);
    if (strcmp(was, is) != 0)
        return err_set(err, -ESTALE, "identity: UUID of namespace %u was %s, is %s", nsid, was, is);
    if (st->block_bytes != 1U << ns->block_shift)
        return err_set(err, -ESTALE, "identity: block size of namespace %u was %u, is %u", nsid,
                       st->block_bytes, 1U << ns->block_shift);
    if (st->nblocks > ns->nblocks)
        return err_set(err, -ESTALE, "identity: capacity of namespace %u was %llu blocks, is %llu",
                       nsid, (unsigned long long)st->nblocks, (unsigned long long)ns->nblocks);
    return 0;
}

/* A disk may grow while no service is there. The host hears of it once it is served again. */
static void tell_grown(struct nvme_dev *dev)
{
    for (unsigned i = 0; i < nvme_state_ns_used(dev->st); i++) {
        uint32_t nsid = atomic_load(&dev->st->ns[i].nsid);

        if (nsid && nvme_dev_ns_slow(dev, nsid)->nblocks > dev->st->ns[i].nblocks)
            nvme_event_ns_changed(dev, nsid);
    }
}

int nvme_adopt_identity(struct nvme_dev *dev, struct err *err)
{
    const struct nvme_state_identity *id = &dev->st->head.identity;
    char nqn[sizeof(id->nqn) + 1] = "", sn[sizeof(id->sn) + 1] = "";
    uint32_t offers =
        (dev->write_zeroes ? NVME_OFFER_WRITE_ZEROES : 0) | (dev->dsm ? NVME_OFFER_DSM : 0);

    memcpy(nqn, id->nqn, sizeof(id->nqn));
    memcpy(sn, id->sn, sizeof(id->sn));
    if (strcmp(nqn, nvme_subsystem_nqn(dev->ss)) != 0)
        return differs(dev, err, "NQN", nqn, nvme_subsystem_nqn(dev->ss));
    if (strncmp(sn, nvme_subsystem_sn(dev->ss), sizeof(id->sn)) != 0)
        return differs(dev, err, "serial number", sn, nvme_subsystem_sn(dev->ss));
    if (id->cntlid != dev->cntlid)
        return differs_n(dev, err, "controller ID", id->cntlid, dev->cntlid);
    if (id->num_queues != dev->num_queues)
        return differs_n(dev, err, "number of I/O queues", id->num_queues, dev->num_queues);
    if (id->max_depth != dev->max_depth)
        return differs_n(dev, err, "queue depth", id->max_depth, dev->max_depth);
    if (id->mdts != dev->mdts)
        return differs_n(dev, err, "MDTS", id->mdts, dev->mdts);
    if (id->offers != offers)
        return differs_n(dev, err, "set of optional commands", id->offers, offers);
    for (unsigned i = 0; i < nvme_state_ns_used(dev->st); i++) {
        uint32_t nsid = atomic_load(&dev->st->ns[i].nsid);
        int rc = nsid ? compare_ns(&dev->st->ns[i], nsid, dev, err) : 0;

        if (rc < 0)
            return rc;
    }
    tell_grown(dev);
    return 0;
}

/* ---- records ---- */

struct found {
    struct nvme_req *req;
    uint64_t order; /* CQ index of an intent, or queue index of a live one */
};

static int by_order(const void *a, const void *b)
{
    const struct found *x = a, *y = b;

    return x->order < y->order ? -1 : x->order > y->order;
}

/* Sorts the slots of one queue: frees what is over, appends the others to intents and live. */
static void sort_slots(struct nvme_sq *sq, struct found *intents, unsigned *nintents,
                       struct found *live, unsigned *nlive)
{
    struct nvme_dev *dev = sq->dev;
    uint32_t generation = atomic_load(&dev->st->life.generation), nfree = 0;
    uint64_t head = sq->head;

    for (uint32_t slot = 0; slot < sq->used; slot++) {
        struct nvme_req *req = nvme_req_at(sq, slot);
        struct nvme_record *rec = req->rec;
        uint64_t index1 = atomic_load_explicit(&rec->index1, memory_order_acquire);
        uint64_t intent = atomic_load_explicit(&rec->intent, memory_order_acquire);

        req->state = NVME_REQ_FREE;
        if (index1 == 0)
            continue;
        if (rec->generation != generation || rec->qid != sq->qid) {
            atomic_store_explicit(&rec->index1, 0, memory_order_release);
            continue;
        }
        counter_add(&dev->base.counts.records, 1);
        if (index1 > head) { /* fetched again from the queue */
            counter_add(&dev->base.counts.unpublished, 1);
            atomic_store_explicit(&rec->index1, 0, memory_order_release);
            crash_point(nvme_adopt_record_over);
        } else if (intent && intent <= sq->cq->tail) {
            counter_add(&dev->base.counts.posted, 1);
            atomic_store_explicit(&rec->index1, 0, memory_order_release);
            crash_point(nvme_adopt_record_over);
        } else if (intent) {
            counter_add(&dev->base.counts.intent_stored, 1);
            req->state = NVME_REQ_ACTIVE;
            intents[(*nintents)++] = (struct found){req, intent - 1};
        } else {
            counter_add(&dev->base.counts.live, 1);
            req->state = NVME_REQ_ACTIVE;
            live[(*nlive)++] = (struct found){req, index1 - 1};
        }
    }
    /* The stack again, lowest slot on top. */
    for (uint32_t slot = sq->nslots; slot-- > 0;)
        if (slot >= sq->used || sq->reqs[slot].state == NVME_REQ_FREE)
            sq->free[nfree++] = (uint16_t)slot;
    sq->nfree = nfree;
}

/* Intents were stored for consecutive places from the tail on. */
static int repost(struct nvme_dev *dev, struct found *intents, unsigned n, struct err *err)
{
    qsort(intents, n, sizeof(*intents), by_order);
    for (unsigned i = 0; i < n; i++) {
        struct nvme_req *req = intents[i].req;
        struct nvme_cq *cq = req->sq->cq;

        if (intents[i].order != cq->tail + cq->nqueued)
            return err_set(
                err, -EPROTO,
                "state memory: completions of CQ %u are not consecutive (%llu, not %llu)", cq->qid,
                (unsigned long long)intents[i].order, (unsigned long long)cq->tail + cq->nqueued);
        req->dw0 = req->rec->dw0;
        req->status = req->rec->status;
        req->on_intent = NULL;
        nvme_event_recovered(req);
        nvme_cq_append(cq, req);
        cq->reposts++;
    }
    return 0;
}

/* How far the host has consumed is asked when room is needed: assume the worst until then. */
static void restore_cq(struct nvme_cq *cq)
{
    uint64_t written;

#ifdef SNAP_LEAVE_OUT_PHASE
    cq->tail = cq->head = cq->pos = 0;
    return;
#endif
    written = cq->tail + cq->reposts;
    cq->head = written < cq->size ? 0 : written - (cq->size - 1);
}

int nvme_adopt_records(struct nvme_dev *dev, struct err *err)
{
    struct nvme_state_life *life = &dev->st->life;
    unsigned nintents = 0, nlive = 0, slots = 0;
    struct found *intents, *live;
    int rc;

    atomic_store_explicit(&life->recovering, atomic_load(&life->recovering) + 1,
                          memory_order_release);
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->sq[i])
            slots += dev->sq[i]->used;
    intents = calloc(slots + 1, sizeof(*intents));
    live = calloc(slots + 1, sizeof(*live));
    if (!intents || !live) {
        free(intents);
        free(live);
        return err_set(err, -ENOMEM, "no memory for the recovery of %u slots", slots);
    }
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->sq[i])
            sort_slots(dev->sq[i], intents, &nintents, live, &nlive);
    crash_point(nvme_adopt_sorted);
    rc = repost(dev, intents, nintents, err);
    crash_point(nvme_adopt_reposting);
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->cq[i])
            restore_cq(dev->cq[i]);
    free(intents);
    /* nvme_adopt_restart() takes the live ones from here: I/O queues first, so that a Delete I/O SQ
     * finds its commands; of these reads last, since the dead service may have left half a block of
     * a write behind. */
    for (unsigned i = 0; i < nlive && rc == 0; i++) {
        if (live[i].req->sq->qid == 0)
            live[i].order |= 1ULL << 63;
        else if (live[i].req->rec->sqe.opc == NVME_CMD_READ)
            live[i].order |= 1ULL << 62;
    }
    qsort(live, nlive, sizeof(*live), by_order);
    dev->live = live;
    dev->nlive = nlive;
    if (rc < 0) {
        free(dev->live);
        dev->live = NULL;
        return rc;
    }
    log_line(LOG_INFO, "nvme",
             "ctrl %s: adopted: %llu records: %llu live, %llu intent stored, %llu posted, "
             "%llu unpublished",
             dev->base.name, (unsigned long long)dev->base.counts.records,
             (unsigned long long)dev->base.counts.live,
             (unsigned long long)dev->base.counts.intent_stored,
             (unsigned long long)dev->base.counts.posted,
             (unsigned long long)dev->base.counts.unpublished);
    return 0;
}

static void restart_one(struct nvme_req *req)
{
#ifdef SNAP_LEAVE_OUT_RESUBMIT
    nvme_req_release(req);
    return;
#endif
    struct nvme_dev *dev = req->sq->dev;

    if (req->sq->delete_req) { /* cannot be: admin records come last */
        nvme_req_finish(req, NVME_SC_ABORTED_SQ_DELETION);
        return;
    }
    if (!dev->after_crash)
        atomic_store_explicit(&req->rec->starts, 0, memory_order_relaxed);
    if (atomic_load(&req->rec->starts) >= MAX_STARTS) {
        log_line(LOG_ERROR, "nvme",
                 "ctrl %s: command %u of SQ %u (opcode %02xh) was started in %u services that "
                 "crashed: ended with Internal Error",
                 dev->base.name, le16_get(req->rec->sqe.cid), req->sq->qid, req->rec->sqe.opc,
                 atomic_load(&req->rec->starts));
        nvme_req_finish(req, NVME_DNR(NVME_SC_INTERNAL_ERROR));
        return;
    }
    req->resent = BDEV_RESENT;
    nvme_req_start(req);
}

void nvme_adopt_restart(struct nvme_dev *dev)
{
    struct found *live = dev->live;
    unsigned n = dev->nlive;

    dev->live = NULL;
    dev->remap_until_us = reactor_now_us(dev->base.reactor) + NVME_REMAP_US;
    nvme_dev_bind(dev);
    nvme_dev_post(dev);
    crash_point(nvme_adopt_reposted);
    for (unsigned i = 0; i < n; i++) {
        live[i].req->dw0 = 0;
        live[i].req->on_intent = NULL;
        restart_one(live[i].req);
        crash_point(nvme_adopt_restarted);
    }
    free(live);
    atomic_store_explicit(&dev->st->life.recovering, 0, memory_order_release);
    crash_point(nvme_adopt_done);
    nvme_irq_signal_all(dev);
}
