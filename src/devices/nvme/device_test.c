/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/test_fixture.h"

/* ---- suspend, reset, memory ---- */

static int told;
static void tell(void *arg, int rc, const struct err *err)
{
    told = rc;
}

static void suspend_drains_and_resume_goes_on(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 5, 0, 1, GPA_DATA);
    struct nvme_cqe cqe;
    struct err err;

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_submit(&x->h, 1, &read);
    service_turn(&x->s);
    told = 1;
    device_suspend(&x->s.dev->base, CONTROLLER_ALL, 0, tell, NULL);
    assert_int_equal(told, 1);
    disk_release(0);
    service_turn(&x->s);
    assert_int_equal(told, 0);
    assert_true(host_take(&x->h, 1, &cqe));
    host_submit(&x->h, 1, &read);
    nothing_completes(x, 1);
    disk.hold = false;
    assert_int_equal(device_resume(&x->s.dev->base, &err), 0);
    complete(x, 1);
}

static bool reset_over;
static void reset_done(void *arg)
{
    reset_over = true;
}

static void a_reset_forgets_everything(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 5, 0, 1, GPA_DATA);
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_submit(&x->h, 1, &read);
    host_submit(&x->h, 0, &aer);
    service_turn(&x->s);
    atomic_store(&x->m.st->emu.epoch, 2);
    reset_over = false;
    function_reset(x->s.f, FUNCTION_RESET_FLR, 2, reset_done, NULL);
    assert_false(reset_over);
    assert_int_equal(disk.cancels, 1);
    disk_release(0);
    service_turn(&x->s);
    assert_true(reset_over);
    assert_int_equal(atomic_load(&x->m.st->svc.device_epoch), 2);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), 0);
    disk.hold = false;
    host_enable(&x->h);
    service_turn(&x->s);
    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
}

static void took(void *arg, struct guest_region *region)
{
    *(struct guest_region **)arg = region;
}

static void memory_may_go_and_come_back_under_commands(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 5, 8, 1, GPA_DATA);
    struct nvme_sqe write = rw_sqe(NVME_CMD_WRITE, 6, 9, 1, GPA_DATA + 512);
    struct guest_region *region = NULL;
    struct nvme_cqe cqe, cqe2;
    struct err err;

    make_io_queue(x, 1, 16);
    memset(x->m.disk + 8 * BLOCK, 0x5a, BLOCK);
    disk.hold = true;
    host_submit(&x->h, 1, &read);
    host_submit(&x->h, 1, &write);
    service_turn(&x->s);
    assert_int_equal(disk.nwaiting, 2);
    disk.detach_waits = true;
    function_detach_region(x->s.f, 1, took, &region);
    assert_null(region); /* the backend still uses the pages */
    assert_int_equal(disk.detaches, 2);
    disk.waiting[0].cancelled = true; /* the read ends early */
    disk_release(0);
    service_turn(&x->s);
    assert_null(region);
    disk_release(0);
    service_turn(&x->s);
    assert_non_null(region);
    guest_region_close(region);
    host_submit(&x->h, 1, &read); /* parked: not fetched */
    for (int i = 0; i < 5; i++)
        service_turn(&x->s);
    assert_false(host_take(&x->h, 1, &cqe));
    assert_true(function_arm(x->s.f));
    disk.hold = false;
    function_add_region(
        x->s.f, guest_region_open(2, 0, RAM_BYTES, x->m.ram_fd, 0, GUEST_READ | GUEST_WRITE, &err));
    cqe = complete(x, 1);
    cqe2 = complete(x, 1);
    assert_int_equal(le16_get(cqe.cid) + le16_get(cqe2.cid), 11); /* the write and the read */
    assert_int_equal(cqe_status(&cqe) | cqe_status(&cqe2), 0);
    complete(x, 1);
    assert_int_equal(data(x)[0], 0x5a);
    assert_true(atomic_load(&x->s.dev->base.counts.memory_parked) > 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(suspend_drains_and_resume_goes_on),
        T(a_reset_forgets_everything),
        T(memory_may_go_and_come_back_under_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
