/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Get Log Page (Base 2.0, 5.16). A page is built whole and zeroed; the host gets its part of it and
 * zeroes beyond the end. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <string.h>

enum { ROOM_TEMPERATURE_K = 310 };

union page {
    uint8_t bytes[4096];
    struct nvme_log_supported supported;
    struct nvme_log_error errors[NVME_STATE_ERRORS];
    struct nvme_log_smart smart;
    struct nvme_log_fw_slot fw;
    struct nvme_log_changed_ns changed;
    struct nvme_log_effects effects;
};

static uint32_t build_supported(struct nvme_dev *dev, union page *p)
{
    for (unsigned i = NVME_LOG_SUPPORTED; i <= NVME_LOG_EFFECTS; i++)
        p->supported.lid[i] = le32_of(1);
    return sizeof(p->supported);
}

/* Newest first. */
static uint32_t build_errors(struct nvme_dev *dev, union page *p)
{
    uint64_t count = atomic_load_explicit(&dev->st->life.error_count, memory_order_acquire);

    for (unsigned i = 0; i < NVME_STATE_ERRORS && i < count; i++)
        p->errors[i] = dev->st->errors[(count - i) % NVME_STATE_ERRORS];
    return sizeof(p->errors);
}

static void put_count(uint8_t *field, uint64_t value)
{
    le64 v = le64_of(value);

    memcpy(field, &v, sizeof(v));
}

static uint32_t build_smart(struct nvme_dev *dev, union page *p)
{
    struct nvme_log_smart *s = &p->smart;
    uint64_t reads = 0, writes = 0, bytes_read = 0, bytes_written = 0;

    for (unsigned i = 0; i < dev->nns; i++) {
        const struct nvme_state_ns *ns = dev->ns[i]->st;

        reads += ns->reads;
        writes += ns->writes;
        bytes_read += ns->bytes_read;
        bytes_written += ns->bytes_written;
    }
    s->temperature[0] = ROOM_TEMPERATURE_K & 0xff;
    s->temperature[1] = ROOM_TEMPERATURE_K >> 8;
    s->avail_spare = 100;
    s->spare_thresh = 10;
    put_count(s->data_units_read, (bytes_read / 512 + 999) / 1000);
    put_count(s->data_units_written, (bytes_written / 512 + 999) / 1000);
    put_count(s->host_reads, reads);
    put_count(s->host_writes, writes);
    put_count(s->power_cycles, 1);
    put_count(s->power_on_hours, (nvme_boot_ms() - dev->st->life.power_on_boot_ms) / 3600000);
    put_count(s->num_err_log_entries,
              atomic_load_explicit(&dev->st->life.error_count, memory_order_relaxed));
    return sizeof(*s);
}

static uint32_t build_fw(struct nvme_dev *dev, union page *p)
{
    p->fw.afi = 1;
    memset(p->fw.frs[0], ' ', sizeof(p->fw.frs[0]));
    memcpy(p->fw.frs[0], OPENSNAP_VERSION, MIN(sizeof(p->fw.frs[0]), sizeof(OPENSNAP_VERSION) - 1));
    return sizeof(p->fw);
}

static uint32_t build_changed(struct nvme_dev *dev, union page *p)
{
    uint32_t n = atomic_load_explicit(&dev->st->life.changed_count, memory_order_acquire),
             count = 0;
    uint32_t last = 0;

    if (n > ARRAY_SIZE(dev->st->changed)) {
        p->changed.nsid[0] = le32_of(NVME_NSID_ALL);
        return sizeof(p->changed);
    }
    /* In increasing order, as the host expects; the list is short and this is no data path. */
    for (;;) {
        uint32_t best = UINT32_MAX;

        for (uint32_t i = 0; i < n; i++)
            if (dev->st->changed[i] > last && dev->st->changed[i] < best)
                best = dev->st->changed[i];
        if (best == UINT32_MAX)
            return sizeof(p->changed);
        p->changed.nsid[count++] = le32_of(best);
        last = best;
    }
}

static uint32_t build_effects(struct nvme_dev *dev, union page *p)
{
    static const uint8_t admin[] = {
        NVME_ADMIN_DELETE_SQ,
        NVME_ADMIN_CREATE_SQ,
        NVME_ADMIN_GET_LOG_PAGE,
        NVME_ADMIN_DELETE_CQ,
        NVME_ADMIN_CREATE_CQ,
        NVME_ADMIN_IDENTIFY,
        NVME_ADMIN_ABORT,
        NVME_ADMIN_SET_FEATURES,
        NVME_ADMIN_GET_FEATURES,
        NVME_ADMIN_ASYNC_EVENT,
        NVME_ADMIN_DOORBELL_BUFFER_CONFIG,
    };
    le32 *io = p->effects.iocs;

    for (unsigned i = 0; i < ARRAY_SIZE(admin); i++)
        p->effects.acs[admin[i]] = le32_of(NVME_EFFECTS_CSUPP);
    io[NVME_CMD_READ] = io[NVME_CMD_FLUSH] = le32_of(NVME_EFFECTS_CSUPP);
    io[NVME_CMD_WRITE] = le32_of(NVME_EFFECTS_CSUPP | NVME_EFFECTS_LBCC);
    if (dev->write_zeroes)
        io[NVME_CMD_WRITE_ZEROES] = io[NVME_CMD_WRITE];
    if (dev->dsm)
        io[NVME_CMD_DSM] = io[NVME_CMD_WRITE];
    return sizeof(p->effects);
}

static uint32_t (*const builders[])(struct nvme_dev *dev, union page *p) = {
    [NVME_LOG_SUPPORTED] = build_supported, [NVME_LOG_ERROR] = build_errors,
    [NVME_LOG_SMART] = build_smart,         [NVME_LOG_FW_SLOT] = build_fw,
    [NVME_LOG_CHANGED_NS] = build_changed,  [NVME_LOG_EFFECTS] = build_effects,
};

/* The host has got (or will get, whatever happens) what it asked for: its events are acknowledged.
 */
static void log_was_read(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    struct nvme_state_life *life = &dev->st->life;

    if (NVME_LOG_LID(le32_get(req->rec->sqe.cdw10)) == NVME_LOG_ERROR) {
        nvme_event_unmask(dev, NVME_EVENT_DB_REG | NVME_EVENT_DB_VALUE);
        return;
    }
    crash_point(nvme_log_unmarked);
    /* What came after the page was built stays for the next time. */
    if (req->effect > ARRAY_SIZE(dev->st->changed)) {
        atomic_store_explicit(&life->changed_count, 0, memory_order_release);
    } else {
        uint32_t n = atomic_load_explicit(&life->changed_count, memory_order_relaxed);

        n = MIN(n, (uint32_t)ARRAY_SIZE(dev->st->changed));
        if (req->effect <= n) {
            memmove(dev->st->changed, dev->st->changed + req->effect,
                    (n - req->effect) * sizeof(uint32_t));
            atomic_store_explicit(&life->changed_count, n - req->effect, memory_order_release);
        }
    }
    crash_point(nvme_log_cut);
    nvme_event_unmask(dev, NVME_EVENT_NS);
}

nvme_status nvme_get_log_page(struct nvme_req *req)
{
    struct nvme_dev *dev = req->sq->dev;
    const struct nvme_sqe *sqe = &req->rec->sqe;
    uint32_t cdw10 = le32_get(sqe->cdw10), lid = NVME_LOG_LID(cdw10), nsid = le32_get(sqe->nsid);
    uint64_t dwords = (cdw10 >> 16 | (uint64_t)(le32_get(sqe->cdw11) & 0xffff) << 16) + 1;
    uint64_t offset = le32_get(sqe->cdw12) | (uint64_t)le32_get(sqe->cdw13) << 32;
    union page page;
    nvme_status st;
    uint32_t size;

    if (lid >= ARRAY_SIZE(builders))
        return NVME_DNR(NVME_SC_LOG_PAGE);
    if (nsid != 0 && nsid != NVME_NSID_ALL)
        return NVME_DNR(NVME_SC_INVALID_FIELD); /* no log page is per namespace */
    if (dwords * 4 > dev->max_bytes || offset % 4 != 0)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    if (le32_get(sqe->cdw14) & 1U << 23) /* offset as an index: not supported */
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    memset(&page, 0, sizeof(page));
    req->effect = atomic_load_explicit(&dev->st->life.changed_count, memory_order_relaxed);
    size = builders[lid](dev, &page);
    if (offset > size)
        return NVME_DNR(NVME_SC_INVALID_FIELD);
    st =
        nvme_copy_to_host(req, page.bytes + offset,
                          (uint32_t)MIN(dwords * 4, (uint64_t)size - offset), (uint32_t)dwords * 4);
    if (st == NVME_SC_SUCCESS && !(cdw10 & NVME_LOG_RAE) &&
        (lid == NVME_LOG_ERROR || lid == NVME_LOG_CHANGED_NS))
        req->on_intent = log_was_read;
    return st;
}
