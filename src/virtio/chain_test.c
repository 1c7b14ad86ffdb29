/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Shapes of chains, legal and not, in both formats: what virtq_map() makes of them. */
#include "virtio/test_driver.h"

#include <stdio.h>

#define PACKED VIRTIO_F_RING_PACKED
#define INDIRECT VIRTIO_F_RING_INDIRECT_DESC

enum {
    GPA_A = 0x110000, /* far from each other: nothing is merged */
    GPA_B = 0x120000,
    GPA_C = 0x130000,
    GPA_D = 0x140000,
    GPA_NONE = 0x50000000, /* not mapped */
    GPA_READONLY = 0x10000000,
    GPA_TABLE = 0x200000,
    SIZE = 16,
    IOVS = 6,
};

struct fixture {
    struct machine m;
    struct driver d;
    struct guest_map *map;
    struct virtq *vq;
};

static void make(struct fixture *x, uint64_t features)
{
    struct guest_region *r;
    struct virtq_opts o;

    machine_make(&x->m);
    driver_init(&x->d, &x->m, SIZE, features, 0);
    x->map = machine_map(&x->m);
    r = guest_region_open(2, GPA_READONLY, 0x1000, x->m.ram_fd, 0, GUEST_READ, NULL);
    assert_non_null(r);
    assert_int_equal(guest_map_add(x->map, r, NULL), 0);
    o = driver_opts(&x->d, x->map, false);
    assert_int_equal(virtq_open(&o, &x->vq, NULL), 0);
}

static void end(struct fixture *x)
{
    virtq_close(x->vq);
    guest_map_destroy(x->map);
    machine_free(&x->m);
}

struct shape {
    const char *name;
    unsigned n;
    struct seg segs[8];
    int rc, nreadable, nwritable;
    uint64_t readable_bytes, writable_bytes;
    uint64_t last; /* GPA, 0: none */
};

static const struct shape shapes[] = {
    {"header, data, status",
     3,
     {{GPA_A, 16, 0}, {GPA_B, 512, 1}, {GPA_C, 1, 1}},
     0,
     1,
     2,
     16,
     513,
     GPA_C},
    {"header in pieces", 3, {{GPA_A, 5, 0}, {GPA_B, 11, 0}, {GPA_C, 1, 1}}, 0, 2, 1, 16, 1, GPA_C},
    {"header and data in one, data and status in one",
     2,
     {{GPA_A, 528, 0}, {GPA_B, 513, 1}},
     0,
     1,
     1,
     528,
     513,
     GPA_B + 512},
    {"adjacent pieces become one",
     4,
     {{GPA_A, 8, 0}, {GPA_A + 8, 8, 0}, {GPA_B, 512, 1}, {GPA_B + 512, 1, 1}},
     0,
     1,
     1,
     16,
     513,
     GPA_B + 512},
    {"readable and writable stay apart",
     2,
     {{GPA_A, 16, 0}, {GPA_A + 16, 1, 1}},
     0,
     1,
     1,
     16,
     1,
     GPA_A + 16},
    {"zero lengths anywhere",
     7,
     {{GPA_NONE, 0, 0},
      {GPA_A, 16, 0},
      {0, 0, 0},
      {0, 0, 1},
      {GPA_B, 1, 1},
      {GPA_NONE, 0, 1},
      {0, 0, 0}},
     0,
     1,
     1,
     16,
     1,
     GPA_B},
    {"nothing at all", 1, {{GPA_A, 0, 0}}, 0, 0, 0, 0, 0, 0},
    {"nothing to write", 1, {{GPA_A, 16, 0}}, 0, 1, 0, 16, 0, 0},
    {"nothing to read", 1, {{GPA_A, 16, 1}}, 0, 0, 1, 0, 16, GPA_A + 15},
    {"readable behind writable",
     3,
     {{GPA_A, 16, 0}, {GPA_C, 1, 1}, {GPA_B, 512, 0}},
     -EINVAL,
     0,
     0,
     0,
     0,
     GPA_C},
    {"not mapped",
     3,
     {{GPA_A, 16, 0}, {GPA_NONE, 512, 1}, {GPA_C, 1, 1}},
     -EFAULT,
     0,
     0,
     0,
     0,
     GPA_C},
    {"status not mapped", 2, {{GPA_A, 16, 0}, {GPA_NONE, 1, 1}}, -EFAULT, 0, 0, 0, 0, 0},
    {"may not be written", 2, {{GPA_A, 16, 0}, {GPA_READONLY, 1, 1}}, -EFAULT, 0, 0, 0, 0, 0},
    {"may be read", 2, {{GPA_READONLY, 16, 0}, {GPA_A, 1, 1}}, 0, 1, 1, 16, 1, GPA_A},
    {"over the end of memory",
     2,
     {{RAM_BYTES - 8, 16, 0}, {GPA_C, 1, 1}},
     -EFAULT,
     0,
     0,
     0,
     0,
     GPA_C},
    {"wraps 2^64", 2, {{UINT64_MAX - 7, 16, 0}, {GPA_C, 1, 1}}, -EFAULT, 0, 0, 0, 0, GPA_C},
    {"4 GiB twice", 2, {{GPA_A, UINT32_MAX, 0}, {GPA_C, UINT32_MAX, 1}}, -EFAULT, 0, 0, 0, 0, 0},
    {"more segments than there is room for",
     8,
     {{GPA_A, 16, 0},
      {GPA_B, 1, 0},
      {GPA_C, 1, 0},
      {GPA_D, 1, 0},
      {GPA_A, 8, 1},
      {GPA_B, 8, 1},
      {GPA_C, 8, 1},
      {GPA_D, 1, 1}},
     -E2BIG,
     0,
     0,
     0,
     0,
     GPA_D},
};

static void check_shape(struct fixture *x, const struct shape *s, bool indirect)
{
    struct iovec iov[IOVS];
    struct virtq_iov io = {.iov = iov, .max = IOVS};
    uint16_t slot, id;
    uint32_t len;
    int rc;

    assert_true(driver_add(&x->d, s->segs, s->n, indirect) >= 0);
    assert_int_equal(virtq_fetch(x->vq, &slot, 1), 1);
    rc = virtq_map(x->vq, slot, &io);
    if (rc != s->rc ||
        (s->last ? (char *)io.last - (char *)guest_ptr(x->map, 0, 1, 0) != (ptrdiff_t)s->last
                 : io.last != NULL))
        fail_msg("%s (%s): %d, last %p", s->name, indirect ? "indirect" : "direct", rc,
                 (void *)io.last);
    if (rc == 0 &&
        (io.nreadable != s->nreadable || io.nwritable != s->nwritable ||
         io.readable_bytes != s->readable_bytes || io.writable_bytes != s->writable_bytes))
        fail_msg("%s: %d + %d segments, %llu + %llu bytes", s->name, io.nreadable, io.nwritable,
                 (unsigned long long)io.readable_bytes, (unsigned long long)io.writable_bytes);
    for (int i = 0, sum = 0; rc == 0 && i < io.nreadable + io.nwritable; i++) {
        sum = i == io.nreadable ? 0 : sum;
        sum += (int)iov[i].iov_len;
        if (i == io.nreadable - 1)
            assert_int_equal(sum, s->readable_bytes);
        if (i == io.nreadable + io.nwritable - 1 && io.nwritable)
            assert_int_equal(sum, s->writable_bytes);
    }
    virtq_done(x->vq, slot, 0); /* an illegal chain goes back too: its slot is not lost */
    virtq_post(x->vq);
    assert_true(driver_take(&x->d, &id, &len));
    assert_int_equal(virtq_inflight(x->vq), 0);
    assert_null(virtq_broken(x->vq));
}

static void shapes_are_mapped(uint64_t features)
{
    struct fixture x;

    make(&x, features | INDIRECT);
    for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++) {
        check_shape(&x, &shapes[i], false);
        check_shape(&x, &shapes[i], true);
    }
    end(&x);
}

/* ---- chains that driver_add() would not make ---- */

/* Offers the descriptors as they are, with next, and answers what virtq_map() says. */
static int offer(struct fixture *x, const struct virtq_desc *desc, unsigned n, struct virtq_iov *io)
{
    struct driver *d = &x->d;
    uint16_t slot;
    int rc;

    if (d->packed) {
        for (unsigned i = n;
             i-- > 0;) { /* the first one last, and the avail position begins at 0 */
            struct virtq_packed_desc *to = &d_ring(d)[(d->avail + i) % SIZE];
            bool wrap = d->avail + i >= SIZE ? !d->avail_wrap : d->avail_wrap;

            to->addr = desc[i].addr;
            to->len = desc[i].len;
            to->id = le16_of(3);
            set16(&to->flags, (uint16_t)(le16_get(desc[i].flags) | wrap_flags(wrap)));
        }
        d->avail += n;
        if (d->avail >= SIZE) {
            d->avail -= SIZE;
            d->avail_wrap = !d->avail_wrap;
        }
    } else {
        memcpy(d_desc(d), desc, n * sizeof(*desc));
        set16(&d_avail(d)->ring[d->avail % SIZE], 0);
        set16(&d_avail(d)->idx, (uint16_t)++d->avail);
    }
    assert_int_equal(virtq_fetch(x->vq, &slot, 1), 1);
    rc = virtq_map(x->vq, slot, io);
    virtq_done(x->vq, slot, 0);
    virtq_post(x->vq);
    return rc;
}

static struct virtq_desc desc(uint64_t gpa, uint32_t len, uint16_t flags, uint16_t next)
{
    return (struct virtq_desc){le64_of(gpa), le32_of(len), le16_of(flags), le16_of(next)};
}

enum { N = VIRTQ_DESC_F_NEXT, W = VIRTQ_DESC_F_WRITE, I = VIRTQ_DESC_F_INDIRECT };

static void expect(struct fixture *x, const char *name, struct virtq_desc a, struct virtq_desc b,
                   unsigned n, int rc)
{
    struct iovec iov[IOVS];
    struct virtq_iov io = {.iov = iov, .max = IOVS};
    struct virtq_desc both[2] = {a, b};
    int got = offer(x, both, n, &io);

    if (got != rc)
        fail_msg("%s: %d, not %d", name, got, rc);
    if (rc < 0)
        assert_null(io.last);
}

/* An entry of an indirect table, in the ring's own layout. */
static struct virtq_desc entry(uint64_t features, uint64_t gpa, uint32_t len, uint16_t flags,
                               uint16_t next)
{
    return indirect_desc(features & PACKED, gpa, len, flags, next);
}

static void set_flags(uint64_t features, struct virtq_desc *d, uint16_t flags)
{
    *(features & PACKED ? &d->next : &d->flags) = le16_of(flags);
}

static void bad_tables_are_refused(uint64_t features)
{
    struct virtq_desc *table, none = {{0}, {0}, {0}, {0}};
    struct fixture x;

    make(&x, features | INDIRECT);
    table = at(&x.m, GPA_TABLE);
    table[0] = entry(features, GPA_A, 16, N, 1);
    table[1] = entry(features, GPA_B, 1, W, 0);
    expect(&x, "good", desc(GPA_TABLE, 32, I, 0), none, 1, 0);
    expect(&x, "behind a direct one", desc(GPA_C, 4, N, 1), desc(GPA_TABLE, 32, I, 0), 2, 0);
    expect(&x, "empty", desc(GPA_TABLE, 0, I, 0), none, 1, -EINVAL);
    expect(&x, "odd length", desc(GPA_TABLE, 24, I, 0), none, 1, -EINVAL);
    expect(&x, "not mapped", desc(GPA_NONE, 32, I, 0), none, 1, -EFAULT);
    expect(&x, "not mapped, behind a direct one", desc(GPA_C, 4, N | W, 1),
           desc(GPA_NONE, 32, I, 0), 2, -EFAULT);
    expect(&x, "wraps 2^64", desc(UINT64_MAX - 15, 32, I, 0), none, 1, -EFAULT);
    expect(&x, "half mapped", desc(RAM_BYTES - 16, 32, I, 0), none, 1,
           features & PACKED ? -EFAULT : 0); /* a split chain may end in the first half */
    expect(&x, "and NEXT", desc(GPA_TABLE, 32, I | N, 1), desc(GPA_B, 1, W, 0), 2, -EINVAL);
    table[1] = entry(features, GPA_TABLE, 32, I, 0);
    expect(&x, "nested", desc(GPA_TABLE, 32, I, 0), none, 1, -EINVAL);
    if (!(features & PACKED)) {
        table[1] = entry(features, GPA_B, 1, W | N, 0);
        expect(&x, "loop", desc(GPA_TABLE, 32, I, 0), none, 1, -EINVAL);
        table[1] = entry(features, GPA_B, 1, W | N, 2);
        expect(&x, "next beyond the table", desc(GPA_TABLE, 32, I, 0), none, 1, -EINVAL);
    }
    end(&x);
    make(&x, features);
    table = at(&x.m, GPA_TABLE);
    table[0] = entry(features, GPA_A, 16, 0, 0);
    expect(&x, "not negotiated", desc(GPA_TABLE, 16, I, 0), none, 1, -EINVAL);
    end(&x);
}

static void split_loops_end(void **state)
{
    struct fixture x;

    make(&x, INDIRECT);
    expect(&x, "itself", desc(GPA_A, 16, N, 0), desc(0, 0, 0, 0), 1, -EINVAL);
    expect(&x, "two", desc(GPA_A, 16, N, 1), desc(GPA_B, 1, N | W, 0), 2, -EINVAL);
    expect(&x, "next is the size", desc(GPA_A, 16, N, SIZE), desc(0, 0, 0, 0), 1, -EINVAL);
    expect(&x, "next is 65535", desc(GPA_A, 16, N, 65535), desc(0, 0, 0, 0), 1, -EINVAL);
    end(&x);
}

/* Real drivers have tables longer than the ring; the service's limit is 4096 descriptors. */
static void long_tables(uint64_t features)
{
    struct virtq_desc *table, none = {{0}, {0}, {0}, {0}};
    struct iovec *iov = calloc(8192, sizeof(*iov));
    struct virtq_iov io = {.iov = iov, .max = 8192};
    struct fixture x;

    make(&x, features | INDIRECT);
    table = at(&x.m, GPA_TABLE);
    for (unsigned i = 0; i < 8192; i++)
        table[i] = entry(features, GPA_A + (uint64_t)(i % 2) * 64, 16, N | W, (uint16_t)(i + 1));
    set_flags(features, &table[1000], W);
    none = desc(GPA_TABLE, 1001 * 16, I, 0);
    assert_int_equal(offer(&x, &none, 1, &io), 0);
    assert_int_equal(io.nwritable, 1001);
    set_flags(features, &table[1000], N | W);
    set_flags(features, &table[5000], W);
    none = desc(GPA_TABLE, 5001 * 16, I, 0);
    assert_int_equal(offer(&x, &none, 1, &io), -EINVAL);
    none = desc(GPA_TABLE, 0x80000000U, I, 0); /* 2^27 descriptors, most of them not there */
    assert_int_not_equal(offer(&x, &none, 1, &io), 0);
    free(iov);
    end(&x);
}

/* Tables and data may lie in several regions side by side. */
static void spread_over_regions(uint64_t features)
{
    struct iovec iov[IOVS];
    struct virtq_iov io = {.iov = iov, .max = IOVS};
    struct virtq_desc *table, ref;
    struct fixture x;

    make(&x, features | INDIRECT);
    guest_region_close(guest_map_take(x.map, 1));
    map_add(x.map, &x.m, 3, 0x1000, GPA_TABLE);
    map_add(x.map, &x.m, 4, GPA_TABLE + 0x1000, 0x100000);
    virtq_bind(x.vq);
    table = at(&x.m, GPA_TABLE + 0x1000 - 16);
    table[0] = entry(features, GPA_TABLE + 0x1000 - 100, 200, N, 1);
    table[1] = entry(features, GPA_B, 1, W, 0);
    ref = desc(GPA_TABLE + 0x1000 - 16, 32, I, 0);
    assert_int_equal(offer(&x, &ref, 1, &io), 0);
    assert_int_equal(io.readable_bytes, 200);
    assert_int_equal(io.nwritable, 1);
    end(&x);
}

/* Memory that comes back is found again. */
static void memory_that_comes_back(uint64_t features)
{
    struct iovec iov[IOVS];
    struct virtq_iov io = {.iov = iov, .max = IOVS};
    struct guest_region *r;
    struct seg segs[] = {{GPA_A, 16, false}, {GPA_B, 1, true}};
    struct fixture x;
    uint16_t slot;

    make(&x, features);
    assert_true(driver_add(&x.d, segs, 2, false) >= 0);
    assert_int_equal(virtq_fetch(x.vq, &slot, 1), 1);
    r = guest_map_take(x.map, 1);
    virtq_bind(x.vq);
    assert_int_equal(virtq_map(x.vq, slot, &io), -EFAULT);
    assert_int_equal(guest_map_add(x.map, r, NULL), 0);
    virtq_bind(x.vq);
    assert_int_equal(virtq_map(x.vq, slot, &io), 0);
    end(&x);
}

#define BOTH(name)                                                                                 \
    static void split_##name(void **state)                                                         \
    {                                                                                              \
        name(0);                                                                                   \
    }                                                                                              \
    static void packed_##name(void **state)                                                        \
    {                                                                                              \
        name(PACKED);                                                                              \
    }

BOTH(shapes_are_mapped)
BOTH(bad_tables_are_refused)
BOTH(long_tables)
BOTH(spread_over_regions)
BOTH(memory_that_comes_back)

#define TESTS(name) cmocka_unit_test(split_##name), cmocka_unit_test(packed_##name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS(shapes_are_mapped), TESTS(bad_tables_are_refused), cmocka_unit_test(split_loops_end),
        TESTS(long_tables),       TESTS(spread_over_regions),    TESTS(memory_that_comes_back),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
