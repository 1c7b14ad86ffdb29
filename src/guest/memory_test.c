/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest/memory.h"

#include "base/fd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum { PAGE = 4096, RW = GUEST_READ | GUEST_WRITE };

static struct guest_map *map_of(int fd, const uint64_t (*regions)[3], unsigned n)
{
    struct guest_map *map = guest_map_create();

    for (unsigned i = 0; i < n; i++) {
        struct guest_region *r =
            guest_region_open(i, regions[i][0], regions[i][1], fd, regions[i][2], RW, NULL);

        assert_non_null(r);
        assert_int_equal(guest_map_add(map, r, NULL), 0);
        /* Where the next one goes is the system's choice: not beside this one. */
        mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    return map;
}

static void a_range_is_found_in_its_region_only(void **state)
{
    int fd = fd_memfd("test", 16 * PAGE);
    const uint64_t regions[][3] = {{0x100000, 4 * PAGE, 0}, {0, 2 * PAGE, 8 * PAGE}};
    struct guest_map *map = map_of(fd, regions, 2);
    char *low = guest_ptr(map, 0, 2 * PAGE, RW);

    assert_non_null(low);
    assert_null(guest_ptr(map, 0, 2 * PAGE + 1, RW));
    assert_null(guest_ptr(map, 2 * PAGE, 1, GUEST_READ));
    assert_null(guest_ptr(map, 0xfffff, 2, GUEST_READ));
    assert_non_null(guest_ptr(map, 0x100000 + 4 * PAGE - 1, 1, GUEST_READ));
    assert_null(guest_ptr(map, UINT64_MAX - 1, 4, GUEST_READ));
    guest_map_destroy(map);
    close(fd);
}

static void an_iov_joins_neighbours_and_keeps_its_state_on_errors(void **state)
{
    int fd = fd_memfd("test", 16 * PAGE);
    const uint64_t regions[][3] = {{0, 4 * PAGE, 0}, {4 * PAGE, 4 * PAGE, 8 * PAGE}};
    struct guest_map *map = map_of(fd, regions, 2);
    struct iovec iov[2];
    int n = 0;

    assert_int_equal(guest_iov(map, 0, PAGE, RW, iov, &n, 2), 0);
    assert_int_equal(guest_iov(map, PAGE, PAGE, RW, iov, &n, 2), 0);
    assert_int_equal(n, 1);
    assert_int_equal(iov[0].iov_len, 2 * PAGE);
    assert_int_equal(guest_iov(map, 2 * PAGE, 7 * PAGE, RW, iov, &n, 2), -EFAULT);
    assert_int_equal(n, 1);
    assert_int_equal(iov[0].iov_len, 2 * PAGE);
    assert_int_equal(guest_iov(map, 2 * PAGE, 6 * PAGE, RW, iov, &n, 1), -E2BIG);
    assert_int_equal(iov[0].iov_len, 2 * PAGE);
    assert_int_equal(guest_iov(map, 2 * PAGE, 6 * PAGE, RW, iov, &n, 2), 0);
    assert_int_equal(n, 2);
    assert_int_equal(iov[0].iov_len + iov[1].iov_len, 8 * PAGE);
    guest_map_destroy(map);
    close(fd);
}

static void overlaps_and_short_files_are_refused(void **state)
{
    int fd = fd_memfd("test", 4 * PAGE);
    const uint64_t regions[][3] = {{PAGE, 2 * PAGE, 0}};
    struct guest_map *map = map_of(fd, regions, 1);
    struct guest_region *r = guest_region_open(9, 2 * PAGE, 2 * PAGE, fd, 0, RW, NULL);

    assert_int_equal(guest_map_add(map, r, NULL), -EEXIST);
    guest_region_close(r);
    assert_null(guest_region_open(9, 0, 4 * PAGE, fd, PAGE, RW, NULL));
    assert_null(guest_region_open(9, UINT64_MAX - PAGE, 4 * PAGE, fd, 0, RW, NULL));
    assert_null(guest_region_open(9, 0, 0, fd, 0, RW, NULL));
    guest_map_destroy(map);
    close(fd);
}

static void a_taken_region_is_found_no_more_but_stays_mapped(void **state)
{
    int fd = fd_memfd("test", 4 * PAGE);
    const uint64_t regions[][3] = {{0, PAGE, 0}, {PAGE, PAGE, PAGE}};
    struct guest_map *map = map_of(fd, regions, 2);
    uint64_t generation = guest_map_generation(map);
    struct guest_region *r;

    assert_non_null(guest_ptr(map, 0, 1, RW));
    r = guest_map_take(map, 0);
    assert_non_null(r);
    assert_true(guest_map_generation(map) != generation);
    assert_null(guest_ptr(map, 0, 1, RW));
    assert_non_null(guest_ptr(map, PAGE, PAGE, RW));
    memset(r->host, 1, PAGE);
    guest_region_close(r);
    assert_null(guest_map_take(map, 0));
    guest_map_destroy(map);
    close(fd);
}

static void a_read_only_region_cannot_be_written(void **state)
{
    int fd = fd_memfd("test", PAGE);
    struct guest_map *map = guest_map_create();

    assert_int_equal(
        guest_map_add(map, guest_region_open(1, 0, PAGE, fd, 0, GUEST_READ, NULL), NULL), 0);
    assert_non_null(guest_ptr(map, 0, PAGE, GUEST_READ));
    assert_null(guest_ptr(map, 0, PAGE, GUEST_WRITE));
    guest_map_destroy(map);
    close(fd);
}

static void a_truncated_file_poisons_its_region_and_nobody_dies(void **state)
{
    int fd = memfd_create("test", MFD_CLOEXEC), other = fd_memfd("other", PAGE);
    struct guest_map *map = guest_map_create(), *neighbour = guest_map_create();
    volatile char *p;

    assert_int_equal(guest_memory_guard(), 0);
    assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
    assert_int_equal(guest_map_add(map, guest_region_open(1, 0, 2 * PAGE, fd, 0, RW, NULL), NULL),
                     0);
    assert_int_equal(
        guest_map_add(neighbour, guest_region_open(1, 0, PAGE, other, 0, RW, NULL), NULL), 0);
    p = guest_ptr(map, 0, 2 * PAGE, RW);
    p[PAGE] = 1;
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_false(guest_map_poisoned(map));
    p[PAGE] = 2; /* SIGBUS */
    assert_int_equal(p[PAGE], 2);
    assert_true(guest_map_poisoned(map));
    assert_false(guest_map_poisoned(neighbour));
    guest_map_destroy(map);
    guest_map_destroy(neighbour);
    close(fd);
    close(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_range_is_found_in_its_region_only),
        cmocka_unit_test(an_iov_joins_neighbours_and_keeps_its_state_on_errors),
        cmocka_unit_test(overlaps_and_short_files_are_refused),
        cmocka_unit_test(a_taken_region_is_found_no_more_but_stays_mapped),
        cmocka_unit_test(a_read_only_region_cannot_be_written),
        cmocka_unit_test(a_truncated_file_poisons_its_region_and_nobody_dies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
