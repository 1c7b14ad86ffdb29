/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Drivers that break the rules, state memory and in-flight areas full of rubbish: nothing of it may
 * end this process, and what is believed stays inside the ring, each head once. */
#include "virtio/test_driver.h"

#include <pthread.h>
#include <stdio.h>

#define PACKED VIRTIO_F_RING_PACKED

enum { SIZE = 16, ROUNDS = 20000 };

struct fixture {
    struct machine m;
    struct driver d;
    struct guest_map *map;
    struct virtq *vq;
    bool area;
};

static int open_queue(struct fixture *x)
{
    struct virtq_opts o = driver_opts(&x->d, x->map, x->area);

    x->vq = NULL;
    return virtq_open(&o, &x->vq, NULL);
}

static void make(struct fixture *x, uint64_t features, bool area)
{
    machine_make(&x->m);
    driver_init(&x->d, &x->m, SIZE, features | VIRTIO_F_RING_INDIRECT_DESC, 0);
    x->map = machine_map(&x->m);
    x->area = area;
    assert_int_equal(open_queue(x), 0);
}

static void end(struct fixture *x)
{
    virtq_close(x->vq);
    guest_map_destroy(x->map);
    machine_free(&x->m);
}

/* ---- the ring ---- */

static void jump(struct driver *d)
{
    set16(&d_avail(d)->idx, (uint16_t)(d->avail + SIZE + 1));
}

static void backwards(struct driver *d)
{
    set16(&d_avail(d)->idx, (uint16_t)(d->avail - 1));
}

static void bad_head(struct driver *d)
{
    set16(&d_avail(d)->ring[d->avail % SIZE], SIZE);
    set16(&d_avail(d)->idx, (uint16_t)(d->avail + 1));
}

static void same_head(struct driver *d)
{
    set16(&d_avail(d)->ring[d->avail % SIZE], get16(&d_avail(d)->ring[0]));
    set16(&d_avail(d)->idx, (uint16_t)(d->avail + 1));
}

static void packed_desc(struct driver *d, uint32_t pos, uint16_t id, uint16_t flags, bool wrap)
{
    struct virtq_packed_desc *to = &d_ring(d)[pos];

    to->addr = le64_of(GPA_BUFFERS);
    to->len = le32_of(16);
    to->id = le16_of(id);
    set16(&to->flags, (uint16_t)(flags | wrap_flags(wrap)));
}

static void bad_id(struct driver *d)
{
    packed_desc(d, d->avail, SIZE, 0, true);
}

static void same_id(struct driver *d)
{
    packed_desc(d, d->avail, le16_get(d_ring(d)[1].id), 0, true);
}

static void wrong_wrap(struct driver *d)
{
    packed_desc(d, d->avail + 1, 9, 0, false);
    packed_desc(d, d->avail, 9, VIRTQ_DESC_F_NEXT, true);
}

static void all_next(struct driver *d)
{
    for (uint32_t i = 0; i < SIZE; i++)
        packed_desc(d, i, 9, VIRTQ_DESC_F_NEXT, i >= d->avail);
}

static const struct {
    const char *name;
    uint64_t features;
    void (*act)(struct driver *d);
} crimes[] = {
    {"avail index jumps", 0, jump},          {"avail index runs backwards", 0, backwards},
    {"head beyond the size", 0, bad_head},   {"head twice", 0, same_head},
    {"ID beyond the size", PACKED, bad_id},  {"ID twice", PACKED, same_id},
    {"wrong wrap bits", PACKED, wrong_wrap}, {"endless chain", PACKED, all_next},
};

/* What was good before goes on; nothing is fetched any more, not by the next service either. */
static void crimes_break_the_ring(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(crimes); i++) {
        uint16_t slots[SIZE];
        struct fixture x;
        uint64_t serial;

        make(&x, crimes[i].features, false);
        serial_add(&x.d, 0);
        assert_int_equal(virtq_fetch(x.vq, slots, SIZE), 1);
        assert_int_equal(serial_execute(x.vq, slots[0], &serial), 0);
        crimes[i].act(&x.d);
        if (virtq_fetch(x.vq, slots + 1, SIZE) != 0 || !virtq_broken(x.vq))
            fail_msg("%s: not seen", crimes[i].name);
        assert_false(virtq_has_work(x.vq));
        virtq_close(x.vq);
        assert_int_equal(open_queue(&x), 0);
        assert_non_null(virtq_broken(x.vq));
        assert_string_equal(virtq_get_info(x.vq).state, "BROKEN");
        assert_int_equal(virtq_fetch(x.vq, slots + 1, SIZE), 0);
        assert_int_equal(virtq_live(x.vq, slots, SIZE), 1);
        virtq_done(x.vq, slots[0], used_len(serial));
        virtq_post(x.vq);
        assert_true(serial_take(&x.d, &serial));
        end(&x);
    }
}

/* Heads before a bad one are handed out. */
static void good_heads_before_a_bad_one(void **state)
{
    uint16_t slots[SIZE];
    struct fixture x;

    make(&x, 0, false);
    serial_add(&x.d, 0);
    serial_add(&x.d, 1);
    bad_head(&x.d);
    assert_int_equal(virtq_fetch(x.vq, slots, SIZE), 2);
    assert_non_null(virtq_broken(x.vq));
    end(&x);
}

static void fill(void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)p)[i] = (unsigned char)rand();
}

struct vandal {
    struct fixture *x;
    _Atomic bool stop;
};

static void *vandalise(void *arg)
{
    struct vandal *v = arg;
    unsigned seed = 1;

    while (!atomic_load(&v->stop)) {
        _Atomic uint16_t *p = at(&v->x->m, GPA_DESC + (unsigned)rand_r(&seed) % 512 / 2 * 2);

        atomic_store_explicit(p, (uint16_t)rand_r(&seed), memory_order_relaxed);
        p = at(&v->x->m, (rand_r(&seed) % 2 ? GPA_DRIVER : GPA_TABLES) +
                             (unsigned)rand_r(&seed) % 256 / 2 * 2);
        atomic_store_explicit(p, (uint16_t)(rand_r(&seed) % 64), memory_order_relaxed);
    }
    return NULL;
}

/* Rings that change while they are read. */
static void rings_that_change(uint64_t features)
{
    struct fixture x;
    struct vandal v = {.x = &x};
    pthread_t thread;

    make(&x, features | VIRTIO_F_RING_EVENT_IDX, true);
    assert_int_equal(pthread_create(&thread, NULL, vandalise, &v), 0);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct iovec iov[8];
        struct virtq_iov io = {.iov = iov, .max = 8};
        uint16_t slots[SIZE];
        unsigned n = virtq_fetch(x.vq, slots, SIZE);

        for (unsigned k = 0; k < n; k++) {
            int rc = virtq_map(x.vq, slots[k], &io);

            assert_in_range(io.nreadable, 0, 8);
            assert_in_range(io.nwritable, 0, 8 - io.nreadable);
            assert_true(rc <= 0);
            virtq_done(x.vq, slots[k], (uint32_t)i);
        }
        virtq_post(x.vq);
        assert_int_equal(virtq_inflight(x.vq), 0);
        virtq_arm(x.vq);
        virtq_relax(x.vq);
        if (virtq_broken(x.vq)) {
            virtq_close(x.vq);
            x.d.cfg.start++;
            assert_int_equal(open_queue(&x), 0);
        }
    }
    atomic_store(&v.stop, true);
    pthread_join(thread, NULL);
    end(&x);
}

/* ---- state memory and the in-flight area ---- */

/* Some chains in flight, some completed; then the service is gone. */
static void leave_some(struct fixture *x)
{
    uint16_t slots[SIZE];
    uint64_t serial;
    unsigned n;

    for (unsigned i = 0; i < 6; i++)
        serial_add(&x->d, i % 4);
    n = virtq_fetch(x->vq, slots, 5);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(serial_execute(x->vq, slots[i], &serial), 0);
    for (unsigned i = 0; i < n; i += 2) {
        assert_int_equal(serial_execute(x->vq, slots[i], &serial), 0);
        virtq_done(x->vq, slots[i], used_len(serial));
    }
    virtq_post(x->vq);
    virtq_close(x->vq);
    x->vq = NULL;
}

/* Whatever was believed: it stays inside the ring, it can be walked, completed, and let go. */
static void use_and_close(struct fixture *x)
{
    struct iovec iov[8];
    struct virtq_iov io = {.iov = iov, .max = 8};
    uint16_t slots[SIZE];
    unsigned n = virtq_live(x->vq, slots, SIZE);
    bool seen[SIZE] = {false};

    assert_in_range(n, 0, SIZE);
    assert_in_range(virtq_inflight(x->vq), n, SIZE);
    for (unsigned i = 0; i < n; i++) {
        assert_in_range(virtq_head(x->vq, slots[i]), 0, SIZE - 1);
        assert_false(seen[virtq_head(x->vq, slots[i])]);
        seen[virtq_head(x->vq, slots[i])] = true;
        virtq_map(x->vq, slots[i], &io);
        virtq_done(x->vq, slots[i], 0);
    }
    virtq_post(x->vq);
    assert_int_equal(virtq_inflight(x->vq), 0);
    virtq_fetch(x->vq, slots, SIZE);
    virtq_close(x->vq);
    x->vq = NULL;
}

/* A few bytes of an honest state, or all of it, are replaced by rubbish. */
static void spoil(void *p, size_t bytes)
{
    unsigned n = rand() % 8 ? 1 + (unsigned)rand() % 4 : 0;

    if (n == 0)
        fill(p, bytes);
    for (; n > 0; n--)
        ((unsigned char *)p)[(size_t)rand() % bytes] =
            (unsigned char)(rand() % 2 ? rand() : rand() % (SIZE + 1));
}

static void rubbish_in_state_memory(uint64_t features)
{
    unsigned refused = 0, accepted = 0;
    struct fixture x;

    make(&x, features, true);
    for (unsigned i = 0; i < ROUNDS; i++) {
        leave_some(&x);
        switch (rand() % 3) {
        case 0:
            spoil(&x.m.st->avail, sizeof(*x.m.st) - offsetof(struct virtq_state, avail));
            break;
        case 1:
            spoil(x.m.records, 6 * sizeof(*x.m.records));
            break;
        default:
            spoil(x.m.saved, SIZE * sizeof(*x.m.saved));
        }
        if (open_queue(&x) == 0) {
            accepted++;
            use_and_close(&x);
        } else {
            refused++;
        }
        machine_wipe(&x.m);
        memset(x.m.area, 0, AREA_BYTES);
        driver_init(&x.d, &x.m, SIZE, features | VIRTIO_F_RING_INDIRECT_DESC, 0);
        assert_int_equal(open_queue(&x), 0);
    }
    print_message("%u refused, %u accepted\n", refused, accepted);
    assert_true(refused > 0 && accepted > 0);
    end(&x);
}

static void rubbish_in_the_area(uint64_t features)
{
    size_t bytes = features & PACKED ? sizeof(struct vhost_inflight_packed) +
                                           SIZE * sizeof(struct vhost_inflight_packed_entry)
                                     : sizeof(struct vhost_inflight_split) +
                                           SIZE * sizeof(struct vhost_inflight_split_entry);
    unsigned believed = 0, refused = 0;
    struct fixture x;

    make(&x, features, true);
    for (unsigned i = 0; i < ROUNDS; i++) {
        leave_some(&x);
        machine_wipe(&x.m);
        spoil(x.m.area, bytes);
        x.d.cfg.start++;
        assert_int_equal(open_queue(&x), 0); /* a bad area is a fresh start, not a failure */
        if (virtq_get_found(x.vq).from_area)
            believed++;
        else
            refused++;
        assert_int_equal(virtq_get_found(x.vq).from_area, virtq_inflight(x.vq));
        use_and_close(&x);
        machine_wipe(&x.m);
        memset(x.m.area, 0, AREA_BYTES);
        driver_init(&x.d, &x.m, SIZE, features | VIRTIO_F_RING_INDIRECT_DESC, 0);
        assert_int_equal(open_queue(&x), 0);
    }
    print_message("%u refused, %u believed\n", refused, believed);
    assert_true(refused > 0 && believed > 0);
    end(&x);
}

/* ---- areas that must be refused, one lie each ---- */

static void expect_area(struct fixture *x, const char *lie, unsigned live)
{
    machine_wipe(&x->m);
    x->d.cfg.start++;
    assert_int_equal(open_queue(x), 0);
    if (virtq_get_found(x->vq).live != live)
        fail_msg("%s: %u chains were read back", lie, virtq_get_found(x->vq).live);
    virtq_close(x->vq);
    x->vq = NULL;
}

#define LIE(entry, value, live)                                                                    \
    do {                                                                                           \
        memcpy(x.m.area, good, sizeof(good));                                                      \
        entry = value;                                                                             \
        expect_area(&x, #entry " = " #value, live);                                                \
    } while (0)

static void split_areas_that_lie(void **state)
{
    struct vhost_inflight_split *a;
    char good[4096];
    unsigned free_head = 0, head = 0;
    struct fixture x;

    make(&x, 0, true);
    leave_some(&x);
    a = x.m.area;
    memcpy(good, a, sizeof(good));
    while (a->desc[free_head].inflight)
        free_head++;
    while (!a->desc[head].inflight)
        head++;
    LIE(a->features, 0, 2); /* the truth */
    LIE(a->version, 0, 0);
    LIE(a->version, 2, 0);
    LIE(a->desc_num, SIZE * 2, 0);
    LIE(a->used_idx, (uint16_t)(a->used_idx - SIZE - 1), 0);
    LIE(a->used_idx, (uint16_t)(a->used_idx + 1), 0);
    LIE(a->desc[free_head].counter, a->desc[head].counter; a->desc[free_head].inflight = 1, 0);
    LIE(a->used_idx, (uint16_t)(a->used_idx - 2); a->last_batch_head = SIZE, 0);
    LIE(a->used_idx, (uint16_t)(a->used_idx - 2);
        a->desc[a->last_batch_head].next = a->last_batch_head, 0);
    for (unsigned i = 0; i < SIZE; i++) /* more than the driver has offered */
        a->desc[i].inflight = 1, a->desc[i].counter = 100 + i;
    expect_area(&x, "all in flight", 0);
    end(&x);
}

static void packed_areas_that_lie(void **state)
{
    struct vhost_inflight_packed *a;
    char good[4096];
    unsigned head = 0;
    struct fixture x;

    make(&x, PACKED, true);
    leave_some(&x);
    a = x.m.area;
    memcpy(good, a, sizeof(good));
    while (!a->desc[head].inflight)
        head++;
    assert_true(a->desc[head].num > 1);
    LIE(a->features, 0, 2); /* the truth */
    LIE(a->version, 0, 0);
    LIE(a->desc_num, 0, 0);
    LIE(a->used_idx, SIZE; a->old_used_idx = SIZE, 0);
    LIE(a->used_wrap_counter, 2, 0);
    LIE(a->desc[a->old_free_head].next, a->old_free_head, 0);
    LIE(a->desc[head].num, 0, 0);
    LIE(a->desc[head].num, SIZE + 1, 0);
    LIE(a->desc[head].last, SIZE, 0);
    LIE(a->desc[head].last, (uint16_t)head, 0);
    LIE(a->desc[head].next, (uint16_t)head, 0);
    LIE(a->desc[head].next, SIZE, 0);
    LIE(a->desc[head].next, a->old_free_head, 0);
    LIE(a->desc[a->desc[head].last].id, SIZE, 0);
    for (unsigned i = 0; i < SIZE; i++) {
        memcpy(x.m.area, good, sizeof(good));
        if (i == head || !a->desc[i].inflight)
            continue;
        a->desc[i].counter = a->desc[head].counter;
        expect_area(&x, "the same counter", 0);
        a->desc[i].counter++;
        a->desc[a->desc[i].last].id = a->desc[a->desc[head].last].id;
        expect_area(&x, "the same ID", 0);
    }
    end(&x);
}

static void too_small_an_area_is_not_used(void **state)
{
    struct fixture x;
    struct virtq_opts o;

    make(&x, 0, true);
    leave_some(&x);
    machine_wipe(&x.m);
    o = driver_opts(&x.d, x.map, true);
    o.inflight.queue_size = SIZE - 1;
    assert_int_equal(virtq_open(&o, &x.vq, NULL), 0);
    assert_int_equal(virtq_get_found(x.vq).from_area, 0);
    end(&x);
}

/* A drop takes the chain out of the area too, whichever it is. */
static void dropped_chains_are_not_read_back(uint64_t features)
{
    for (unsigned k = 0; k < 3; k++) {
        uint16_t slots[SIZE];
        struct fixture x;
        uint64_t serial;

        make(&x, features, true);
        for (unsigned i = 0; i < 3; i++)
            serial_add(&x.d, i);
        assert_int_equal(virtq_fetch(x.vq, slots, SIZE), 3);
        virtq_drop(x.vq, slots[k]);
        virtq_close(x.vq);
        machine_wipe(&x.m);
        x.d.cfg.start++;
        assert_int_equal(open_queue(&x), 0);
        assert_int_equal(virtq_get_found(x.vq).from_area, 2);
        assert_int_equal(virtq_live(x.vq, slots, SIZE), 2);
        assert_int_equal(serial_execute(x.vq, slots[0], &serial), 0);
        assert_int_equal(serial, k == 0 ? 2 : 1);
        assert_int_equal(serial_execute(x.vq, slots[1], &serial), 0);
        assert_int_equal(serial, k == 2 ? 2 : 3);
        end(&x);
    }
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

BOTH(rings_that_change)
BOTH(rubbish_in_state_memory)
BOTH(rubbish_in_the_area)
BOTH(dropped_chains_are_not_read_back)

#define TESTS(name) cmocka_unit_test(split_##name), cmocka_unit_test(packed_##name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crimes_break_the_ring),
        cmocka_unit_test(good_heads_before_a_bad_one),
        TESTS(rings_that_change),
        TESTS(rubbish_in_state_memory),
        TESTS(rubbish_in_the_area),
        TESTS(dropped_chains_are_not_read_back),
        cmocka_unit_test(split_areas_that_lie),
        cmocka_unit_test(packed_areas_that_lie),
        cmocka_unit_test(too_small_an_area_is_not_used),
    };

    srand(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
