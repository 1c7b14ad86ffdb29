/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/state.h - the device part of a function's state memory: everything about an NVMe
 * controller that has to outlive the service. An ABI between service versions: change it only
 * together with NVME_STATE_VERSION. Written by the service that holds the lease, read by the next
 * one, which checks it as foreign input. */
#ifndef DEVICES_NVME_STATE_H
#define DEVICES_NVME_STATE_H

#include "bdev/bdev.h"
#include "link/function.h"
#include "spec/nvme.h"

#include <stdatomic.h>
#include <stdbool.h>

#define NVME_STATE_MAGIC 0x31454d564e534fULL /* "OSNVME1" */
enum {
    NVME_STATE_VERSION = 1,
    NVME_QUEUES = 32,       /* the admin queue and 31 more */
    NVME_STATE_NS = 1024,   /* namespaces attached to one controller */
    NVME_STATE_ERRORS = 16, /* error log entries */
    NVME_STATE_SLOTS_OFFSET = 0x40000,
};

/* Who the controller is, for the host. Compared at the first resume after adoption. */
struct nvme_state_identity {
    char nqn[224];
    char sn[20], mn[40];
    uint32_t cntlid; /* 0: none yet */
    uint32_t num_queues, max_depth, mdts;
    uint32_t offers; /* NVME_OFFER_* */
};
enum { NVME_OFFER_WRITE_ZEROES = 1, NVME_OFFER_DSM = 2 };

struct nvme_state_features {
    uint32_t arbitration, power, temp_over, temp_under, error_recovery, write_cache, coalescing,
        atomicity, async_event;
    uint32_t reserved;
    uint64_t timestamp_ms;      /* as the host set it */
    uint64_t timestamp_boot_ms; /* CLOCK_BOOTTIME of that moment */
    uint32_t timestamp_origin;
    uint32_t vector_plain[2048 / 32]; /* bit: no coalescing for this vector (feature 09h) */
};

struct nvme_state_head {
    uint64_t magic;
    uint32_t version, head_bytes, record_bytes, max_depth, queues, namespaces;
    _Alignas(64) struct nvme_state_identity identity;
};

/* The life of the controller. seq: an admin record's free-running index + 1, so that a command
 * which is executed again after a crash recognises its own effect. */
struct nvme_state_life {
    _Alignas(64) _Atomic uint32_t
        generation;              /* +1 with every reset: records of another one are void */
    _Atomic uint32_t enabled;    /* queues are valid */
    _Atomic uint32_t recovering; /* adoptions begun and not ended */
    _Atomic uint32_t cc;         /* last value acted upon */
    uint64_t power_on_boot_ms;
    _Atomic uint64_t dbbuf_seq; /* 0: no shadow doorbells */
    uint64_t dbbuf_shadow, dbbuf_eventidx;
    _Atomic uint32_t events, events_masked; /* NVME_EVENT_* */
    _Atomic uint32_t changed_count;         /* of the changed namespace list; > 1024: overflow */
    _Atomic uint64_t error_count;
    _Atomic uint32_t
        ns_used; /* entries at and above were never used (and their pages not touched) */
    uint32_t reserved;
    struct nvme_state_features features;
};

struct nvme_state_sq {
    _Alignas(64) _Atomic uint32_t valid;
    uint32_t size; /* entries */
    uint64_t gpa;
    _Atomic uint64_t created_by, deleted_by;
    uint16_t cqid, reserved;
    _Atomic uint32_t stopped;           /* invalid doorbell: fetched no more */
    _Alignas(64) _Atomic uint64_t head; /* free-running */
    _Atomic uint32_t slots_used;        /* slots at and above were never used */
};
static_assert(sizeof(struct nvme_state_sq) == 128, "ABI");

struct nvme_state_cq {
    _Alignas(64) _Atomic uint32_t valid;
    uint32_t size;
    uint64_t gpa;
    _Atomic uint64_t created_by, deleted_by;
    uint16_t iv, ien;
    _Atomic uint32_t stopped;
    _Alignas(64) _Atomic uint64_t tail; /* free-running */
};
static_assert(sizeof(struct nvme_state_cq) == 128, "ABI");

struct nvme_state_ns {
    _Alignas(64) _Atomic uint32_t nsid; /* 0: free */
    uint32_t block_bytes;
    uint64_t nblocks;
    struct bdev_uuid uuid;
    /* for the SMART log page */
    _Alignas(64) uint64_t reads;
    uint64_t writes, bytes_read, bytes_written;
};
static_assert(sizeof(struct nvme_state_ns) == 128, "ABI");

/* A command between fetch and completion. */
struct nvme_record {
    _Alignas(64) struct nvme_sqe sqe;
    _Alignas(64) _Atomic uint64_t index1; /* free-running queue index + 1; 0: the slot is free */
    uint32_t generation;
    uint16_t qid;
    _Atomic uint8_t starts; /* services that have begun to execute it */
    uint8_t reserved;
    _Atomic uint64_t
        intent; /* free-running CQ index + 1; 0: none. The three below are valid with it */
    uint32_t dw0;
    uint16_t status, sqhd;
    uint8_t reserved32[32];
};
static_assert(sizeof(struct nvme_record) == 128, "ABI");

struct nvme_state {
    _Alignas(4096) struct nvme_state_head head;
    _Alignas(4096) struct nvme_state_life life;
    _Alignas(4096) struct nvme_state_sq sq[NVME_QUEUES];
    _Alignas(4096) struct nvme_state_cq cq[NVME_QUEUES];
    _Alignas(4096) uint32_t changed[1024];
    _Alignas(4096) struct nvme_log_error errors[NVME_STATE_ERRORS];
    _Alignas(4096) uint8_t reserved[0x10000 - 0x6000];
    struct nvme_state_ns ns[NVME_STATE_NS];
};
static_assert(sizeof(struct nvme_state) <= NVME_STATE_SLOTS_OFFSET, "slots begin behind it");
static_assert(offsetof(struct nvme_state, sq) == 0x2000, "ABI");
static_assert(offsetof(struct nvme_state, ns) == 0x10000, "ABI");

/* Bytes of the device part for a queue depth. */
uint64_t nvme_state_bytes(uint32_t max_depth);
/* The first record of a queue's max_depth slots. */
struct nvme_record *nvme_state_slots(struct nvme_state *st, uint32_t max_depth, unsigned qid);

/* Makes an empty device part. The memory is new, or its maker died before it was done: what comes
 * behind the queues has never been written. */
void nvme_state_init(struct nvme_state *st, uint32_t max_depth);
/* 0, or -EPROTO with the field that does not fit this service. */
int nvme_state_check(const struct nvme_state *st, uint32_t max_depth, struct err *err);
/* Controller reset: no queues, no records, default features; identity, namespaces and counters
 * stay. */
void nvme_state_reset(struct nvme_state *st);

/* Entry of a namespace, or NULL. add: a free or existing entry; NULL when full. */
uint32_t nvme_state_ns_used(const struct nvme_state *st);
struct nvme_state_ns *nvme_state_ns_find(struct nvme_state *st, uint32_t nsid);
struct nvme_state_ns *nvme_state_ns_add(struct nvme_state *st, uint32_t nsid);

#endif
