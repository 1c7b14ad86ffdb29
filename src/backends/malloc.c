/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/backends.h"
#include "backends/check.h"
#include "base/fd.h"
#include "base/undumped.h"
#include "runtime/ring.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    PUNCH_BYTES = 64 << 10,      /* below, clearing is cheaper than giving pages back */
    PUNCH_ASYNC_BYTES = 2 << 20, /* above, it would hold up the reactor */
    EXPECT_LINES = 16,
};

struct malloc_disk {
    int fd;
    char *mem;
    uint64_t bytes, page_bytes;
    uint32_t block_bytes;
};

struct malloc_channel {
    struct malloc_disk *disk;
    struct ring *ring; /* may be NULL: large discards are done at once then */
};

/* In bdev_req.backend: a discard that the ring does. */
struct punch {
    struct ring_op op;
    struct bdev_req *req;
};
static_assert(sizeof(struct punch) <= sizeof(((struct bdev_req *)0)->backend), "fits");

static void *malloc_open_channel(void *dev, struct reactor *r, struct err *err)
{
    struct malloc_channel *ch = calloc(1, sizeof(*ch));

    if (!ch) {
        err_set(err, -ENOMEM, "no memory for a channel");
        return NULL;
    }
    ch->disk = dev;
    ch->ring = reactor_ring(r);
    return ch;
}

static void malloc_close_channel(void *ctx)
{
    free(ctx);
}

static void punch_done(struct ring_op *op, int res)
{
    struct punch *p = container_of(op, struct punch, op);

    bdev_complete(p->req, res < 0 ? res : 0);
}

/* Zeroes [at, at + len); whole pages of it go back to the system. */
static int clear(struct malloc_channel *ch, struct bdev_req *req, uint64_t at, uint64_t len)
{
    struct malloc_disk *d = ch->disk;
    uint64_t first = (at + d->page_bytes - 1) / d->page_bytes * d->page_bytes;
    uint64_t end = (at + len) / d->page_bytes * d->page_bytes;
    const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    struct punch *p = (struct punch *)req->backend;
    struct io_uring_sqe *sqe;

    if (end < first || end - first < PUNCH_BYTES) {
        memset(d->mem + at, 0, len);
        return 0;
    }
    memset(d->mem + at, 0, first - at);
    memset(d->mem + end, 0, at + len - end);
    if (!ch->ring || end - first < PUNCH_ASYNC_BYTES) {
        if (fallocate(d->fd, mode, (off_t)first, (off_t)(end - first)) < 0)
            memset(d->mem + first, 0, end - first);
        return 0;
    }
    p->req = req;
    p->op.done = punch_done;
    sqe = ring_sqe(ch->ring);
    io_uring_prep_fallocate(sqe, d->fd, mode, first, end - first);
    ring_bind(ch->ring, sqe, &p->op);
    return BDEV_PENDING;
}

static int malloc_submit(void *ctx, struct bdev_req *req)
{
    struct malloc_channel *ch = ctx;
    struct malloc_disk *d = ch->disk;
    uint64_t at = req->lba * d->block_bytes, len = (uint64_t)req->nblocks * d->block_bytes;

    switch (req->op) {
    case BDEV_READ:
        iov_from_buf(req, 0, d->mem + at, len);
        return 0;
    case BDEV_WRITE:
        iov_to_buf(req, 0, d->mem + at, len);
        return 0;
    case BDEV_UNMAP:
    case BDEV_WRITE_ZEROES:
        return clear(ch, req, at, len);
    case BDEV_FLUSH:
    case BDEV_OPS:
    default:
        return 0;
    }
}

/* The first lines: the processor finds the others by itself. The walk of the page table is most of
 * what this saves. */
static void malloc_expect(void *ctx, uint64_t lba)
{
    struct malloc_channel *ch = ctx;
    const char *at = ch->disk->mem + lba * ch->disk->block_bytes;

    for (unsigned i = 0; i < EXPECT_LINES; i++)
        __builtin_prefetch(at + (size_t)i * CACHE_LINE);
}

static void malloc_flush_batch(void *ctx)
{
}

/* Only discards are ever pending, and they touch no memory of the guest. */
static int malloc_detach(void *ctx, struct bdev_req *req)
{
    return 0;
}

static void malloc_cancel(void *ctx, struct bdev_req *req)
{
}

static void malloc_describe(void *dev, struct json_t *out)
{
}

static void malloc_destroy(void *dev)
{
    struct malloc_disk *d = dev;

    if (!d)
        return;
    if (d->mem)
        munmap(d->mem, d->bytes);
    fd_close(&d->fd);
    free(d);
}

static const struct bdev_ops malloc_ops = {
    .kind = "malloc",
    .product = "Malloc disk",
    .open_channel = malloc_open_channel,
    .close_channel = malloc_close_channel,
    .submit = malloc_submit,
    .expect = malloc_expect,
    .flush_batch = malloc_flush_batch,
    .detach = malloc_detach,
    .cancel = malloc_cancel,
    .describe = malloc_describe,
    .destroy = malloc_destroy,
};

int malloc_bdev_bytes(const struct malloc_opts *opts, uint64_t *ret, struct err *err)
{
    return check_size(opts->name, opts->block_bytes, opts->nblocks, ret, err);
}

int malloc_bdev_keepsake(const char *name, char *out, unsigned out_bytes, struct err *err)
{
    int n = snprintf(out, out_bytes, "malloc.%s", name);

    if (n < 0 || (unsigned)n >= out_bytes)
        return err_set(err, -ENAMETOOLONG, "bdev '%s': the name is too long for a malloc bdev",
                       name);
    return 0;
}

static int map_memory(struct malloc_disk *d, const struct malloc_opts *opts, struct err *err)
{
    struct stat st;

    d->fd = fcntl(opts->memory_fd, F_DUPFD_CLOEXEC, 0);
    if (d->fd < 0 || fstat(d->fd, &st) < 0)
        return err_set(err, -errno, "bdev '%s': its memory: %s", opts->name, strerror(errno));
    if ((uint64_t)st.st_size != d->bytes)
        return err_set(err, -EEXIST,
                       "bdev '%s': the memory kept under this name has %llu bytes, not %llu: "
                       "delete the old disk first",
                       opts->name, (unsigned long long)st.st_size, (unsigned long long)d->bytes);
    d->mem = mmap(NULL, d->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, d->fd, 0);
    if (d->mem == MAP_FAILED) {
        d->mem = NULL;
        return err_set(err, -errno, "bdev '%s': cannot map %llu bytes: %s", opts->name,
                       (unsigned long long)d->bytes, strerror(errno));
    }
    undumped_mark(d->mem, d->bytes);
    madvise(d->mem, d->bytes, MADV_DONTFORK);
    return 0;
}

int malloc_bdev_create(struct bdev_set *set, const struct malloc_opts *opts, struct bdev **ret,
                       struct err *err)
{
    struct bdev_info info = {
        .block_bytes = opts->block_bytes,
        .nblocks = opts->nblocks,
        .uuid = uuid_or_derived(opts->uuid, "malloc", opts->name),
        .can_unmap = true,
        .can_write_zeroes = true,
        .copies = true,
    };
    struct malloc_disk *d = calloc(1, sizeof(*d));
    int rc;

    if (!d)
        return err_set(err, -ENOMEM, "bdev '%s': no memory", opts->name);
    d->fd = -1;
    d->block_bytes = opts->block_bytes;
    d->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    rc = malloc_bdev_bytes(opts, &d->bytes, err);
    if (rc == 0)
        rc = map_memory(d, opts, err);
    if (rc == 0)
        rc = bdev_register(set, opts->name, &malloc_ops, d, &info, ret, err);
    if (rc)
        malloc_destroy(d);
    return rc;
}
