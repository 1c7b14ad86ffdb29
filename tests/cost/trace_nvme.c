/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The trace on an NVMe controller: one queue pair, PRPs, doorbells in their page. */
#include "trace.h"

#include "backends/backends.h"
#include "devices/nvme/test_fixture.h"

#include <sys/eventfd.h>

enum { QUEUE_SIZE = 64 };

static void on_a_null_disk(struct fixture *x)
{
    struct nvme_dev_ns_opts ns = {.nsid = 1, .uuid = {{1, 2, 3}}};
    struct null_opts disk_opts = {.name = "Null0", .block_bytes = 512, .nblocks = TRACE_BLOCKS};
    struct service_opts o = {.no_namespace = true};
    struct err err = {0};

    machine_make(&x->m);
    assert_int_equal(service_try(&x->s, &x->m, &o, &err), 0);
    assert_int_equal(null_bdev_create(x->s.bdevs, &disk_opts, &ns.bdev, &err), 0);
    assert_int_equal(nvme_dev_attach(x->s.dev, &ns, &err), 0);
    function_set_irq(x->s.f, 1, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    x->h.m = &x->m;
    host_enable(&x->h);
    service_turn(&x->s);
    assert_int_equal(host_read(&x->h, NVME_REG_CSTS), NVME_CSTS_RDY);
    make_io_queue(x, 1, QUEUE_SIZE);
}

static void batch(struct fixture *x, unsigned first)
{
    struct nvme_cqe cqe;

    for (unsigned i = first; i < first + TRACE_DEPTH; i++) {
        struct nvme_sqe sqe =
            rw_sqe(trace_writes(i) ? NVME_CMD_WRITE : NVME_CMD_READ, (uint16_t)i, trace_lba(i),
                   trace_blocks(i), GPA_DATA + i % TRACE_DEPTH * 4096ULL);

        host_put(&x->h, 1, &sqe);
    }
    host_ring(&x->h, 2, x->h.q[1].tail);
    trace_turn(x->s.f);
    for (unsigned i = 0; i < TRACE_DEPTH; i++) {
        assert_true(host_take(&x->h, 1, &cqe));
        assert_int_equal(cqe_status(&cqe), 0);
    }
}

int main(int argc, char **argv)
{
    struct fixture x = {0};

    (void)argv;
    if (argc > 1) {
        trace_about();
        return 0;
    }
    on_a_null_disk(&x);
    for (unsigned i = 0; i < TRACE_COMMANDS; i += TRACE_DEPTH)
        batch(&x, i);
    return 0;
}
