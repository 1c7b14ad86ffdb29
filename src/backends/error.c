/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A bdev that fails when it is told to. */
#include "backends/backends.h"
#include "backends/stacked.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

struct error_disk {
    struct stacked_disk stacked;
    _Atomic unsigned armed; /* bits of the operations with errors left */
    pthread_mutex_t lock;
    struct error_injection faults[BDEV_OPS]; /* num: what is left of it */
    struct list channels;
};

struct error_channel {
    struct stacked_channel stacked; /* first */
    struct error_disk *disk;
    struct list pending;
    struct mail clear;
    bool closed;
    /* Under disk->lock. */
    struct list node;
    bool clearing; /* mail is under way to the reactor */
};

/* ---- the channel ---- */

static void clear_arrived(struct mail *m)
{
    struct error_channel *ch = container_of(m, struct error_channel, clear);
    struct list pending, *node;

    if (ch->closed) {
        free(ch);
        return;
    }
    pthread_mutex_lock(&ch->disk->lock);
    ch->clearing = false;
    pthread_mutex_unlock(&ch->disk->lock);
    list_init(&pending);
    list_splice(&pending, &ch->pending);
    while ((node = list_pop(&pending)))
        stacked_end(list_entry(node, struct stacked_io, node), -EIO);
}

static void flip(const struct iovec *iov, int iovcnt, uint64_t at, uint8_t by)
{
    for (int i = 0; i < iovcnt; at -= iov[i++].iov_len) {
        if (at < iov[i].iov_len) {
            ((uint8_t *)iov[i].iov_base)[at] ^= by;
            return;
        }
    }
}

static void corrupt_read(struct stacked_io *io, int rc)
{
    if (rc == 0 && io->corrupt_by && io->outer->op == BDEV_READ && !io->detached)
        flip(io->outer->iov, io->outer->iovcnt, io->corrupt_at, io->corrupt_by);
}

static void *error_open_channel(void *dev, struct reactor *r, struct err *err)
{
    struct error_disk *d = dev;
    struct error_channel *ch = calloc(1, sizeof(*ch));

    if (!ch) {
        err_set(err, -ENOMEM, "no memory for a channel");
        return NULL;
    }
    ch->disk = d;
    ch->clear.fn = clear_arrived;
    ch->stacked.ending = corrupt_read;
    list_init(&ch->pending);
    if (stacked_open(&ch->stacked, &d->stacked, r, err) < 0) {
        free(ch);
        return NULL;
    }
    pthread_mutex_lock(&d->lock);
    list_append(&d->channels, &ch->node);
    pthread_mutex_unlock(&d->lock);
    return ch;
}

static void error_close_channel(void *ctx)
{
    struct error_channel *ch = ctx;
    bool clearing;

    pthread_mutex_lock(&ch->disk->lock);
    list_remove(&ch->node);
    clearing = ch->clearing;
    pthread_mutex_unlock(&ch->disk->lock);
    stacked_close(&ch->stacked);
    ch->closed = true;
    if (!clearing) /* else its mail does */
        free(ch);
}

/* ---- requests ---- */

/* False: none for this request. */
static bool take_fault(struct error_channel *ch, enum bdev_op op, struct error_injection *ret)
{
    struct error_disk *d = ch->disk;
    struct error_injection *f = &d->faults[op];
    bool got = false;

    if (likely(!(atomic_load_explicit(&d->armed, memory_order_relaxed) & 1U << op)))
        return false;
    pthread_mutex_lock(&d->lock);
    if (f->num > 0 && ch->stacked.at_base >= f->queue_depth) {
        *ret = *f;
        got = true;
        if (--f->num == 0)
            atomic_fetch_and_explicit(&d->armed, ~(1U << op), memory_order_relaxed);
    }
    pthread_mutex_unlock(&d->lock);
    return got;
}

/* The caller's data stay as they are: a write's are corrupted in a copy. */
static int submit_corrupted(struct stacked_io *io, const struct error_injection *f)
{
    io->corrupt_at = f->corrupt_offset;
    io->corrupt_by = f->corrupt_value;
    if (io->outer->op == BDEV_WRITE) {
        if (stacked_copy(io) < 0) {
            stacked_drop(io);
            return -ENOMEM;
        }
        flip(&io->copy_iov, 1, io->corrupt_at, io->corrupt_by);
    }
    return stacked_submit(io);
}

static int error_submit(void *ctx, struct bdev_req *req)
{
    struct error_channel *ch = ctx;
    struct error_injection f;
    struct stacked_io *io;
    bool faulty = take_fault(ch, req->op, &f);

    if (faulty && f.type == ERROR_FAILURE)
        return -EIO;
    io = faulty && f.type == ERROR_NOMEM ? NULL : stacked_take(&ch->stacked, req);
    if (!io)
        return -ENOMEM;
    if (!faulty)
        return stacked_submit(io);
    if (f.type == ERROR_CORRUPT_DATA)
        return submit_corrupted(io, &f);
    list_append(&ch->pending, &io->node);
    return BDEV_PENDING;
}

static void error_cancel(void *ctx, struct bdev_req *req)
{
    struct error_channel *ch = ctx;
    struct stacked_io *io = stacked_io_of(req);

    if (io->where == STACKED_BASE)
        bdev_cancel(ch->stacked.base, &io->inner);
    else if (io->where == STACKED_HELD)
        stacked_end_later(io, -ECANCELED);
}

static void error_describe(void *dev, json_t *out)
{
    const struct error_disk *d = dev;

    json_object_set_new(out, "error_disk",
                        json_pack("{s:s}", "base_bdev", bdev_name(d->stacked.base)));
}

static void error_free(struct error_disk *d)
{
    pthread_mutex_destroy(&d->lock);
    free(d);
}

static void error_destroy(void *dev)
{
    struct error_disk *d = dev;

    stacked_release(&d->stacked);
    error_free(d);
}

static const struct bdev_ops error_ops = {
    .kind = "error",
    .product = "Error Injection Disk",
    .open_channel = error_open_channel,
    .close_channel = error_close_channel,
    .submit = error_submit,
    .flush_batch = stacked_flush_batch,
    .detach = stacked_detach,
    .cancel = error_cancel,
    .describe = error_describe,
    .destroy = error_destroy,
};

int error_bdev_create(struct bdev_set *set, struct bdev *base, const struct bdev_uuid *uuid,
                      struct bdev **ret, struct err *err)
{
    struct error_disk *d;
    char name[300];
    int rc = snprintf(name, sizeof(name), "EE_%s", bdev_name(base));

    if (rc < 0 || (size_t)rc >= sizeof(name))
        return err_set(err, -ENAMETOOLONG, "bdev '%s': its name is too long", bdev_name(base));
    d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, -ENOMEM, "bdev '%s': no memory", name);
    pthread_mutex_init(&d->lock, NULL);
    list_init(&d->channels);
    rc = stacked_register(set, name, &error_ops, d, &d->stacked, base, uuid, err);
    if (rc) {
        error_free(d);
        return rc;
    }
    if (ret)
        *ret = d->stacked.bd;
    return 0;
}

static struct error_disk *error_disk_of(struct bdev *bd)
{
    return bdev_ops_of(bd) == &error_ops ? bdev_dev(bd) : NULL;
}

int error_bdev_inject(struct bdev *bd, unsigned ops, const struct error_injection *f,
                      struct err *err)
{
    struct error_disk *d = error_disk_of(bd);

    if (!d)
        return err_set(err, -EINVAL, "bdev '%s' is not an error bdev", bdev_name(bd));
    if (f->type == ERROR_CORRUPT_DATA && f->corrupt_value == 0)
        return err_set(err, -EINVAL, "bdev '%s': corrupt_value 0 changes nothing", bdev_name(bd));
    pthread_mutex_lock(&d->lock);
    for (unsigned op = 0; op < BDEV_OPS; op++)
        if (ops & 1U << op)
            d->faults[op] = *f;
    if (f->num)
        atomic_fetch_or_explicit(&d->armed, ops, memory_order_relaxed);
    else
        atomic_fetch_and_explicit(&d->armed, ~ops, memory_order_relaxed);
    pthread_mutex_unlock(&d->lock);
    return 0;
}

int error_bdev_clear(struct bdev *bd, struct err *err)
{
    struct error_disk *d = error_disk_of(bd);

    if (!d)
        return err_set(err, -EINVAL, "bdev '%s' is not an error bdev", bdev_name(bd));
    pthread_mutex_lock(&d->lock);
    for (unsigned op = 0; op < BDEV_OPS; op++)
        d->faults[op].num = 0;
    atomic_store_explicit(&d->armed, 0, memory_order_relaxed);
    list_for_each(it, &d->channels)
    {
        struct error_channel *ch = list_entry(it, struct error_channel, node);

        if (ch->clearing)
            continue;
        ch->clearing = true;
        reactor_post(ch->stacked.reactor, &ch->clear);
    }
    pthread_mutex_unlock(&d->lock);
    return 0;
}
