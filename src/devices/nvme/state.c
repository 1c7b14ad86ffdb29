/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/state.h"

#include "base/crash_point.h"
#include "base/util.h"

#include <errno.h>
#include <string.h>
#include <time.h>

uint64_t nvme_state_bytes(uint32_t max_depth)
{
    return NVME_STATE_SLOTS_OFFSET + (uint64_t)NVME_QUEUES * max_depth * sizeof(struct nvme_record);
}

struct nvme_record *nvme_state_slots(struct nvme_state *st, uint32_t max_depth, unsigned qid)
{
    return (struct nvme_record *)((char *)st + NVME_STATE_SLOTS_OFFSET) + (size_t)qid * max_depth;
}

static uint64_t boot_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void default_features(struct nvme_state_features *f)
{
    memset(f, 0, sizeof(*f));
    f->arbitration = 7; /* no burst limit */
    f->temp_over = 343; /* K: 70 C */
    f->write_cache = 1;
}

void nvme_state_init(struct nvme_state *st, uint32_t max_depth)
{
    st->head.magic = 0;
    memset(&st->life, 0, offsetof(struct nvme_state, changed) - offsetof(struct nvme_state, life));
    memset(&st->head.identity, 0, sizeof(st->head.identity));
    st->head.version = NVME_STATE_VERSION;
    st->head.head_bytes = sizeof(struct nvme_state);
    st->head.record_bytes = sizeof(struct nvme_record);
    st->head.max_depth = max_depth;
    st->head.queues = NVME_QUEUES;
    st->head.namespaces = NVME_STATE_NS;
    default_features(&st->life.features);
    st->life.power_on_boot_ms = boot_ms();
    atomic_store_explicit(&st->life.generation, 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);
    crash_point(nvme_state_half);
    st->head.magic = NVME_STATE_MAGIC;
}

int nvme_state_check(const struct nvme_state *st, uint32_t max_depth, struct err *err)
{
    const struct nvme_state_head *h = &st->head;

    if (h->magic != NVME_STATE_MAGIC || h->version != NVME_STATE_VERSION)
        return err_set(err, -EPROTO,
                       "NVMe state memory has version %u, this service knows version %d: run the "
                       "service version that wrote it, or reset the function",
                       h->version, NVME_STATE_VERSION);
    if (h->head_bytes != sizeof(struct nvme_state) ||
        h->record_bytes != sizeof(struct nvme_record) || h->queues != NVME_QUEUES ||
        h->namespaces != NVME_STATE_NS)
        return err_set(err, -EPROTO, "NVMe state memory has another layout");
    if (h->max_depth != max_depth)
        return err_set(err, -EPROTO, "queue depth was %u, is %u now", h->max_depth, max_depth);
    return 0;
}

void nvme_state_reset(struct nvme_state *st)
{
    struct nvme_state_life *life = &st->life;

    atomic_store_explicit(&life->enabled, 0, memory_order_release);
    crash_point(nvme_reset_disabled);
    /* From here on all records are void, whatever the rest of this function still has to do. */
    atomic_store_explicit(&life->generation,
                          atomic_load_explicit(&life->generation, memory_order_relaxed) + 1,
                          memory_order_release);
    crash_point(nvme_reset_records);
    for (unsigned i = 0; i < NVME_QUEUES; i++) {
        struct nvme_state_sq *sq = &st->sq[i];
        struct nvme_state_cq *cq = &st->cq[i];

        atomic_store_explicit(&sq->valid, 0, memory_order_release);
        crash_point(nvme_reset_queue);
        atomic_store_explicit(&cq->valid, 0, memory_order_release);
        atomic_store_explicit(&sq->created_by, 0, memory_order_relaxed);
        atomic_store_explicit(&sq->deleted_by, 0, memory_order_relaxed);
        atomic_store_explicit(&cq->created_by, 0, memory_order_relaxed);
        atomic_store_explicit(&cq->deleted_by, 0, memory_order_relaxed);
    }
    atomic_store_explicit(&life->dbbuf_seq, 0, memory_order_release);
    atomic_store_explicit(&life->recovering, 0, memory_order_release);
    atomic_store_explicit(&life->events, 0, memory_order_relaxed);
    atomic_store_explicit(&life->events_masked, 0, memory_order_relaxed);
    atomic_store_explicit(&life->changed_count, 0, memory_order_relaxed);
    default_features(&life->features);
}

uint32_t nvme_state_ns_used(const struct nvme_state *st)
{
    uint32_t n = atomic_load_explicit(&st->life.ns_used, memory_order_acquire);

    return MIN(n, (uint32_t)NVME_STATE_NS);
}

struct nvme_state_ns *nvme_state_ns_find(struct nvme_state *st, uint32_t nsid)
{
    for (unsigned i = 0; i < nvme_state_ns_used(st); i++)
        if (atomic_load_explicit(&st->ns[i].nsid, memory_order_acquire) == nsid)
            return &st->ns[i];
    return NULL;
}

struct nvme_state_ns *nvme_state_ns_add(struct nvme_state *st, uint32_t nsid)
{
    struct nvme_state_ns *ns = nvme_state_ns_find(st, nsid);
    uint32_t used = nvme_state_ns_used(st);

    if (!ns)
        ns = nvme_state_ns_find(st, 0);
    if (!ns && used < NVME_STATE_NS) {
        ns = &st->ns[used];
        atomic_store_explicit(&ns->nsid, 0, memory_order_relaxed);
        atomic_store_explicit(&st->life.ns_used, used + 1, memory_order_release);
    }
    return ns;
}
