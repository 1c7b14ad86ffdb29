/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which memory of a client is taken, and how addresses of its process become those of the guest. */
#include "base/fd.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20 };

static bool hold;
static unsigned removals;

static enum vhost_user_answer removed(void *arg, const struct vhost_user_mem *mem)
{
    removals++;
    return hold ? VHOST_USER_LATER : VHOST_USER_DONE;
}

static struct vhost_user_mem_region region(uint64_t gpa, uint64_t size, uint64_t user,
                                           uint64_t offset)
{
    return (struct vhost_user_mem_region){gpa, size, user, offset};
}

static int add(struct mem_table *t, struct vhost_user_mem_region r, int file)
{
    struct err err = {0};
    int fd = dup(file);
    const struct vhost_user_mem *mem = mem_add(t, &r, &fd, &err);

    assert_int_equal(mem ? -1 : fd, fd); /* taken exactly when it was accepted */
    fd_close(&fd);
    return mem ? 0 : err.code;
}

static void what_cannot_be_mapped_is_refused(void **state)
{
    int file = fd_memfd("mem", 4 * MIB), event = eventfd(0, EFD_CLOEXEC), readonly;
    struct mem_table t;
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    readonly = open(path, O_RDONLY | O_CLOEXEC);
    mem_init(&t);
    assert_int_equal(add(&t, region(0, 0, 0x1000, 0), file), -EINVAL);
    assert_int_equal(add(&t, region(0, 4 * MIB + 4096, 0x1000, 0), file), -EINVAL);
    assert_int_equal(add(&t, region(0, MIB, 0x1000, 4 * MIB - 4096), file), -EINVAL);
    assert_int_equal(add(&t, region(0, MIB, 0x1000, 512), file), -EINVAL);
    assert_int_equal(add(&t, region(0x10000000, MIB + 512, 0x10000000, 0), file),
                     0); /* any length */
    mem_clear(&t);
    assert_int_equal(add(&t, region(0, MIB, 0x1000, UINT64_MAX - 4095), file), -EINVAL);
    assert_int_equal(add(&t, region(UINT64_MAX - 4095, MIB, 0x1000, 0), file), -EINVAL);
    assert_int_equal(add(&t, region(0, MIB, UINT64_MAX - 4095, 0), file), -EINVAL);
    assert_int_equal(add(&t, region(0, MIB, 0x1000, 0), event), -EINVAL);
    assert_int_equal(add(&t, region(0, MIB, 0x1000, 0), readonly), -EACCES);
    assert_int_equal(t.count, 0);
    assert_int_equal(add(&t, region(0, MIB, 0x10000000, 0), file), 0);
    assert_int_equal(add(&t, region(MIB - 4096, MIB, 0x20000000, 0), file), -EEXIST);
    assert_int_equal(add(&t, region(8 * MIB, MIB, 0x10000000 + MIB - 4096, 0), file), -EEXIST);
    assert_int_equal(add(&t, region(MIB, MIB, 0x10000000 + MIB, MIB), file), 0);
    mem_clear(&t);
    close(file);
    close(event);
    close(readonly);
}

static void there_are_128_slots(void **state)
{
    int file = fd_memfd("mem", MIB);
    struct mem_table t;

    mem_init(&t);
    for (uint64_t i = 0; i < 128; i++)
        assert_int_equal(add(&t, region(i * MIB, 4096, 0x10000000 + i * MIB, 0), file), 0);
    assert_int_equal(add(&t, region(128 * MIB, 4096, 0x1000, 0), file), -ENOSPC);
    assert_int_equal(mem_keep_only(&t, NULL, NULL, 0, removed, NULL), 0);
    assert_int_equal(t.count, 0);
    assert_int_equal(t.next_id, 129); /* never used twice */
    close(file);
}

static void an_address_lies_wholly_in_one_region(void **state)
{
    int file = fd_memfd("mem", 2 * MIB);
    uint64_t gpa = 0;
    struct mem_table t;

    mem_init(&t);
    /* Neighbours for the guest and for the client: still two regions. */
    assert_int_equal(add(&t, region(0x40000000, MIB, 0x7f0000000000, 0), file), 0);
    assert_int_equal(add(&t, region(0x40000000 + MIB, MIB, 0x7f0000000000 + MIB, MIB), file), 0);
    assert_true(mem_translate(&t, 0x7f0000000010, 32, &gpa));
    assert_true(gpa == 0x40000010);
    assert_true(mem_translate(&t, 0x7f0000000000 + MIB - 16, 16, &gpa));
    assert_false(mem_translate(&t, 0x7f0000000000 + MIB - 16, 17, &gpa));
    assert_true(mem_translate(&t, 0x7f0000000000 + MIB, MIB, &gpa));
    assert_true(gpa == 0x40000000 + MIB);
    assert_false(mem_translate(&t, 0x7f0000000000 + MIB, UINT64_MAX, &gpa));
    assert_false(mem_translate(&t, 0x7f0000000000 + 2 * MIB, 0, &gpa));
    assert_false(mem_translate(&t, 0x40000000, 16, &gpa));
    mem_clear(&t);
    close(file);
}

static void what_is_being_removed_blocks_its_place_and_serves_nobody(void **state)
{
    int file = fd_memfd("mem", MIB);
    struct vhost_user_mem_region a = region(0, MIB, 0x10000000, 0), other = a;
    struct mem_table t;
    uint64_t gpa;

    mem_init(&t);
    hold = true;
    removals = 0;
    assert_int_equal(add(&t, a, file), 0);
    other.mmap_offset = 4096; /* does not count */
    other.user_addr += 4096;  /* does */
    assert_int_equal(mem_remove(&t, &other, removed, NULL), -ENOENT);
    other.user_addr -= 4096;
    assert_int_equal(mem_remove(&t, &other, removed, NULL), 1);
    assert_false(mem_translate(&t, 0x10000000, 16, &gpa));
    assert_int_equal(mem_remove(&t, &a, removed, NULL), -ENOENT); /* once */
    assert_int_equal(add(&t, a, file), -EEXIST);
    assert_int_equal(mem_detached(&t, 77), 1);
    assert_int_equal(mem_detached(&t, 1), 0);
    assert_int_equal(add(&t, a, file), 0);
    assert_int_equal(mem_keep_only(&t, NULL, NULL, 0, removed, NULL), 1);
    assert_int_equal(mem_detached(&t, 0), 0);
    assert_int_equal(removals, 2);
    hold = false;
    mem_clear(&t);
    close(file);
}

static void the_same_region_is_of_the_same_file(void **state)
{
    int file = fd_memfd("mem", 2 * MIB), twin = fd_memfd("mem", 2 * MIB), again = dup(file);
    struct vhost_user_mem_region a = region(0, MIB, 0x10000000, 0), b = a;
    struct mem_table t;

    mem_init(&t);
    removals = 0;
    assert_int_equal(add(&t, a, file), 0);
    assert_true(mem_has(&t, &a, again));
    assert_false(mem_has(&t, &a, twin));
    assert_int_equal(mem_keep_only(&t, &a, &again, 1, removed, NULL), 0);
    assert_int_equal(removals, 0);
    b.mmap_offset = MIB;
    assert_int_equal(mem_keep_only(&t, &b, &again, 1, removed, NULL), 0);
    assert_int_equal(removals, 1);
    assert_int_equal(t.count, 0);
    mem_clear(&t);
    close(file);
    close(twin);
    close(again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_cannot_be_mapped_is_refused),
        cmocka_unit_test(there_are_128_slots),
        cmocka_unit_test(an_address_lies_wholly_in_one_region),
        cmocka_unit_test(what_is_being_removed_blocks_its_place_and_serves_nobody),
        cmocka_unit_test(the_same_region_is_of_the_same_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
