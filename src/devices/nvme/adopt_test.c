/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What a second service takes over, and what it refuses. */
#include "devices/nvme/test_host.h"

#include <sys/eventfd.h>

struct fixture {
    struct machine m;
    struct service s;
    struct host h;
};

static void turns(struct fixture *x)
{
    for (int i = 0; i < 5; i++)
        service_turn(&x->s);
}

static void run_ok(struct fixture *x, unsigned q, struct nvme_sqe sqe)
{
    struct nvme_cqe cqe;

    host_submit(&x->h, q, &sqe);
    turns(x);
    assert_true(host_take(&x->h, q, &cqe));
    assert_int_equal(cqe_status(&cqe), 0);
}

static int set_up(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    machine_make(&x->m);
    service_start(&x->s, &x->m);
    x->h.m = &x->m;
    host_enable(&x->h);
    service_turn(&x->s);
    host_queue_init(&x->h, 1, 16, GPA_SQ + 0x1000, GPA_CQ + 0x1000);
    run_ok(x, 0, create_cq_sqe(1, 1, 16));
    run_ok(x, 0, create_sq_sqe(2, 1, 16));
    *state = x;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *x = *state;

    service_stop(&x->s);
    machine_free(&x->m);
    free(x);
    return 0;
}

/* Leaves a read of CID 77 in flight. */
static void leave_a_read(struct fixture *x)
{
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 77, 4, 1, GPA_DATA);

    disk.hold = true;
    host_submit(&x->h, 1, &read);
    turns(x);
    assert_int_equal(disk.nwaiting, 1);
    service_end(&x->s, true);
}

static void the_next_service_ends_what_is_in_flight(void **state)
{
    struct fixture *x = *state;
    struct nvme_cqe cqe;

    memset(x->m.disk + 4 * BLOCK, 0x33, BLOCK);
    leave_a_read(x);
    service_start(&x->s, &x->m);
    assert_int_equal(atomic_load(&x->s.dev->base.counts.live), 1);
    turns(x);
    assert_true(host_take(&x->h, 1, &cqe));
    assert_int_equal(le16_get(cqe.cid), 77);
    assert_int_equal(cqe_status(&cqe), 0);
    assert_int_equal(x->m.ram[GPA_DATA], 0x33);
    run_ok(x, 1, rw_sqe(NVME_CMD_READ, 1, 0, 1, GPA_DATA));
}

static void nothing_happens_before_the_first_resume(void **state)
{
    struct fixture *x = *state;
    struct service_opts o = {.no_resume = true};
    struct nvme_cqe cqe;
    struct err err;

    leave_a_read(x);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    turns(x);
    assert_int_equal(disk.submits, 0);
    assert_false(host_take(&x->h, 1, &cqe));
    assert_int_equal(device_resume(&x->s.dev->base, &err), 0);
    turns(x);
    assert_true(host_take(&x->h, 1, &cqe));
}

/* As if so many services had died with it. */
static void set_starts(struct fixture *x, uint8_t starts)
{
    for (uint32_t slot = 0; slot < DEPTH; slot++) {
        struct nvme_record *rec = &nvme_state_slots(state_device(x->m.st), DEPTH, 1)[slot];

        if (atomic_load(&rec->index1))
            atomic_store(&rec->starts, starts);
    }
}

static void a_command_that_was_killed_often_is_executed_all_the_same(void **state)
{
    struct fixture *x = *state;
    struct nvme_cqe cqe;

    leave_a_read(x);
    set_starts(x, 7);
    service_start(&x->s, &x->m);
    turns(x);
    assert_true(host_take(&x->h, 1, &cqe));
    assert_int_equal(cqe_status(&cqe), 0);
}

static void a_command_in_two_services_that_crashed_ends_with_an_error(void **state)
{
    struct fixture *x = *state;
    struct nvme_cqe cqe;

    leave_a_read(x);
    set_starts(x, 2);
    atomic_store(&x->m.st->svc.crashed, 1);
    service_start(&x->s, &x->m);
    turns(x);
    assert_true(host_take(&x->h, 1, &cqe));
    assert_int_equal(cqe_status(&cqe), NVME_DNR(NVME_SC_INTERNAL_ERROR));
    assert_int_equal(disk.submits, 0);
}

static void event_requests_survive_any_number_of_services(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(9)};
    struct nvme_cqe cqe;

    host_submit(&x->h, 0, &aer);
    turns(x);
    for (int i = 0; i < 4; i++) {
        service_stop(&x->s);
        service_start(&x->s, &x->m);
        turns(x);
        assert_false(host_take(&x->h, 0, &cqe));
        assert_int_equal(atomic_load(&x->s.dev->base.counts.records), 1);
    }
    atomic_store(&x->m.doorbells[2], 999);
    turns(x);
    assert_true(host_take(&x->h, 0, &cqe));
    assert_int_equal(le16_get(cqe.cid), 9);
}

static void all_vectors_are_signalled_after_adoption(void **state)
{
    struct fixture *x = *state;
    struct service_opts o = {.no_resume = true};
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct err err;
    uint64_t n;

    service_stop(&x->s);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    function_set_irq(x->s.f, 1, dup(fd));
    (void)!read(fd, &n, sizeof(n));
    assert_int_equal(device_resume(&x->s.dev->base, &err), 0);
    assert_int_equal(read(fd, &n, sizeof(n)), sizeof(n));
    close(fd);
}

static void refused(struct fixture *x, const struct service_opts *o, const char *field)
{
    struct err err = {0};

    service_stop(&x->s);
    assert_true(service_try(&x->s, &x->m, o, &err) < 0);
    assert_non_null(strstr(err.msg, field));
    assert_true(function_failed(x->s.f));
    assert_true(host_read(&x->h, NVME_REG_CSTS) & NVME_CSTS_CFS);
}

static void another_serial_number_fails_the_device(void **state)
{
    refused(*state, &(struct service_opts){.sn = "OTHER"}, "serial number was MNC12, is OTHER");
}

static void less_capacity_fails_the_device(void **state)
{
    refused(*state, &(struct service_opts){.blocks = DISK_BLOCKS / 2}, "capacity of namespace 1");
}

static void another_number_of_queues_fails_the_device(void **state)
{
    refused(*state, &(struct service_opts){.num_queues = 2}, "number of I/O queues was 4, is 2");
}

static void a_missing_namespace_fails_the_device(void **state)
{
    refused(*state, &(struct service_opts){.no_namespace = true}, "namespace 1 is not attached");
}

static void left(void *arg, int rc, const struct err *err)
{
    assert_int_equal(rc, 0);
}

static void a_namespace_attached_in_between_is_told(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};
    struct nvme_sqe set = {.opc = NVME_ADMIN_SET_FEATURES,
                           .cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT),
                           .cdw11 = le32_of(NVME_OAES_NS_ATTR)};
    struct nvme_sqe log = {.opc = NVME_ADMIN_GET_LOG_PAGE,
                           .prp1 = le64_of(GPA_DATA),
                           .cdw10 = le32_of(1023 << 16 | NVME_LOG_CHANGED_NS)};
    const le32 *changed = (const void *)(x->m.ram + GPA_DATA);
    struct nvme_cqe cqe;

    run_ok(x, 0, set);
    nvme_dev_detach(x->s.dev, 1, left, NULL);
    run_ok(x, 0, aer);
    run_ok(x, 0, log);
    host_submit(&x->h, 0, &aer);
    turns(x);
    assert_false(host_take(&x->h, 0, &cqe));
    service_stop(&x->s);
    service_start(&x->s, &x->m); /* with the namespace */
    turns(x);
    assert_true(host_take(&x->h, 0, &cqe));
    assert_int_equal(le16_get(cqe.cid), 100);
    assert_int_equal(le32_get(cqe.dw0), 0x040002);
    run_ok(x, 0, log);
    assert_int_equal(le32_get(changed[0]), 1);
    /* Known now: the next service says nothing. */
    host_submit(&x->h, 0, &aer);
    turns(x);
    service_stop(&x->s);
    service_start(&x->s, &x->m);
    turns(x);
    assert_false(host_take(&x->h, 0, &cqe));
}

static void a_namespace_that_has_grown_in_between_is_told(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};
    struct nvme_sqe set = {.opc = NVME_ADMIN_SET_FEATURES,
                           .cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT),
                           .cdw11 = le32_of(NVME_OAES_NS_ATTR)};
    struct nvme_sqe identify = {.opc = NVME_ADMIN_IDENTIFY,
                                .nsid = le32_of(1),
                                .prp1 = le64_of(GPA_DATA),
                                .cdw10 = le32_of(NVME_CNS_NS)};
    struct service_opts o = {.blocks = DISK_BLOCKS * 2};
    struct nvme_cqe cqe;
    struct err err;

    run_ok(x, 0, set);
    host_submit(&x->h, 0, &aer);
    turns(x);
    service_stop(&x->s);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    turns(x);
    assert_true(host_take(&x->h, 0, &cqe));
    assert_int_equal(le16_get(cqe.cid), 100);
    assert_int_equal(le32_get(cqe.dw0), 0x040002);
    run_ok(x, 0, identify);
    assert_int_equal(le64_get(((const struct nvme_id_ns *)(x->m.ram + GPA_DATA))->nsze),
                     DISK_BLOCKS * 2);
}

static void reset_done(void *arg)
{
    *(bool *)arg = true;
}

static void a_failed_device_is_well_after_a_reset(void **state)
{
    struct fixture *x = *state;
    struct service_opts o = {.sn = "OTHER"};
    struct err err = {0};
    bool done = false;

    refused(x, &o, "serial number");
    function_reset(x->s.f, FUNCTION_RESET_FLR, 2, reset_done, &done);
    assert_true(done);
    atomic_store(&x->m.st->emu.epoch, 2);
    assert_int_equal(device_resume(&x->s.dev->base, &err), 0);
    host_enable(&x->h);
    turns(x);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
    /* And its new identity is the one that counts. */
    service_stop(&x->s);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    run_ok(x, 0, create_cq_sqe(1, 1, 16));
}

static void without_a_host_everything_may_change(void **state)
{
    struct fixture *x = *state;
    struct service_opts o = {.sn = "OTHER", .num_queues = 2, .blocks = DISK_BLOCKS / 2};
    struct err err;

    host_reg(&x->h, NVME_REG_CC, 4, 0);
    service_turn(&x->s);
    service_stop(&x->s);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    assert_int_equal(atomic_load(&x->s.dev->cntlid), 1);
    host_enable(&x->h);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
}

static void another_epoch_voids_queues_and_records(void **state)
{
    struct fixture *x = *state;
    struct nvme_cqe cqe;

    leave_a_read(x);
    /* snap_emu resets a parked function. */
    atomic_store(&x->m.st->emu.epoch, 2);
    service_start(&x->s, &x->m);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), 0);
    assert_int_equal(atomic_load(&x->s.dev->base.counts.adopted), 0);
    host_enable(&x->h);
    turns(x);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
    assert_false(host_take(&x->h, 1, &cqe));
    assert_int_equal(disk.submits, 0);
}

static void a_reset_asked_for_while_parked_drops_the_records(void **state)
{
    struct fixture *x = *state;

    leave_a_read(x);
    host_reg(&x->h, NVME_REG_CC, 4, 0);
    host_reg(&x->h, NVME_REG_CC, 4, CC_ENABLE);
    host_queue_init(&x->h, 0, ADMIN_ENTRIES, GPA_ASQ, GPA_ACQ);
    {
        struct service_opts o = {.no_resume = true};
        struct err err;

        assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
        service_turn(&x->s); /* the register log */
        assert_int_equal(device_resume(&x->s.dev->base, &err), 0);
    }
    turns(x);
    assert_int_equal(disk.submits, 0);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
    run_ok(x, 0, create_cq_sqe(1, 1, 16));
}

static void another_version_is_refused(void **state)
{
    struct fixture *x = *state;
    struct nvme_state *st = state_device(x->m.st);
    struct service_opts o = {0};
    struct err err = {0};

    service_stop(&x->s);
    st->head.version++;
    assert_true(service_try(&x->s, &x->m, &o, &err) < 0);
    assert_non_null(strstr(err.msg, "version 2"));
}

static void damaged_state_is_refused_and_not_obeyed(void **state)
{
    struct fixture *x = *state;
    struct nvme_state *st = state_device(x->m.st);
    struct service_opts o = {0};
    struct err err = {0};

    service_stop(&x->s);
    st->sq[1].size = 0x7fffffff;
    assert_true(service_try(&x->s, &x->m, &o, &err) < 0);
    assert_non_null(strstr(err.msg, "submission queue 1"));
}

static void a_third_crash_in_recovery_parks_the_function(void **state)
{
    struct fixture *x = *state;
    struct nvme_state *st = state_device(x->m.st);
    struct service_opts o = {0};
    struct err err = {0};

    service_stop(&x->s);
    atomic_store(&st->life.recovering, 2);
    atomic_store(&x->m.st->svc.crashed, 1);
    assert_true(service_try(&x->s, &x->m, &o, &err) < 0);
    assert_non_null(strstr(err.msg, "crash in recovery"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_next_service_ends_what_is_in_flight),
        T(nothing_happens_before_the_first_resume),
        T(a_command_that_was_killed_often_is_executed_all_the_same),
        T(a_command_in_two_services_that_crashed_ends_with_an_error),
        T(event_requests_survive_any_number_of_services),
        T(all_vectors_are_signalled_after_adoption),
        T(another_serial_number_fails_the_device),
        T(less_capacity_fails_the_device),
        T(another_number_of_queues_fails_the_device),
        T(a_missing_namespace_fails_the_device),
        T(a_namespace_attached_in_between_is_told),
        T(a_namespace_that_has_grown_in_between_is_told),
        T(a_failed_device_is_well_after_a_reset),
        T(without_a_host_everything_may_change),
        T(another_epoch_voids_queues_and_records),
        T(a_reset_asked_for_while_parked_drops_the_records),
        T(another_version_is_refused),
        T(damaged_state_is_refused_and_not_obeyed),
        T(a_third_crash_in_recovery_parks_the_function),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
