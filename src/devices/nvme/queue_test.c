/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/test_fixture.h"

/* ---- queues come and go ---- */

static void queue_commands_answer_the_exact_status(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe sqe;

    assert_int_equal(run(x, 0, create_cq_sqe(0, 0, 16), NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(run(x, 0, create_cq_sqe(0, 5, 16), NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(run(x, 0, create_cq_sqe(0, 1, 1), NULL), NVME_DNR(NVME_SC_QUEUE_SIZE));
    assert_int_equal(run(x, 0, create_cq_sqe(0, 1, DEPTH + 1), NULL), NVME_DNR(NVME_SC_QUEUE_SIZE));
    sqe = create_cq_sqe(0, 1, 16);
    sqe.cdw11 = le32_of(8 << 16 | 3);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INTERRUPT_VECTOR));
    sqe = create_cq_sqe(0, 1, 16);
    sqe.cdw11 = le32_of(1 << 16 | 2);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe = create_cq_sqe(0, 1, 16);
    sqe.prp1 = le64_of(GPA_CQ + 8);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_PRP_OFFSET));
    assert_int_equal(run(x, 0, create_sq_sqe(0, 1, 16), NULL), NVME_DNR(NVME_SC_CQ_INVALID));
    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 0, create_cq_sqe(0, 1, 16), NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(run(x, 0, create_sq_sqe(0, 1, 16), NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_CQ, 0, 1, 0, NULL),
                     NVME_DNR(NVME_SC_QUEUE_DELETION));
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_SQ, 0, 2, 0, NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_SQ, 0, 1, 0, NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_SQ, 0, 1, 0, NULL), NVME_DNR(NVME_SC_QID_INVALID));
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_CQ, 0, 1, 0, NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_DELETE_CQ, 0, 1, 0, NULL), NVME_DNR(NVME_SC_QID_INVALID));
    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
}

static void commands_of_a_deleted_queue_are_aborted(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 77, 0, 1, GPA_DATA), del;
    struct nvme_cqe cqe;

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_submit(&x->h, 1, &read);
    service_turn(&x->s);
    del = (struct nvme_sqe){.opc = NVME_ADMIN_DELETE_SQ, .cid = le16_of(5), .cdw10 = le32_of(1)};
    host_submit(&x->h, 0, &del);
    nothing_completes(x, 0);
    assert_int_equal(disk.cancels, 1);
    disk_release(0);
    cqe = complete(x, 1);
    assert_int_equal(cqe_status(&cqe), NVME_SC_ABORTED_SQ_DELETION);
    cqe = complete(x, 0);
    assert_int_equal(le16_get(cqe.cid), 5);
    assert_int_equal(cqe_status(&cqe), 0);
}

static void a_full_completion_queue_holds_completions_back(void **state)
{
    struct fixture *x = *state;
    struct nvme_cqe cqe;
    unsigned got = 0;

    host_queue_init(&x->h, 1, 32, GPA_SQ + 0x1000, GPA_CQ + 0x1000);
    assert_int_equal(run(x, 0, create_cq_sqe(0, 1, 4), NULL), 0);
    assert_int_equal(run(x, 0, create_sq_sqe(0, 1, 32), NULL), 0);
    for (uint16_t i = 0; i < 20; i++) {
        struct nvme_sqe read = rw_sqe(NVME_CMD_READ, i, 0, 1, GPA_DATA);

        host_put(&x->h, 1, &read);
    }
    host_ring(&x->h, 2, x->h.q[1].tail);
    x->h.q[1].size = 4; /* of the CQ, from here on */
    service_turn(&x->s);
    service_turn(&x->s);
    assert_true(function_arm(x->s.f)); /* nothing to do until the head moves */
    for (unsigned i = 0; i < 40 && got < 20; i++) {
        if (!host_take(&x->h, 1, &cqe)) {
            assert_false(function_arm(x->s.f));
            service_turn(&x->s);
            continue;
        }
        assert_int_equal(le16_get(cqe.cid), got);
        got++;
    }
    assert_int_equal(got, 20);
}

/* ---- doorbells ---- */

static void invalid_doorbells_are_reported_and_stop_the_queue(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};
    struct nvme_cqe cqe;

    make_io_queue(x, 1, 16);
    host_submit(&x->h, 0, &aer);
    nothing_completes(x, 0);
    atomic_store(&x->m.doorbells[2], 16);
    cqe = complete(x, 0);
    assert_int_equal(le16_get(cqe.cid), 100);
    assert_int_equal(le32_get(cqe.dw0), 0x010100);
    atomic_store(&x->m.doorbells[2], 1);
    nothing_completes(x, 1);
    /* A doorbell without a queue: masked until the error log has been read. */
    host_submit(&x->h, 0, &aer);
    atomic_store(&x->m.doorbells[6], 3);
    function_arm(x->s.f);
    nothing_completes(x, 0);
    assert_int_equal(admin(x, NVME_ADMIN_GET_LOG_PAGE, NVME_NSID_ALL, 15 << 16 | 1, 0, NULL), 0);
    cqe = complete(x, 0);
    assert_int_equal(le16_get(cqe.cid), 100);
    assert_int_equal(le32_get(cqe.dw0), 0x010000);
}

static void a_head_beyond_the_tail_is_reported(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};
    struct nvme_cqe cqe;

    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
    host_submit(&x->h, 0, &aer);
    nothing_completes(x, 0);
    atomic_store(&x->m.doorbells[3], 5);
    function_arm(x->s.f);
    cqe = complete(x, 0);
    assert_int_equal(le32_get(cqe.dw0), 0x010100);
}

static void shadow_doorbells_need_no_ring_while_busy(void **state)
{
    struct fixture *x = *state;
    _Atomic uint32_t *eventidx = (_Atomic uint32_t *)(void *)(x->m.ram + GPA_EVENTIDX);
    unsigned rings = 0;

    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
    use_shadow_doorbells(x);
    assert_int_equal(atomic_load((_Atomic uint32_t *)(void *)(x->m.ram + GPA_SHADOW) + 2), 1);
    for (unsigned i = 0; i < 1000; i++) {
        uint16_t old = (uint16_t)x->h.q[1].tail, new, ei = (uint16_t)atomic_load(&eventidx[2]);

        assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
        new = (uint16_t)x->h.q[1].tail;
        rings += (uint16_t)(new - ei - 1) < (uint16_t)(new - old);
    }
    assert_true(rings <= 2);
    /* Asleep: the very next submission rings. */
    assert_true(function_arm(x->s.f));
    assert_int_equal(atomic_load(&eventidx[2]), x->h.q[1].tail);
    host_ring(&x->h, 2, (x->h.q[1].tail + 1) % 16);
    assert_false(function_arm(x->s.f));
}

static void absurd_shadow_buffers_are_refused(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe sqe = {.opc = NVME_ADMIN_DOORBELL_BUFFER_CONFIG,
                           .prp1 = le64_of(GPA_SHADOW),
                           .prp2 = le64_of(GPA_SHADOW)};

    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.prp2 = le64_of(1ULL << 40);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_DATA_TRANSFER_ERROR));
    sqe.prp2 = le64_of(GPA_EVENTIDX + 4);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_PRP_OFFSET));
    make_io_queue(x, 1, 16);
    use_shadow_doorbells(x);
    host_ring(&x->h, 2, 0xffff);
    nothing_completes(x, 1);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_CTRL, 0, NULL), 0);
}

/* ---- interrupts ---- */

static void coalescing_waits_for_the_threshold(void **state)
{
    struct fixture *x = *state;
    uint64_t before;

    make_io_queue(x, 1, 16);
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_IRQ_COALESCING, 0xff03, NULL),
                     0);
    before = atomic_load(&x->s.dev->base.counts.interrupts);
    for (unsigned i = 0; i < 3; i++)
        run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL);
    assert_int_equal(atomic_load(&x->s.dev->base.counts.interrupts), before);
    run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL);
    assert_int_equal(atomic_load(&x->s.dev->base.counts.interrupts), before + 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(queue_commands_answer_the_exact_status),
        T(commands_of_a_deleted_queue_are_aborted),
        T(a_full_completion_queue_holds_completions_back),
        T(invalid_doorbells_are_reported_and_stop_the_queue),
        T(a_head_beyond_the_tail_is_reported),
        T(shadow_doorbells_need_no_ring_while_busy),
        T(absurd_shadow_buffers_are_refused),
        T(coalescing_waits_for_the_threshold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
