/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/backends.h"
#include "backends/check.h"

#include <errno.h>
#include <string.h>

/* It has no state at all: one address stands for every device and channel. */
static char nothing;

static void *null_open_channel(void *dev, struct reactor *r, struct err *err)
{
    return dev;
}

static void null_close_channel(void *ctx)
{
}

static int null_submit(void *ctx, struct bdev_req *req)
{
    if (req->op == BDEV_READ)
        for (int i = 0; i < req->iovcnt; i++)
            memset(req->iov[i].iov_base, 0, req->iov[i].iov_len);
    return 0;
}

static void null_flush_batch(void *ctx)
{
}

static int null_detach(void *ctx, struct bdev_req *req)
{
    return 0;
}

static void null_cancel(void *ctx, struct bdev_req *req)
{
}

static void null_describe(void *dev, struct json_t *out)
{
}

static void null_destroy(void *dev)
{
}

static const struct bdev_ops null_ops = {
    .kind = "null",
    .product = "Null disk",
    .open_channel = null_open_channel,
    .close_channel = null_close_channel,
    .submit = null_submit,
    .flush_batch = null_flush_batch,
    .detach = null_detach,
    .cancel = null_cancel,
    .describe = null_describe,
    .destroy = null_destroy,
};

int null_bdev_create(struct bdev_set *set, const struct null_opts *opts, struct bdev **ret,
                     struct err *err)
{
    struct bdev_info info = {
        .block_bytes = opts->block_bytes,
        .nblocks = opts->nblocks,
        .uuid = uuid_or_derived(opts->uuid, "null", opts->name),
        .can_unmap = true,
        .can_write_zeroes = true,
    };
    uint64_t bytes;
    int rc = check_size(opts->name, opts->block_bytes, opts->nblocks, &bytes, err);

    if (rc)
        return rc;
    return bdev_register(set, opts->name, &null_ops, &nothing, &info, ret, err);
}
