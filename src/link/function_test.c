/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/fd.h"
#include "link/function.h"
#include "link/inside.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

/* A device model that writes down what it is told. */
struct fake {
    struct state_reg_write writes[16];
    unsigned nwrites, lost, polls, flushes, added, detaches;
    bool has_work;
    uint32_t flags;
};

static int fake_adopt(void *dev, struct function *f, struct err *err)
{
    return 0;
}

static unsigned fake_poll(void *dev)
{
    struct fake *d = dev;

    d->polls++;
    return d->has_work ? 1 : 0;
}

static void fake_flush(void *dev)
{
    ((struct fake *)dev)->flushes++;
}

static bool fake_arm(void *dev)
{
    return !((struct fake *)dev)->has_work;
}

static unsigned fake_inflight(void *dev)
{
    return 0;
}

static void fake_reg_written(void *dev, const struct state_reg_write *w)
{
    struct fake *d = dev;

    if (d->nwrites < 16)
        d->writes[d->nwrites] = *w;
    d->nwrites++;
}

static void fake_registers_lost(void *dev)
{
    ((struct fake *)dev)->lost++;
}

static void fake_flags_changed(void *dev, uint32_t flags)
{
    ((struct fake *)dev)->flags = flags;
}

static void fake_memory_added(void *dev)
{
    ((struct fake *)dev)->added++;
}

static void fake_memory_detach(void *dev, const struct guest_region *region,
                               void (*detached)(void *arg), void *arg)
{
    ((struct fake *)dev)->detaches++;
    detached(arg);
}

static void fake_reset(void *dev, enum function_reset why, uint32_t epoch, void (*done)(void *arg),
                       void *arg)
{
    done(arg);
}

static const struct function_ops fake_ops = {
    fake_adopt,        fake_poll,          fake_flush,          fake_arm,
    fake_inflight,     fake_reg_written,   fake_registers_lost, fake_flags_changed,
    fake_memory_added, fake_memory_detach, fake_reset,          function_no_queues};

struct fixture {
    struct fake dev;
    struct state_memory *st;
    _Atomic uint32_t *doorbells;
    struct function *f;
};

static int set_up(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    struct function_parts parts = {.ops = &fake_ops, .dev = &x->dev};

    x->st = aligned_alloc(4096, STATE_DEVICE_OFFSET + 4096);
    memset(x->st, 0, STATE_DEVICE_OFFSET + 4096);
    x->doorbells = aligned_alloc(4096, 4096);
    atomic_store(&x->st->emu.epoch, 1);
    parts.state = x->st;
    parts.state_bytes = STATE_DEVICE_OFFSET + 4096;
    parts.doorbells = x->doorbells;
    parts.info.num_msix = 4;
    x->f = function_create(&parts);
    assert_int_equal(function_adopt(x->f, NULL), 0);
    *state = x;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *x = *state;

    function_destroy(x->f);
    free(x->st);
    free((void *)x->doorbells);
    free(x);
    return 0;
}

/* What snap_emu does with a register write. */
static void host_writes(struct fixture *x, uint32_t offset, uint32_t size, uint64_t value,
                        uint32_t epoch)
{
    uint64_t tail = atomic_load(&x->st->emu.log_tail);

    x->st->log[tail % STATE_LOG_ENTRIES] = (struct state_reg_write){
        .offset = offset, .size = size, .value = value, .epoch = epoch, .seq = tail};
    atomic_store_explicit(&x->st->emu.log_tail, tail + 1, memory_order_release);
}

static void register_writes_come_once_and_in_order(void **state)
{
    struct fixture *x = *state;

    host_writes(x, 0x24, 4, 0x1f001f, 1);
    host_writes(x, 0x28, 8, 0x1000, 1);
    assert_false(function_arm(x->f));
    function_poll(x->f);
    function_poll(x->f);
    assert_int_equal(x->dev.nwrites, 2);
    assert_int_equal(x->dev.writes[0].offset, 0x24);
    assert_int_equal(x->dev.writes[1].value, 0x1000);
    assert_int_equal(atomic_load(&x->st->svc.log_head), 2);
    assert_true(function_arm(x->f));
}

static void writes_of_another_epoch_and_nonsense_are_void(void **state)
{
    struct fixture *x = *state;

    host_writes(x, 0x14, 4, 1, 7);
    host_writes(x, STATE_REG_BYTES, 4, 1, 1);
    host_writes(x, 0xfe, 8, 1, 1);
    host_writes(x, 0x14, 3, 1, 1);
    host_writes(x, UINT32_MAX - 3, 4, 1, 1);
    function_poll(x->f);
    assert_int_equal(x->dev.nwrites, 0);
    assert_int_equal(atomic_load(&x->st->svc.log_head), 5);
}

static void a_full_log_makes_the_device_take_the_image(void **state)
{
    struct fixture *x = *state;

    atomic_store(&x->st->emu.log_lost, 3);
    function_poll(x->f);
    function_poll(x->f);
    assert_int_equal(x->dev.lost, 1);
    atomic_store(&x->st->emu.log_tail, 100000); /* a cursor that cannot be */
    function_poll(x->f);
    assert_int_equal(x->dev.lost, 2);
    assert_int_equal(x->dev.nwrites, 0);
}

static unsigned events(int fd)
{
    uint64_t n = 0;

    return read(fd, &n, sizeof(n)) == sizeof(n) ? (unsigned)n : 0;
}

static void an_interrupt_without_an_eventfd_is_not_lost(void **state)
{
    struct fixture *x = *state;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);

    function_irq(x->f, 2);
    function_irq(x->f, 99); /* no such vector */
    function_set_irq(x->f, 2, dup(fd));
    assert_int_equal(events(fd), 1);
    function_irq(x->f, 2);
    function_set_irq(x->f, 2, -1);
    assert_int_equal(events(fd), 1);
    function_irq(x->f, 2);
    assert_int_equal(events(fd), 0);
    function_set_irq(x->f, 2, dup(fd));
    assert_true(events(fd) >= 1);
    function_set_irq(x->f, 99, dup(fd));
    close(fd);
}

static struct guest_region *returned;

static void take_region(void *arg, struct guest_region *region)
{
    returned = region;
}

static void a_detached_region_comes_back_and_is_found_no_more(void **state)
{
    struct fixture *x = *state;
    int fd = fd_memfd("test", 8192);

    function_add_region(x->f, guest_region_open(5, 0x4000, 8192, fd, 0, GUEST_READ, NULL));
    assert_int_equal(x->dev.added, 1);
    function_detach_region(x->f, 5, take_region, NULL);
    assert_non_null(returned);
    assert_null(guest_ptr(function_memory(x->f), 0x4000, 1, GUEST_READ));
    guest_region_close(returned);
    function_detach_region(x->f, 5, take_region, NULL); /* unknown: answered all the same */
    assert_null(returned);
    close(fd);
}

static void flags_count_from_the_next_visit_on(void **state)
{
    struct fixture *x = *state;

    atomic_store(&x->st->emu.flags, STATE_BUS_MASTER);
    function_flush(x->f);
    assert_int_equal(x->dev.flags, STATE_BUS_MASTER);
    atomic_store(&x->st->emu.flags, 0);
    function_poll(x->f);
    assert_int_equal(x->dev.flags, 0);
}

static void a_failed_function_is_left_alone(void **state)
{
    struct fixture *x = *state;

    function_fail(x->f, "identity: serial differs");
    host_writes(x, 0x14, 4, 1, 1);
    x->dev.has_work = true;
    assert_int_equal(function_poll(x->f), 0);
    assert_true(function_arm(x->f));
    assert_int_equal(x->dev.nwrites, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(register_writes_come_once_and_in_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(writes_of_another_epoch_and_nonsense_are_void, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_full_log_makes_the_device_take_the_image, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(an_interrupt_without_an_eventfd_is_not_lost, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_detached_region_comes_back_and_is_found_no_more, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(flags_count_from_the_next_visit_on, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_function_is_left_alone, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
