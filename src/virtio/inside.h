/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio/inside.h - what the files of this room share. */
#ifndef VIRTIO_INSIDE_H
#define VIRTIO_INSIDE_H

#include "virtio/virtqueue.h"

#include "base/util.h"

enum {
    VIRTQ_CHAIN_MAX = 4096, /* descriptors walked for one chain: the service's limit */
    VIRTQ_PREFETCH = 8,
    VIRTQ_NAME_BYTES = 64,
};
/* A build without records measures what they cost, and recovers nothing: docs/performance.md. */
#ifdef SNAP_LEAVE_OUT_RECORDS
enum { VIRTQ_RECORDS = 0 };
#else
enum { VIRTQ_RECORDS = 1 };
#endif
/* Cursors in state memory beyond this make no sense: nothing counted here can get so far. */
#define VIRTQ_CURSOR_MAX (1ULL << 62)

enum virtq_slot_state { VIRTQ_SLOT_FREE, VIRTQ_SLOT_ACTIVE, VIRTQ_SLOT_DONE };

/* The private half of a record: what is used of it after it was checked once. */
struct virtq_slot {
    uint16_t head, ndesc;       /* as in the record */
    uint16_t saved, saved_last; /* packed: first and last entry of the chain in saved[] */
    uint8_t state;              /* enum virtq_slot_state */
};

struct virtq_finished {
    uint16_t slot;
    uint32_t len;
};

struct virtq {
    struct guest_map *map;
    struct virtq_state *st;
    struct virtq_record *records;
    struct virtq_desc *saved;
    uint32_t size, start;
    bool packed, event_idx, indirect;
    bool parked;     /* the ring is not all in guest memory */
    bool first_post; /* nothing was posted yet: the driver is told in any case */
    const char *broken;

    uint64_t avail, used; /* free-running, as in virtq_state */
    uint32_t avail_pos, used_pos;
    bool avail_wrap, used_wrap; /* packed */
    union {
        struct {
            const struct virtq_desc *desc;
            const struct virtq_avail *avail;
            struct virtq_used *used;
        } split;
        struct {
            struct virtq_packed_desc *desc;
            const struct virtq_packed_event *driver;
            struct virtq_packed_event *device;
        } packed;
    } ring;
    uint32_t notify; /* what we last stored to ask for kicks; VIRTQ_NOTIFY_UNKNOWN */

    struct virtq_slot *slots;
    uint16_t *free; /* stack of free slots, the lowest on top */
    uint32_t nfree, slots_used;
    uint64_t *busy; /* bit per head or buffer ID: in flight */
    struct virtq_finished *done;
    uint32_t ndone, reposts; /* reposts: the first so many have a stored intent */

    /* packed: free entries of saved[] are a list, and a chain is a piece cut off its front. The
     * in-flight area of vhost-user works the same way, so its entries have the same numbers. */
    uint16_t *next; /* of each entry; size: the end */
    uint16_t saved_free;
    uint32_t ndesc; /* descriptors in flight */

    void *area; /* the in-flight area, NULL: none. Written only, while the queue is open */
    uint16_t last_batch;

    uint16_t *live;
    struct virtq_found found;
    uint64_t fetched, completed; /* chains, since it was opened */
    uint64_t desc_gpa, driver_gpa, device_gpa;
    char name[VIRTQ_NAME_BYTES];
};

#define VIRTQ_NOTIFY_UNKNOWN UINT32_MAX

/* ---- shared words ---- */

static inline uint16_t load16(const le16 *p)
{
    return le16toh(
        atomic_load_explicit((const _Atomic uint16_t *)(const void *)p, memory_order_relaxed));
}

static inline uint16_t load16_acquire(const le16 *p)
{
    return le16toh(
        atomic_load_explicit((const _Atomic uint16_t *)(const void *)p, memory_order_acquire));
}

static inline void store16(le16 *p, uint16_t v)
{
    atomic_store_explicit((_Atomic uint16_t *)(void *)p, htole16(v), memory_order_relaxed);
}

static inline void store16_release(le16 *p, uint16_t v)
{
    atomic_store_explicit((_Atomic uint16_t *)(void *)p, htole16(v), memory_order_release);
}

static inline void store32(le32 *p, uint32_t v)
{
    atomic_store_explicit((_Atomic uint32_t *)(void *)p, htole32(v), memory_order_relaxed);
}

static inline bool bit_test(const uint64_t *bits, uint32_t i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static inline void bit_set(uint64_t *bits, uint32_t i)
{
    bits[i / 64] |= 1ULL << (i % 64);
}

static inline void bit_clear(uint64_t *bits, uint32_t i)
{
    bits[i / 64] &= ~(1ULL << (i % 64));
}

static inline size_t bitmap_words(uint32_t n)
{
    return (n + 63) / 64;
}

/* ---- record.c: slots ---- */
int virtq_slots_init(struct virtq *vq);
void virtq_slots_free(struct virtq *vq);
void virtq_slots_stack(struct virtq *vq); /* the stack of free slots, from their states */
/* Takes a free slot (vq->nfree > 0) and makes its record valid, still unpublished. */
unsigned virtq_slot_fill(struct virtq *vq, uint64_t index, uint16_t head, uint16_t ndesc,
                         uint16_t saved, uint16_t saved_last);
void virtq_slot_release(struct virtq *vq, unsigned slot); /* frees record and slot */
/* Where in the ring a cursor is. */
struct virtq_position {
    uint32_t pos;
    bool wrap; /* packed */
};
struct virtq_position virtq_position(const struct virtq *vq, uint64_t cursor);
void virtq_cursors_set(struct virtq *vq, uint64_t avail, uint64_t used);
/* Links what is not in taken (bit per entry of saved[]; NULL: nothing is) as free. */
void virtq_saved_list(struct virtq *vq, const uint64_t *taken);

/* ---- split.c, packed.c: the two formats ---- */
bool virtq_split_bind(struct virtq *vq);
bool virtq_split_has_work(struct virtq *vq);
unsigned virtq_split_fetch(struct virtq *vq, uint16_t *slots, unsigned max);
/* Writes the first n finished chains into the ring; the driver does not see them yet. */
void virtq_split_write(struct virtq *vq, uint32_t n);
/* It does. */
void virtq_split_publish(struct virtq *vq, uint64_t used);
bool virtq_split_wants_interrupt(struct virtq *vq, uint64_t old);
void virtq_split_relax(struct virtq *vq);
void virtq_split_arm(struct virtq *vq);
uint16_t virtq_split_used_idx(const struct virtq *vq); /* what the ring says */

bool virtq_packed_bind(struct virtq *vq);
bool virtq_packed_has_work(struct virtq *vq);
unsigned virtq_packed_fetch(struct virtq *vq, uint16_t *slots, unsigned max);
void virtq_packed_write(struct virtq *vq, uint32_t n, bool again);
void virtq_packed_publish(struct virtq *vq, uint64_t used, bool again);
bool virtq_packed_wants_interrupt(struct virtq *vq, uint64_t old);
void virtq_packed_relax(struct virtq *vq);
void virtq_packed_arm(struct virtq *vq);
/* The descriptor at pos waits for its completion in the lap with this wrap counter. */
bool virtq_packed_is_avail(const struct virtq *vq, uint32_t pos, bool wrap);

/* Nothing is completed in the ndesc descriptors from the used position on. */
void virtq_packed_take_back(struct virtq *vq, uint32_t ndesc);

/* ---- recover.c: what the last service left in state memory ---- */
int virtq_adopt(struct virtq *vq, struct err *err);

/* ---- readback.c: what it left in the in-flight area ---- */
/* Makes records of it and sets the cursors. 1; 0: the area is not initialised; -EPROTO: it makes no
 * sense, and nothing has been changed. -ENOMEM. */
int virtq_readback(struct virtq *vq, struct err *err);

/* ---- mirror.c: keeps the in-flight area current ---- */
void virtq_mirror_sync(struct virtq *vq); /* writes all of it anew */
void virtq_mirror_fetched(struct virtq *vq, unsigned slot);
void virtq_mirror_posting(struct virtq *vq, uint32_t n, uint64_t used);
void virtq_mirror_posted(struct virtq *vq, uint32_t n, uint64_t used);
void virtq_mirror_dropped(struct virtq *vq, unsigned slot);

#endif
