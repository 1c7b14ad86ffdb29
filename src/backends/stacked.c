/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/stacked.h"

#include "backends/check.h"
#include "base/undumped.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK_IOS = 64 };

struct stacked_chunk {
    struct stacked_chunk *next;
    struct stacked_io ios[CHUNK_IOS];
};

/* ---- the disk ---- */

static void base_resized(struct bdev_listener *l, struct bdev *base)
{
    const struct stacked_disk *d = container_of(l, struct stacked_disk, listener);

    bdev_resized(d->bd, bdev_get_info(base).nblocks);
}

int stacked_register(struct bdev_set *set, const char *name, const struct bdev_ops *ops, void *dev,
                     struct stacked_disk *d, struct bdev *base, const struct bdev_uuid *uuid,
                     struct err *err)
{
    struct bdev_info info = bdev_get_info(base);
    char who[100];
    int rc;

    info.uuid = uuid_or_derived(uuid, ops->kind, name);
    memset(info.nguid, 0, sizeof(info.nguid));
    memset(info.eui64, 0, sizeof(info.eui64));
    snprintf(who, sizeof(who), "bdev '%s'", name);
    rc = bdev_claim(base, who, err);
    if (rc)
        return rc;
    d->base = base;
    rc = bdev_register(set, name, ops, dev, &info, &d->bd, err);
    if (rc) {
        bdev_release(base);
        return rc;
    }
    d->listener.resized = base_resized;
    bdev_listen(base, &d->listener);
    return 0;
}

void stacked_release(struct stacked_disk *d)
{
    bdev_unlisten(&d->listener);
    bdev_release(d->base);
}

/* ---- the channel ---- */

static void end_over(struct timer *t)
{
    struct stacked_channel *ch = container_of(t, struct stacked_channel, over_timer);
    struct list over, *node;

    list_init(&over);
    list_splice(&over, &ch->over);
    while ((node = list_pop(&over))) {
        struct stacked_io *io = list_entry(node, struct stacked_io, node);

        stacked_end(io, io->rc);
    }
}

int stacked_open(struct stacked_channel *ch, struct stacked_disk *d, struct reactor *r,
                 struct err *err)
{
    ch->base = bdev_channel_get(d->base, r, err);
    if (!ch->base)
        return -ENODEV;
    ch->reactor = r;
    list_init(&ch->free);
    list_init(&ch->over);
    return 0;
}

void stacked_close(struct stacked_channel *ch)
{
    struct stacked_chunk *next;

    timer_cancel(&ch->over_timer);
    bdev_channel_put(ch->base);
    for (struct stacked_chunk *chunk = ch->chunks; chunk; chunk = next) {
        next = chunk->next;
        free(chunk);
    }
}

/* ---- requests ---- */

static void base_done(struct bdev_req *inner, int rc);

static bool add_chunk(struct stacked_channel *ch)
{
    struct stacked_chunk *chunk = malloc(sizeof(*chunk));

    static_assert(_Alignof(struct stacked_chunk) <= _Alignof(max_align_t), "malloc is enough");
    if (!chunk)
        return false;
    chunk->next = ch->chunks;
    ch->chunks = chunk;
    for (unsigned i = 0; i < CHUNK_IOS; i++)
        list_append(&ch->free, &chunk->ios[i].node);
    return true;
}

struct stacked_io *stacked_take(struct stacked_channel *ch, struct bdev_req *outer)
{
    struct stacked_io *io;

    static_assert(sizeof(io) <= sizeof(outer->backend), "fits");
    if (list_empty(&ch->free) && !add_chunk(ch))
        return NULL;
    io = list_entry(list_pop(&ch->free), struct stacked_io, node);
    io->inner.op = outer->op;
    io->inner.flags = outer->flags;
    io->inner.lba = outer->lba;
    io->inner.nblocks = outer->nblocks;
    io->inner.iov = outer->iov;
    io->inner.iovcnt = outer->iovcnt;
    io->inner.done = base_done;
    io->outer = outer;
    io->ch = ch;
    io->where = STACKED_HELD;
    io->detached = false;
    io->copy = NULL;
    io->corrupt_by = 0;
    memcpy(outer->backend, &io, sizeof(io));
    return io;
}

struct stacked_io *stacked_io_of(struct bdev_req *outer)
{
    struct stacked_io *io;

    memcpy(&io, outer->backend, sizeof(io));
    return io;
}

static void give_back(struct stacked_io *io, int rc)
{
    struct stacked_channel *ch = io->ch;

    if (ch->ending)
        ch->ending(io, rc);
    undumped_free(io->copy, io->copy_iov.iov_len);
    list_prepend(&ch->free, &io->node); /* the warm one first */
}

void stacked_drop(struct stacked_io *io)
{
    give_back(io, -ECANCELED);
}

static int give_to_base(struct stacked_io *io)
{
    int rc;

    io->where = STACKED_BASE;
    io->ch->at_base++;
    rc = bdev_submit(io->ch->base, &io->inner);
    if (rc != BDEV_PENDING)
        io->ch->at_base--;
    return rc;
}

int stacked_submit(struct stacked_io *io)
{
    int rc = give_to_base(io);

    if (rc != BDEV_PENDING)
        give_back(io, rc);
    return rc;
}

void stacked_end(struct stacked_io *io, int rc)
{
    struct bdev_req *outer = io->outer;

    give_back(io, rc);
    bdev_complete(outer, rc);
}

void stacked_go(struct stacked_io *io)
{
    int rc = give_to_base(io);

    if (rc != BDEV_PENDING)
        stacked_end(io, rc);
}

static void base_done(struct bdev_req *inner, int rc)
{
    struct stacked_io *io = container_of(inner, struct stacked_io, inner);

    io->ch->at_base--;
    stacked_end(io, rc);
}

void stacked_end_later(struct stacked_io *io, int rc)
{
    struct stacked_channel *ch = io->ch;

    list_remove(&io->node);
    io->where = STACKED_OVER;
    io->rc = rc;
    list_append(&ch->over, &io->node);
    if (!ch->over_timer.armed)
        timer_arm(ch->reactor, &ch->over_timer, 0, end_over);
}

int stacked_copy(struct stacked_io *io)
{
    const struct bdev_req *outer = io->outer;
    size_t bytes = 0;

    if (io->copy)
        return 0;
    for (int i = 0; i < outer->iovcnt; i++)
        bytes += outer->iov[i].iov_len;
    io->copy = undumped_alloc(bytes); /* aligned as direct I/O likes it */
    if (!io->copy)
        return -ENOMEM;
    iov_to_buf(outer, 0, io->copy, bytes);
    io->copy_iov = (struct iovec){io->copy, bytes};
    io->inner.iov = &io->copy_iov;
    io->inner.iovcnt = 1;
    return 0;
}

int stacked_detach(void *ctx, struct bdev_req *outer)
{
    struct stacked_channel *ch = ctx;
    struct stacked_io *io = stacked_io_of(outer);

    io->detached = true;
    if (io->copy || io->where == STACKED_OVER || outer->iovcnt == 0)
        return 0;
    if (io->where == STACKED_BASE)
        return bdev_detach(ch->base, &io->inner);
    if (outer->op != BDEV_READ)
        return stacked_copy(io) ? BDEV_PENDING : 0;
    stacked_end_later(io, -ECANCELED);
    return 0;
}

void stacked_flush_batch(void *ctx)
{
    struct stacked_channel *ch = ctx;

    bdev_flush_batch(ch->base);
}
