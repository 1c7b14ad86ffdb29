/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Controller registers: enable, reset, shutdown. Reads are answered by snap_emu from the images;
 * writes come here in order, and the last one may come twice: every step compares with the state
 * memory. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"
#include "base/log.h"

#include <errno.h>

enum {
    /* A host may begin to wait for CSTS.RDY while no service is there: it should not give up before
     * there is one. CAP.TO ends at 127 s; hosts that know CRTO wait for ten minutes. Units of 500
     * ms. */
    READY_UNITS = 255,
    READY_UNITS_LONG = 1200,
    ENABLE_WAIT_MS = 2000,
};
#define CC_WRITABLE 0x00fffff1U

static void set_csts(struct nvme_dev *dev, uint32_t csts)
{
    function_reg_set(dev->base.f, NVME_REG_CSTS, csts);
}

static uint32_t get_csts(struct nvme_dev *dev)
{
    return atomic_load_explicit(&function_state(dev->base.f)->svc.reg_dev[NVME_REG_CSTS / 4],
                                memory_order_acquire);
}

/* What a read takes from the host's writes; everything else comes from reg_dev. */
static void host_bits(struct state_svc *svc, uint32_t offset, uint32_t mask)
{
    atomic_store_explicit(&svc->reg_mask[offset / 4], mask, memory_order_relaxed);
}

static void dev_value(struct state_svc *svc, uint32_t offset, uint32_t value)
{
    atomic_store_explicit(&svc->reg_dev_reset[offset / 4], value, memory_order_relaxed);
    /* CSTS is the only one that changes, and is not ours to reset here. */
    if (offset != NVME_REG_CSTS)
        atomic_store_explicit(&svc->reg_dev[offset / 4], value, memory_order_relaxed);
}

#define CAP_CRWMS (1ULL << 59)

void nvme_regs_init(struct nvme_dev *dev)
{
    struct state_svc *svc = &function_state(dev->base.f)->svc;
    uint64_t cap = (MIN(dev->max_depth, 65536U) - 1) | NVME_CAP_CQR |
                   (uint64_t)READY_UNITS << NVME_CAP_TO_SHIFT | NVME_CAP_CSS_NVM | CAP_CRWMS;

    dev_value(svc, NVME_REG_CAP, (uint32_t)cap);
    dev_value(svc, NVME_REG_CAP + 4, (uint32_t)(cap >> 32));
    dev_value(svc, NVME_REG_VS, NVME_VS_2_0);
    dev_value(svc, NVME_REG_CRTO, READY_UNITS_LONG);
    dev_value(svc, NVME_REG_CSTS, 0);
    host_bits(svc, NVME_REG_CC, CC_WRITABLE);
    host_bits(svc, NVME_REG_AQA, 0x0fff0fff);
    host_bits(svc, NVME_REG_ASQ, 0xfffff000);
    host_bits(svc, NVME_REG_ASQ + 4, 0xffffffff);
    host_bits(svc, NVME_REG_ACQ, 0xfffff000);
    host_bits(svc, NVME_REG_ACQ + 4, 0xffffffff);
    atomic_store_explicit(&svc->initialized, 1, memory_order_release);
}

/* ---- enable ---- */

static void refuse(struct nvme_dev *dev, const char *why)
{
    static struct log_limit limit;

    log_limited(&limit, LOG_WARNING, "nvme", "ctrl %s: cannot be enabled: %s", dev->base.name, why);
    dev->enable_waits = false;
    set_csts(dev, NVME_CSTS_CFS);
}

static const char *bad_cc(uint32_t cc, uint32_t aqa)
{
    if (NVME_CC_CSS(cc) != NVME_CC_CSS_NVM)
        return "CC.CSS";
    if (NVME_CC_MPS(cc) != 0)
        return "CC.MPS";
    if (NVME_CC_AMS(cc) != 0)
        return "CC.AMS";
    if (NVME_CC_IOSQES(cc) != 0 && NVME_CC_IOSQES(cc) != 6)
        return "CC.IOSQES";
    if (NVME_CC_IOCQES(cc) != 0 && NVME_CC_IOCQES(cc) != 4)
        return "CC.IOCQES";
    if (NVME_AQA_ASQS(aqa) == 0 || NVME_AQA_ACQS(aqa) == 0)
        return "AQA";
    return NULL;
}

static bool mapped(struct nvme_dev *dev, uint64_t gpa, uint64_t bytes, uint32_t prot)
{
    for (uint64_t at = 0; at < bytes; at += NVME_PAGE)
        if (!guest_ptr(dev->map, gpa + at, MIN((uint64_t)NVME_PAGE, bytes - at), prot))
            return false;
    return true;
}

static void enable_expired(struct timer *t)
{
    struct nvme_dev *dev = container_of(t, struct nvme_dev, enable_timer);

    if (dev->enable_waits)
        refuse(dev, "the admin queues are not in memory that the device may use");
}

static void enable(struct nvme_dev *dev, uint32_t cc)
{
    struct nvme_state *st = dev->st;
    uint32_t aqa = function_reg_host(dev->base.f, NVME_REG_AQA);
    uint64_t asq = function_reg_host64(dev->base.f, NVME_REG_ASQ) & ~0xfffULL;
    uint64_t acq = function_reg_host64(dev->base.f, NVME_REG_ACQ) & ~0xfffULL;
    uint32_t asqs = NVME_AQA_ASQS(aqa) + 1, acqs = NVME_AQA_ACQS(aqa) + 1;
    const char *why = bad_cc(cc, aqa);

    if (why) {
        refuse(dev, why);
        return;
    }
    if (!mapped(dev, asq, (uint64_t)asqs * sizeof(struct nvme_sqe), GUEST_READ) ||
        !mapped(dev, acq, (uint64_t)acqs * sizeof(struct nvme_cqe), GUEST_WRITE)) {
        /* Perhaps memory is being moved about; a moment's patience costs nothing. */
        if (!dev->enable_waits)
            timer_arm(dev->base.reactor, &dev->enable_timer, ENABLE_WAIT_MS, enable_expired);
        dev->enable_waits = true;
        return;
    }
    dev->enable_waits = false;
    timer_cancel(&dev->enable_timer);
    nvme_doorbells_clear_all(dev);
    st->cq[0].size = acqs;
    st->cq[0].gpa = acq;
    st->cq[0].iv = 0;
    st->cq[0].ien = 1;
    atomic_store(&st->cq[0].stopped, 0);
    atomic_store(&st->cq[0].tail, 0);
    st->sq[0].size = asqs;
    st->sq[0].gpa = asq;
    st->sq[0].cqid = 0;
    atomic_store(&st->sq[0].stopped, 0);
    atomic_store(&st->sq[0].head, 0);
    atomic_store(&st->sq[0].slots_used, 0);
    if (!nvme_cq_create(dev, 0) || !nvme_sq_create(dev, 0)) {
        nvme_dev_close_queues(dev);
        refuse(dev, "no memory");
        return;
    }
    crash_point(nvme_enable_filled);
    atomic_store_explicit(&st->cq[0].valid, 1, memory_order_release);
    atomic_store_explicit(&st->sq[0].valid, 1, memory_order_release);
    crash_point(nvme_enable_valid);
    atomic_store_explicit(&st->life.enabled, 1, memory_order_release);
    crash_point(nvme_enabled);
    dev->base.hold &= ~(uint32_t)(NVME_HOLD_DISABLED | NVME_HOLD_SHUTDOWN);
    set_csts(dev, NVME_CSTS_RDY);
    device_kick(&dev->base);
}

void nvme_regs_memory_added(struct nvme_dev *dev)
{
    if (dev->enable_waits)
        nvme_regs_cc(dev, atomic_load(&dev->st->life.cc));
}

/* ---- reset ---- */

void nvme_dev_close_queues(struct nvme_dev *dev)
{
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->sq[i])
            nvme_sq_destroy(dev->sq[i]);
    for (unsigned i = 0; i < NVME_QUEUES; i++)
        if (dev->cq[i])
            nvme_cq_destroy(dev->cq[i]);
    dev->held = dev->held_last = dev->aers = NULL;
    dev->nheld = dev->naers = 0;
    dev->events_reporting = 0;
    timer_cancel(&dev->hold_timer);
}

void nvme_regs_reset_begin(struct nvme_dev *dev)
{
    dev->enable_waits = false;
    timer_cancel(&dev->enable_timer);
    dev->base.hold |= DEVICE_HOLD_RESET | NVME_HOLD_DISABLED;
    if (!dev->dropping) {
        dev->dropping = true;
        for (unsigned i = 0; i < NVME_QUEUES; i++)
            if (dev->sq[i])
                nvme_sq_cancel(dev->sq[i]);
    }
    dev->base.settle = true;
    device_settle(&dev->base);
}

static void reset_end(struct nvme_dev *dev)
{
    void (*done)(void *arg) = dev->reset_done;
    void *arg = dev->reset_arg;
    bool function = dev->reset_function;
    uint32_t cc;

    nvme_dev_close_queues(dev);
    nvme_state_reset(dev->st);
    crash_point(nvme_reset_state);
    dev->dropping = false;
    dev->adopted = false; /* no predecessor's command is left */
    dev->shutdown_wanted = false;
    dev->npending_vectors = 0;
    for (unsigned i = 0; i < dev->nvectors; i++)
        dev->vectors[i] = (struct nvme_vector){0};
    dev->base.hold &= ~(uint32_t)(DEVICE_HOLD_RESET | NVME_HOLD_SHUTDOWN);
    if (!dev->owns_state) { /* the host will look at everything anew: it may differ */
        dev->owns_state = true;
        nvme_adopt_store_identity(dev);
        nvme_adopt_store_ns(dev);
    }
    set_csts(dev, 0);
    dev->reset_function = false;
    dev->reset_done = NULL;
    if (function) {
        struct state_svc *svc = &function_state(dev->base.f)->svc;

        for (unsigned i = 0; i < STATE_REG_BYTES / 4; i++)
            atomic_store_explicit(&svc->reg_dev[i], atomic_load(&svc->reg_dev_reset[i]),
                                  memory_order_relaxed);
        nvme_doorbells_clear_all(dev);
        dev->base.hold &= ~(uint32_t)DEVICE_HOLD_FAILED;
        atomic_store(&dev->base.failed, false);
        atomic_store(&dev->st->life.cc, 0);
        crash_point(nvme_reset_registers);
        atomic_store_explicit(&svc->device_epoch, dev->reset_epoch, memory_order_release);
    }
    cc = atomic_load(&dev->st->life.cc);
    if (!function && cc)
        nvme_regs_cc(dev, cc); /* written while the reset went on */
    if (done)
        done(arg);
}

/* ---- shutdown: everything finished and flushed ---- */

static void shutdown_step(struct nvme_dev *dev);

static void shutdown_flushed(struct bdev_req *io, int rc)
{
    struct nvme_dev *dev = container_of(io, struct nvme_dev, shutdown_io);

    dev->shutdown_flushing = false;
    dev->shutdown_ns->inflight--;
    dev->base.inflight--;
    if (rc < 0 && rc != -ECANCELED)
        log_line(LOG_ERROR, "nvme", "ctrl %s: flush of namespace %u at shutdown failed: error %d",
                 dev->base.name, dev->shutdown_ns->nsid, -rc);
    dev->base.settle = true;
    if (dev->dropping || !dev->shutdown_wanted)
        device_kick(&dev->base);
    else
        shutdown_step(dev);
}

static void shutdown_step(struct nvme_dev *dev)
{
    struct nvme_dev_ns *ns = dev->shutdown_ns;

    while ((ns = nvme_dev_ns_next(dev, ns ? ns->nsid : 0))) {
        int rc;

        dev->shutdown_ns = ns;
        if (!ns->write_cache)
            continue;
        dev->shutdown_io.op = BDEV_FLUSH;
        dev->shutdown_io.done = shutdown_flushed;
        rc = bdev_submit(ns->channel, &dev->shutdown_io);
        if (rc == BDEV_PENDING) {
            bdev_flush_batch(ns->channel);
            dev->shutdown_flushing = true;
            ns->inflight++;
            dev->base.inflight++;
            device_kick(&dev->base);
            return;
        }
    }
    dev->shutdown_ns = NULL;
    dev->shutdown_wanted = false;
    crash_point(nvme_shutdown_flushed);
    set_csts(dev,
             (get_csts(dev) & ~NVME_CSTS_SHST_MASK) | NVME_SHST_COMPLETE << NVME_CSTS_SHST_SHIFT);
    device_kick(&dev->base);
}

static void shutdown_begin(struct nvme_dev *dev)
{
    uint32_t csts = get_csts(dev);

    dev->base.hold |= NVME_HOLD_SHUTDOWN;
    dev->shutdown_wanted = true;
    dev->shutdown_ns = NULL;
    set_csts(dev, (csts & ~NVME_CSTS_SHST_MASK) | NVME_SHST_OCCURRING << NVME_CSTS_SHST_SHIFT);
    crash_point(nvme_shutdown_begun);
    dev->base.settle = true;
    device_kick(&dev->base);
}

/* ---- the register that does it all ---- */

void nvme_regs_cc(struct nvme_dev *dev, uint32_t cc)
{
    struct nvme_state_life *life = &dev->st->life;
    bool enabled = atomic_load_explicit(&life->enabled, memory_order_acquire);

    atomic_store_explicit(&life->cc, cc, memory_order_release);
    crash_point(nvme_cc_stored);
    if (dev->base.hold & DEVICE_HOLD_RESET)
        return; /* looked at again when the reset is done */
    if (!(cc & NVME_CC_EN) &&
        (enabled || dev->enable_waits || get_csts(dev) & (NVME_CSTS_RDY | NVME_CSTS_CFS) ||
         (get_csts(dev) & NVME_CSTS_SHST_MASK && !NVME_CC_SHN(cc)))) {
        nvme_regs_reset_begin(dev);
        return;
    }
    if (cc & NVME_CC_EN && !enabled && !(get_csts(dev) & NVME_CSTS_CFS))
        enable(dev, cc);
    if (NVME_CC_SHN(cc) && NVME_CSTS_SHST(get_csts(dev)) != NVME_SHST_COMPLETE &&
        !dev->shutdown_wanted)
        shutdown_begin(dev);
}

void nvme_regs_written(struct nvme_dev *dev, const struct state_reg_write *w)
{
    uint32_t cc;

    if (w->offset > NVME_REG_CC || w->offset + w->size <= NVME_REG_CC)
        return; /* the others are looked at when the controller is enabled */
    if (w->size == 4)
        cc = (uint32_t)w->value;
    else if (w->size == 8)
        cc = (uint32_t)(w->value >> 32);
    else
        return; /* narrower than the register: not allowed, ignored */
    nvme_regs_cc(dev, cc & CC_WRITABLE);
}

void nvme_regs_settle(struct nvme_dev *dev)
{
    if (dev->dropping && dev->base.inflight == 0)
        reset_end(dev);
    if (dev->shutdown_wanted && dev->base.inflight == 0 && !dev->shutdown_flushing &&
        !(dev->base.hold & (DEVICE_HOLD_SUSPENDED | DEVICE_HOLD_QUIT))) {
        nvme_dev_post(dev); /* what has finished is seen before the end is */
        shutdown_step(dev);
    }
}

void nvme_regs_adopt(struct nvme_dev *dev)
{
    if (NVME_CSTS_SHST(get_csts(dev)) != NVME_SHST_NORMAL)
        dev->base.hold |= NVME_HOLD_SHUTDOWN;
    /* Waits of the last service: an enable without memory, a reset or a shutdown in progress. */
    nvme_regs_cc(dev, atomic_load(&dev->st->life.cc));
    if (atomic_load(&dev->st->life.enabled) && !(dev->base.hold & DEVICE_HOLD_RESET))
        set_csts(dev, get_csts(dev) | NVME_CSTS_RDY);
}

void nvme_regs_lost(struct nvme_dev *dev)
{
    atomic_store(&dev->st->life.cc, function_reg_host(dev->base.f, NVME_REG_CC) & CC_WRITABLE);
    nvme_regs_reset_begin(dev);
}

void nvme_regs_fatal(struct nvme_dev *dev)
{
    set_csts(dev, get_csts(dev) | NVME_CSTS_CFS);
}
