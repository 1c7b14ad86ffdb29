/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/test_io.h"

#include "backends/file.h"
#include "base/log.h"
#include "bdev/channel.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

enum { BLOCKS = 4096, FILE_BYTES = BLOCKS * 512 };

struct bench {
    struct test_io *t;
    char dir[256], path[300];
    struct bdev *bd;
};

static char *aligned(size_t bytes)
{
    return aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
}

static int setup(void **state)
{
    struct bench *b = calloc(1, sizeof(*b));
    const char *tmp = getenv("TMPDIR");
    int fd;

    b->t = test_io_create();
    snprintf(b->dir, sizeof(b->dir), "%s/file_test.XXXXXX", tmp && *tmp ? tmp : "/var/tmp");
    assert_non_null(mkdtemp(b->dir));
    snprintf(b->path, sizeof(b->path), "%s/disk", b->dir);
    fd = open(b->path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, FILE_BYTES), 0);
    close(fd);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    struct bench *b = *state;

    test_io_destroy(b->t);
    unlink(b->path);
    rmdir(b->dir);
    free(b);
    return 0;
}

static void open_disk(struct bench *b, bool read_only, bool fallocate_on)
{
    struct file_opts opts = {.name = "Aio0",
                             .path = b->path,
                             .flavour = FILE_AIO,
                             .read_only = read_only,
                             .fallocate = fallocate_on};
    struct err err = {0};

    if (file_bdev_create(b->t->set, &opts, &b->bd, &err))
        fail_msg("%s", err.msg);
    test_io_open(b->t, b->bd);
}

static struct file_disk *disk_of(struct bench *b)
{
    return bdev_dev(b->bd);
}

static void file_equals(struct bench *b, const char *model)
{
    char *in = malloc(FILE_BYTES);
    int fd = open(b->path, O_RDONLY | O_CLOEXEC);

    assert_int_equal(read(fd, in, FILE_BYTES), FILE_BYTES);
    assert_memory_equal(in, model, FILE_BYTES);
    close(fd);
    free(in);
}

static void whole_file_written_and_read(void **state)
{
    struct bench *b = *state;
    char *out = aligned(FILE_BYTES), *in = aligned(FILE_BYTES);
    struct bdev_stats st;

    open_disk(b, false, true);
    fill(out, FILE_BYTES, 1);
    assert_int_equal(test_io(b->t, BDEV_WRITE, 0, BLOCKS, out), 0);
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), 0);
    assert_int_equal(test_io(b->t, BDEV_READ, 0, BLOCKS, in), 0);
    assert_memory_equal(in, out, FILE_BYTES);
    file_equals(b, out);
    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.bounce_bytes, 0);
    assert_int_equal(st.bytes[BDEV_WRITE], FILE_BYTES);
    free(out);
    free(in);
}

static void more_pieces_than_one_readv_takes(void **state)
{
    enum { PIECES = 3000 };
    struct bench *b = *state;
    char *out = aligned(FILE_BYTES), *in = aligned(FILE_BYTES);
    struct iovec *iov = calloc(PIECES, sizeof(*iov));
    struct bdev_req req = {
        .op = BDEV_WRITE, .lba = 7, .nblocks = PIECES, .iov = iov, .iovcnt = PIECES};

    open_disk(b, false, true);
    fill(out, FILE_BYTES, 2);
    for (int i = 0; i < PIECES; i++) /* back to front: nothing can be merged */
        iov[i] = (struct iovec){out + (PIECES - 1 - i) * 512, 512};
    assert_int_equal(test_io_many(b->t, &req, 1), 0);
    for (int i = 0; i < PIECES; i++)
        iov[i] = (struct iovec){in + (PIECES - 1 - i) * 512, 512};
    req.op = BDEV_READ;
    assert_int_equal(test_io_many(b->t, &req, 1), 0);
    assert_memory_equal(in, out, PIECES * 512);
    free(iov);
    free(out);
    free(in);
}

static void misaligned_memory_is_bounced_and_counted(void **state)
{
    struct bench *b = *state;
    char *out = aligned(FILE_BYTES + 4096), *in = aligned(FILE_BYTES + 4096);
    struct bdev_stats st;

    open_disk(b, false, true);
    if (!disk_of(b)->direct)
        skip();
    fill(out, FILE_BYTES, 3);
    /* A middle part of several chunks, not a multiple of one. */
    assert_int_equal(test_io(b->t, BDEV_WRITE, 1, 1001, out + 1), 0);
    assert_int_equal(test_io(b->t, BDEV_READ, 1, 1001, in + 2), 0);
    assert_memory_equal(in + 2, out + 1, 1001 * 512);
    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.bounce_bytes, 2 * 1001 * 512);
    free(out);
    free(in);
}

static void bounced_requests_wait_for_buffers(void **state)
{
    struct bench *b = *state;
    char *out = aligned(FILE_BYTES), *in = aligned(FILE_BYTES);
    struct bdev_req reqs[TEST_MANY];
    struct iovec iov[TEST_MANY];

    open_disk(b, false, true);
    fill(out, FILE_BYTES, 4);
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < TEST_MANY; i++) {
            iov[i] = (struct iovec){(pass ? in : out) + i * 8192 + 1, 8192};
            reqs[i] = (struct bdev_req){.op = pass ? BDEV_READ : BDEV_WRITE,
                                        .flags = i % 2 ? BDEV_FUA : 0,
                                        .lba = i * 16,
                                        .nblocks = 16,
                                        .iov = &iov[i],
                                        .iovcnt = 1};
        }
        test_io_many(b->t, reqs, TEST_MANY);
        for (unsigned i = 0; i < TEST_MANY; i++)
            assert_int_equal(b->t->rcs[i], 0);
    }
    assert_memory_equal(in + 1, out + 1, TEST_MANY * 8192);
    free(out);
    free(in);
}

static void take_pages_away(struct test_io *t)
{
    for (unsigned i = 0; i < t->n; i++) {
        bool lets_go = i < BOUNCE_MAX || t->reqs[i].op == BDEV_READ;

        if (bdev_detach(t->ch, &t->reqs[i]) != (lets_go ? 0 : BDEV_PENDING))
            abort();
        if (lets_go)
            memset(t->reqs[i].iov->iov_base, 0x11, 512);
    }
}

static void detached_reads_leave_memory_alone_and_writes_keep_their_data(void **state)
{
    struct bench *b = *state;
    char *buf = aligned(TEST_MANY * 1024), *model = calloc(1, FILE_BYTES), clean[512];
    struct bdev_req reqs[TEST_MANY];
    struct iovec iov[TEST_MANY];

    open_disk(b, false, true);
    if (!disk_of(b)->direct)
        skip();
    memset(clean, 0x11, sizeof(clean));
    b->t->submitted = take_pages_away;
    for (int pass = 0; pass < 2; pass++) {
        for (unsigned i = 0; i < TEST_MANY; i++) {
            iov[i] = (struct iovec){buf + i * 1024 + 1, 512};
            reqs[i] = (struct bdev_req){.op = pass ? BDEV_READ : BDEV_WRITE,
                                        .lba = i,
                                        .nblocks = 1,
                                        .iov = &iov[i],
                                        .iovcnt = 1};
            fill(iov[i].iov_base, 512, i);
            if (!pass)
                memcpy(model + i * 512, iov[i].iov_base, 512);
        }
        test_io_many(b->t, reqs, TEST_MANY);
        for (unsigned i = 0; i < TEST_MANY; i++) {
            assert_int_equal(b->t->rcs[i], pass ? -ECANCELED : 0);
            if (pass)
                assert_memory_equal(iov[i].iov_base, clean, 512);
        }
        if (!pass)
            file_equals(b, model);
    }
    free(buf);
    free(model);
}

static void cancel_all(struct test_io *t)
{
    for (unsigned i = 0; i < t->n; i++)
        bdev_cancel(t->ch, &t->reqs[i]);
}

static void what_has_not_begun_can_be_cancelled(void **state)
{
    struct bench *b = *state;
    char *buf = aligned(TEST_MANY * 1024);
    struct bdev_req reqs[TEST_MANY];
    struct iovec iov[TEST_MANY];

    open_disk(b, false, true);
    if (!disk_of(b)->direct)
        skip();
    b->t->submitted = cancel_all;
    for (unsigned i = 0; i < TEST_MANY; i++) {
        iov[i] = (struct iovec){buf + i * 1024 + 1, 512};
        reqs[i] = (struct bdev_req){
            .op = BDEV_WRITE, .lba = i, .nblocks = 1, .iov = &iov[i], .iovcnt = 1};
    }
    test_io_many(b->t, reqs, TEST_MANY);
    for (unsigned i = 0; i < TEST_MANY; i++)
        assert_int_equal(b->t->rcs[i], i < BOUNCE_MAX ? 0 : -ECANCELED);
    free(buf);
}

static void zeroes_and_discards(void **state)
{
    static const struct {
        uint64_t lba;
        uint32_t nblocks;
        unsigned flags;
    } ranges[] = {{1, 1, 0}, {3, 3000, 0}, {8, 8, BDEV_FUA}};
    struct bench *b = *state;
    char *model = aligned(FILE_BYTES), *in = aligned(FILE_BYTES);

    for (int fallocate_on = 0; fallocate_on < 2; fallocate_on++) {
        open_disk(b, false, fallocate_on);
        for (unsigned op = BDEV_UNMAP; op <= BDEV_WRITE_ZEROES; op++) {
            if (op == BDEV_UNMAP && !bdev_get_info(b->bd).can_unmap) {
                assert_int_equal(test_io(b->t, BDEV_UNMAP, 0, 1, NULL), -EOPNOTSUPP);
                continue;
            }
            for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++) {
                fill(model, FILE_BYTES, i);
                assert_int_equal(test_io(b->t, BDEV_WRITE, 0, BLOCKS, model), 0);
                assert_int_equal(test_io_flags(b->t, (enum bdev_op)op, ranges[i].lba,
                                               ranges[i].nblocks, NULL, ranges[i].flags),
                                 0);
                memset(model + ranges[i].lba * 512, 0, (size_t)ranges[i].nblocks * 512);
                assert_int_equal(test_io(b->t, BDEV_READ, 0, BLOCKS, in), 0);
                assert_memory_equal(in, model, FILE_BYTES);
                file_equals(b, model);
            }
        }
        test_io_close(b->t);
        assert_int_equal(bdev_unregister(b->bd, NULL, NULL, NULL), 0);
    }
    free(model);
    free(in);
}

static void a_missing_zero_range_is_made_up_for(void **state)
{
    struct bench *b = *state;
    char *model = aligned(FILE_BYTES);

    open_disk(b, false, true);
    atomic_store(&disk_of(b)->no_zero_range, true);
    fill(model, FILE_BYTES, 5);
    assert_int_equal(test_io(b->t, BDEV_WRITE, 0, BLOCKS, model), 0);
    assert_int_equal(test_io(b->t, BDEV_WRITE_ZEROES, 5, 3333, NULL), 0);
    memset(model + 5 * 512, 0, 3333 * 512);
    file_equals(b, model);
    free(model);
}

static void a_file_cut_off_under_us_is_an_error_not_a_loop(void **state)
{
    struct bench *b = *state;
    char *buf = aligned(FILE_BYTES);

    open_disk(b, false, true);
    assert_int_equal(truncate(b->path, 100 * 512 + 100), 0);
    assert_int_equal(test_io(b->t, BDEV_READ, 0, 100, buf), 0);
    assert_int_equal(test_io(b->t, BDEV_READ, 90, 20, buf), -EIO);
    assert_int_equal(test_io(b->t, BDEV_READ, 2000, 8, buf), -EIO);
    assert_int_equal(file_bdev_rescan(b->bd, NULL), 0);
    assert_int_equal(bdev_get_info(b->bd).nblocks, 100);
    assert_int_equal(test_io(b->t, BDEV_READ, 100, 1, buf), -ERANGE);
    free(buf);
}

static void a_failed_flush_is_never_forgotten(void **state)
{
    struct bench *b = *state;
    char *buf = aligned(4096);
    struct file_channel *ch;
    int real, pipes[2];

    open_disk(b, false, true);
    memset(buf, 1, 4096);
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), 0);
    /* A pipe cannot be synced: the kernel answers EINVAL, as a disk would answer EIO. */
    assert_int_equal(pipe(pipes), 0);
    ch = b->t->ch->ctx;
    real = ch->fd;
    ch->fd = pipes[1];
    log_set_level(LOG_CRITICAL);
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), -EINVAL);
    log_set_level(LOG_INFO);
    ch->fd = real;
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), -EINVAL);
    assert_int_equal(test_io(b->t, BDEV_WRITE, 0, 8, buf), 0);
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), -EINVAL);
    close(pipes[0]);
    close(pipes[1]);
    free(buf);
}

static void many_flushes_share_few_syncs(void **state)
{
    struct bench *b = *state;
    struct bdev_req reqs[TEST_MANY];

    open_disk(b, false, true);
    for (unsigned i = 0; i < TEST_MANY; i++)
        reqs[i] = (struct bdev_req){.op = BDEV_FLUSH};
    test_io_many(b->t, reqs, TEST_MANY);
    for (unsigned i = 0; i < TEST_MANY; i++)
        assert_int_equal(b->t->rcs[i], 0);
}

static void through_the_page_cache_too(void **state)
{
    struct bench *b = *state;
    char *out = aligned(FILE_BYTES + 4096), *in = aligned(FILE_BYTES);
    struct bdev_stats st;

    open_disk(b, false, true);
    test_io_close(b->t);
    disk_of(b)->direct = false;
    disk_of(b)->mem_align = disk_of(b)->offset_align = 1;
    test_io_open(b->t, b->bd);
    fill(out, FILE_BYTES, 6);
    assert_int_equal(test_io_flags(b->t, BDEV_WRITE, 0, 999, out + 1, BDEV_FUA), 0);
    assert_int_equal(test_io(b->t, BDEV_READ, 0, 999, in), 0);
    assert_memory_equal(in, out + 1, 999 * 512);
    assert_int_equal(test_io_flags(b->t, BDEV_WRITE_ZEROES, 1, 50, NULL, BDEV_FUA), 0);
    bdev_get_stats(b->bd, &st);
    assert_int_equal(st.bounce_bytes, 0);
    free(out);
    free(in);
}

static int try_open(struct bench *b, const char *path, uint32_t block_bytes, bool read_only)
{
    struct file_opts opts = {
        .name = "Other", .path = path, .block_bytes = block_bytes, .read_only = read_only};
    struct err err = {0};
    struct bdev *bd = NULL;
    int rc = file_bdev_create(b->t->set, &opts, &bd, &err);

    if (rc)
        assert_non_null(strstr(err.msg, "Other"));
    else
        bdev_unregister(bd, NULL, NULL, NULL);
    return rc;
}

static void a_file_is_used_once(void **state)
{
    struct bench *b = *state;
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd;

    open_disk(b, false, true);
    assert_int_equal(try_open(b, b->path, 0, false), -EBUSY);
    assert_int_equal(try_open(b, b->path, 0, true), -EBUSY);
    test_io_close(b->t);
    assert_int_equal(bdev_unregister(b->bd, NULL, NULL, NULL), 0);
    open_disk(b, true, true); /* readers share */
    assert_int_equal(try_open(b, b->path, 0, true), 0);
    assert_int_equal(try_open(b, b->path, 0, false), -EBUSY);
    test_io_close(b->t);
    assert_int_equal(bdev_unregister(b->bd, NULL, NULL, NULL), 0);
    fd = open(b->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), 0);
    assert_int_equal(try_open(b, b->path, 0, false), -EBUSY);
    close(fd);
    assert_int_equal(try_open(b, b->path, 0, false), 0);
}

static void read_only_means_it(void **state)
{
    struct bench *b = *state;
    char *buf = aligned(4096);

    assert_int_equal(chmod(b->path, 0400), 0);
    open_disk(b, true, true);
    assert_true(bdev_get_info(b->bd).read_only);
    assert_int_equal(test_io(b->t, BDEV_READ, 0, 8, buf), 0);
    assert_int_equal(test_io(b->t, BDEV_WRITE, 0, 8, buf), -EROFS);
    assert_int_equal(test_io(b->t, BDEV_UNMAP, 0, 8, NULL), -EROFS);
    assert_int_equal(test_io(b->t, BDEV_FLUSH, 0, 0, NULL), 0);
    free(buf);
}

static void what_is_not_a_disk_is_refused(void **state)
{
    struct bench *b = *state;
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    char path[400];
    int fd;

    assert_int_equal(try_open(b, b->dir, 0, false), -EINVAL);
    assert_int_equal(try_open(b, "/dev/null", 0, false), -EINVAL);
    assert_int_equal(try_open(b, "/nonexistent/x", 0, false), -ENOENT);
    snprintf(path, sizeof(path), "%s/fifo", b->dir);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(try_open(b, path, 0, false), -EINVAL);
    unlink(path);
    snprintf(addr.sun_path, sizeof(addr.sun_path), "%.90s/socket", b->dir);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    assert_int_equal(try_open(b, addr.sun_path, 0, false), -EINVAL);
    close(fd);
    unlink(addr.sun_path);
    assert_int_equal(try_open(b, b->path, 1000, false), -EINVAL);
    assert_int_equal(try_open(b, b->path, 256, false), -EINVAL);
    assert_int_equal(try_open(b, b->path, 131072, false), -EINVAL);
    assert_int_equal(try_open(b, b->path, 4096, false), 0);
    assert_int_equal(truncate(b->path, 0), 0);
    assert_int_equal(try_open(b, b->path, 0, false), -EINVAL);
    assert_int_equal(truncate(b->path, 511), 0);
    assert_int_equal(try_open(b, b->path, 0, false), -EINVAL);
}

static void a_part_of_a_block_at_the_end_is_not_used(void **state)
{
    struct bench *b = *state;

    assert_int_equal(truncate(b->path, 10 * 512 + 77), 0);
    log_set_level(LOG_CRITICAL);
    open_disk(b, false, true);
    log_set_level(LOG_INFO);
    assert_int_equal(bdev_get_info(b->bd).nblocks, 10);
    assert_int_equal(bdev_get_info(b->bd).block_bytes, 512);
}

/* A user-mode emulator has no io_uring, and a container's filter may refuse it. */
static bool can_run(void)
{
    struct io_uring probe;
    int rc = io_uring_queue_init(1, &probe, 0);

    if (rc < 0)
        printf("skipped: no io_uring here (%s), and files need it\n", strerror(-rc));
    else
        io_uring_queue_exit(&probe);
    return rc == 0 || (rc != -ENOSYS && rc != -EPERM);
}

int main(void)
{
#define with_bench(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    static const struct CMUnitTest tests[] = {
        with_bench(whole_file_written_and_read),
        with_bench(more_pieces_than_one_readv_takes),
        with_bench(misaligned_memory_is_bounced_and_counted),
        with_bench(bounced_requests_wait_for_buffers),
        with_bench(detached_reads_leave_memory_alone_and_writes_keep_their_data),
        with_bench(what_has_not_begun_can_be_cancelled),
        with_bench(zeroes_and_discards),
        with_bench(a_missing_zero_range_is_made_up_for),
        with_bench(a_file_cut_off_under_us_is_an_error_not_a_loop),
        with_bench(a_failed_flush_is_never_forgotten),
        with_bench(many_flushes_share_few_syncs),
        with_bench(through_the_page_cache_too),
        with_bench(a_file_is_used_once),
        with_bench(read_only_means_it),
        with_bench(what_is_not_a_disk_is_refused),
        with_bench(a_part_of_a_block_at_the_end_is_not_used),
    };

    return can_run() ? cmocka_run_group_tests(tests, NULL, NULL) : 77;
}
