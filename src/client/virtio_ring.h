/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/virtio_ring.h - the driver's side of a virtqueue, split or packed. Requests have numbers
 * (ids) below nids, the caller's to hand out; each owns its descriptors, or its indirect table, for
 * good, so nothing is allocated per request. A batch is added, published with one store and
 * followed by one decision whether to kick. What the device writes is not trusted: a used id is
 * handed up as it came, and as the number of a request only if it can be one.
 * Thread: one per ring. The memory is the caller's and shared with the device. */
#ifndef CLIENT_VIRTIO_RING_H
#define CLIENT_VIRTIO_RING_H

#include "spec/virtio.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Memory that a ring takes, in the order of the fields below; each part begins on a page. */
struct virtio_ring_memory {
    void *desc, *driver, *device; /* descriptor area, driver area (avail), device area (used) */
    void *tables;                 /* indirect: nids tables of max_segments descriptors, else NULL */
    uint64_t tables_gpa;
};

struct virtio_ring_opts {
    bool packed, event_idx, indirect;
    uint16_t size;                    /* descriptors; split: a power of two */
    uint16_t max_segments;            /* of one request */
    struct virtio_ring_memory memory; /* zeroed */
};

struct virtio_seg {
    uint64_t gpa;
    uint32_t len;
    bool write; /* by the device */
};

/* A used element. id: of the request, or -1 when raw names none. bad_index: there is none; len is a
 * used index that says more than the ring holds. What lay between is lost. */
struct virtio_used {
    uint32_t raw, len;
    int id;
    bool bad_index;
};

struct virtio_ring {
    struct virtio_ring_opts o;
    uint16_t nids;
    uint16_t *chain; /* packed: descriptors that the last request with this id took */
    bool armed;      /* interrupts are asked for */
    bool dirty;      /* something was added since the last publish */
    /* split: free-running; packed: positions below size */
    uint16_t avail, published, used;
    uint16_t used_limit;           /* split: the used index as last read */
    bool avail_wrap, used_wrap;    /* packed */
    uint16_t head_flags, head_pos; /* packed: of the first unpublished descriptor */
    uint16_t unpublished;          /* packed: descriptors */
};

/* 0 or -ENOMEM. Empty, interrupts on. */
int virtio_ring_init(struct virtio_ring *r, const struct virtio_ring_opts *opts);
void virtio_ring_free(struct virtio_ring *r);
/* As after init: what the ring holds is forgotten. */
void virtio_ring_clear(struct virtio_ring *r);

/* Requests that fit: each takes so many descriptors at most. */
static inline uint16_t virtio_ring_ids(const struct virtio_ring_opts *o)
{
    return (uint16_t)(o->size / (o->indirect ? 1 : o->max_segments));
}

/* The request must not be outstanding; n is 1 to max_segments. */
void virtio_ring_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg, unsigned n);
/* Shows the device all that was added. True: it wants a kick. */
bool virtio_ring_publish(struct virtio_ring *r);
/* The next used element, if there is one. */
bool virtio_ring_next(struct virtio_ring *r, struct virtio_used *ret);
/* Asks for an interrupt with the next used element. False: there is one already. */
bool virtio_ring_arm(struct virtio_ring *r);
/* Polling again: no interrupts. */
void virtio_ring_relax(struct virtio_ring *r);
/* SET_VRING_BASE of a device that is connected anew: where the used ring ends. */
uint32_t virtio_ring_base(const struct virtio_ring *r);

/* ---- inside: virtio_split.c and virtio_packed.c; virtio_ring.c chooses ---- */
void virtio_split_clear(struct virtio_ring *r);
void virtio_split_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg, unsigned n);
bool virtio_split_publish(struct virtio_ring *r);
bool virtio_split_next(struct virtio_ring *r, struct virtio_used *ret);
bool virtio_split_arm(struct virtio_ring *r);
void virtio_split_relax(struct virtio_ring *r);

void virtio_packed_clear(struct virtio_ring *r);
void virtio_packed_add(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg,
                       unsigned n);
bool virtio_packed_publish(struct virtio_ring *r);
bool virtio_packed_next(struct virtio_ring *r, struct virtio_used *ret);
bool virtio_packed_arm(struct virtio_ring *r);
void virtio_packed_relax(struct virtio_ring *r);
uint32_t virtio_packed_base(const struct virtio_ring *r);

/* Fills the indirect table of id; the address of the table. */
uint64_t virtio_ring_table(struct virtio_ring *r, unsigned id, const struct virtio_seg *seg,
                           unsigned n);
/* Shared 16-bit fields. */
static inline uint16_t virtio_load16(const void *p, memory_order order)
{
    return le16toh(atomic_load_explicit((_Atomic uint16_t *)(uintptr_t)p, order));
}

static inline void virtio_store16(void *p, uint16_t v, memory_order order)
{
    atomic_store_explicit((_Atomic uint16_t *)p, htole16(v), order);
}

#endif
