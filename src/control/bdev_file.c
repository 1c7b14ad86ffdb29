/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Files and block devices of this machine. "aio" and "uring" are two names for one backend. */
#include "backends/backends.h"
#include "control/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct file_args {
    const char *name, *filename, *uuid;
    uint32_t block_size;
    bool readonly, fallocate, fallocate_set, nowait;
};
#define COMMON                                                                                     \
    {"filename",                                                                                   \
     RPC_STR,                                                                                      \
     offsetof(struct file_args, filename),                                                         \
     RPC_REQUIRED | RPC_POSITIONAL | RPC_PATH,                                                     \
     "file or block device",                                                                       \
     NULL,                                                                                         \
     NULL,                                                                                         \
     0,                                                                                            \
     0,                                                                                            \
     0},                                                                                           \
        {"name",                                                                                   \
         RPC_STR,                                                                                  \
         offsetof(struct file_args, name),                                                         \
         RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME,                                                 \
         "bdev name",                                                                              \
         NULL,                                                                                     \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         0},                                                                                       \
        {"block_size",                                                                             \
         RPC_U32,                                                                                  \
         offsetof(struct file_args, block_size),                                                   \
         RPC_POSITIONAL,                                                                           \
         "bytes per block (default: the device's own, 512 for files)",                             \
         NULL,                                                                                     \
         NULL,                                                                                     \
         0,                                                                                        \
         0,                                                                                        \
         0},                                                                                       \
    {                                                                                              \
        "uuid", RPC_STR, offsetof(struct file_args, uuid), 0,                                      \
            "UUID (default: made from the path)", "-u", NULL, 0, 0, 0                              \
    }
/* On when not given, unlike SPDK's: controllers offer deallocate by default, and it should free
 * space. */
#define FALLOCATE(cli_short)                                                                       \
    {                                                                                              \
        "fallocate", RPC_BOOL, offsetof(struct file_args, fallocate), 0,                           \
            "deallocate and zero by the file system's or device's help (default: on)", cli_short,  \
            NULL, offsetof(struct file_args, fallocate_set) + 1, 0, 0                              \
    }

static const struct rpc_param aio_params[] = {
    COMMON,
    {"readonly", RPC_BOOL, offsetof(struct file_args, readonly), 0, "refuse writes", "-r", NULL, 0,
     0, 0},
    FALLOCATE("-w"),
    {"nowait", RPC_BOOL, offsetof(struct file_args, nowait), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0,
     0},
};
static const struct rpc_param uring_params[] = {COMMON, FALLOCATE(NULL)};

static void create(struct control_ctx *ctx, struct rpc_request *req, const struct file_args *a,
                   enum file_flavour flavour)
{
    struct file_opts opts = {.name = a->name,
                             .path = a->filename,
                             .block_bytes = a->block_size,
                             .flavour = flavour,
                             .read_only = a->readonly,
                             .fallocate = a->fallocate_set ? a->fallocate : true};
    struct bdev_uuid uuid;
    struct bdev *bd;
    struct err err = {0};
    char *absolute = NULL;

    if (a->uuid) {
        if (!uuid_param(req, "uuid", a->uuid, &uuid))
            return;
        opts.uuid = &uuid;
    }
    /* The next service may start in another directory. */
    if (a->filename[0] != '/') {
        absolute = realpath(a->filename, NULL);
        if (!absolute) {
            rpc_error(req, -errno, "'%s': %s", a->filename, strerror(errno));
            return;
        }
        opts.path = absolute;
        rpc_journal_amend(req, "filename", json_string(absolute));
    }
    if (bdev_find(ctx->bdevs, a->name)) /* rather than that the file is busy */
        rpc_error(req, -EEXIST, "bdev '%s' exists", a->name);
    else if (file_bdev_create(ctx->bdevs, &opts, &bd, &err) < 0)
        rpc_error_from(req, &err);
    else
        bdev_created(req, bd);
    free(absolute);
}

static void bdev_aio_create(void *ctx, struct rpc_request *req, const void *args)
{
    create(ctx, req, args, FILE_AIO);
}

static void bdev_uring_create(void *ctx, struct rpc_request *req, const void *args)
{
    create(ctx, req, args, FILE_URING);
}

static void bdev_aio_delete(void *ctx, struct rpc_request *req, const void *args)
{
    bdev_delete(ctx, req, ((const struct bdev_delete_args *)args)->name, "aio");
}

static void bdev_uring_delete(void *ctx, struct rpc_request *req, const void *args)
{
    bdev_delete(ctx, req, ((const struct bdev_delete_args *)args)->name, "uring");
}

static void rescan(struct control_ctx *ctx, struct rpc_request *req, const void *args,
                   const char *kind)
{
    const char *name = ((const struct bdev_delete_args *)args)->name;
    struct bdev *bd = need_bdev_of_kind(ctx, req, name, kind);
    struct err err = {0};

    if (!bd)
        return;
    if (file_bdev_rescan(bd, &err) < 0)
        rpc_error_from(req, &err);
    else
        rpc_true(req);
}

static void bdev_aio_rescan(void *ctx, struct rpc_request *req, const void *args)
{
    rescan(ctx, req, args, "aio");
}

static void bdev_uring_rescan(void *ctx, struct rpc_request *req, const void *args)
{
    rescan(ctx, req, args, "uring");
}

static const struct rpc_method methods[] = {
    {"bdev_aio_create", RPC_PARAMS(aio_params), sizeof(struct file_args), bdev_aio_create,
     "make a disk of a file or block device", RPC_JOURNAL, "name of the bdev"},
    {"bdev_aio_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_aio_delete, "delete such a disk (the file stays)", RPC_JOURNAL, "true"},
    {"bdev_aio_rescan", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_aio_rescan, "take over the size the file has now", 0, "true"},
    {"bdev_uring_create", RPC_PARAMS(uring_params), sizeof(struct file_args), bdev_uring_create,
     "make a disk of a file or block device", RPC_JOURNAL, "name of the bdev"},
    {"bdev_uring_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_uring_delete, "delete such a disk (the file stays)", RPC_JOURNAL, "true"},
    {"bdev_uring_rescan", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_uring_rescan, "take over the size the file has now", 0, "true"},
};
const struct rpc_method_table bdev_file_methods = RPC_TABLE(methods);
