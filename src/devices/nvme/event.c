/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Asynchronous events (Base 2.0, 5.2) and the error log. What is pending and what is masked until
 * the host has read the log page lives in state memory; a waiting AER command is simply a record in
 * flight. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <string.h>

static uint32_t group(uint32_t event)
{
    return event & NVME_EVENT_NS ? NVME_EVENT_NS : NVME_EVENT_DB_REG | NVME_EVENT_DB_VALUE;
}

static uint32_t dw0_of(uint32_t event)
{
    switch (event) {
    case NVME_EVENT_DB_REG:
        return NVME_AER_DW0(NVME_AER_ERROR, NVME_AER_ERROR_INVALID_DB_REG, NVME_LOG_ERROR);
    case NVME_EVENT_DB_VALUE:
        return NVME_AER_DW0(NVME_AER_ERROR, NVME_AER_ERROR_INVALID_DB_VALUE, NVME_LOG_ERROR);
    default:
        return NVME_AER_DW0(NVME_AER_NOTICE, NVME_AER_NOTICE_NS_ATTR, NVME_LOG_CHANGED_NS);
    }
}

/* The completion is certain from here on: not before, or a crash would lose the event. */
static void reported(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_state_life *life = &dev->st->life;

    crash_point(nvme_event_unmarked);
    atomic_fetch_or(&life->events_masked, group(req->effect));
    crash_point(nvme_event_masked);
    atomic_fetch_and(&life->events, ~req->effect);
    dev->events_reporting &= ~group(req->effect);
}

static uint32_t event_of(uint32_t dw0)
{
    uint32_t event = NVME_EVENT_NS;

    while (event > NVME_EVENT_DB_REG && dw0_of(event) != dw0)
        event >>= 1;
    return event;
}

void nvme_event_recovered(struct nvme_req *req)
{
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t cdw10 = le32_get(sqe->cdw10), lid = NVME_LOG_LID(cdw10);

    if (req->sq->qid != 0 || req->status != NVME_SC_SUCCESS)
        return;
    if (sqe->opc == NVME_ADMIN_ASYNC_EVENT) {
        req->effect = event_of(req->dw0);
        reported(req);
    } else if (sqe->opc == NVME_ADMIN_GET_LOG_PAGE && !(cdw10 & NVME_LOG_RAE)) {
        /* Which entries of the list the page had is not known any more: they stay. */
        if (lid == NVME_LOG_ERROR)
            nvme_event_unmask(req->sq->dev, NVME_EVENT_DB_REG | NVME_EVENT_DB_VALUE);
        else if (lid == NVME_LOG_CHANGED_NS)
            nvme_event_unmask(req->sq->dev, NVME_EVENT_NS);
    }
}

void nvme_event_report(struct nvme_dev *dev)
{
    struct nvme_state_life *life = &dev->st->life;

    while (dev->aers) {
        uint32_t events = atomic_load_explicit(&life->events, memory_order_relaxed) &
                          ~atomic_load_explicit(&life->events_masked, memory_order_relaxed) &
                          ~dev->events_reporting;
        struct nvme_req *req = dev->aers;

        if (!events || dev->base.hold & (DEVICE_HOLD_SUSPENDED | DEVICE_HOLD_RESET))
            return;
        dev->aers = req->next;
        dev->naers--;
        req->effect = events & -events;
        req->on_intent = reported;
        req->dw0 = dw0_of(req->effect);
        dev->events_reporting |= group(req->effect);
        nvme_req_finish(req, NVME_SC_SUCCESS);
        device_kick(&dev->base);
    }
}

void nvme_event_raise(struct nvme_dev *dev, enum nvme_event event)
{
    atomic_fetch_or(&dev->st->life.events, (uint32_t)event);
    crash_point(nvme_event_pending);
    nvme_event_report(dev);
}

void nvme_event_unmask(struct nvme_dev *dev, uint32_t events)
{
    atomic_fetch_and(&dev->st->life.events_masked, ~events);
    nvme_event_report(dev);
}

nvme_status nvme_aer(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;

    if (dev->naers > NVME_AERL)
        return NVME_DNR(NVME_SC_AER_LIMIT);
    req->state = NVME_REQ_AER;
    req->next = dev->aers;
    dev->aers = req;
    dev->naers++;
    nvme_event_report(dev);
    return NVME_PENDING;
}

void nvme_event_ns_changed(struct nvme_dev *dev, uint32_t nsid)
{
    struct nvme_state_life *life = &dev->st->life;
    uint32_t n = atomic_load_explicit(&life->changed_count, memory_order_relaxed), i = 0;

    if (!atomic_load_explicit(&life->enabled, memory_order_relaxed))
        return; /* the host will look at everything anyway */
    while (i < MIN(n, (uint32_t)ARRAY_SIZE(dev->st->changed)) && dev->st->changed[i] != nsid)
        i++;
    if (i == n && n < ARRAY_SIZE(dev->st->changed)) {
        dev->st->changed[n] = nsid;
        atomic_store_explicit(&life->changed_count, n + 1, memory_order_release);
    } else if (i == ARRAY_SIZE(dev->st->changed)) {
        atomic_store_explicit(&life->changed_count, i + 1, memory_order_release); /* overflow */
    }
    crash_point(nvme_event_listed);
    if (life->features.async_event & NVME_OAES_NS_ATTR)
        nvme_event_raise(dev, NVME_EVENT_NS);
}

/* Only what says something about the device: a host can make any number of commands fail. */
static bool worth_logging(nvme_status status)
{
    switch (status & NVME_STATUS_MASK) {
    case NVME_SC_INTERNAL_ERROR:
    case NVME_SC_DATA_TRANSFER_ERROR:
    case NVME_SC_WRITE_FAULT:
    case NVME_SC_UNRECOVERED_READ:
        return true;
    default:
        return false;
    }
}

void nvme_error_log(struct nvme_dev *dev, const struct nvme_req *req)
{
    uint64_t count;
    struct nvme_log_error *e;

    if (!worth_logging(req->status))
        return;
    count = atomic_load_explicit(&dev->st->life.error_count, memory_order_relaxed) + 1;
    e = &dev->st->errors[count % NVME_STATE_ERRORS];
    memset(e, 0, sizeof(*e));
    e->error_count = le64_of(count);
    e->sqid = le16_of(req->sq->qid);
    e->cid = req->rec->sqe.cid;
    e->status = le16_of((uint16_t)(req->status << 1));
    e->param_location = le16_of(0xffff); /* no particular byte of the command */
    e->nsid = req->rec->sqe.nsid;
    if (req->sq->qid)
        e->lba =
            le64_of(le32_get(req->rec->sqe.cdw10) | (uint64_t)le32_get(req->rec->sqe.cdw11) << 32);
    atomic_store_explicit(&dev->st->life.error_count, count, memory_order_release);
}
