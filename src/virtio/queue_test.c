/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Order, laps, notifications, parking, bases. Each test runs with split and packed rings. */
#include "virtio/test_driver.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define EVENT_IDX VIRTIO_F_RING_EVENT_IDX
#define PACKED VIRTIO_F_RING_PACKED

struct fixture {
    struct machine m;
    struct driver d;
    struct guest_map *map;
    struct virtq *vq;
};

static struct virtq *open_queue(struct fixture *x)
{
    struct virtq_opts o = driver_opts(&x->d, x->map, false);
    struct err err = {0};
    struct virtq *vq = NULL;

    if (virtq_open(&o, &vq, &err) < 0)
        fail_msg("%s", err.msg);
    return vq;
}

static void make(struct fixture *x, uint32_t size, uint64_t features, uint32_t first)
{
    machine_make(&x->m);
    driver_init(&x->d, &x->m, size, features | VIRTIO_F_RING_INDIRECT_DESC, first);
    x->map = machine_map(&x->m);
    x->vq = open_queue(x);
}

static void end(struct fixture *x)
{
    virtq_close(x->vq);
    guest_map_destroy(x->map);
    machine_free(&x->m);
}

static void reopen(struct fixture *x)
{
    virtq_close(x->vq);
    x->vq = open_queue(x);
}

static uint64_t execute(struct virtq *vq, unsigned slot)
{
    uint64_t serial;

    assert_int_equal(serial_execute(vq, slot, &serial), 0);
    return serial;
}

/* Adds one, executes it, completes it; what virtq_post() said. */
static bool one(struct fixture *x)
{
    uint64_t serial;
    uint16_t slot;
    bool irq;

    assert_true(serial_add(&x->d, 0) >= 0);
    assert_int_equal(virtq_fetch(x->vq, &slot, 1), 1);
    serial = execute(x->vq, slot);
    virtq_done(x->vq, slot, used_len(serial));
    irq = virtq_post(x->vq);
    assert_true(serial_take(&x->d, &serial));
    return irq;
}

/* ---- order ---- */

static void chains_come_in_order(uint64_t features)
{
    uint16_t slots[16];
    struct fixture x;
    uint64_t serial;

    make(&x, 16, features, 5);
    assert_false(virtq_has_work(x.vq));
    assert_int_equal(virtq_fetch(x.vq, slots, 16), 0);
    for (unsigned i = 0; i < 5; i++)
        assert_true(serial_add(&x.d, i % 4) >= 0);
    assert_true(virtq_has_work(x.vq));
    assert_int_equal(virtq_fetch(x.vq, slots, 3), 3);
    assert_int_equal(virtq_fetch(x.vq, slots + 3, 13), 2);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(execute(x.vq, slots[i]), i + 1);
    assert_int_equal(virtq_inflight(x.vq), 5);
    assert_false(virtq_has_done(x.vq));
    for (unsigned i = 5; i-- > 0;)
        virtq_done(x.vq, slots[i], used_len(i + 1));
    assert_true(virtq_has_done(x.vq));
    assert_false(serial_take(&x.d, &serial));
    virtq_post(x.vq);
    for (unsigned i = 5; i-- > 0;) {
        assert_true(serial_take(&x.d, &serial));
        assert_int_equal(serial, i + 1);
    }
    assert_false(serial_take(&x.d, &serial));
    assert_int_equal(virtq_inflight(x.vq), 0);
    end(&x);
}

/* Random batches, completed in random order, over many laps. Every chain is seen once and answered
 * once. */
static void many_laps(uint32_t size, uint64_t features, uint32_t first)
{
    enum { CHAINS = 1000000 };
    uint16_t held[MAX_SIZE];
    uint64_t expected = 1, serial, taken = 0;
    unsigned nheld = 0;
    struct fixture x;

    make(&x, size, features, first);
    while (taken < CHAINS) {
        unsigned n;

        for (n = (unsigned)rand() % size + 1; n > 0; n--)
            if (x.d.next_serial > CHAINS || serial_add(&x.d, (unsigned)rand() % 5) < 0)
                break;
        n = virtq_fetch(x.vq, held + nheld, (unsigned)rand() % size + 1);
        for (unsigned i = 0; i < n; i++)
            assert_int_equal(execute(x.vq, held[nheld + i]), expected++);
        nheld += n;
        for (n = (unsigned)rand() % (nheld + 1); n > 0; n--) {
            unsigned i = (unsigned)rand() % nheld;

            virtq_done(x.vq, held[i], used_len(execute(x.vq, held[i])));
            held[i] = held[--nheld];
        }
        virtq_post(x.vq);
        while (serial_take(&x.d, &serial))
            taken++;
        if (virtq_broken(x.vq))
            fail_msg("%s", virtq_broken(x.vq));
    }
    assert_int_equal(taken, CHAINS);
    assert_int_equal(expected, CHAINS + 1);
    assert_int_equal(virtq_get_info(x.vq).completed, CHAINS);
    end(&x);
}

/* ---- interrupts ---- */

static void first_post_always_interrupts(uint64_t features)
{
    struct fixture x;

    make(&x, 16, features, 0);
    if (x.d.packed)
        set16(at(&x.m, GPA_DRIVER + 2), VIRTQ_PACKED_EVENT_DISABLE);
    else
        set16(&d_avail(&x.d)->flags, VIRTQ_AVAIL_F_NO_INTERRUPT);
    assert_true(one(&x));
    assert_false(one(&x));
    reopen(&x);
    assert_true(one(&x));
    assert_false(one(&x));
    if (x.d.packed)
        set16(at(&x.m, GPA_DRIVER + 2), VIRTQ_PACKED_EVENT_ENABLE);
    else
        set16(&d_avail(&x.d)->flags, 0);
    assert_true(one(&x));
    assert_false(virtq_post(x.vq)); /* nothing was done */
    end(&x);
}

static void set_used_event(struct driver *d, uint64_t cursor)
{
    if (!d->packed) {
        set16(&d_avail(d)->ring[d->size], (uint16_t)cursor);
        return;
    }
    set16(at(d->m, GPA_DRIVER),
          (uint16_t)(cursor % d->size | (cursor / d->size % 2 ? 0U : 1U << 15)));
    set16(at(d->m, GPA_DRIVER + 2), VIRTQ_PACKED_EVENT_DESC);
}

/* The event is met exactly by the batch that steps over it, at any distance and over every kind of
 * wrap. */
static void events_interrupt_when_stepped_over(uint64_t features)
{
    enum { SIZE = 16 };
    struct fixture x;
    uint64_t cursor, unit;
    uint16_t slots[SIZE];

    make(&x, SIZE, features | EVENT_IDX, features & PACKED ? 0 : 0xff00);
    cursor = x.d.used;
    one(&x);
    unit = x.d.packed ? 2 : 1; /* shape 0 has two descriptors */
    cursor += unit;
    for (unsigned round = 0; round < 3000; round++) {
        unsigned batch = 1 + (unsigned)rand() % (SIZE / 2), n;
        uint64_t event = cursor + (uint64_t)(rand() % 14) - 3, serial;

        if (event >= cursor + SIZE || event + SIZE < cursor)
            continue;
        set_used_event(&x.d, event);
        for (unsigned i = 0; i < batch; i++)
            assert_true(serial_add(&x.d, 0) >= 0);
        n = virtq_fetch(x.vq, slots, SIZE);
        assert_int_equal(n, batch);
        for (unsigned i = 0; i < n; i++)
            virtq_done(x.vq, slots[i], used_len(execute(x.vq, slots[i])));
        assert_int_equal(virtq_post(x.vq), event >= cursor && event < cursor + batch * unit);
        cursor += batch * unit;
        while (serial_take(&x.d, &serial))
            ;
    }
    end(&x);
}

/* ---- kicks ---- */

static void busy_queues_are_not_kicked(uint64_t features)
{
    struct fixture x;
    unsigned kicks = 0;

    make(&x, 16, features, features & PACKED ? 0 : 0xfff8);
    virtq_relax(x.vq);
    for (unsigned i = 0; i < 150000; i++) {
        one(&x);
        kicks += driver_kicks(&x.d);
        virtq_relax(x.vq);
    }
    assert_int_equal(kicks, 0);
    end(&x);
}

static void armed_queues_are_kicked(uint64_t features)
{
    struct fixture x;

    make(&x, 16, features, features & PACKED ? 0 : 0xfff8);
    for (unsigned i = 0; i < 70000; i++) {
        virtq_relax(x.vq);
        assert_true(virtq_arm(x.vq));
        assert_true(serial_add(&x.d, i % 3) >= 0);
        assert_true(driver_kicks(&x.d));
        assert_false(virtq_arm(x.vq)); /* there is work */
        driver_kicks(&x.d);
        {
            uint64_t serial;
            uint16_t slot;

            assert_int_equal(virtq_fetch(x.vq, &slot, 1), 1);
            virtq_done(x.vq, slot, used_len(execute(x.vq, slot)));
            virtq_post(x.vq);
            assert_true(serial_take(&x.d, &serial));
        }
    }
    end(&x);
}

struct race {
    struct fixture x;
    int kick;
    _Atomic bool failed;
};
enum { RACES = 30000 };

static void *race_driver(void *arg)
{
    struct race *r = arg;
    uint64_t serial, one_kick = 1;

    for (unsigned i = 0; i < RACES && !atomic_load(&r->failed); i++) {
        for (unsigned wait = i % 64; wait > 0; wait--)
            atomic_signal_fence(memory_order_seq_cst);
        if (serial_add(&r->x.d, 0) < 0)
            return NULL;
        if (driver_kicks(&r->x.d) && write(r->kick, &one_kick, 8) != 8)
            return NULL;
        while (!serial_take(&r->x.d, &serial) && !atomic_load(&r->failed))
            sched_yield();
    }
    return NULL;
}

/* One side adds a chain and kicks when it is asked to; the other arms and sleeps. Nobody may wait
 * for ever. */
static void no_kick_is_lost(uint64_t features)
{
    struct race r = {.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
    pthread_t thread;
    unsigned seen = 0;

    make(&r.x, 16, features, 0);
    assert_int_equal(pthread_create(&thread, NULL, race_driver, &r), 0);
    while (seen < RACES && !atomic_load(&r.failed)) {
        struct pollfd p = {.fd = r.kick, .events = POLLIN};
        uint64_t count, serial;
        uint16_t slot;

        virtq_relax(r.x.vq);
        while (virtq_fetch(r.x.vq, &slot, 1) == 1) {
            if (serial_execute(r.x.vq, slot, &serial) < 0)
                atomic_store(&r.failed, true);
            virtq_done(r.x.vq, slot, used_len(serial));
            virtq_post(r.x.vq);
            seen++;
        }
        if (seen == RACES || !virtq_arm(r.x.vq))
            continue;
        if (poll(&p, 1, 2000) == 0)
            atomic_store(&r.failed, true);
        else if (read(r.kick, &count, 8) != 8)
            atomic_store(&r.failed, true);
    }
    pthread_join(thread, NULL);
    assert_false(r.failed);
    assert_int_equal(seen, RACES);
    close(r.kick);
    end(&r.x);
}

/* ---- life ---- */

static void unmapped_rings_park(uint64_t features)
{
    struct fixture x;
    struct guest_region *ram;
    uint16_t slots[4];
    uint64_t serial;

    make(&x, 16, features, 0);
    serial_add(&x.d, 0);
    serial_add(&x.d, 0);
    assert_int_equal(virtq_fetch(x.vq, slots, 1), 1);
    virtq_done(x.vq, slots[0], used_len(execute(x.vq, slots[0])));
    ram = guest_map_take(x.map, 1);
    virtq_bind(x.vq);
    assert_string_equal(virtq_get_info(x.vq).state, "PARKED");
    assert_false(virtq_has_work(x.vq));
    assert_int_equal(virtq_fetch(x.vq, slots + 1, 1), 0);
    assert_false(virtq_post(x.vq));
    assert_false(virtq_has_done(x.vq)); /* not now */
    assert_int_equal(virtq_inflight(x.vq), 1);
    virtq_relax(x.vq);
    assert_true(virtq_arm(x.vq));
    reopen(&x); /* adoption does not need the ring either */
    assert_string_equal(virtq_get_info(x.vq).state, "PARKED");
    assert_int_equal(virtq_live(x.vq, slots, 1), 1);
    assert_int_equal(guest_map_add(x.map, ram, NULL), 0);
    virtq_bind(x.vq);
    assert_string_equal(virtq_get_info(x.vq).state, "RUNNING");
    virtq_done(x.vq, slots[0], used_len(execute(x.vq, slots[0])));
    assert_true(virtq_post(x.vq));
    assert_true(serial_take(&x.d, &serial));
    assert_int_equal(virtq_fetch(x.vq, slots, 4), 1);
    end(&x);
}

static void goes_on_from_its_base(uint64_t features)
{
    struct fixture x;

    make(&x, 16, features, 3);
    for (unsigned i = 0; i < 37; i++) {
        one(&x);
        x.d.cfg.base = virtq_base(x.vq);
        x.d.cfg.start++;
        reopen(&x);
        assert_int_equal(virtq_get_found(x.vq).records, 0);
    }
    end(&x);
}

static void starts_survive_and_drops_do_not(uint64_t features)
{
    struct fixture x;
    uint16_t slots[4];

    make(&x, 16, features, 0);
    for (unsigned i = 0; i < 3; i++)
        serial_add(&x.d, i);
    assert_int_equal(virtq_fetch(x.vq, slots, 4), 3);
    virtq_set_starts(x.vq, slots[2], 7);
    virtq_done(x.vq, slots[0], 0);
    virtq_drop(x.vq, slots[0]);
    virtq_drop(x.vq, slots[1]);
    assert_false(virtq_has_done(x.vq));
    assert_int_equal(virtq_inflight(x.vq), 1);
    reopen(&x);
    assert_int_equal(virtq_live(x.vq, slots, 4), 1);
    assert_int_equal(virtq_starts(x.vq, slots[0]), 7);
    assert_int_equal(execute(x.vq, slots[0]), 3);
    virtq_drop(x.vq, slots[0]);
    virtq_close(x.vq);
    virtq_state_reset(x.m.st);
    /* Of another incarnation nothing counts. */
    driver_init(&x.d, &x.m, 16, features, 0);
    x.d.cfg.start = 2;
    x.vq = open_queue(&x);
    assert_int_equal(virtq_inflight(x.vq), 0);
    one(&x);
    end(&x);
}

static void impossible_rings_are_refused(uint64_t features)
{
    struct fixture x;
    struct virtq_opts o, good;
    struct virtq *vq = NULL;

    make(&x, 16, features, 0);
    x.d.cfg.start = 9;
    good = driver_opts(&x.d, x.map, false);
#define REFUSED(rc, field, value)                                                                  \
    do {                                                                                           \
        struct err err = {0};                                                                      \
                                                                                                   \
        o = good;                                                                                  \
        o.field = value;                                                                           \
        assert_int_equal(virtq_open(&o, &vq, &err), rc);                                           \
        assert_int_not_equal(err.msg[0], 0);                                                       \
    } while (0)
    REFUSED(-EINVAL, cfg.size, 0);
    REFUSED(-EINVAL, cfg.size, MAX_SIZE + 1);
    REFUSED(-EINVAL, cfg.start, 0);
    REFUSED(-EINVAL, cfg.desc_gpa, GPA_DESC + 8);
    REFUSED(-EINVAL, cfg.driver_gpa, GPA_DRIVER + 1);
    REFUSED(-EINVAL, cfg.device_gpa, GPA_DEVICE + 2);
    REFUSED(-EFAULT, cfg.desc_gpa, RAM_BYTES);
    REFUSED(-EFAULT, cfg.desc_gpa, RAM_BYTES - 128);
    REFUSED(-EFAULT, cfg.driver_gpa, UINT64_MAX - 3);
    REFUSED(-EFAULT, cfg.device_gpa, 1ULL << 63);
    if (features & PACKED) {
        REFUSED(-EINVAL, cfg.base, 16);
        REFUSED(-EINVAL, cfg.base, 0x80008000U + (16U << 16));
        REFUSED(-EINVAL, cfg.base, 0x80000000U | 0x8000 | 3U << 16); /* avail behind used */
    } else {
        REFUSED(-EINVAL, cfg.size, 12);
    }
    end(&x);
}

/* ---- every test for both formats ---- */

#define BOTH(name)                                                                                 \
    static void split_##name(void **state)                                                         \
    {                                                                                              \
        name(0);                                                                                   \
    }                                                                                              \
    static void packed_##name(void **state)                                                        \
    {                                                                                              \
        name(PACKED);                                                                              \
    }
#define BOTH_AND_EVENT_IDX(name)                                                                   \
    BOTH(name)                                                                                     \
    static void split_event_idx_##name(void **state)                                               \
    {                                                                                              \
        name(EVENT_IDX);                                                                           \
    }                                                                                              \
    static void packed_event_idx_##name(void **state)                                              \
    {                                                                                              \
        name(PACKED | EVENT_IDX);                                                                  \
    }

BOTH(chains_come_in_order)
BOTH(first_post_always_interrupts)
BOTH(events_interrupt_when_stepped_over)
BOTH_AND_EVENT_IDX(busy_queues_are_not_kicked)
BOTH_AND_EVENT_IDX(armed_queues_are_kicked)
BOTH_AND_EVENT_IDX(no_kick_is_lost)
BOTH(unmapped_rings_park)
BOTH(goes_on_from_its_base)
BOTH(starts_survive_and_drops_do_not)
BOTH(impossible_rings_are_refused)

static void split_many_laps(void **state)
{
    many_laps(64, EVENT_IDX, 0xfff0);
    many_laps(4, 0, 0);
}

static void packed_many_laps(void **state)
{
    many_laps(100, PACKED | EVENT_IDX, 97);
    many_laps(4, PACKED, 0);
}

#define TESTS(name) cmocka_unit_test(split_##name), cmocka_unit_test(packed_##name)
#define EVENT_IDX_TESTS(name)                                                                      \
    cmocka_unit_test(split_event_idx_##name), cmocka_unit_test(packed_event_idx_##name)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TESTS(chains_come_in_order),
        TESTS(many_laps),
        TESTS(first_post_always_interrupts),
        TESTS(events_interrupt_when_stepped_over),
        TESTS(busy_queues_are_not_kicked),
        EVENT_IDX_TESTS(busy_queues_are_not_kicked),
        TESTS(armed_queues_are_kicked),
        EVENT_IDX_TESTS(armed_queues_are_kicked),
        TESTS(no_kick_is_lost),
        EVENT_IDX_TESTS(no_kick_is_lost),
        TESTS(unmapped_rings_park),
        TESTS(goes_on_from_its_base),
        TESTS(starts_survive_and_drops_do_not),
        TESTS(impossible_rings_are_refused),
    };

    srand(1);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
