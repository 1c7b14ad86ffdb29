/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/test_io.h"

#include "base/fd.h"

#include <sys/stat.h>

enum { BLOCKS = 16384 }; /* of 512: 8 MiB */

static int setup(void **state)
{
    *state = test_io_create();
    return 0;
}

static int teardown(void **state)
{
    test_io_destroy(*state);
    return 0;
}

static struct bdev *make(struct test_io *t, const char *name, int fd)
{
    struct malloc_opts opts = {
        .name = name, .block_bytes = 512, .nblocks = BLOCKS, .memory_fd = fd};
    struct err err = {0};
    struct bdev *bd;

    if (malloc_bdev_create(t->set, &opts, &bd, &err))
        fail_msg("%s", err.msg);
    return bd;
}

static void contents_outlive_the_device(void **state)
{
    struct test_io *t = *state;
    int fd = fd_memfd("t", BLOCKS * 512);
    char out[1024], in[1024];
    struct iovec iov[3] = {{in, 100}, {in + 100, 412}, {in + 512, 512}};
    struct bdev_req scattered = {.op = BDEV_READ, .lba = 5, .nblocks = 2, .iov = iov, .iovcnt = 3};
    struct bdev *bd = make(t, "Malloc0", fd);

    fill(out, sizeof(out), 1);
    test_io_open(t, bd);
    assert_int_equal(test_io(t, BDEV_WRITE, 5, 2, out), 0);
    test_io_close(t);
    assert_int_equal(bdev_unregister(bd, NULL, NULL, NULL), 0);

    test_io_open(t, make(t, "Malloc0", fd));
    assert_int_equal(test_io_many(t, &scattered, 1), 0);
    assert_memory_equal(in, out, sizeof(out));
    assert_int_equal(test_io(t, BDEV_READ, BLOCKS - 1, 1, in), 0);
    assert_int_equal(test_io(t, BDEV_READ, BLOCKS, 1, in), -ERANGE);
    close(fd);
}

static void discarded_blocks_read_as_zeroes_and_neighbours_stay(void **state)
{
    static const struct {
        uint64_t lba;
        uint32_t nblocks;
    } ranges[] = {{3, 1}, {1, 700}, {9, 8001}};
    struct test_io *t = *state;
    int fd = fd_memfd("t", BLOCKS * 512);
    size_t bytes = (size_t)BLOCKS * 512;
    char *model = malloc(bytes), *in = malloc(bytes);
    struct stat full, holed;

    fill(model, bytes, 2);
    test_io_open(t, make(t, "Malloc0", fd));
    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (unsigned op = BDEV_UNMAP; op <= BDEV_WRITE_ZEROES; op++) {
            fill(model, bytes, i * 2 + op);
            assert_int_equal(test_io(t, BDEV_WRITE, 0, BLOCKS, model), 0);
            fstat(fd, &full);
            assert_int_equal(test_io(t, (enum bdev_op)op, ranges[i].lba, ranges[i].nblocks, NULL),
                             0);
            fstat(fd, &holed); /* before reading, which fills holes */
            memset(model + ranges[i].lba * 512, 0, (size_t)ranges[i].nblocks * 512);
            assert_int_equal(test_io(t, BDEV_READ, 0, BLOCKS, in), 0);
            assert_memory_equal(in, model, bytes);
            if (ranges[i].nblocks > 8000)
                assert_true(holed.st_blocks < full.st_blocks);
        }
    }
    free(model);
    free(in);
    close(fd);
}

static void wrong_sizes_are_refused(void **state)
{
    struct test_io *t = *state;
    int fd = fd_memfd("t", 8192);
    struct malloc_opts opts = {.name = "M", .block_bytes = 512, .nblocks = 17, .memory_fd = fd};
    struct err err = {0};
    uint64_t bytes;

    assert_int_equal(malloc_bdev_create(t->set, &opts, NULL, &err), -EEXIST);
    opts.nblocks = 0;
    assert_int_equal(malloc_bdev_create(t->set, &opts, NULL, &err), -EINVAL);
    opts.nblocks = UINT64_MAX / 512;
    assert_int_equal(malloc_bdev_create(t->set, &opts, NULL, &err), -EINVAL);
    opts.nblocks = 16;
    opts.block_bytes = 520;
    assert_int_equal(malloc_bdev_bytes(&opts, &bytes, &err), -EINVAL);
    opts.block_bytes = 512;
    assert_int_equal(malloc_bdev_bytes(&opts, &bytes, &err), 0);
    assert_int_equal(bytes, 8192);
    close(fd);
}

static void null_reads_zeroes(void **state)
{
    struct test_io *t = *state;
    struct null_opts opts = {.name = "Null0", .block_bytes = 4096, .nblocks = 8};
    char page[4096], zero[4096] = {0};
    struct bdev *bd;

    assert_int_equal(null_bdev_create(t->set, &opts, &bd, NULL), 0);
    test_io_open(t, bd);
    fill(page, sizeof(page), 9);
    assert_int_equal(test_io(t, BDEV_WRITE, 7, 1, page), 0);
    assert_int_equal(test_io(t, BDEV_READ, 7, 1, page), 0);
    assert_memory_equal(page, zero, sizeof(page));
    assert_int_equal(test_io(t, BDEV_FLUSH, 0, 0, NULL), 0);
    opts.block_bytes = 256;
    assert_int_equal(null_bdev_create(t->set, &opts, &bd, NULL), -EINVAL);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(contents_outlive_the_device, setup, teardown),
        cmocka_unit_test_setup_teardown(discarded_blocks_read_as_zeroes_and_neighbours_stay, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(wrong_sizes_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(null_reads_zeroes, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
