/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_core/core.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct nvme_sqe rw(uint64_t lba, uint32_t cdw12)
{
    return (struct nvme_sqe){.cdw10 = le32_of((uint32_t)lba),
                             .cdw11 = le32_of((uint32_t)(lba >> 32)),
                             .cdw12 = le32_of(cdw12)};
}

static void a_range_lies_inside_the_namespace_or_is_refused(void **state)
{
    struct nvme_sqe last = rw(0x100000000 - 8, 7), over = rw(0x100000000 - 8, 8);
    struct nvme_sqe wraps = rw(UINT64_MAX, 0), pi = rw(0, 1 << 26);
    uint64_t lba = 1;
    uint32_t count = 1;

    assert_int_equal(nvme_rw_range(&over, 0x100000000, &lba, &count), NVME_DNR(NVME_SC_LBA_RANGE));
    assert_int_equal(nvme_rw_range(&wraps, 0x100000000, &lba, &count), NVME_DNR(NVME_SC_LBA_RANGE));
    assert_int_equal(nvme_rw_range(&pi, 0x100000000, &lba, &count),
                     NVME_DNR(NVME_SC_INVALID_FIELD));
    assert_true(lba == 1 && count == 1);
    assert_int_equal(nvme_rw_range(&last, 0x100000000, &lba, &count), NVME_SC_SUCCESS);
    assert_true(lba == 0x100000000 - 8 && count == 8);
}

static void a_medium_error_is_named_by_the_operation(void **state)
{
    assert_int_equal(nvme_status_of(0, BDEV_READ), NVME_SC_SUCCESS);
    assert_int_equal(nvme_status_of(-EIO, BDEV_READ), NVME_SC_UNRECOVERED_READ);
    assert_int_equal(nvme_status_of(-EIO, BDEV_WRITE), NVME_SC_WRITE_FAULT);
    assert_int_equal(nvme_status_of(-EIO, BDEV_FLUSH), NVME_SC_INTERNAL_ERROR);
    assert_int_equal(nvme_status_of(-EROFS, BDEV_WRITE), NVME_DNR(NVME_SC_NS_WRITE_PROTECTED));
}

static void a_namespace_shows_its_ana_group_and_size(void **state)
{
    struct nvme_ns_view view = {
        .nsid = 1, .anagrpid = 3, .nblocks = 2048, .block_shift = 12, .shared = true};
    struct nvme_id_ns_independent independent = {0};
    struct nvme_id_ns id = {0};

    nvme_identify_ns(&view, &id);
    nvme_identify_ns_independent(&view, &independent);
    assert_int_equal(le64_get(id.nsze), 2048);
    assert_int_equal(id.lbaf[0].lbads, 12);
    assert_int_equal(id.nmic, NVME_NMIC_SHARED);
    assert_int_equal(le32_get(id.anagrpid), 3);
    assert_int_equal(le32_get(independent.anagrpid), 3);
    assert_int_equal(independent.nstat, NVME_NSTAT_NRDY);
}

static void only_the_names_a_namespace_has_are_listed(void **state)
{
    struct nvme_ns_view view = {.nsid = 1, .uuid = {{0xaa}}};
    uint8_t page[NVME_IDENTIFY_BYTES] = {0};

    nvme_identify_ns_descs(&view, page);
    assert_int_equal(page[0], NVME_NIDT_UUID);
    assert_int_equal(page[20], NVME_NIDT_CSI);
    memset(page, 0, sizeof(page));
    view.eui64[7] = 1;
    view.nguid[0] = 1;
    nvme_identify_ns_descs(&view, page);
    assert_int_equal(page[0], NVME_NIDT_EUI64);
    assert_int_equal(page[12], NVME_NIDT_NGUID);
    assert_int_equal(page[32], NVME_NIDT_UUID);
    assert_int_equal(page[52], NVME_NIDT_CSI);
}

static void a_text_is_padded_or_cut(void **state)
{
    char field[8];

    nvme_pad_text(field, sizeof(field), "0.1.0");
    assert_memory_equal(field, "0.1.0   ", 8);
    nvme_pad_text(field, sizeof(field), "much too long");
    assert_memory_equal(field, "much too", 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_range_lies_inside_the_namespace_or_is_refused),
        cmocka_unit_test(a_medium_error_is_named_by_the_operation),
        cmocka_unit_test(a_namespace_shows_its_ana_group_and_size),
        cmocka_unit_test(only_the_names_a_namespace_has_are_listed),
        cmocka_unit_test(a_text_is_padded_or_cut),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
