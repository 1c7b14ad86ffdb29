/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio/test_driver.h - for the tests of this room: a machine (shared memory that outlives a
 * service) and a driver of its own making, written from the specification's driver side, that
 * checks every completion it gets. */
#ifndef VIRTIO_TEST_DRIVER_H
#define VIRTIO_TEST_DRIVER_H

#include "base/fd.h"
#include "base/util.h"
#include "virtio/virtqueue.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    RAM_BYTES = 4 << 20,
    MAX_SIZE = 1024,
    AREA_BYTES = 64 << 10,
    GPA_DESC = 0x10000,
    GPA_DRIVER = 0x30000,
    GPA_DEVICE = 0x40000,
    GPA_TABLES = 0x80000,   /* indirect ones, 256 bytes for each ID */
    GPA_BUFFERS = 0x100000, /* 64 bytes for each ID */
    TABLE_BYTES = 256,
    BUFFER_BYTES = 64,
};

struct machine {
    int ram_fd;
    char *ram;
    struct virtq_state *st;
    struct virtq_record *records;
    struct virtq_desc *saved;
    void *area;
};

static inline void *shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static inline void machine_make(struct machine *m)
{
    m->ram_fd = fd_memfd("ram", RAM_BYTES);
    assert_true(m->ram_fd >= 0);
    m->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->ram_fd, 0);
    assert_true(m->ram != MAP_FAILED);
    m->st = shared(sizeof(*m->st));
    m->records = shared(MAX_SIZE * sizeof(*m->records));
    m->saved = shared(MAX_SIZE * sizeof(*m->saved));
    m->area = shared(AREA_BYTES);
}

static inline void machine_free(struct machine *m)
{
    munmap(m->ram, RAM_BYTES);
    close(m->ram_fd);
    munmap(m->st, sizeof(*m->st));
    munmap(m->records, MAX_SIZE * sizeof(*m->records));
    munmap(m->saved, MAX_SIZE * sizeof(*m->saved));
    munmap(m->area, AREA_BYTES);
}

/* snap_emu is gone, and the state memory with it. */
static inline void machine_wipe(struct machine *m)
{
    memset(m->st, 0, sizeof(*m->st));
    memset(m->records, 0, MAX_SIZE * sizeof(*m->records));
    memset(m->saved, 0, MAX_SIZE * sizeof(*m->saved));
}

static inline void map_add(struct guest_map *map, struct machine *m, uint32_t id, uint64_t gpa,
                           uint64_t bytes)
{
    struct guest_region *r =
        guest_region_open(id, gpa, bytes, m->ram_fd, gpa, GUEST_READ | GUEST_WRITE, NULL);

    assert_non_null(r);
    assert_int_equal(guest_map_add(map, r, NULL), 0);
}

static inline struct guest_map *machine_map(struct machine *m)
{
    struct guest_map *map = guest_map_create();

    assert_non_null(map);
    map_add(map, m, 1, 0, RAM_BYTES);
    return map;
}

/* ---- the driver ---- */

struct seg {
    uint64_t gpa;
    uint32_t len;
    bool write;
};

struct buffer {
    bool outstanding;
    uint16_t ndesc;
    uint16_t desc[16]; /* split: the descriptors it holds */
    uint64_t serial;
};

struct driver {
    struct machine *m;
    bool packed, event_idx;
    uint32_t size, nfree, nids;
    uint16_t free[MAX_SIZE]; /* split: descriptors; packed: buffer IDs. A stack */
    struct buffer buf[MAX_SIZE];
    struct virtq_config cfg;
    /* split: free-running; packed: positions */
    uint32_t avail, used;
    bool avail_wrap, used_wrap;
    unsigned outstanding;
    uint64_t next_serial;
    uint64_t drv_kick_old; /* chains (split) or descriptors (packed) added at the last look */
    uint64_t added;
};

static inline void *at(struct machine *m, uint64_t gpa)
{
    return m->ram + gpa;
}

static inline struct virtq_desc *d_desc(struct driver *d)
{
    return at(d->m, GPA_DESC);
}

static inline struct virtq_packed_desc *d_ring(struct driver *d)
{
    return at(d->m, GPA_DESC);
}

static inline struct virtq_avail *d_avail(struct driver *d)
{
    return at(d->m, GPA_DRIVER);
}

static inline struct virtq_used *d_used(struct driver *d)
{
    return at(d->m, GPA_DEVICE);
}

static inline uint16_t get16(const void *p)
{
    return atomic_load_explicit((const _Atomic uint16_t *)p, memory_order_acquire);
}

static inline void set16(void *p, uint16_t v)
{
    atomic_store_explicit((_Atomic uint16_t *)p, v, memory_order_release);
}

static inline uint32_t packed_base(uint32_t pos, bool wrap)
{
    return (pos | (uint32_t)wrap << 15) * 0x10001;
}

/* at: where the ring begins, of 2^16 indexes (split) or of a lap with wrap counter 1 (packed). */
static inline void driver_init(struct driver *d, struct machine *m, uint32_t size,
                               uint64_t features, uint32_t first)
{
    *d = (struct driver){.m = m,
                         .packed = features & VIRTIO_F_RING_PACKED,
                         .event_idx = features & VIRTIO_F_RING_EVENT_IDX,
                         .size = size,
                         .nfree = size,
                         .nids = size,
                         .avail = first,
                         .used = first,
                         .avail_wrap = true,
                         .used_wrap = true,
                         .next_serial = 1};
    memset(at(m, GPA_DESC), 0, GPA_BUFFERS - GPA_DESC);
    for (uint32_t i = 0; i < size; i++)
        d->free[i] = (uint16_t)(size - 1 - i);
    d->cfg = (struct virtq_config){.size = size,
                                   .base = d->packed ? packed_base(first, true) : first,
                                   .start = 1,
                                   .features = features | VIRTIO_F_VERSION_1,
                                   .desc_gpa = GPA_DESC,
                                   .driver_gpa = GPA_DRIVER,
                                   .device_gpa = GPA_DEVICE};
    if (!d->packed) {
        set16(&d_avail(d)->idx, (uint16_t)first);
        set16(&d_used(d)->idx, (uint16_t)first);
    } else {
        for (uint32_t i = 0; i < first; i++) /* used in this lap */
            set16(&d_ring(d)[i].flags, VIRTQ_PACKED_F_AVAIL | VIRTQ_PACKED_F_USED);
    }
}

static inline struct virtq_opts driver_opts(struct driver *d, struct guest_map *map, bool area)
{
    return (struct virtq_opts){.map = map,
                               .st = d->m->st,
                               .records = d->m->records,
                               .saved = d->m->saved,
                               .max_size = MAX_SIZE,
                               .cfg = d->cfg,
                               .inflight = {area ? d->m->area : NULL, area ? MAX_SIZE : 0},
                               .name = "test queue"};
}

static inline uint16_t desc_flags(const struct seg *s, bool more)
{
    return (uint16_t)((s->write ? VIRTQ_DESC_F_WRITE : 0) | (more ? VIRTQ_DESC_F_NEXT : 0));
}

static inline void split_put(struct driver *d, const uint16_t *desc, const struct seg *segs,
                             unsigned n, unsigned table_len)
{
    for (unsigned i = 0; i < n; i++)
        d_desc(d)[desc[i]] = (struct virtq_desc){
            le64_of(segs[i].gpa), le32_of(segs[i].len),
            le16_of(table_len ? VIRTQ_DESC_F_INDIRECT : desc_flags(&segs[i], i + 1 < n)),
            le16_of(i + 1 < n ? desc[i + 1] : 0xffff)};
    set16(&d_avail(d)->ring[d->avail % d->size], desc[0]);
    d->avail++;
    set16(&d_avail(d)->idx, (uint16_t)d->avail);
}

static inline uint16_t wrap_flags(bool wrap)
{
    return wrap ? VIRTQ_PACKED_F_AVAIL : VIRTQ_PACKED_F_USED;
}

static inline void packed_put(struct driver *d, uint16_t id, const struct seg *segs, unsigned n,
                              unsigned table_len)
{
    struct virtq_packed_desc *first = &d_ring(d)[d->avail];
    uint16_t first_flags = 0;

    for (unsigned i = 0; i < n; i++) {
        struct virtq_packed_desc *to = &d_ring(d)[d->avail];
        uint16_t flags =
            (uint16_t)(wrap_flags(d->avail_wrap) |
                       (table_len ? VIRTQ_DESC_F_INDIRECT : desc_flags(&segs[i], i + 1 < n)));

        to->addr = le64_of(segs[i].gpa);
        to->len = le32_of(segs[i].len);
        to->id = le16_of(i + 1 < n ? 0xeeee : id); /* only the last one's counts */
        if (i == 0)
            first_flags = flags;
        else
            set16(&to->flags, flags);
        if (++d->avail == d->size) {
            d->avail = 0;
            d->avail_wrap = !d->avail_wrap;
        }
    }
    set16(&first->flags, first_flags);
}

/* An entry of an indirect table. A packed ring's has another layout: a buffer ID that nobody reads,
 * then the flags. */
static inline struct virtq_desc indirect_desc(bool packed, uint64_t gpa, uint32_t len,
                                              uint16_t flags, uint16_t next)
{
    if (packed)
        return (struct virtq_desc){le64_of(gpa), le32_of(len), le16_of(0xffff), le16_of(flags)};
    return (struct virtq_desc){le64_of(gpa), le32_of(len), le16_of(flags), le16_of(next)};
}

/* Offers a chain; its ID, or -1 when there is no room. indirect: in a table of its own. */
static inline int driver_add(struct driver *d, const struct seg *segs, unsigned n, bool indirect)
{
    unsigned need = indirect ? 1 : n;
    struct seg ref;
    struct buffer *b;
    uint16_t desc[16] = {0}, id;

    assert_true(n <= 16);
    if (d->nfree < need || (d->packed && d->nids == 0))
        return -1;
    d->nfree -= need;
    if (d->packed) {
        desc[0] = id = d->free[--d->nids];
    } else {
        for (unsigned i = 0; i < need; i++)
            desc[i] = d->free[d->nfree + need - 1 - i];
        id = desc[0];
    }
    b = &d->buf[id];
    assert_false(b->outstanding);
    b->outstanding = true;
    b->ndesc = (uint16_t)need;
    memcpy(b->desc, desc, sizeof(desc));
    b->serial = d->next_serial++;
    if (indirect) {
        struct virtq_desc *table = at(d->m, GPA_TABLES + (uint64_t)id * TABLE_BYTES);

        for (unsigned i = 0; i < n; i++)
            table[i] =
                indirect_desc(d->packed, segs[i].gpa, segs[i].len,
                              desc_flags(&segs[i], !d->packed && i + 1 < n), (uint16_t)(i + 1));
        ref = (struct seg){GPA_TABLES + (uint64_t)id * TABLE_BYTES, n * 16, false};
        segs = &ref;
    }
    if (d->packed)
        packed_put(d, id, segs, need, indirect ? n : 0);
    else
        split_put(d, desc, segs, need, indirect ? n : 0);
    d->added += d->packed ? need : 1;
    d->outstanding++;
    return id;
}

/* Takes a completion; false: there is none. Fails for an ID that is not outstanding. */
static inline bool driver_take(struct driver *d, uint16_t *id, uint32_t *len)
{
    uint32_t got;
    struct buffer *b;

    if (d->packed) {
        struct virtq_packed_desc *u = &d_ring(d)[d->used];
        uint16_t flags = get16(&u->flags);
        bool avail = flags & VIRTQ_PACKED_F_AVAIL, used = flags & VIRTQ_PACKED_F_USED;

        if (avail != used || used != d->used_wrap)
            return false;
        got = le16_get(u->id);
        *len = le32_get(u->len);
    } else {
        struct virtq_used_elem *u = &d_used(d)->ring[d->used % d->size];

        if (get16(&d_used(d)->idx) == (uint16_t)d->used)
            return false;
        got = le32_get(u->id);
        *len = le32_get(u->len);
    }
    if (got >= d->size || !d->buf[got].outstanding)
        fail_msg("ID %u is not outstanding", got);
    b = &d->buf[got];
    b->outstanding = false;
    d->outstanding--;
    d->nfree += b->ndesc;
    if (d->packed) {
        d->free[d->nids++] = (uint16_t)got;
        d->used += b->ndesc;
        if (d->used >= d->size) {
            d->used -= d->size;
            d->used_wrap = !d->used_wrap;
        }
    } else {
        for (unsigned i = 0; i < b->ndesc; i++)
            d->free[d->nfree - 1 - i] = b->desc[i];
        d->used++;
    }
    *id = (uint16_t)got;
    return true;
}

/* Would the driver kick for what was added since the last call? */
static inline bool driver_kicks(struct driver *d)
{
    uint16_t n = (uint16_t)(d->added - d->drv_kick_old), new, old, event;

    d->drv_kick_old = d->added;
    atomic_thread_fence(memory_order_seq_cst);
    if (d->packed) {
        struct virtq_packed_event *e = at(d->m, GPA_DEVICE);
        uint16_t flags = get16(&e->flags) & 3, off = get16(&e->off_wrap);

        if (flags != VIRTQ_PACKED_EVENT_DESC)
            return flags == VIRTQ_PACKED_EVENT_ENABLE;
        new = (uint16_t)d->avail;
        event = off & 0x7fff;
        if (off >> 15 != d->avail_wrap)
            event = (uint16_t)(event - d->size);
    } else {
        if (!d->event_idx)
            return !(get16(&d_used(d)->flags) & VIRTQ_USED_F_NO_NOTIFY);
        new = (uint16_t)d->avail;
        event = get16(&d_used(d)->ring[d->size]);
    }
    old = (uint16_t)(new - n);
    return (uint16_t)(new - event - 1) < (uint16_t)(new - old);
}

/* ---- chains with a serial number: the device reads it, writes it back and says how much ---- */

static inline uint32_t used_len(uint64_t serial)
{
    return 8 + (uint32_t)(serial % 9);
}

static inline uint64_t gpa_of_buffer(unsigned id)
{
    return GPA_BUFFERS + (uint64_t)id * BUFFER_BYTES;
}

/* shape: 0 to 3 split the two halves in pieces; 4: the same by an indirect table. */
static inline int serial_add(struct driver *d, unsigned shape)
{
    unsigned need = shape == 0 ? 2 : shape == 3 ? 4 : 3;
    uint64_t gpa, answer;
    struct seg segs[4];
    unsigned n = 0;
    uint16_t id;

    if (d->nfree < need || d->nids == 0)
        return -1;
    id = d->free[(d->packed ? d->nids : d->nfree) - 1];
    gpa = gpa_of_buffer(id);
    answer = gpa + 32;
    memcpy(at(d->m, gpa), &d->next_serial, 8);
    memset(at(d->m, answer), 0, 16);
    if (shape & 1) {
        segs[n++] = (struct seg){gpa, 3, false};
        segs[n++] = (struct seg){gpa + 3, 13, false};
    } else {
        segs[n++] = (struct seg){gpa, 16, false};
    }
    if (shape & 2) {
        segs[n++] = (struct seg){answer, 8, true};
        segs[n++] = (struct seg){answer + 8, 8, true};
    } else {
        segs[n++] = (struct seg){answer, 16, true};
    }
    assert_int_equal(driver_add(d, segs, n, shape == 4), id);
    return id;
}

/* Takes a completion and checks it; false: none. */
static inline bool serial_take(struct driver *d, uint64_t *serial)
{
    uint64_t answer;
    uint32_t len;
    uint16_t id;

    if (!driver_take(d, &id, &len))
        return false;
    *serial = d->buf[id].serial;
    memcpy(&answer, at(d->m, gpa_of_buffer(id) + 32), 8);
    if (answer != *serial || len != used_len(*serial))
        fail_msg("chain %llu: answer %llu, length %u", (unsigned long long)*serial,
                 (unsigned long long)answer, len);
    return true;
}

/* The device's side: 0 and *serial, or what virtq_map() said. */
static inline int serial_execute(struct virtq *vq, unsigned slot, uint64_t *serial)
{
    struct iovec iov[8];
    struct virtq_iov io = {.iov = iov, .max = 8};
    char bytes[16];
    size_t done = 0;
    int rc = virtq_map(vq, slot, &io);

    *serial = 0;
    if (rc < 0)
        return rc;
    if (io.readable_bytes != 16 || io.writable_bytes != 16)
        return -EBADMSG;
    for (int i = 0; i < io.nreadable; done += iov[i++].iov_len)
        memcpy(bytes + done, iov[i].iov_base, iov[i].iov_len);
    memcpy(serial, bytes, 8);
    memcpy(iov[io.nreadable].iov_base, serial, 8);
    return 0;
}

#endif
