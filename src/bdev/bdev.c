/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/checked.h"
#include "bdev/channel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bdev_set {
    struct list devices, leaving; /* leaving: unregistered, with channels still open */
};

struct bdev_set *bdev_set_create(void)
{
    struct bdev_set *set = calloc(1, sizeof(*set));

    if (!set)
        return NULL;
    list_init(&set->devices);
    list_init(&set->leaving);
    return set;
}

static void bdev_free(struct bdev *bd)
{
    list_remove(&bd->node);
    bd->ops->destroy(bd->dev);
    pthread_mutex_destroy(&bd->lock);
    free(bd->name);
    free(bd);
}

void bdev_set_destroy(struct bdev_set *set)
{
    if (!set)
        return;
    /* The newest first: a bdev that stands on another one lets go of it. */
    while (!list_empty(&set->devices))
        bdev_free(list_entry(set->devices.prev, struct bdev, node));
    free(set);
}

static struct bdev *find_in(struct list *devices, const char *name)
{
    list_for_each(it, devices)
    {
        struct bdev *bd = list_entry(it, struct bdev, node);

        if (strcmp(bd->name, name) == 0)
            return bd;
    }
    return NULL;
}

struct bdev *bdev_find(struct bdev_set *set, const char *name)
{
    return find_in(&set->devices, name);
}

void bdev_for_each(struct bdev_set *set, void (*fn)(struct bdev *bd, void *arg), void *arg)
{
    list_for_each_safe(it, &set->devices)
    {
        fn(list_entry(it, struct bdev, node), arg);
    }
}

/* Our own bugs, found at the first start of a new backend. */
static bool ops_complete(const struct bdev_ops *ops)
{
    return ops->kind && ops->product && ops->open_channel && ops->close_channel && ops->submit &&
           ops->flush_batch && ops->detach && ops->cancel && ops->describe && ops->destroy;
}

int bdev_register(struct bdev_set *set, const char *name, const struct bdev_ops *ops, void *dev,
                  const struct bdev_info *info, struct bdev **ret, struct err *err)
{
    uint64_t bytes;
    struct bdev *bd;

    if (!ops_complete(ops))
        return err_set(err, -EINVAL, "bdev '%s': its backend's table has a hole", name);
    if (!name[0])
        return err_set(err, -EINVAL, "a bdev needs a name");
    if (bdev_find(set, name))
        return err_set(err, -EEXIST, "a bdev named '%s' exists already", name);
    if (find_in(&set->leaving, name))
        return err_set(err, -EEXIST, "the bdev named '%s' is still being deleted", name);
    if (info->block_bytes < 512 || (info->block_bytes & (info->block_bytes - 1)))
        return err_set(err, -EINVAL,
                       "bdev '%s': block size %u is not a power of two of at least 512", name,
                       info->block_bytes);
    if (!checked_mul(info->nblocks, info->block_bytes, &bytes) || bytes > INT64_MAX)
        return err_set(err, -EINVAL, "bdev '%s': %llu blocks of %u bytes are too many", name,
                       (unsigned long long)info->nblocks, info->block_bytes);
    bd = calloc(1, sizeof(*bd));
    if (bd)
        bd->name = strdup(name);
    if (!bd || !bd->name) {
        free(bd);
        return err_set(err, -ENOMEM, "bdev '%s': no memory", name);
    }
    bd->set = set;
    bd->ops = ops;
    bd->dev = dev;
    bd->info = *info;
    atomic_init(&bd->nblocks, info->nblocks);
    atomic_init(&bd->gone, false);
    list_init(&bd->listeners);
    list_init(&bd->channels);
    pthread_mutex_init(&bd->lock, NULL);
    list_append(&set->devices, &bd->node);
    if (ret)
        *ret = bd;
    return 0;
}

const char *bdev_name(const struct bdev *bd)
{
    return bd->name;
}

const struct bdev_ops *bdev_ops_of(const struct bdev *bd)
{
    return bd->ops;
}

void *bdev_dev(const struct bdev *bd)
{
    return bd->dev;
}

struct bdev_info bdev_get_info(const struct bdev *bd)
{
    struct bdev_info info;
    pthread_mutex_t *lock = (pthread_mutex_t *)&bd->lock;

    pthread_mutex_lock(lock);
    info = bd->info;
    pthread_mutex_unlock(lock);
    return info;
}

int bdev_claim(struct bdev *bd, const char *who, struct err *err)
{
    if (atomic_load_explicit(&bd->gone, memory_order_relaxed))
        return err_set(err, -ENODEV, "bdev '%s' is being deleted", bd->name);
    bd->nclaims++;
    snprintf(bd->claimed_by, sizeof(bd->claimed_by), "%s", who);
    return 0;
}

void bdev_release(struct bdev *bd)
{
    bd->nclaims--;
    bd->claimed_by[0] = '\0';
}

unsigned bdev_claims(const struct bdev *bd)
{
    return bd->nclaims;
}

static void finish_gone(struct bdev *bd)
{
    void (*done)(void *arg) = bd->gone_done;
    void *arg = bd->gone_arg;

    bdev_free(bd);
    if (done)
        done(arg);
}

static void gone_arrived(struct mail *m)
{
    finish_gone(container_of(m, struct bdev, gone_mail));
}

int bdev_unregister(struct bdev *bd, void (*done)(void *arg), void *arg, struct err *err)
{
    bool idle;

    if (bd->nclaims)
        return err_set(err, -EBUSY, "bdev '%s' is in use by %s%s", bd->name,
                       bd->claimed_by[0] ? bd->claimed_by : "a namespace or controller",
                       bd->nclaims > 1 ? " and others" : "");
    if (atomic_load_explicit(&bd->gone, memory_order_relaxed))
        return err_set(err, -EBUSY, "bdev '%s' is being deleted already", bd->name);
    list_remove(&bd->node);
    list_append(&bd->set->leaving, &bd->node);
    pthread_mutex_lock(&bd->lock);
    bd->control = reactor_current();
    bd->gone_done = done;
    bd->gone_arg = arg;
    bd->gone_mail.fn = gone_arrived;
    atomic_store(&bd->gone, true);
    idle = list_empty(&bd->channels);
    pthread_mutex_unlock(&bd->lock);
    if (idle)
        finish_gone(bd);
    return 0;
}

void bdev_resized(struct bdev *bd, uint64_t nblocks)
{
    pthread_mutex_lock(&bd->lock);
    bd->info.nblocks = nblocks;
    pthread_mutex_unlock(&bd->lock);
    atomic_store_explicit(&bd->nblocks, nblocks, memory_order_relaxed);
    list_for_each_safe(it, &bd->listeners)
    {
        struct bdev_listener *l = list_entry(it, struct bdev_listener, node);

        l->resized(l, bd);
    }
}

void bdev_listen(struct bdev *bd, struct bdev_listener *l)
{
    list_append(&bd->listeners, &l->node);
}

void bdev_unlisten(struct bdev_listener *l)
{
    list_remove(&l->node);
}

static void channel_close(struct bdev_channel *ch)
{
    struct bdev *bd = ch->bd;
    struct reactor *control;
    bool last;

    ch->bd->ops->close_channel(ch->ctx);
    pthread_mutex_lock(&bd->lock);
    list_remove(&ch->node);
    bdev_counters_sum(&ch->counters, &bd->closed);
    last = list_empty(&bd->channels) && atomic_load(&bd->gone);
    control = bd->control;
    pthread_mutex_unlock(&bd->lock);
    free(ch);
    if (!last)
        return;
    if (control && control != reactor_current())
        reactor_post(control, &bd->gone_mail);
    else
        finish_gone(bd);
}

static void close_arrived(struct mail *m)
{
    struct bdev_channel *ch = container_of(m, struct bdev_channel, close_mail);

    ch->closing = false;
    if (ch->refs == 0)
        channel_close(ch);
}

struct bdev_channel *bdev_channel_get(struct bdev *bd, struct reactor *r, struct err *err)
{
    struct bdev_channel *ch = NULL;

    pthread_mutex_lock(&bd->lock);
    list_for_each(it, &bd->channels)
    {
        if (list_entry(it, struct bdev_channel, node)->reactor == r)
            ch = list_entry(it, struct bdev_channel, node);
    }
    pthread_mutex_unlock(&bd->lock);
    if (ch) {
        ch->refs++;
        return ch;
    }
    ch = aligned_alloc(_Alignof(struct bdev_channel), sizeof(*ch));
    if (!ch) {
        err_set(err, -ENOMEM, "bdev '%s': no memory for a channel", bd->name);
        return NULL;
    }
    memset(ch, 0, sizeof(*ch));
    ch->bd = bd;
    ch->submit = bd->ops->submit;
    ch->reactor = r;
    ch->refs = 1;
    ch->close_mail.fn = close_arrived;
    ch->ctx = bd->ops->open_channel(bd->dev, r, err);
    if (!ch->ctx) {
        free(ch);
        return NULL;
    }
    pthread_mutex_lock(&bd->lock);
    if (!atomic_load(&bd->gone)) {
        ch->block_bytes = bd->info.block_bytes;
        ch->read_only = bd->info.read_only;
        ch->can_unmap = bd->info.can_unmap;
        ch->can_write_zeroes = bd->info.can_write_zeroes;
        list_append(&bd->channels, &ch->node);
        pthread_mutex_unlock(&bd->lock);
        return ch;
    }
    pthread_mutex_unlock(&bd->lock);
    bd->ops->close_channel(ch->ctx);
    free(ch);
    err_set(err, -ENODEV, "bdev '%s' is being deleted", bd->name);
    return NULL;
}

void bdev_channel_put(struct bdev_channel *ch)
{
    if (!ch || --ch->refs || ch->closing)
        return;
    /* The backend may be below us on the stack, in bdev_complete(). */
    if (reactor_current() == ch->reactor) {
        ch->closing = true;
        reactor_post(ch->reactor, &ch->close_mail);
        return;
    }
    channel_close(ch); /* the reactor has ended */
}

struct bdev *bdev_channel_bdev(struct bdev_channel *ch)
{
    return ch->bd;
}

static bool iov_holds(const struct bdev_req *req, uint64_t bytes)
{
    uint64_t sum = 0;

    for (int i = 0; i < req->iovcnt; i++)
        if (!checked_add(sum, req->iov[i].iov_len, &sum))
            return false;
    return sum == bytes;
}

static int check(const struct bdev_channel *ch, const struct bdev_req *req)
{
    bool moves_data = req->op == BDEV_READ || req->op == BDEV_WRITE;

    if (unlikely(atomic_load_explicit(&ch->bd->gone, memory_order_relaxed)))
        return -ENODEV;
    switch (req->op) {
    case BDEV_READ:
        break;
    case BDEV_FLUSH:
        return 0;
    case BDEV_UNMAP:
        if (!ch->can_unmap)
            return ch->read_only ? -EROFS : -EOPNOTSUPP;
        break;
    case BDEV_WRITE_ZEROES:
        if (!ch->can_write_zeroes)
            return ch->read_only ? -EROFS : -EOPNOTSUPP;
        break;
    case BDEV_WRITE:
        break;
    case BDEV_OPS:
    default:
        return -EINVAL;
    }
    if (unlikely(ch->read_only && req->op != BDEV_READ))
        return -EROFS;
    if (unlikely(req->nblocks == 0))
        return -EINVAL;
    if (unlikely(!checked_range(req->lba, req->nblocks,
                                atomic_load_explicit(&ch->bd->nblocks, memory_order_relaxed))))
        return -ERANGE;
    if (moves_data && unlikely(!iov_holds(req, (uint64_t)req->nblocks * ch->block_bytes)))
        return -EINVAL;
    return 0;
}

static void count(struct bdev_channel *ch, const struct bdev_req *req, int rc)
{
    if (likely(rc == 0)) {
        counter_add(&ch->counters.ops[req->op], 1);
        counter_add(&ch->counters.bytes[req->op], (uint64_t)req->nblocks * ch->block_bytes);
    } else if (rc != -ECANCELED) {
        counter_add(&ch->counters.errors[req->op], 1);
    }
}

int bdev_submit(struct bdev_channel *ch, struct bdev_req *req)
{
    int rc = check(ch, req);

    if (unlikely(rc))
        return rc;
    req->channel = ch;
    ch->inflight++;
    rc = ch->submit(ch->ctx, req);
    if (rc == BDEV_PENDING)
        return rc;
    ch->inflight--;
    count(ch, req, rc);
    return rc;
}

void bdev_complete(struct bdev_req *req, int rc)
{
    struct bdev_channel *ch = req->channel;

    ch->inflight--;
    count(ch, req, rc);
    req->done(req, rc);
}

void bdev_expect(struct bdev_channel *ch, uint64_t lba)
{
    if (ch->bd->ops->expect && lba < atomic_load_explicit(&ch->bd->nblocks, memory_order_relaxed))
        ch->bd->ops->expect(ch->ctx, lba);
}

void bdev_flush_batch(struct bdev_channel *ch)
{
    ch->bd->ops->flush_batch(ch->ctx);
}

int bdev_detach(struct bdev_channel *ch, struct bdev_req *req)
{
    return ch->bd->ops->detach(ch->ctx, req);
}

void bdev_cancel(struct bdev_channel *ch, struct bdev_req *req)
{
    ch->bd->ops->cancel(ch->ctx, req);
}
