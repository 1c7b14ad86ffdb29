/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/file.h"

#include "backends/check.h"
#include "base/fd.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static void *file_open_channel(void *dev, struct reactor *r, struct err *err)
{
    struct file_disk *d = dev;
    struct file_channel *ch;

    if (!reactor_ring(r)) {
        err_set(err, -ENOSYS, "bdev '%s': this reactor has no io_uring", d->name);
        return NULL;
    }
    ch = calloc(1, sizeof(*ch));
    if (!ch) {
        err_set(err, -ENOMEM, "bdev '%s': no memory for a channel", d->name);
        return NULL;
    }
    ch->disk = d;
    ch->ring = reactor_ring(r);
    ch->fd = file_reopen(d, d->direct);
    if (ch->fd < 0) {
        err_set(err, ch->fd, "bdev '%s': %s: %s", d->name, d->path, strerror(-ch->fd));
        free(ch);
        return NULL;
    }
    file_channel_init(ch);
    return ch;
}

static void file_close_channel(void *ctx)
{
    struct file_channel *ch = ctx;

    fd_close(&ch->fd);
    bounce_free(&ch->bounce);
    free(ch);
}

/* The ring submits at the end of the reactor's turn. */
static void file_flush_batch(void *ctx)
{
}

static void file_describe(void *dev, struct json_t *out)
{
    const struct file_disk *d = dev;

    json_object_set_new(out, "filename", json_string(d->path));
    json_object_set_new(out, "block_size_override", json_boolean(d->block_bytes_given));
    json_object_set_new(out, "readonly", json_boolean(d->read_only));
    json_object_set_new(out, "fallocate", json_boolean(d->fallocate));
    json_object_set_new(out, "direct", json_boolean(d->direct));
    json_object_set_new(out, "flush_failed", json_boolean(atomic_load(&d->flush_error) != 0));
}

static void file_describe_aio(void *dev, struct json_t *out)
{
    json_t *members = json_object();

    file_describe(dev, members);
    json_object_set_new(out, "aio", members);
}

static void file_describe_uring(void *dev, struct json_t *out)
{
    json_t *members = json_object();

    file_describe(dev, members);
    json_object_set_new(out, "uring", members);
}

static void file_destroy(void *dev)
{
    struct file_disk *d = dev;

    if (!d)
        return;
    fd_close(&d->fd);
    free(d->name);
    free(d->path);
    free(d);
}

static const struct bdev_ops file_ops[] = {
    [FILE_AIO] =
        {
            .kind = "aio",
            .product = "AIO disk",
            .open_channel = file_open_channel,
            .close_channel = file_close_channel,
            .submit = file_submit,
            .flush_batch = file_flush_batch,
            .detach = file_detach,
            .cancel = file_cancel,
            .describe = file_describe_aio,
            .destroy = file_destroy,
        },
    [FILE_URING] =
        {
            .kind = "uring",
            .product = "URING bdev",
            .open_channel = file_open_channel,
            .close_channel = file_close_channel,
            .submit = file_submit,
            .flush_batch = file_flush_batch,
            .detach = file_detach,
            .cancel = file_cancel,
            .describe = file_describe_uring,
            .destroy = file_destroy,
        },
};

int file_bdev_create(struct bdev_set *set, const struct file_opts *opts, struct bdev **ret,
                     struct err *err)
{
    struct bdev_info info = {.write_cache = true, .read_only = opts->read_only};
    struct file_disk *d = calloc(1, sizeof(*d));
    int rc;

    if (!d)
        return err_set(err, -ENOMEM, "bdev '%s': no memory", opts->name);
    d->fd = -1;
    d->name = strdup(opts->name);
    d->path = realpath(opts->path, NULL);
    if (!d->name || !d->path) {
        rc = err_set(err, -errno, "bdev '%s': %s: %s", opts->name, opts->path, strerror(errno));
        file_destroy(d);
        return rc;
    }
    rc = file_open(d, opts, err);
    if (rc == 0) {
        info.block_bytes = d->block_bytes;
        info.nblocks = d->bytes / d->block_bytes;
        /* "/dev/disk/by-id/..." stays the same where "/dev/sdb" does not. */
        info.uuid = uuid_or_derived(opts->uuid, "file",
                                    d->block_device && opts->path[0] == '/' ? opts->path : d->path);
        info.can_unmap = d->fallocate && !d->read_only && !atomic_load(&d->no_punch);
        info.can_write_zeroes = !d->read_only;
        rc = bdev_register(set, opts->name, &file_ops[opts->flavour], d, &info, ret, err);
    }
    if (rc)
        file_destroy(d);
    return rc;
}

int file_bdev_rescan(struct bdev *bd, struct err *err)
{
    const struct bdev_ops *ops = bdev_ops_of(bd);
    struct bdev_info info = bdev_get_info(bd);
    struct file_disk *d = bdev_dev(bd);
    uint64_t bytes;
    int rc;

    if (ops != &file_ops[FILE_AIO] && ops != &file_ops[FILE_URING])
        return err_set(err, -EINVAL, "bdev '%s' is not a file or block device", bdev_name(bd));
    rc = file_bytes(d, &bytes);
    if (rc)
        return err_set(err, rc, "bdev '%s': size of %s: %s", d->name, d->path, strerror(-rc));
    d->bytes = bytes;
    if (bytes / d->block_bytes != info.nblocks)
        bdev_resized(bd, bytes / d->block_bytes);
    return 0;
}
