/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/state_memory.h - layout of a function's state memory: a sealed memfd that outlives the
 * service. It is an ABI between snap_emu and every service version: change it only together with
 * STATE_VERSION.
 *
 * Four owners, never two in one cache line:
 *   head    written once by snap_emu when it makes the function
 *   emu     written by snap_emu only
 *   svc     written by the service that holds the lease; by snap_emu only when nobody does (after
 * the fence) device  opaque to snap_emu, owned by the device model of the lease holder Each side
 * treats what the other wrote as foreign input. Shared words are touched through C11
 * acquire/release only. */
#ifndef LINK_STATE_MEMORY_H
#define LINK_STATE_MEMORY_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define STATE_MAGIC 0x31545350414e534fULL /* "OSNAPST1" */
enum {
    STATE_VERSION = 2,
    STATE_REG_BYTES = 256,   /* answered from images: NVMe registers 0x00..0xff, virtio device
                                configuration */
    STATE_LOG_ENTRIES = 256, /* register writes kept while nobody reads them */
    STATE_DEVICE_OFFSET = 0x10000,
};

/* emu.flags */
enum {
    STATE_HOST_CONNECTED = 1 << 0,   /* a client is on the function's socket */
    STATE_BUS_MASTER = 1 << 1,       /* command register, bit 2 */
    STATE_POWERED = 1 << 2,          /* D0 */
    STATE_DOORBELLS_MAPPED = 1 << 3, /* the client has the doorbell page: no notifications */
    STATE_FAILED = 1 << 4, /* snap_emu stopped the function: answer nothing, touch nothing */
};

struct state_head {
    uint64_t magic;
    uint32_t version;
    uint32_t head_bytes;
    uint64_t total_bytes;
    uint32_t device_offset;
    uint32_t reg_bytes, log_entries;
    uint32_t function_kind; /* enum function_kind */
    char vuid[64];
};

struct state_emu {
    _Alignas(64) _Atomic uint32_t epoch; /* +1 with every reset; starts at 1 */
    _Atomic uint32_t flags;
    _Alignas(64) _Atomic uint64_t log_tail; /* free-running: entries ever written */
    _Atomic uint64_t log_lost;              /* writes that found the log full */
    _Alignas(
        64) _Atomic uint32_t reg_host[STATE_REG_BYTES / 4]; /* what the host last wrote, masked */
    _Alignas(64) _Atomic uint64_t
        doorbell_messages; /* doorbell writes that came as messages, ever */
};

/* reg_mask says which bits a read takes from reg_host (1) and which from reg_dev (0). */
struct state_svc {
    _Alignas(64) _Atomic uint64_t log_head; /* free-running: entries applied */
    _Atomic uint64_t log_lost_seen;
    _Atomic uint32_t device_epoch; /* epoch the device part belongs to; others are void */
    _Atomic uint32_t initialized;  /* 1: images below are valid */
    _Atomic uint32_t
        crashed; /* 1: the holder died of a fault of its own (link/crash.h), not of SIGKILL */
    /* virtio: what the device offers, before LINK_START; its share of the device status. */
    _Atomic uint64_t features;
    _Atomic uint32_t queues, queue_size; /* how many, and how large at most */
    _Atomic uint32_t status;             /* VIRTIO_STATUS_NEEDS_RESET or 0; ends with a reset */
    _Alignas(64) _Atomic uint32_t reg_dev[STATE_REG_BYTES / 4];
    _Atomic uint32_t reg_mask[STATE_REG_BYTES / 4];
    _Atomic uint32_t reg_dev_reset[STATE_REG_BYTES / 4];  /* reg_dev after a reset */
    _Atomic uint32_t reg_host_reset[STATE_REG_BYTES / 4]; /* reg_host after a reset */
};

struct state_reg_write {
    uint32_t offset, size; /* size 1, 2, 4 or 8; offset aligned to it */
    uint64_t value;
    uint32_t epoch, reserved;
    uint64_t seq; /* its free-running index, for checks */
};
static_assert(sizeof(struct state_reg_write) == 32, "log entries are 32 bytes");

struct state_memory {
    _Alignas(4096) struct state_head head;
    _Alignas(4096) struct state_emu emu;
    _Alignas(4096) struct state_svc svc;
    _Alignas(4096) struct state_reg_write log[STATE_LOG_ENTRIES];
};
static_assert(sizeof(struct state_memory) <= STATE_DEVICE_OFFSET,
              "generic part fits before the device part");
static_assert(offsetof(struct state_memory, svc) == 0x2000, "ABI");
static_assert(offsetof(struct state_memory, log) == 0x3000, "ABI");

/* Sparse: pages never touched cost nothing. */
static inline uint64_t state_device_bytes(uint32_t max_queue_depth)
{
    return (2ULL << 20) + 33ULL * max_queue_depth * 256;
}

static inline void *state_device(struct state_memory *st)
{
    return (char *)st + STATE_DEVICE_OFFSET;
}

/* The doorbell memfd is the image of the host's BAR0: one unused page, then the doorbell page. A
 * client that maps it uses the BAR's own offsets (file offset = BAR offset), so everybody finds the
 * doorbells at this file offset. */
enum { STATE_DOORBELL_OFFSET = 0x1000, STATE_DOORBELL_BYTES = 0x1000 };

/* One per service, made by it and written by both: how snap_emu wakes a reactor. Bits of a
 * reactor's active words stand for the slots the service gave its functions at LINK_OPEN. snap_emu
 * sets the bit, full fence, and writes the reactor's eventfd only when sleeping is set; the reactor
 * sets sleeping, full fence, and looks at the bits. */
enum { WAKE_REACTORS = 64, WAKE_SLOTS = 4096 };
struct wake_reactor {
    _Alignas(64) _Atomic uint32_t sleeping;
    _Alignas(64) _Atomic uint64_t active[WAKE_SLOTS / 64];
};
struct wake_page {
    struct wake_reactor reactor[WAKE_REACTORS];
};

#endif
