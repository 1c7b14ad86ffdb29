/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/prp.h"

#include "base/fd.h"
#include "base/util.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 4096, RAM = 1 << 20, MAX = 64, RO = 0x800000 };

/* 1 MiB at 0, split in two regions at 0x80000; a read-only page at RO. */
struct fixture {
    struct guest_map *map;
    char *ram;
    struct iovec iov[MAX];
    int n;
};

static int set_up(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    int fd = fd_memfd("ram", RAM);

    x->map = guest_map_create();
    x->ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    guest_map_add(x->map, guest_region_open(1, 0, RAM / 2, fd, 0, GUEST_READ | GUEST_WRITE, NULL),
                  NULL);
    guest_map_add(
        x->map, guest_region_open(2, RAM / 2, RAM / 2, fd, RAM / 2, GUEST_READ | GUEST_WRITE, NULL),
        NULL);
    guest_map_add(x->map, guest_region_open(3, RO, PAGE, fd, 0, GUEST_READ, NULL), NULL);
    close(fd);
    *state = x;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *x = *state;

    guest_map_destroy(x->map);
    munmap(x->ram, RAM);
    free(x);
    return 0;
}

static uint16_t prp(struct fixture *x, uint64_t prp1, uint64_t prp2, uint64_t bytes)
{
    x->n = 0;
    return nvme_prp_iov(x->map, prp1, prp2, bytes, GUEST_WRITE, x->iov, &x->n, MAX);
}

static uint64_t total(const struct fixture *x)
{
    uint64_t bytes = 0;

    for (int i = 0; i < x->n; i++)
        bytes += x->iov[i].iov_len;
    return bytes;
}

static le64 *list_at(struct fixture *x, uint64_t gpa)
{
    return (le64 *)(void *)(x->ram + gpa);
}

static void one_and_two_pages(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(prp(x, 0x1200, 0xdead, 512), 0);
    assert_int_equal(x->n, 1);
    assert_int_equal(total(x), 512);
    assert_int_equal(prp(x, 0x1200, 0x5000, PAGE), 0);
    assert_int_equal(x->n, 2);
    assert_int_equal(x->iov[0].iov_len, 0xe00);
    assert_int_equal(total(x), PAGE);
    assert_int_equal(prp(x, 0x1000, 0x2000, 2 * PAGE), 0);
    assert_int_equal(x->n, 1); /* neighbours are one piece */
    assert_int_equal(prp(x, 0x7f000, 0x80000, 2 * PAGE), 0);
    assert_int_equal(total(x), 2 * PAGE);
}

static void offsets_are_checked(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(prp(x, 0x1002, 0, 512), NVME_SC_PRP_OFFSET);
    assert_int_equal(prp(x, 0x1000, 0x2004, 2 * PAGE), NVME_SC_PRP_OFFSET);
    assert_int_equal(prp(x, 0x1000, 0, 2 * PAGE), NVME_SC_PRP_OFFSET);
    assert_int_equal(prp(x, 0x1000, 0x2004, 3 * PAGE), NVME_SC_PRP_OFFSET);
    assert_int_equal(prp(x, 0x1000, 0, 3 * PAGE), NVME_SC_PRP_OFFSET);
    list_at(x, 0x3000)[0] = le64_of(0x5008);
    assert_int_equal(prp(x, 0x1000, 0x3000, 3 * PAGE), NVME_SC_PRP_OFFSET);
    list_at(x, 0x3000)[0] = le64_of(0);
    assert_int_equal(prp(x, 0x1000, 0x3000, 3 * PAGE), NVME_SC_PRP_OFFSET);
}

static void unmapped_and_forbidden_memory(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(prp(x, RAM, 0, 512), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(prp(x, RAM - 256, RAM, 512), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(prp(x, UINT64_MAX - 3, 0, 512), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(prp(x, RO, 0, 512), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(prp(x, 0x1000, RAM, 2 * PAGE), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(prp(x, 0x1000, RAM, 3 * PAGE), NVME_SC_DATA_TRANSFER_ERROR); /* the list */
    list_at(x, 0x3000)[0] = le64_of(0x4000);
    list_at(x, 0x3000)[1] = le64_of(1ULL << 63);
    assert_int_equal(prp(x, 0x1000, 0x3000, 3 * PAGE), NVME_SC_DATA_TRANSFER_ERROR);
}

static void lists_may_begin_late_and_go_on(void **state)
{
    struct fixture *x = *state;

    /* Two entries at the end of the page: a data page and the chain. */
    list_at(x, 0x3ff0)[0] = le64_of(0x10000);
    list_at(x, 0x3ff0)[1] = le64_of(0x6000);
    list_at(x, 0x6000)[0] = le64_of(0x20000);
    list_at(x, 0x6000)[1] = le64_of(0x30000);
    assert_int_equal(prp(x, 0x1000, 0x3ff0, 4 * PAGE), 0);
    assert_int_equal(x->n, 4);
    assert_int_equal(total(x), 4 * PAGE);
    /* Exactly two left: the last entry is data, not a chain. */
    assert_int_equal(prp(x, 0x1000, 0x3ff0, 3 * PAGE), 0);
    assert_ptr_equal(x->iov[2].iov_base, (char *)guest_ptr(x->map, 0x6000, 1, GUEST_READ));
    /* A last piece that is no whole page. */
    assert_int_equal(prp(x, 0x1800, 0x3ff0, 3 * PAGE), 0);
    assert_int_equal(total(x), 3 * PAGE);
}

static void a_list_that_chains_to_itself_ends(void **state)
{
    struct fixture *x = *state;

    for (unsigned i = 0; i < 512; i++)
        list_at(x, 0x3000)[i] = le64_of(0x3000);
    /* Scattered over one page: each entry is a piece of its own until the iovec is full. */
    assert_int_equal(prp(x, 0x1000, 0x3000, 100 * PAGE), NVME_SC_INTERNAL_ERROR);
    /* The last entry alone, pointing at itself: not the beginning of a page. */
    list_at(x, 0x3000)[511] = le64_of(0x3ff8);
    assert_int_equal(prp(x, 0x1000, 0x3ff8, 4 * PAGE), NVME_SC_PRP_OFFSET);
}

/* ---- SGL ---- */

static struct nvme_sgl_desc desc(uint8_t type, uint64_t gpa, uint32_t bytes)
{
    return (struct nvme_sgl_desc){
        .addr = le64_of(gpa), .length = le32_of(bytes), .type = (uint8_t)(type << 4)};
}

static uint16_t sgl(struct fixture *x, struct nvme_sgl_desc first, uint64_t bytes)
{
    x->n = 0;
    return nvme_sgl_iov(x->map, &first, bytes, GUEST_WRITE, x->iov, &x->n, MAX);
}

static struct nvme_sgl_desc *seg_at(struct fixture *x, uint64_t gpa)
{
    return (struct nvme_sgl_desc *)(void *)(x->ram + gpa);
}

static void a_data_block_alone(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(sgl(x, desc(NVME_SGL_DATA_BLOCK, 0x1001, 5000), 5000), 0);
    assert_int_equal(total(x), 5000);
    assert_int_equal(sgl(x, desc(NVME_SGL_DATA_BLOCK, 0x1000, 511), 512), NVME_SC_SGL_DATA_LENGTH);
    assert_int_equal(sgl(x, desc(NVME_SGL_DATA_BLOCK, 0x1000, 513), 512), NVME_SC_SGL_DATA_LENGTH);
    assert_int_equal(sgl(x, desc(NVME_SGL_DATA_BLOCK, RAM, 512), 512), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(sgl(x, desc(NVME_SGL_DATA_BLOCK, UINT64_MAX, 512), 512),
                     NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(sgl(x, desc(NVME_SGL_BIT_BUCKET, 0x1000, 512), 512), NVME_SC_SGL_TYPE);
    assert_int_equal(sgl(x, desc(NVME_SGL_KEYED_DATA_BLOCK, 0x1000, 512), 512), NVME_SC_SGL_TYPE);
    assert_int_equal(sgl(x, desc(0xf, 0x1000, 512), 512), NVME_SC_SGL_TYPE);
}

static void segments(void **state)
{
    struct fixture *x = *state;
    struct nvme_sgl_desc *s = seg_at(x, 0x3000), *t = seg_at(x, 0x4000);

    s[0] = desc(NVME_SGL_DATA_BLOCK, 0x10000, 512);
    s[1] = desc(NVME_SGL_DATA_BLOCK, 0x20000, 0);
    s[2] = desc(NVME_SGL_LAST_SEGMENT, 0x4000, 32);
    t[0] = desc(NVME_SGL_DATA_BLOCK, 0x30000, 1024);
    t[1] = desc(NVME_SGL_DATA_BLOCK, 0x40000, 512);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 48), 2048), 0);
    assert_int_equal(x->n, 3);
    assert_int_equal(total(x), 2048);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 48), 4096), NVME_SC_SGL_DATA_LENGTH);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 48), 1024), NVME_SC_SGL_DATA_LENGTH);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 0), 2048), NVME_SC_INVALID_SGL_SEGMENT);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 40), 2048), NVME_SC_INVALID_SGL_SEGMENT);
    /* A segment without a successor; a last segment with one; one in the middle. */
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x4000, 32), 1536), NVME_SC_INVALID_SGL_SEGMENT);
    assert_int_equal(sgl(x, desc(NVME_SGL_LAST_SEGMENT, 0x3000, 48), 2048),
                     NVME_SC_INVALID_SGL_SEGMENT);
    s[1] = desc(NVME_SGL_SEGMENT, 0x4000, 32);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 48), 2048), NVME_SC_INVALID_SGL_SEGMENT);
    s[1] = desc(NVME_SGL_BIT_BUCKET, 0, 32);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, 0x3000, 48), 2048), NVME_SC_SGL_TYPE);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, RAM, 48), 2048), NVME_SC_DATA_TRANSFER_ERROR);
    assert_int_equal(sgl(x, desc(NVME_SGL_SEGMENT, UINT64_MAX - 7, 48), 2048),
                     NVME_SC_DATA_TRANSFER_ERROR);
}

static void loops_and_floods_end(void **state)
{
    struct fixture *x = *state;
    struct nvme_sgl_desc *s = seg_at(x, 0x3000);

    s[0] = desc(NVME_SGL_SEGMENT, 0x3000, 16); /* itself */
    assert_int_equal(sgl(x, s[0], 512), NVME_SC_INVALID_SGL_COUNT);
    assert_int_equal(sgl(x, desc(NVME_SGL_LAST_SEGMENT, 0x3000, 0xfffffff0), 512),
                     NVME_SC_INVALID_SGL_COUNT);
    for (unsigned i = 0; i < 200; i++)
        s[i] = desc(NVME_SGL_DATA_BLOCK, 0x10000 + (i & 1) * 0x8000 + i * 8, 4);
    assert_int_equal(sgl(x, desc(NVME_SGL_LAST_SEGMENT, 0x3000, 200 * 16), 800),
                     NVME_SC_INVALID_SGL_COUNT); /* more pieces than the iovec has */
    assert_true(x->n <= MAX);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(one_and_two_pages),
        T(offsets_are_checked),
        T(unmapped_and_forbidden_memory),
        T(lists_may_begin_late_and_go_on),
        T(a_list_that_chains_to_itself_ends),
        T(a_data_block_alone),
        T(segments),
        T(loops_and_floods_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
