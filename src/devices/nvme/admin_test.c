/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/test_fixture.h"

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

/* ---- features, logs, events ---- */

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

/* ---- namespaces come and go ---- */

static void left(void *arg, int rc, const struct err *err)
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
    struct nvme_sqe read = rw_sqe(NVME_CMD_READ, 7, 0, 1, GPA_DATA);
    struct nvme_sqe flush_all = {
        .opc = NVME_CMD_FLUSH, .cid = le16_of(8), .nsid = le32_of(NVME_NSID_ALL)};
    struct nvme_cqe cqe;
    int rc = 1;

    make_io_queue(x, 1, 16);
    disk.hold = true;
    host_submit(&x->h, 1, &write);
    service_turn(&x->s);
    nvme_dev_detach(x->s.dev, 1, left, &rc);
    service_turn(&x->s);
    assert_int_equal(rc, 1);
    nvme_dev_detach(x->s.dev, 1, left, &rc);
    assert_int_equal(rc, -EBUSY);
    rc = 1;
    host_submit(&x->h, 1, &read); /* and so does what comes meanwhile */
    host_submit(&x->h, 1, &flush_all);
    nothing_completes(x, 1);
    disk_release(0);
    cqe = complete(x, 1);
    assert_int_equal(cqe_status(&cqe), 0);
    cqe = complete(x, 1);
    assert_int_equal(le16_get(cqe.cid), 7);
    assert_int_equal(cqe_status(&cqe), NVME_DNR(NVME_SC_INVALID_FIELD));
    cqe = complete(x, 1);
    assert_int_equal(le16_get(cqe.cid), 8);
    assert_int_equal(cqe_status(&cqe), 0);
    assert_int_equal(rc, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(identify_says_what_hosts_need),
        T(identify_of_what_is_not_there),
        T(bad_configurations_are_fatal_and_a_reset_heals),
        T(a_repeated_register_write_changes_nothing),
        T(shutdown_flushes_and_says_so),
        T(features_are_kept_and_checked),
        T(log_pages_end_where_they_end),
        T(too_many_event_requests_are_refused),
        T(attach_detach_and_resize_are_told),
        T(a_detach_waits_for_commands),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
