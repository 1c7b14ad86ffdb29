/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/test_fixture.h - for tests of one living controller: machine, service and an enabled
 * host, made before each test, and what the tests do all the time. */
#ifndef DEVICES_NVME_TEST_FIXTURE_H
#define DEVICES_NVME_TEST_FIXTURE_H

#include "devices/nvme/test_host.h"

struct fixture {
    struct machine m;
    struct service s;
    struct host h;
    uint16_t cid;
};

static inline int set_up(void **state)
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

static inline int tear_down(void **state)
{
    struct fixture *x = *state;

    service_stop(&x->s);
    machine_free(&x->m);
    free(x);
    return 0;
}

static inline struct nvme_cqe complete(struct fixture *x, unsigned q)
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

static inline void nothing_completes(struct fixture *x, unsigned q)
{
    struct nvme_cqe cqe;

    for (int i = 0; i < 5; i++)
        service_turn(&x->s);
    assert_false(host_take(&x->h, q, &cqe));
}

/* Submits, waits, checks the CID, returns the status. */
static inline nvme_status run(struct fixture *x, unsigned q, struct nvme_sqe sqe, uint32_t *dw0)
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

static inline nvme_status admin(struct fixture *x, uint8_t opc, uint32_t nsid, uint32_t cdw10,
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

static inline void make_io_queue(struct fixture *x, unsigned qid, uint32_t size)
{
    host_queue_init(&x->h, qid, size, GPA_SQ + qid * 0x1000, GPA_CQ + qid * 0x1000);
    assert_int_equal(run(x, 0, create_cq_sqe(0, qid, size), NULL), 0);
    assert_int_equal(run(x, 0, create_sq_sqe(0, qid, size), NULL), 0);
}

static inline void use_shadow_doorbells(struct fixture *x)
{
    struct nvme_sqe sqe = {.opc = NVME_ADMIN_DOORBELL_BUFFER_CONFIG,
                           .prp1 = le64_of(GPA_SHADOW),
                           .prp2 = le64_of(GPA_EVENTIDX)};

    assert_int_equal(run(x, 0, sqe, NULL), 0);
    x->h.shadow = true;
}

static inline char *data(struct fixture *x)
{
    return x->m.ram + GPA_DATA;
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

#endif
