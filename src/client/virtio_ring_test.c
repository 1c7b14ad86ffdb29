/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The driver's rings against a small device written from the specification: every request arrives
 * as it was added, every used element comes back once, and both sides are told when they asked. */
#include "client/virtio_ring.h"

#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
/* cmocka needs the four above */
#include <cmocka.h>

enum { SIZE = 8, SEGMENTS = 3, PAGE = 4096 };

struct chain {
    unsigned head, nsegs, ndesc; /* head: what the used element must name */
    struct virtio_seg seg[SEGMENTS];
};

struct fixture {
    struct virtio_ring ring;
    _Alignas(PAGE) char desc[PAGE], driver[PAGE], device[PAGE], tables[PAGE];
    uint16_t avail, used; /* the device's: split free-running, packed positions */
    bool avail_wrap, used_wrap;
};

static struct fixture *open_ring(bool packed, bool indirect, bool event_idx)
{
    struct fixture *f = aligned_alloc(PAGE, (sizeof(*f) + PAGE - 1) / PAGE * PAGE);
    struct virtio_ring_opts o = {
        .packed = packed,
        .event_idx = event_idx,
        .indirect = indirect,
        .size = SIZE,
        .max_segments = SEGMENTS,
    };

    assert_non_null(f);
    memset(f, 0, sizeof(*f));
    f->avail_wrap = f->used_wrap = true;
    o.memory = (struct virtio_ring_memory){f->desc, f->driver, f->device,
                                           indirect ? f->tables : NULL, (uintptr_t)f->tables};
    assert_int_equal(virtio_ring_init(&f->ring, &o), 0);
    return f;
}

static void close_ring(struct fixture *f)
{
    virtio_ring_free(&f->ring);
    free(f);
}

/* ---- the device ---- */

static struct virtq_packed_desc *packed_at(struct fixture *f, unsigned pos)
{
    return (struct virtq_packed_desc *)(void *)f->desc + pos;
}

static void take(struct chain *c, uint64_t addr, uint32_t len, unsigned flags)
{
    assert_in_range(c->nsegs, 0, SEGMENTS - 1);
    c->seg[c->nsegs++] = (struct virtio_seg){addr, len, flags & VIRTQ_DESC_F_WRITE};
}

static bool fetch_split(struct fixture *f, struct chain *c)
{
    const struct virtq_avail *avail = (void *)f->driver;
    const struct virtq_desc *table = (void *)f->desc;
    unsigned at;

    if (f->avail == le16_get(avail->idx))
        return false;
    at = c->head = le16_get(avail->ring[f->avail++ % SIZE]);
    assert_in_range(at, 0, SIZE - 1);
    if (le16_get(table[at].flags) & VIRTQ_DESC_F_INDIRECT) {
        table = (void *)(uintptr_t)le64_get(table[at].addr);
        at = 0;
    }
    for (;;) {
        unsigned flags = le16_get(table[at].flags);

        take(c, le64_get(table[at].addr), le32_get(table[at].len), flags);
        if (!(flags & VIRTQ_DESC_F_NEXT))
            return true;
        at = le16_get(table[at].next);
    }
}

static bool fetch_packed(struct fixture *f, struct chain *c)
{
    bool more = true;

    while (more) {
        const struct virtq_packed_desc *d = packed_at(f, f->avail);
        unsigned flags = le16_get(d->flags);

        if (!!(flags & VIRTQ_PACKED_F_AVAIL) != f->avail_wrap ||
            !!(flags & VIRTQ_PACKED_F_USED) == f->avail_wrap)
            return assert_int_equal(c->ndesc, 0), false;
        c->head = le16_get(d->id);
        c->ndesc++;
        more = flags & VIRTQ_DESC_F_NEXT;
        if (flags & VIRTQ_DESC_F_INDIRECT) {
            const struct virtq_packed_desc *t = (void *)(uintptr_t)le64_get(d->addr);

            for (unsigned i = 0; i < le32_get(d->len) / sizeof(*t); i++)
                take(c, le64_get(t[i].addr), le32_get(t[i].len), le16_get(t[i].flags));
        } else {
            take(c, le64_get(d->addr), le32_get(d->len), flags);
        }
        if (++f->avail == SIZE) {
            f->avail = 0;
            f->avail_wrap = !f->avail_wrap;
        }
    }
    return true;
}

static bool fetch(struct fixture *f, struct chain *c)
{
    *c = (struct chain){0};
    return f->ring.o.packed ? fetch_packed(f, c) : fetch_split(f, c);
}

static void use(struct fixture *f, const struct chain *c, uint32_t len)
{
    if (f->ring.o.packed) {
        struct virtq_packed_desc *d = packed_at(f, f->used);

        d->id = le16_of((uint16_t)c->head);
        d->len = le32_of(len);
        d->flags = le16_of(f->used_wrap ? VIRTQ_PACKED_F_AVAIL | VIRTQ_PACKED_F_USED : 0);
        f->used = (uint16_t)(f->used + c->ndesc);
        if (f->used >= SIZE) {
            f->used -= SIZE;
            f->used_wrap = !f->used_wrap;
        }
    } else {
        struct virtq_used *used = (void *)f->device;

        used->ring[f->used++ % SIZE] = (struct virtq_used_elem){le32_of(c->head), le32_of(len)};
        used->idx = le16_of(f->used);
    }
}

static bool device_wants_nothing(struct fixture *f, uint16_t used_before)
{
    if (f->ring.o.packed) {
        const struct virtq_packed_event *e = (void *)f->driver;

        if (le16_get(e->flags) != VIRTQ_PACKED_EVENT_DESC)
            return le16_get(e->flags) == VIRTQ_PACKED_EVENT_DISABLE;
        return le16_get(e->off_wrap) != (used_before | f->ring.used_wrap << 15);
    } else {
        const struct virtq_avail *a = (void *)f->driver;

        if (!f->ring.o.event_idx)
            return le16_get(a->flags) & VIRTQ_AVAIL_F_NO_INTERRUPT;
        return le16_get(a->ring[SIZE]) != used_before;
    }
}

/* ---- tests ---- */

static void add(struct fixture *f, unsigned id, unsigned n, uint64_t tag)
{
    struct virtio_seg seg[SEGMENTS];

    for (unsigned i = 0; i < n; i++)
        seg[i] = (struct virtio_seg){tag * 16 + i, (uint32_t)(tag % 1000 + i + 1), i + 1 == n};
    virtio_ring_add(&f->ring, id, seg, n);
}

static void check_chain(const struct chain *c, unsigned n, uint64_t tag)
{
    assert_int_equal(c->nsegs, n);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(c->seg[i].gpa, tag * 16 + i);
        assert_int_equal(c->seg[i].len, tag % 1000 + i + 1);
        assert_int_equal(c->seg[i].write, i + 1 == n);
    }
}

/* Batches of all sizes, used in another order than added, over many turns of ring and index. */
static void round_trips(bool packed, bool indirect)
{
    struct fixture *f = open_ring(packed, indirect, true);
    unsigned ids = f->ring.nids;
    uint64_t tag = 1;

    assert_int_equal(ids, indirect ? SIZE : SIZE / SEGMENTS);
    for (unsigned round = 0; round < 40000; round++) {
        unsigned n = 1 + round % ids;
        uint64_t tag_of[SIZE];
        struct chain c[SIZE], none;
        struct virtio_used u;

        for (unsigned i = 0; i < n; i++) {
            tag_of[i] = tag++;
            add(f, i, 1 + (unsigned)(tag_of[i] % SEGMENTS), tag_of[i]);
            assert_false(fetch(f, &none)); /* nothing is seen before it is published */
        }
        virtio_ring_publish(&f->ring);
        for (unsigned i = 0; i < n; i++) {
            assert_true(fetch(f, &c[i]));
            check_chain(&c[i], 1 + (unsigned)(tag_of[i] % SEGMENTS), tag_of[i]);
        }
        assert_false(fetch(f, &none));
        assert_false(virtio_ring_next(&f->ring, &u));
        for (unsigned i = n; i-- > 0;)
            use(f, &c[i], 100 + i);
        for (unsigned i = n; i-- > 0;) {
            assert_true(virtio_ring_next(&f->ring, &u));
            assert_int_equal(u.id, i);
            assert_int_equal(u.len, 100 + i);
        }
        assert_false(virtio_ring_next(&f->ring, &u));
    }
    close_ring(f);
}

static void split_direct(void **state)
{
    round_trips(false, false);
}

static void split_indirect(void **state)
{
    round_trips(false, true);
}

static void packed_direct(void **state)
{
    round_trips(true, false);
}

static void packed_indirect(void **state)
{
    round_trips(true, true);
}

/* One request at a time, so that positions and indexes are easy to name. */
static void turn(struct fixture *f, uint64_t tag)
{
    struct virtio_used u;
    struct chain c;

    add(f, 0, 1, tag);
    virtio_ring_publish(&f->ring);
    assert_true(fetch(f, &c));
    use(f, &c, 1);
    assert_true(virtio_ring_next(&f->ring, &u));
}

static void split_kicks_when_the_event_index_is_passed(void **state)
{
    struct fixture *f = open_ring(false, true, true);
    struct virtq_used *used = (void *)f->device;
    le16 *event = (le16 *)&used->ring[SIZE];

    for (unsigned i = 0; i < 65530; i++) /* towards the end of the index */
        turn(f, i);
    *event = le16_of(65532);
    for (unsigned i = 0; i < 2; i++) {
        add(f, i, 1, i);
        assert_false(virtio_ring_publish(&f->ring)); /* 65530, 65531 */
    }
    add(f, 2, 1, 2);
    add(f, 3, 1, 3);
    assert_true(virtio_ring_publish(&f->ring)); /* one for both */
    assert_false(virtio_ring_publish(&f->ring));
    *event = le16_of(1); /* behind the wrap */
    for (unsigned i = 4; i < 7; i++) {
        add(f, i, 1, i);
        assert_false(virtio_ring_publish(&f->ring)); /* 65534, 65535, 0 */
    }
    add(f, 7, 1, 7);
    assert_true(virtio_ring_publish(&f->ring));
    close_ring(f);
}

static void split_kicks_unless_told_not_to(void **state)
{
    struct fixture *f = open_ring(false, true, false);
    struct virtq_used *used = (void *)f->device;

    add(f, 0, 1, 1);
    assert_true(virtio_ring_publish(&f->ring));
    used->flags = le16_of(VIRTQ_USED_F_NO_NOTIFY);
    add(f, 1, 1, 1);
    assert_false(virtio_ring_publish(&f->ring));
    close_ring(f);
}

static void packed_kicks_as_the_device_wishes(void **state)
{
    struct fixture *f = open_ring(true, true, true);
    struct virtq_packed_event *wish = (void *)f->device;

    wish->flags = le16_of(VIRTQ_PACKED_EVENT_DISABLE);
    for (unsigned i = 0; i < SIZE - 2; i++)
        turn(f, i); /* position 6 */
    add(f, 0, 1, 1);
    assert_false(virtio_ring_publish(&f->ring)); /* 6 */
    wish->flags = le16_of(VIRTQ_PACKED_EVENT_DESC);
    wish->off_wrap = le16_of(1); /* position 1 of the next turn, whose wrap counter is 0 */
    add(f, 1, 1, 1);
    assert_false(virtio_ring_publish(&f->ring)); /* 7 */
    add(f, 2, 1, 1);
    assert_false(virtio_ring_publish(&f->ring)); /* 0 */
    add(f, 3, 1, 1);
    assert_true(virtio_ring_publish(&f->ring)); /* 1 */
    add(f, 4, 1, 1);
    assert_false(virtio_ring_publish(&f->ring));
    wish->flags = le16_of(VIRTQ_PACKED_EVENT_ENABLE);
    add(f, 5, 1, 1);
    assert_true(virtio_ring_publish(&f->ring));
    close_ring(f);
}

static void arming(bool packed, bool event_idx)
{
    struct fixture *f = open_ring(packed, true, event_idx);
    struct virtio_used u;
    struct chain c;

    for (unsigned i = 0; i < SIZE + 3; i++)
        turn(f, i);
    virtio_ring_relax(&f->ring);
    if (packed || !event_idx)
        assert_true(device_wants_nothing(f, f->used));
    add(f, 0, 1, 1);
    virtio_ring_publish(&f->ring);
    assert_true(fetch(f, &c));
    assert_true(virtio_ring_arm(&f->ring));
    assert_false(device_wants_nothing(f, f->used));
    use(f, &c, 1);
    assert_false(virtio_ring_arm(&f->ring)); /* it has come meanwhile: no sleep */
    assert_true(virtio_ring_next(&f->ring, &u));
    assert_true(virtio_ring_arm(&f->ring));
    close_ring(f);
}

static void arming_asks_for_the_next_used_element(void **state)
{
    arming(false, false);
    arming(false, true);
    arming(true, false);
    arming(true, true);
}

static void ids_that_cannot_be_are_no_request(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++) {
        struct fixture *f = open_ring(packed, false, false);
        const unsigned bad = packed ? f->ring.nids : SEGMENTS + 1;
        struct chain c = {.head = bad, .ndesc = 1};
        struct virtio_used u;

        use(f, &c, 7);
        assert_true(virtio_ring_next(&f->ring, &u));
        assert_int_equal(u.id, -1);
        assert_int_equal(u.raw, bad);
        close_ring(f);
    }
}

static void a_used_index_from_nowhere_is_reported_once(void **state)
{
    struct fixture *f = open_ring(false, true, false);
    struct virtq_used *used = (void *)f->device;
    struct virtio_used u;

    used->idx = le16_of(SIZE + 1);
    assert_true(virtio_ring_next(&f->ring, &u));
    assert_int_equal(u.id, -1);
    assert_true(u.bad_index);
    assert_false(virtio_ring_next(&f->ring, &u));
    close_ring(f);
}

static void base_is_the_end_of_what_is_used(void **state)
{
    struct fixture *f = open_ring(true, true, false);
    struct chain c;

    assert_int_equal(virtio_ring_base(&f->ring), 0x80008000);
    for (unsigned i = 0; i < SIZE - 1; i++)
        turn(f, i);
    assert_int_equal(virtio_ring_base(&f->ring), 0x80078007);
    for (unsigned i = 0; i < 3; i++) { /* two more are used that the driver has not looked at */
        add(f, i, 1, i);
        virtio_ring_publish(&f->ring);
    }
    for (unsigned i = 0; i < 2; i++) {
        assert_true(fetch(f, &c));
        use(f, &c, 1);
    }
    assert_int_equal(virtio_ring_base(&f->ring), 0x00010001);
    close_ring(f);

    f = open_ring(false, true, false);
    turn(f, 1);
    add(f, 1, 1, 1);
    virtio_ring_publish(&f->ring);
    assert_int_equal(virtio_ring_base(&f->ring), 1);
    close_ring(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_direct),
        cmocka_unit_test(split_indirect),
        cmocka_unit_test(packed_direct),
        cmocka_unit_test(packed_indirect),
        cmocka_unit_test(split_kicks_when_the_event_index_is_passed),
        cmocka_unit_test(split_kicks_unless_told_not_to),
        cmocka_unit_test(packed_kicks_as_the_device_wishes),
        cmocka_unit_test(arming_asks_for_the_next_used_element),
        cmocka_unit_test(ids_that_cannot_be_are_no_request),
        cmocka_unit_test(a_used_index_from_nowhere_is_reported_once),
        cmocka_unit_test(base_is_the_end_of_what_is_used),
    };

    return cmocka_run_group_tests_name("virtio_ring", tests, NULL, NULL);
}
