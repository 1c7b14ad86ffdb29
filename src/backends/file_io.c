/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/check.h"
#include "backends/file.h"
#include "base/log.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fs.h>
#include <string.h>

enum {
    ZERO_BYTES = 1 << 20,
    RETRIES = 1000, /* of EAGAIN and EINTR, for one request */
};

/* How a request reaches the file; it may change on the way (no zero range: write zeroes ourselves).
 */
enum file_mode {
    MODE_VEC,      /* straight from and to the request's iov */
    MODE_BOUNCE,   /* through an aligned buffer, BOUNCE_BYTES at a time */
    MODE_PUNCH,    /* deallocate */
    MODE_ZERO,     /* the file system's zero range */
    MODE_ZERO_OUT, /* zeroes written by us */
    MODE_FLUSH,    /* waits for or shares an fdatasync */
};

struct file_io {
    struct ring_op op;
    struct bdev_req *req;
    struct file_channel *ch;
    struct list node;  /* bounce_waiting, flush_waiting, flushing */
    uint64_t at, left; /* bytes on the device that are still to do */
    uint64_t moved;    /* bytes done, of the iov */
    uint64_t iov_skip; /* of them, in the entry iov_at (MODE_VEC) */
    char *bounce;
    uint32_t bounce_at, bounce_len; /* of it, filled and not yet written, or asked to be read */
    int iov_at;
    uint16_t retries;
    uint8_t mode;
    bool waiting;   /* for a buffer */
    bool detached;  /* a bounced read whose iov must not be touched any more */
    bool cancelled; /* ends when it gets a buffer */
};
static_assert(sizeof(struct file_io) <= sizeof(((struct bdev_req *)0)->backend), "fits");

/* Never written: all of it is the system's zero page. */
static char zeroes[ZERO_BYTES] __attribute__((aligned(4096)));

static void start_piece(struct file_io *io);
static void flush_enqueue(struct file_channel *ch, struct file_io *io);

static struct file_io *io_of(struct bdev_req *req)
{
    return (struct file_io *)req->backend;
}

static bool flush_follows(const struct file_io *io)
{
    if (!(io->req->flags & BDEV_FUA) || io->req->op == BDEV_READ || io->req->op == BDEV_UNMAP)
        return false;
    return !io->ch->disk->direct ||
           io->mode == MODE_ZERO; /* the others were written with RWF_DSYNC */
}

static void bounce_release(struct file_io *io)
{
    struct file_channel *ch = io->ch;
    struct list *node;

    if (!io->bounce)
        return;
    bounce_put(&ch->bounce, io->bounce);
    io->bounce = NULL;
    while (ch->bounce.nspare && (node = list_pop(&ch->bounce_waiting))) {
        struct file_io *next = list_entry(node, struct file_io, node);

        next->waiting = false;
        if (next->cancelled) {
            bdev_complete(next->req, -ECANCELED);
            continue;
        }
        next->bounce = bounce_get(&ch->bounce);
        start_piece(next);
    }
}

static void finish(struct file_io *io, int rc)
{
    struct file_channel *ch = io->ch;

    bounce_release(io);
    if (rc == 0 && flush_follows(io)) {
        io->mode = MODE_FLUSH;
        flush_enqueue(ch, io);
        return;
    }
    bdev_complete(io->req, rc);
}

/* res bytes more are done. */
static void advance(struct file_io *io, uint64_t n)
{
    const struct bdev_req *req = io->req;

    io->at += n;
    io->left -= n;
    if (io->mode == MODE_BOUNCE && req->op == BDEV_READ) {
        if (!io->detached) {
            iov_from_buf(req, io->moved, io->bounce, n);
            bdev_count_bounce(io->req, n);
        }
        io->bounce_len = 0;
    } else if (io->mode == MODE_BOUNCE) {
        io->bounce_at += (uint32_t)n;
        io->bounce_len -= (uint32_t)n;
    }
    io->moved += n;
    if (io->mode != MODE_VEC)
        return;
    n += io->iov_skip;
    while (io->iov_at < req->iovcnt && n >= req->iov[io->iov_at].iov_len)
        n -= req->iov[io->iov_at++].iov_len;
    io->iov_skip = n;
}

static int start_bounced(struct file_channel *ch, struct file_io *io)
{
    io->mode = MODE_BOUNCE;
    io->bounce = bounce_get(&ch->bounce);
    if (io->bounce) {
        start_piece(io);
        return BDEV_PENDING;
    }
    if (ch->bounce.made == 0)
        return -ENOMEM;
    io->waiting = true;
    list_append(&ch->bounce_waiting, &io->node);
    return BDEV_PENDING;
}

/* Another way to the same end, when the file turned out not to have the one tried. */
static bool try_otherwise(struct file_io *io, int rc)
{
    struct file_disk *d = io->ch->disk;

    if (io->mode == MODE_ZERO && rc == -EOPNOTSUPP) {
        atomic_store_explicit(&d->no_zero_range, true, memory_order_relaxed);
        io->mode = MODE_ZERO_OUT;
        start_piece(io);
        return true;
    }
    /* A stacked device may ask for more alignment than it said. */
    if (io->mode == MODE_VEC && rc == -EINVAL && d->direct)
        return start_bounced(io->ch, io) == BDEV_PENDING;
    return false;
}

static void piece_done(struct ring_op *op, int res)
{
    struct file_io *io = container_of(op, struct file_io, op);
    struct file_disk *d = io->ch->disk;

    if ((res == -EINTR || res == -EAGAIN) && ++io->retries <= RETRIES) {
        start_piece(io);
        return;
    }
    if (io->mode == MODE_PUNCH && res == -EOPNOTSUPP) {
        atomic_store_explicit(&d->no_punch, true, memory_order_relaxed);
        res = 0; /* deallocation is a hint */
    }
    if (res < 0) {
        if (!try_otherwise(io, res))
            finish(io, res);
        return;
    }
    if (io->mode == MODE_PUNCH || io->mode == MODE_ZERO) {
        finish(io, 0);
        return;
    }
    /* Short I/O goes on where direct I/O can go on; nothing at all: the file was cut off under us.
     */
    res -= res % (int)d->offset_align;
    if (res == 0 || (uint64_t)res > io->left) {
        finish(io, -EIO);
        return;
    }
    advance(io, (uint64_t)res);
    if (io->detached)
        finish(io, -ECANCELED);
    else if (io->left)
        start_piece(io);
    else
        finish(io, 0);
}

static void prep_vec(struct file_io *io, struct io_uring_sqe *sqe)
{
    const struct bdev_req *req = io->req;
    const struct iovec *v = &req->iov[io->iov_at];
    unsigned n = (unsigned)MIN(req->iovcnt - io->iov_at, IOV_MAX);

    if (io->iov_skip) { /* the rest of an entry; the others follow in the next piece */
        char *at = (char *)v->iov_base + io->iov_skip;
        unsigned len = (unsigned)MIN(v->iov_len - io->iov_skip, (size_t)INT_MAX / 2 + 1);

        if (req->op == BDEV_READ)
            io_uring_prep_read(sqe, io->ch->fd, at, len, io->at);
        else
            io_uring_prep_write(sqe, io->ch->fd, at, len, io->at);
    } else if (req->op == BDEV_READ) {
        io_uring_prep_readv(sqe, io->ch->fd, v, n, io->at);
    } else {
        io_uring_prep_writev(sqe, io->ch->fd, v, n, io->at);
    }
}

static void prep_bounce(struct file_io *io, struct io_uring_sqe *sqe)
{
    struct bdev_req *req = io->req;

    if (io->bounce_len == 0) {
        io->bounce_at = 0;
        io->bounce_len = (uint32_t)MIN(io->left, BOUNCE_BYTES);
        if (req->op == BDEV_WRITE) {
            iov_to_buf(req, io->moved, io->bounce, io->bounce_len);
            bdev_count_bounce(req, io->bounce_len);
        }
    }
    if (req->op == BDEV_READ)
        io_uring_prep_read(sqe, io->ch->fd, io->bounce, io->bounce_len, io->at);
    else
        io_uring_prep_write(sqe, io->ch->fd, io->bounce + io->bounce_at, io->bounce_len, io->at);
}

static void start_piece(struct file_io *io)
{
    struct file_channel *ch = io->ch;
    struct io_uring_sqe *sqe = ring_sqe(ch->ring);
    bool writes = io->req->op != BDEV_READ;

    switch ((enum file_mode)io->mode) {
    case MODE_VEC:
        prep_vec(io, sqe);
        break;
    case MODE_BOUNCE:
        prep_bounce(io, sqe);
        break;
    case MODE_ZERO_OUT:
        io_uring_prep_write(sqe, ch->fd, zeroes, (unsigned)MIN(io->left, ZERO_BYTES), io->at);
        break;
    case MODE_PUNCH:
        io_uring_prep_fallocate(sqe, ch->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, io->at,
                                io->left);
        break;
    case MODE_ZERO:
        io_uring_prep_fallocate(sqe, ch->fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, io->at,
                                io->left);
        break;
    case MODE_FLUSH: /* never a piece of its own */
        break;
    }
    if (writes && io->mode != MODE_PUNCH && io->mode != MODE_ZERO && ch->disk->direct &&
        (io->req->flags & BDEV_FUA))
        sqe->rw_flags = RWF_DSYNC;
    ring_bind(ch->ring, sqe, &io->op);
}

/* ---- flush ----
 * A failed fdatasync has lost data for good, and the kernel forgets it with the answer: the next
 * one would say "ok". So the first error stays until the device is deleted. One at a time, so that
 * no other flush can pass the failing one. */

static void flush_done(struct ring_op *op, int res);

static void flush_start(struct file_channel *ch)
{
    struct io_uring_sqe *sqe;

    list_splice(&ch->flushing, &ch->flush_waiting);
    ch->flush_busy = true;
    sqe = ring_sqe(ch->ring);
    io_uring_prep_fsync(sqe, ch->fd, IORING_FSYNC_DATASYNC);
    ring_bind(ch->ring, sqe, &ch->flush_op);
}

static void flush_enqueue(struct file_channel *ch, struct file_io *io)
{
    list_append(&ch->flush_waiting, &io->node);
    if (!ch->flush_busy)
        flush_start(ch);
}

static void flush_done(struct ring_op *op, int res)
{
    struct file_channel *ch = container_of(op, struct file_channel, flush_op);
    struct file_disk *d = ch->disk;
    struct list done, *node;
    int none = 0, rc;

    if (res == -EINTR || res == -EAGAIN) {
        flush_start(ch);
        return;
    }
    if (res < 0 && atomic_compare_exchange_strong(&d->flush_error, &none, res))
        log_line(LOG_ERROR, "file",
                 "bdev %s: flush of %s failed (%s): data is lost; every flush fails "
                 "until the bdev is deleted",
                 d->name, d->path, strerror(-res));
    rc = atomic_load(&d->flush_error);
    list_init(&done);
    list_splice(&done, &ch->flushing);
    ch->flush_busy = false;
    if (!list_empty(&ch->flush_waiting))
        flush_start(ch);
    while ((node = list_pop(&done)))
        bdev_complete(list_entry(node, struct file_io, node)->req, rc);
}

/* ---- the table's calls ---- */

void file_channel_init(struct file_channel *ch)
{
    list_init(&ch->bounce_waiting);
    list_init(&ch->flush_waiting);
    list_init(&ch->flushing);
    ch->flush_op.done = flush_done;
}

static bool fits_direct(const struct file_disk *d, const struct bdev_req *req)
{
    uintptr_t bases = 0;
    size_t lens = 0;

    for (int i = 0; i < req->iovcnt; i++) {
        bases |= (uintptr_t)req->iov[i].iov_base;
        lens |= req->iov[i].iov_len;
    }
    return (bases & (d->mem_align - 1)) == 0 && (lens & (d->offset_align - 1)) == 0;
}

int file_submit(void *ctx, struct bdev_req *req)
{
    struct file_channel *ch = ctx;
    struct file_disk *d = ch->disk;
    struct file_io *io = io_of(req);

    memset(io, 0, sizeof(*io));
    io->op.done = piece_done;
    io->req = req;
    io->ch = ch;
    io->at = req->lba * d->block_bytes;
    io->left = (uint64_t)req->nblocks * d->block_bytes;
    switch (req->op) {
    case BDEV_READ:
    case BDEV_WRITE:
        if (!fits_direct(d, req))
            return start_bounced(ch, io);
        io->mode = MODE_VEC;
        break;
    case BDEV_UNMAP:
        if (atomic_load_explicit(&d->no_punch, memory_order_relaxed))
            return 0;
        io->mode = MODE_PUNCH;
        break;
    case BDEV_WRITE_ZEROES:
        io->mode = MODE_ZERO;
        if (!d->fallocate || atomic_load_explicit(&d->no_zero_range, memory_order_relaxed))
            io->mode = MODE_ZERO_OUT;
        break;
    case BDEV_FLUSH:
        if (d->read_only || atomic_load(&d->flush_error))
            return atomic_load(&d->flush_error);
        io->mode = MODE_FLUSH;
        flush_enqueue(ch, io);
        return BDEV_PENDING;
    case BDEV_OPS:
    default:
        return -EINVAL;
    }
    start_piece(io);
    return BDEV_PENDING;
}

/* Direct requests stay in the kernel's hands until they are done; bounced ones let go as soon as
 * the data is copied. */
int file_detach(void *ctx, struct bdev_req *req)
{
    struct file_io *io = io_of(req);

    switch ((enum file_mode)io->mode) {
    case MODE_VEC:
        return BDEV_PENDING;
    case MODE_BOUNCE:
        if (req->op == BDEV_READ) {
            io->detached = true;
            io->cancelled = io->waiting;
            return 0;
        }
        return !io->waiting && io->left == io->bounce_len ? 0 : BDEV_PENDING;
    case MODE_PUNCH:
    case MODE_ZERO:
    case MODE_ZERO_OUT:
    case MODE_FLUSH:
    default:
        return 0;
    }
}

/* What the kernel has cannot be proven undone; what still waits for a buffer has not begun. */
void file_cancel(void *ctx, struct bdev_req *req)
{
    struct file_io *io = io_of(req);

    if (io->mode == MODE_BOUNCE && io->waiting && io->moved == 0)
        io->cancelled = true;
}
