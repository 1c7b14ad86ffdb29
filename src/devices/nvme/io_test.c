/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/test_fixture.h"

/* ---- commands ---- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(data_goes_both_ways),          T(flush_of_all_namespaces),
        T(deallocate_takes_many_ranges), T(bad_commands_get_the_exact_status),
        T(random_commands_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
