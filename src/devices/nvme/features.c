/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Get and Set Features (Base 2.0, 5.27). Values live in state memory; none can be saved beyond a
 * reset. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <string.h>
#include <time.h>

enum { TEMP_OVER = 0, TEMP_UNDER = 1, ASYNC_EVENT_MASK = 0xff | NVME_OAES_NS_ATTR };

uint64_t nvme_boot_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* What is there, and whether it can be changed; capabilities as Get Features reports them. */
static uint32_t capabilities(uint32_t fid)
{
    switch (fid) {
    case NVME_FEAT_ERROR_RECOVERY:
        return NVME_FEATCAP_CHANGEABLE | NVME_FEATCAP_NS_SPECIFIC;
    case NVME_FEAT_ARBITRATION:
    case NVME_FEAT_POWER_MANAGEMENT:
    case NVME_FEAT_TEMPERATURE:
    case NVME_FEAT_WRITE_CACHE:
    case NVME_FEAT_NUM_QUEUES:
    case NVME_FEAT_IRQ_COALESCING:
    case NVME_FEAT_IRQ_VECTOR:
    case NVME_FEAT_WRITE_ATOMICITY:
    case NVME_FEAT_ASYNC_EVENT:
    case NVME_FEAT_TIMESTAMP:
        return NVME_FEATCAP_CHANGEABLE;
    default:
        return 0;
    }
}

/* The plain 32-bit ones: where they are. false: fid is another one. */
static bool word_of(struct nvme_state_features *f, uint32_t fid, uint32_t **ret)
{
    switch (fid) {
    case NVME_FEAT_ARBITRATION:
        *ret = &f->arbitration;
        return true;
    case NVME_FEAT_POWER_MANAGEMENT:
        *ret = &f->power;
        return true;
    case NVME_FEAT_ERROR_RECOVERY:
        *ret = &f->error_recovery;
        return true;
    case NVME_FEAT_WRITE_CACHE:
        *ret = &f->write_cache;
        return true;
    case NVME_FEAT_IRQ_COALESCING:
        *ret = &f->coalescing;
        return true;
    case NVME_FEAT_WRITE_ATOMICITY:
        *ret = &f->atomicity;
        return true;
    case NVME_FEAT_ASYNC_EVENT:
        *ret = &f->async_event;
        return true;
    default:
        return false;
    }
}

static nvme_status check_word(uint32_t fid, uint32_t value)
{
    switch (fid) {
    case NVME_FEAT_POWER_MANAGEMENT: /* there is power state 0 */
        return value & 0x1f ? NVME_DNR(NVME_SC_INVALID_FIELD) : NVME_SC_SUCCESS;
    case NVME_FEAT_ERROR_RECOVERY: /* DULBE needs NSFEAT */
        return value >> 16 ? NVME_DNR(NVME_SC_INVALID_FIELD) : NVME_SC_SUCCESS;
    case NVME_FEAT_WRITE_CACHE:
    case NVME_FEAT_WRITE_ATOMICITY:
        return value & ~1U ? NVME_DNR(NVME_SC_INVALID_FIELD) : NVME_SC_SUCCESS;
    case NVME_FEAT_ASYNC_EVENT:
        return value & ~(uint32_t)ASYNC_EVENT_MASK ? NVME_DNR(NVME_SC_INVALID_FIELD)
                                                   : NVME_SC_SUCCESS;
    default:
        return NVME_SC_SUCCESS;
    }
}

static bool temperature(struct nvme_state_features *f, uint32_t cdw11, uint32_t **ret)
{
    uint32_t sensor = cdw11 >> 16 & 0xf, type = cdw11 >> 20 & 3;

    if (sensor != 0 && sensor != 0xf) /* the composite temperature is all there is */
        return false;
    if (type != TEMP_OVER && type != TEMP_UNDER)
        return false;
    *ret = type == TEMP_OVER ? &f->temp_over : &f->temp_under;
    return true;
}

static uint32_t num_queues(const struct nvme_dev *dev)
{
    return (dev->num_queues - 1) | (dev->num_queues - 1) << 16;
}

static bool has_io_queues(const struct nvme_dev *dev)
{
    for (unsigned i = 1; i < NVME_QUEUES; i++)
        if (dev->sq[i] || dev->cq[i])
            return true;
    return false;
}

static nvme_status set_timestamp(struct nvme_req *req, struct nvme_state_features *f)
{
    le64 value = {0};
    nvme_status st = nvme_copy_from_host(req, &value, sizeof(value));

    if (st != NVME_SC_SUCCESS)
        return st;
    f->timestamp_ms = le64_get(value) & 0xffffffffffffULL;
    crash_point(nvme_timestamp_half);
    f->timestamp_boot_ms = nvme_boot_ms();
    f->timestamp_origin = 1;
    return st;
}

static nvme_status get_timestamp(struct nvme_req *req, const struct nvme_state_features *f)
{
    uint64_t since =
        f->timestamp_origin ? f->timestamp_boot_ms : req->sq->dev->st->life.power_on_boot_ms;
    uint64_t now = f->timestamp_ms + (nvme_boot_ms() - since);
    le64 value = le64_of((now & 0xffffffffffffULL) | (uint64_t)(f->timestamp_origin & 7) << 49);

    return nvme_copy_to_host(req, &value, sizeof(value), sizeof(value));
}

nvme_status nvme_set_features(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    struct nvme_state_features *f = &dev->st->life.features;
    uint32_t cdw10 = le32_get(sqe->cdw10), cdw11 = le32_get(sqe->cdw11);
    uint32_t fid = NVME_FEAT_FID(cdw10), nsid = le32_get(sqe->nsid), *word;
    uint32_t caps = capabilities(fid);
    nvme_status st;

    if (!caps)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    if (cdw10 & NVME_FEAT_SV)
        return NVME_DNR(NVME_SC_FEATURE_NOT_SAVEABLE);
    if (nsid != 0 && nsid != NVME_NSID_ALL) {
        struct nvme_dev_ns *ns;

        st = nvme_dev_ns_get(dev, nsid, &ns);
        if (st != NVME_SC_SUCCESS)
            return st;
        if (!(caps & NVME_FEATCAP_NS_SPECIFIC))
            return NVME_DNR(NVME_SC_FEATURE_NOT_NS_SPECIFIC);
    }
    if (word_of(f, fid, &word)) {
        st = check_word(fid, cdw11);
        if (st == NVME_SC_SUCCESS)
            *word = cdw11;
        crash_point(nvme_feature_stored);
        return st;
    }
    switch (fid) {
    case NVME_FEAT_TEMPERATURE:
        if (!temperature(f, cdw11, &word))
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        *word = cdw11 & 0xffff;
        crash_point(nvme_feature_stored);
        return NVME_SC_SUCCESS;
    case NVME_FEAT_NUM_QUEUES:
        if ((cdw11 & 0xffff) == 0xffff || cdw11 >> 16 == 0xffff || dev->num_queues == 0)
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        if (has_io_queues(dev))
            return NVME_DNR(NVME_SC_SEQUENCE_ERROR);
        req->dw0 = num_queues(dev);
        return NVME_SC_SUCCESS;
    case NVME_FEAT_IRQ_VECTOR: {
        uint32_t iv = cdw11 & 0xffff;

        if (iv >= dev->nvectors)
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        f->vector_plain[iv / 32] &= ~(1U << iv % 32);
        f->vector_plain[iv / 32] |= (cdw11 >> 16 & 1) << iv % 32;
        crash_point(nvme_feature_stored);
        return NVME_SC_SUCCESS;
    }
    default:
        return set_timestamp(req, &dev->st->life.features);
    }
}

nvme_status nvme_get_features(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t cdw10 = le32_get(sqe->cdw10), cdw11 = le32_get(sqe->cdw11), *word;
    uint32_t fid = NVME_FEAT_FID(cdw10), sel = NVME_FEAT_SEL(cdw10);
    struct nvme_state_features defaults = {.arbitration = 7, .temp_over = 343, .write_cache = 1};
    struct nvme_state_features *f = sel == NVME_SEL_CURRENT ? &dev->st->life.features : &defaults;

    if (!capabilities(fid) || sel > NVME_SEL_CAPABILITIES)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    if (sel == NVME_SEL_CAPABILITIES) {
        req->dw0 = capabilities(fid);
        return NVME_SC_SUCCESS;
    }
    if (word_of(f, fid, &word)) {
        req->dw0 = *word;
        return NVME_SC_SUCCESS;
    }
    switch (fid) {
    case NVME_FEAT_TEMPERATURE:
        if (!temperature(f, cdw11, &word))
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        req->dw0 = *word;
        return NVME_SC_SUCCESS;
    case NVME_FEAT_NUM_QUEUES:
        if (dev->num_queues == 0)
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        req->dw0 = num_queues(dev);
        return NVME_SC_SUCCESS;
    case NVME_FEAT_IRQ_VECTOR: {
        uint32_t iv = cdw11 & 0xffff;

        if (iv >= dev->nvectors)
            return NVME_DNR(NVME_SC_INVALID_FIELD);
        req->dw0 = iv | (f->vector_plain[iv / 32] >> iv % 32 & 1) << 16;
        return NVME_SC_SUCCESS;
    }
    default:
        return get_timestamp(req, sel == NVME_SEL_CURRENT ? &dev->st->life.features : &defaults);
    }
}
