/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/test_host.h"

struct fixture {
    struct machine m;
    struct service s;
    struct host h;
    uint16_t cid;
};

static int set_up(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    machine_make(&x->m);
    service_start(&x->s, &x->m);
    x->h.m = &x->m;
    host_enable(&x->h);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
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

static struct nvme_cqe complete(struct fixture *x, unsigned q)
{
    struct nvme_cqe cqe = {0};

    for (int i = 0; i < 10; i++) {
        service_turn(&x->s);
        if (host_take(&x->h, q, &cqe))
            return cqe;
    }
    fail_msg("no completion on queue %u", q);
    return cqe;
}

static void nothing_completes(struct fixture *x, unsigned q)
{
    struct nvme_cqe cqe;

    for (int i = 0; i < 5; i++)
        service_turn(&x->s);
    assert_false(host_take(&x->h, q, &cqe));
}

/* Submits, waits, checks the CID, returns the status. */
static nvme_status run(struct fixture *x, unsigned q, struct nvme_sqe sqe, uint32_t *dw0)
{
    struct nvme_cqe cqe;

    sqe.cid = le16_of(++x->cid);
    host_submit(&x->h, q, &sqe);
    cqe = complete(x, q);
    assert_int_equal(le16_get(cqe.cid), x->cid);
    assert_int_equal(le16_get(cqe.sqid), q);
    if (dw0)
        *dw0 = le32_get(cqe.dw0);
    return cqe_status(&cqe);
}

static nvme_status admin(struct fixture *x, uint8_t opc, uint32_t nsid, uint32_t cdw10,
                         uint32_t cdw11, uint32_t *dw0)
{
    struct nvme_sqe sqe = {.opc = opc,
                           .nsid = le32_of(nsid),
                           .prp1 = le64_of(GPA_DATA),
                           .prp2 = le64_of(GPA_DATA + 4096),
                           .cdw10 = le32_of(cdw10),
                           .cdw11 = le32_of(cdw11)};

    return run(x, 0, sqe, dw0);
}

static void make_io_queue(struct fixture *x, unsigned qid, uint32_t size)
{
    host_queue_init(&x->h, qid, size, GPA_SQ + qid * 0x1000, GPA_CQ + qid * 0x1000);
    assert_int_equal(run(x, 0, create_cq_sqe(0, qid, size), NULL), 0);
    assert_int_equal(run(x, 0, create_sq_sqe(0, qid, size), NULL), 0);
}

static void use_shadow_doorbells(struct fixture *x)
{
    struct nvme_sqe sqe = {.opc = NVME_ADMIN_DOORBELL_BUFFER_CONFIG,
                           .prp1 = le64_of(GPA_SHADOW),
                           .prp2 = le64_of(GPA_EVENTIDX)};

    assert_int_equal(run(x, 0, sqe, NULL), 0);
    x->h.shadow = true;
}

static char *data(struct fixture *x)
{
    return x->m.ram + GPA_DATA;
}

/* ---- enable, identify ---- */

static void identify_says_what_hosts_need(void **state)
{
    struct fixture *x = *state;
    const struct nvme_id_ctrl *c = (const void *)data(x);
    const struct nvme_id_ns *ns = (const void *)data(x);
    const le32 *list = (const void *)data(x);
    const struct nvme_ns_id_desc *d = (const void *)data(x);

    assert_int_equal(host_read(&x->h, NVME_REG_CAP) & 0xffff, DEPTH - 1);
    assert_int_equal(host_read(&x->h, NVME_REG_VS), NVME_VS_2_0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_CTRL, 0, NULL), 0);
    assert_string_equal(c->subnqn, "nqn.2024-01.test:1");
    assert_memory_equal(c->sn, "MNC12               ", 20);
    assert_int_equal(le16_get(c->cntlid), 1);
    assert_int_equal(c->cntrltype, 1);
    assert_int_equal(c->sqes, 0x66);
    assert_int_equal(c->mdts, 5);
    assert_int_equal(le32_get(c->nn), 1024);
    assert_true(le16_get(c->oacs) & NVME_OACS_DOORBELL_BUFFER);
    assert_int_equal(le32_get(c->sgls), 1);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 1, NVME_CNS_NS, 0, NULL), 0);
    assert_int_equal(le64_get(ns->nsze), DISK_BLOCKS);
    assert_int_equal(ns->lbaf[0].lbads, 9);
    assert_int_equal(ns->nguid[0], 9);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_ACTIVE_NS_LIST, 0, NULL), 0);
    assert_int_equal(le32_get(list[0]), 1);
    assert_int_equal(le32_get(list[1]), 0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 1, NVME_CNS_NS_DESC_LIST, 0, NULL), 0);
    assert_int_equal(d->nidt, NVME_NIDT_NGUID);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 1, NVME_CNS_CSI_NS, 0, NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_CSI_CTRL, 0, NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 1, NVME_CNS_CSI_INDEPENDENT_NS, 0, NULL), 0);
    assert_int_equal(data(x)[14], 1); /* ready */
}

static void identify_of_what_is_not_there(void **state)
{
    struct fixture *x = *state;

    memset(data(x), 0xee, 4096);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 7, NVME_CNS_NS, 0, NULL),
                     0); /* inactive: zeroes */
    assert_int_equal(data(x)[0] | data(x)[4095], 0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_NS, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_NAMESPACE));
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, NVME_NSID_ALL, NVME_CNS_NS, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_NAMESPACE));
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 7, NVME_CNS_NS_DESC_LIST, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, 0x55, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 1, NVME_CNS_CSI_NS, 2U << 24, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0xfffffffe, NVME_CNS_ACTIVE_NS_LIST, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_NAMESPACE));
}

static void bad_configurations_are_fatal_and_a_reset_heals(void **state)
{
    struct fixture *x = *state;
    static const uint32_t bad[] = {0x460081, 0x460011, 0x460801, 0x450001, 0x360001};

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        host_reg(&x->h, NVME_REG_CC, 4, 0);
        service_turn(&x->s);
        assert_int_equal(host_read(&x->h, NVME_REG_CSTS), 0);
        host_reg(&x->h, NVME_REG_CC, 4, bad[i]);
        service_turn(&x->s);
        assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_CFS);
    }
    host_reg(&x->h, NVME_REG_CC, 4, 0);
    host_reg(&x->h, NVME_REG_AQA, 4, 0);
    host_reg(&x->h, NVME_REG_CC, 4, CC_ENABLE);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_CFS);
    host_reg(&x->h, NVME_REG_CC, 4, 0);
    host_enable(&x->h);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_CTRL, 0, NULL), 0);
}

static void a_repeated_register_write_changes_nothing(void **state)
{
    struct fixture *x = *state;

    make_io_queue(x, 1, 16);
    host_reg(&x->h, NVME_REG_CC, 4, CC_ENABLE);
    service_turn(&x->s);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
}

static void shutdown_flushes_and_says_so(void **state)
{
    struct fixture *x = *state;

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_reg(&x->h, NVME_REG_CC, 4, CC_ENABLE | 1 << NVME_CC_SHN_SHIFT);
    service_turn(&x->s);
    service_turn(&x->s);
    assert_int_equal(NVME_CSTS_SHST(host_read(&x->h, NVME_REG_CSTS)), NVME_SHST_OCCURRING);
    assert_int_equal(disk.nwaiting, 1);
    disk_release(0);
    service_turn(&x->s);
    assert_int_equal(disk.flushes, 1);
    assert_int_equal(NVME_CSTS_SHST(host_read(&x->h, NVME_REG_CSTS)), NVME_SHST_COMPLETE);
    host_reg(&x->h, NVME_REG_CC, 4, 0);
    host_enable(&x->h);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
}

/* ---- queues ---- */

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

/* Random commands, half of them nearly right: each but AER is answered, and the controller still
 * works. */
static void random_commands_do_no_harm(void **state)
{
    static const uint8_t io_opcodes[] = {NVME_CMD_READ, NVME_CMD_WRITE, NVME_CMD_FLUSH,
                                         NVME_CMD_WRITE_ZEROES, NVME_CMD_DSM};
    struct fixture *x = *state;
    uint64_t *ram = (uint64_t *)(void *)(x->m.ram + GPA_DATA);

    srand(7);
    make_io_queue(x, 1, 16);
    for (unsigned n = 0; n < 20000; n++) {
        unsigned q = (unsigned)rand() % 2;
        uint32_t raw[sizeof(struct nvme_sqe) / 4];
        struct nvme_sqe sqe;

        for (unsigned i = 0; i < ARRAY_SIZE(raw); i++)
            raw[i] = (uint32_t)rand() << 1 ^ (uint32_t)rand();
        memcpy(&sqe, raw, sizeof(sqe));
        if (rand() % 2) {
            sqe.opc = q ? io_opcodes[sqe.opc % ARRAY_SIZE(io_opcodes)] : sqe.opc % 16;
            sqe.flags &= 0x40;
            sqe.nsid = le32_of(raw[1] % 3);
            sqe.prp1 = le64_of(GPA_DATA + raw[6] % 0x20000);
            sqe.prp2 = le64_of(GPA_DATA + (raw[7] % 0x20000 & (raw[8] & 1 ? ~0xfffU : ~0x7U)));
            sqe.cdw10 = le32_of(q ? raw[10] % DISK_BLOCKS : raw[10] % 0x400);
            sqe.cdw11 = le32_of(0);
            sqe.cdw12 = le32_of(raw[12] % 300);
        }
        if (q == 0 && (sqe.opc == NVME_ADMIN_ASYNC_EVENT || sqe.opc == NVME_ADMIN_DELETE_SQ ||
                       sqe.opc == NVME_ADMIN_DOORBELL_BUFFER_CONFIG))
            continue;
        for (unsigned i = 0; i < 64; i++) /* lists and segments to walk */
            ram[(unsigned)rand() % (0x20000 / 8)] =
                rand() % 2 ? GPA_DATA + ((unsigned)rand() % 0x20U) * 0x1000
                           : (uint64_t)rand() << 33 ^ (uint64_t)rand();
        run(x, q, sqe, NULL);
    }
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_IDENTIFY, 0, NVME_CNS_CTRL, 0, NULL), 0);
}

static void too_many_event_requests_are_refused(void **state)
{
    struct fixture *x = *state;

    for (uint16_t i = 0; i < NVME_AERL + 1; i++) {
        struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(i)};

        host_submit(&x->h, 0, &aer);
    }
    nothing_completes(x, 0);
    assert_int_equal(admin(x, NVME_ADMIN_ASYNC_EVENT, 0, 0, 0, NULL), NVME_DNR(NVME_SC_AER_LIMIT));
}

/* ---- I/O ---- */

static void data_goes_both_ways(void **state)
{
    struct fixture *x = *state;

    make_io_queue(x, 1, 16);
    for (unsigned i = 0; i < 8192; i++)
        data(x)[i] = (char)(i * 7);
    /* Two pages, the first begins in its middle. */
    memmove(data(x) + 512, data(x), 4096);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_WRITE, 0, 100, 8, GPA_DATA + 512), NULL), 0);
    assert_memory_equal(x->m.disk + 100 * BLOCK, data(x) + 512, 4096);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 100, 8, GPA_DATA + 0x10000), NULL), 0);
    assert_memory_equal(data(x) + 0x10000, data(x) + 512, 4096);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_WRITE_ZEROES, 0, 100, 4, 0), NULL), 0);
    assert_int_equal(x->m.disk[100 * BLOCK] | x->m.disk[104 * BLOCK - 1], 0);
    assert_int_equal(x->m.disk[104 * BLOCK + 1], (unsigned char)data(x)[512 + 2049]);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_FLUSH, 0, 0, 1, 0), NULL), 0);
    assert_int_equal(disk.flushes, 1);
}

static void flush_of_all_namespaces(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe sqe = {.opc = NVME_CMD_FLUSH, .nsid = le32_of(NVME_NSID_ALL)};

    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, sqe, NULL), 0);
    assert_int_equal(disk.flushes, 1);
}

static void deallocate_takes_many_ranges(void **state)
{
    struct fixture *x = *state;
    struct nvme_dsm_range *r = (void *)data(x);
    struct nvme_sqe sqe = {.opc = NVME_CMD_DSM,
                           .cid = le16_of(9),
                           .nsid = le32_of(1),
                           .prp1 = le64_of(GPA_DATA),
                           .cdw10 = le32_of(2),
                           .cdw11 = le32_of(NVME_DSM_AD)};
    struct nvme_cqe cqe;

    make_io_queue(x, 1, 16);
    memset(x->m.disk, 0xaa, 100 * BLOCK);
    r[0] = (struct nvme_dsm_range){.slba = le64_of(1), .nlb = le32_of(2)};
    r[1] = (struct nvme_dsm_range){.slba = le64_of(5), .nlb = le32_of(0)};
    r[2] = (struct nvme_dsm_range){.slba = le64_of(9), .nlb = le32_of(1)};
    disk.hold = true;
    host_submit(&x->h, 1, &sqe);
    nothing_completes(x, 1);
    disk_release(0);
    nothing_completes(x, 1);
    disk_release(0);
    cqe = complete(x, 1);
    assert_int_equal(cqe_status(&cqe), 0);
    assert_int_equal(x->m.disk[0], 0xaa);
    assert_int_equal(x->m.disk[1 * BLOCK], 0);
    assert_int_equal(x->m.disk[5 * BLOCK], 0xaa);
    assert_int_equal(x->m.disk[9 * BLOCK], 0);
    disk.hold = false;
    r[2].nlb = le32_of(DISK_BLOCKS);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_LBA_RANGE));
}

static void bad_commands_get_the_exact_status(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe sqe;

    make_io_queue(x, 1, 16);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, DISK_BLOCKS - 1, 2, GPA_DATA), NULL),
                     NVME_DNR(NVME_SC_LBA_RANGE));
    sqe = rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA);
    sqe.cdw11 = le32_of(0xffffffff);
    sqe.cdw10 = le32_of(0xffffffff);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_LBA_RANGE));
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 257, GPA_DATA), NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD)); /* MDTS */
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA + 2), NULL),
                     NVME_DNR(NVME_SC_PRP_OFFSET));
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, 1ULL << 40), NULL),
                     NVME_DNR(NVME_SC_DATA_TRANSFER_ERROR));
    sqe = rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA);
    sqe.nsid = le32_of(0);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_NAMESPACE));
    sqe.nsid = le32_of(2);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.nsid = le32_of(NVME_NSID_ALL);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_NAMESPACE));
    sqe = rw_sqe(0x55, 0, 0, 1, GPA_DATA);
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_OPCODE));
    sqe = rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA);
    sqe.flags = 1;
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.flags = 2 << 6;
    assert_int_equal(run(x, 1, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, 0x55, 0, 0, 0, NULL), NVME_DNR(NVME_SC_INVALID_OPCODE));
    assert_int_equal(admin(x, NVME_ADMIN_KEEP_ALIVE, 0, 0, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_OPCODE));
    disk.fail = -EIO;
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL),
                     NVME_SC_UNRECOVERED_READ);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_WRITE, 0, 0, 1, GPA_DATA), NULL),
                     NVME_SC_WRITE_FAULT);
}

static void features_are_kept_and_checked(void **state)
{
    struct fixture *x = *state;
    uint32_t dw0;

    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_NUM_QUEUES, 7 << 16 | 7, &dw0),
                     0);
    assert_int_equal(dw0, 3 << 16 | 3);
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_NUM_QUEUES, 0xffffffff, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_IRQ_COALESCING, 0x0102, NULL),
                     0);
    assert_int_equal(admin(x, NVME_ADMIN_GET_FEATURES, 0, NVME_FEAT_IRQ_COALESCING, 0, &dw0), 0);
    assert_int_equal(dw0, 0x0102);
    assert_int_equal(
        admin(x, NVME_ADMIN_GET_FEATURES, 0, NVME_FEAT_IRQ_COALESCING | 1 << 8, 0, &dw0), 0);
    assert_int_equal(dw0, 0);
    assert_int_equal(admin(x, NVME_ADMIN_GET_FEATURES, 0, NVME_FEAT_WRITE_CACHE | 3 << 8, 0, &dw0),
                     0);
    assert_int_equal(dw0, NVME_FEATCAP_CHANGEABLE);
    assert_int_equal(
        admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_WRITE_CACHE | NVME_FEAT_SV, 0, NULL),
        NVME_DNR(NVME_SC_FEATURE_NOT_SAVEABLE));
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 1, NVME_FEAT_WRITE_CACHE, 0, NULL),
                     NVME_DNR(NVME_SC_FEATURE_NOT_NS_SPECIFIC));
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, 0x7f, 0, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_IRQ_VECTOR, 8, NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    memset(data(x), 0, 8);
    data(x)[3] = 1;
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_TIMESTAMP, 0, NULL), 0);
    assert_int_equal(admin(x, NVME_ADMIN_GET_FEATURES, 0, NVME_FEAT_TIMESTAMP, 0, NULL), 0);
    assert_int_equal(data(x)[3], 1);
    assert_int_equal(data(x)[6], 2); /* origin: set by the host */
}

static void log_pages_end_where_they_end(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe sqe = {.opc = NVME_ADMIN_GET_LOG_PAGE,
                           .prp1 = le64_of(GPA_DATA),
                           .prp2 = le64_of(GPA_DATA + 4096),
                           .cdw10 = le32_of(1023 << 16 | NVME_LOG_SMART)};

    memset(data(x), 0xee, 8192);
    assert_int_equal(run(x, 0, sqe, NULL), 0);
    assert_int_equal(data(x)[3], 100);              /* available spare */
    assert_int_equal(data(x)[512], 0);              /* beyond the page */
    assert_int_equal((uint8_t)data(x)[4096], 0xee); /* beyond what was asked for */
    for (uint32_t lid = NVME_LOG_SUPPORTED; lid <= NVME_LOG_EFFECTS; lid++) {
        sqe.cdw10 = le32_of(127 << 16 | lid);
        assert_int_equal(run(x, 0, sqe, NULL), 0);
    }
    sqe.cdw10 = le32_of(127 << 16 | 0x70);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_LOG_PAGE));
    sqe.cdw10 = le32_of(127 << 16 | NVME_LOG_SMART);
    sqe.cdw12 = le32_of(516);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.cdw12 = le32_of(2);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.cdw12 = le32_of(0);
    sqe.cdw11 = le32_of(0xffff);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
    sqe.cdw11 = le32_of(0);
    sqe.nsid = le32_of(1);
    assert_int_equal(run(x, 0, sqe, NULL), NVME_DNR(NVME_SC_INVALID_FIELD));
}

/* ---- namespaces come and go ---- */

static void left(void *arg, int rc)
{
    *(int *)arg = rc;
}

static void attach_detach_and_resize_are_told(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe aer = {.opc = NVME_ADMIN_ASYNC_EVENT, .cid = le16_of(100)};
    struct nvme_dev_ns_opts ns = {.bdev = x->s.bdev, .nsid = 3, .uuid = {{7}}};
    struct err err = {0};
    struct nvme_cqe cqe;
    int rc = 1;

    make_io_queue(x, 1, 16);
    assert_int_equal(admin(x, NVME_ADMIN_SET_FEATURES, 0, NVME_FEAT_ASYNC_EVENT, 0x100, NULL), 0);
    host_submit(&x->h, 0, &aer);
    nothing_completes(x, 0);
    assert_int_equal(nvme_dev_attach(x->s.dev, &ns, &err), 0);
    assert_int_equal(nvme_dev_attach(x->s.dev, &ns, &err), -EEXIST);
    cqe = complete(x, 0);
    assert_int_equal(le32_get(cqe.dw0), 0x040002);
    /* Masked until the list has been read. */
    host_submit(&x->h, 0, &aer);
    nvme_dev_resize(x->s.dev, 1, DISK_BLOCKS / 2);
    nothing_completes(x, 0);
    assert_int_equal(
        admin(x, NVME_ADMIN_GET_LOG_PAGE, 0, 1023 << 16 | NVME_LOG_CHANGED_NS, 0, NULL), 0);
    assert_int_equal(data(x)[0], 1);
    assert_int_equal(data(x)[4], 3);
    assert_int_equal(data(x)[8], 0);
    cqe = complete(x, 0); /* the resize came in between */
    assert_int_equal(le32_get(cqe.dw0), 0x040002);
    assert_int_equal(
        admin(x, NVME_ADMIN_GET_LOG_PAGE, 0, 1023 << 16 | NVME_LOG_CHANGED_NS, 0, NULL), 0);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, DISK_BLOCKS / 2, 1, GPA_DATA), NULL),
                     NVME_DNR(NVME_SC_LBA_RANGE));
    host_submit(&x->h, 0, &aer);
    nvme_dev_detach(x->s.dev, 3, left, &rc);
    assert_int_equal(rc, 0);
    cqe = complete(x, 0);
    assert_int_equal(le32_get(cqe.dw0), 0x040002);
    nvme_dev_detach(x->s.dev, 3, left, &rc);
    assert_int_equal(rc, -ENOENT);
}

static void a_detach_waits_for_commands(void **state)
{
    struct fixture *x = *state;
    struct nvme_sqe write = rw_sqe(NVME_CMD_WRITE, 1, 0, 1, GPA_DATA);
    struct nvme_cqe cqe;
    int rc = 1;

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_submit(&x->h, 1, &write);
    service_turn(&x->s);
    nvme_dev_detach(x->s.dev, 1, left, &rc);
    service_turn(&x->s);
    assert_int_equal(rc, 1);
    assert_int_equal(run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    disk_release(0);
    cqe = complete(x, 1);
    assert_int_equal(cqe_status(&cqe), 0);
    service_turn(&x->s);
    assert_int_equal(rc, 0);
}

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
    nvme_dev_suspend(x->s.dev, false, 0, tell, NULL);
    assert_int_equal(told, 1);
    disk_release(0);
    service_turn(&x->s);
    assert_int_equal(told, 0);
    assert_true(host_take(&x->h, 1, &cqe));
    host_submit(&x->h, 1, &read);
    nothing_completes(x, 1);
    disk.hold = false;
    assert_int_equal(nvme_dev_resume(x->s.dev, &err), 0);
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
    assert_true(atomic_load(&x->s.dev->memory_parked) > 0);
}

/* ---- shadow doorbells ---- */

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
    before = atomic_load(&x->s.dev->interrupts);
    for (unsigned i = 0; i < 3; i++)
        run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL);
    assert_int_equal(atomic_load(&x->s.dev->interrupts), before);
    run(x, 1, rw_sqe(NVME_CMD_READ, 0, 0, 1, GPA_DATA), NULL);
    assert_int_equal(atomic_load(&x->s.dev->interrupts), before + 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identify_says_what_hosts_need),
        T(identify_of_what_is_not_there),
        T(bad_configurations_are_fatal_and_a_reset_heals),
        T(a_repeated_register_write_changes_nothing),
        T(shutdown_flushes_and_says_so),
        T(queue_commands_answer_the_exact_status),
        T(commands_of_a_deleted_queue_are_aborted),
        T(a_full_completion_queue_holds_completions_back),
        T(invalid_doorbells_are_reported_and_stop_the_queue),
        T(a_head_beyond_the_tail_is_reported),
        T(random_commands_do_no_harm),
        T(too_many_event_requests_are_refused),
        T(data_goes_both_ways),
        T(flush_of_all_namespaces),
        T(deallocate_takes_many_ranges),
        T(bad_commands_get_the_exact_status),
        T(features_are_kept_and_checked),
        T(log_pages_end_where_they_end),
        T(attach_detach_and_resize_are_told),
        T(a_detach_waits_for_commands),
        T(suspend_drains_and_resume_goes_on),
        T(a_reset_forgets_everything),
        T(memory_may_go_and_come_back_under_commands),
        T(shadow_doorbells_need_no_ring_while_busy),
        T(absurd_shadow_buffers_are_refused),
        T(coalescing_waits_for_the_threshold),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
