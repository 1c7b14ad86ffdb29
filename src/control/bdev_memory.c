/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Null and memory disks. */
#include "backends/backends.h"

#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "control/bdev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct memory_args {
    const char *name, *uuid;
    uint32_t block_size;
    uint64_t num_blocks;
    json_t *ignored;
    uint32_t ignored_number;
    int32_t ignored_signed;
    bool ignored_flag;
};
#define BLOCK_SIZE                                                                                 \
    {                                                                                              \
        "block_size", RPC_U32, offsetof(struct memory_args, block_size),                           \
            RPC_REQUIRED | RPC_POSITIONAL, "bytes per block, a power of two from 512", NULL, NULL, \
            0, 0, 0                                                                                \
    }
#define NUM_BLOCKS                                                                                 \
    {                                                                                              \
        "num_blocks", RPC_U64, offsetof(struct memory_args, num_blocks),                           \
            RPC_REQUIRED | RPC_POSITIONAL | RPC_MIB, "number of blocks", NULL, NULL, 0, 0, 0       \
    }
#define UUID                                                                                       \
    {                                                                                              \
        "uuid", RPC_STR, offsetof(struct memory_args, uuid), 0,                                    \
            "UUID (default: made from the name)", "-u", NULL, 0, 0, 0                              \
    }
#define NO_U32(name, dflt)                                                                         \
    {                                                                                              \
        name, RPC_U32, offsetof(struct memory_args, ignored_number), RPC_UNSUPPORTED, "", NULL,    \
            NULL, 0, 0, dflt                                                                       \
    }
#define NO_I32(name)                                                                               \
    {                                                                                              \
        name, RPC_I32, offsetof(struct memory_args, ignored_signed), RPC_UNSUPPORTED, "", NULL,    \
            NULL, 0, 0, 0                                                                          \
    }
#define NO_BOOL(name)                                                                              \
    {                                                                                              \
        name, RPC_BOOL, offsetof(struct memory_args, ignored_flag), RPC_UNSUPPORTED, "", NULL,     \
            NULL, 0, 0, 0                                                                          \
    }

static const struct rpc_param null_params[] = {
    {"name", RPC_STR, offsetof(struct memory_args, name), RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME,
     "bdev name", NULL, NULL, 0, 0, 0},
    NUM_BLOCKS,
    BLOCK_SIZE,
    UUID,
    NO_U32("physical_block_size", 0),
    NO_U32("md_size", 0),
    NO_I32("dif_type"),
    NO_U32("dif_pi_format", 0),
    NO_BOOL("dif_is_head_of_md"),
    NO_U32("preferred_write_granularity", 0),
    NO_U32("preferred_write_alignment", 0),
    NO_U32("optimal_write_size", 0),
    NO_U32("preferred_unmap_granularity", 0),
    NO_U32("preferred_unmap_alignment", 0),
};
static const struct rpc_param malloc_params[] = {
    NUM_BLOCKS,
    BLOCK_SIZE,
    {"name", RPC_STR, offsetof(struct memory_args, name), RPC_NAME,
     "bdev name (default: Malloc<n>)", "-b", NULL, 0, 0, 0},
    UUID,
    NO_U32("optimal_io_boundary", 0),
    NO_U32("md_size", 0),
    NO_BOOL("md_interleave"),
    NO_I32("dif_type"),
    NO_BOOL("dif_is_head_of_md"),
    NO_U32("physical_block_size", 0),
    NO_U32("dif_pi_format", 0),
    NO_I32("numa_id"),
};

static void bdev_null_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct memory_args *a = args;
    struct control_ctx *ctx = arg;
    struct null_opts opts = {
        .name = a->name, .block_bytes = a->block_size, .nblocks = a->num_blocks};
    struct bdev_uuid uuid;
    struct bdev *bd;
    struct err err = {0};

    if (a->uuid) {
        if (!uuid_param(req, "uuid", a->uuid, &uuid))
            return;
        opts.uuid = &uuid;
    }
    if (null_bdev_create(ctx->bdevs, &opts, &bd, &err) < 0)
        rpc_error_from(req, &err);
    else
        bdev_created(req, bd);
}

static void bdev_null_delete(void *ctx, struct rpc_request *req, const void *args)
{
    bdev_delete(ctx, req, ((const struct bdev_delete_args *)args)->name, "null");
}

/* The disk's memory: of this process when there is no snap_emu. What snap_emu keeps under this name
 * is taken over when it has the right size; with another size it belongs to a disk that was deleted
 * while snap_emu could not be told. */
static int disk_memory(struct control_ctx *ctx, struct rpc_request *req,
                       const struct malloc_opts *opts, struct err *err)
{
    char keepsake[128];
    uint64_t bytes;
    struct stat st;
    int fd, rc = malloc_bdev_bytes(opts, &bytes, err);

    if (rc == 0)
        rc = malloc_bdev_keepsake(opts->name, keepsake, sizeof(keepsake), err);
    if (rc < 0)
        return rc;
    if (!ctx->link) {
        fd = fd_memfd(keepsake, bytes);
        return fd >= 0 ? fd
                       : err_set(err, fd, "bdev '%s': no memory of %llu bytes: %s", opts->name,
                                 (unsigned long long)bytes, strerror(-fd));
    }
    fd = link_keep_sync(ctx->link, keepsake, bytes, err);
    if (fd >= 0 && !rpc_replaying(req) && fstat(fd, &st) == 0 && (uint64_t)st.st_size != bytes) {
        fd_close(&fd);
        rc = link_drop_sync(ctx->link, keepsake, err);
        if (rc < 0)
            return rc;
        fd = link_keep_sync(ctx->link, keepsake, bytes, err);
    }
    return fd;
}

/* That of an older disk of this name, which a crash left half-way. */
static void forget_deletion(struct rpc_request *req, const char *name)
{
    save_drop(req, key_of_bdev(name));
}

static void bdev_malloc_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct memory_args *a = args;
    struct control_ctx *ctx = arg;
    struct malloc_opts opts = {
        .name = a->name, .block_bytes = a->block_size, .nblocks = a->num_blocks, .memory_fd = -1};
    struct bdev_uuid uuid;
    char name[32];
    struct bdev *bd;
    struct err err = {0};
    int rc;

    if (a->uuid) {
        if (!uuid_param(req, "uuid", a->uuid, &uuid))
            return;
        opts.uuid = &uuid;
    }
    for (unsigned n = 0; !opts.name || opts.name == name; n++) {
        snprintf(name, sizeof(name), "Malloc%u", n);
        opts.name = name;
        if (!bdev_find(ctx->bdevs, name))
            break;
    }
    if (bdev_find(ctx->bdevs, opts.name)) { /* before its memory is touched */
        rpc_error(req, -EEXIST, "bdev '%s' exists", opts.name);
        return;
    }
    opts.memory_fd = disk_memory(ctx, req, &opts, &err);
    rc = opts.memory_fd;
    crash_point(keepsake_kept);
    if (rc >= 0) {
        rc = malloc_bdev_create(ctx->bdevs, &opts, &bd, &err);
        fd_close(&opts.memory_fd);
    }
    if (rc < 0) {
        rpc_error_from(req, &err);
        return;
    }
    rpc_journal_amend(req, "name", json_string(opts.name));
    forget_deletion(req, opts.name);
    bdev_created(req, bd);
}

struct malloc_deletion {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char *key;
    char keepsake[128];
};

static void malloc_deletion_free(struct malloc_deletion *d)
{
    free(d->key);
    free(d);
}

static void malloc_deleted(void *arg)
{
    struct malloc_deletion *d = arg;
    struct err err = {0};

    crash_point(keepsake_dropping);
    if (d->ctx->link && link_drop_sync(d->ctx->link, d->keepsake, &err) < 0)
        log_line(LOG_WARNING, "control", "%s stays with snap_emu: %s", d->keepsake, err.msg);
    crash_point(keepsake_dropped);
    rpc_journal_drop(d->req, d->key);
    rpc_true(d->req);
    malloc_deletion_free(d);
}

static void bdev_malloc_delete(void *arg, struct rpc_request *req, const void *args)
{
    const char *name = ((const struct bdev_delete_args *)args)->name;
    struct control_ctx *ctx = arg;
    struct bdev *bd = need_bdev_of_kind(ctx, req, name, "malloc");
    struct malloc_deletion *d;
    struct err err = {0};
    int rc;

    if (!bd)
        return;
    if (bdev_claims(bd) > 0) {
        rpc_error(req, -EBUSY, "bdev '%s' is in use", name);
        return;
    }
    d = calloc(1, sizeof(*d));
    if (!d) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *d = (struct malloc_deletion){.ctx = ctx, .req = req, .key = key_of_bdev(name)};
    /* Two things go, the memory and what is saved: if we die in between, the next service goes on
     * with the deletion, which is saved below the disk until both are gone. */
    save_put(req, key_below(d->key, "delete"));
    rc = rpc_journal_flush(req, &err);
    if (rc == 0)
        rc = malloc_bdev_keepsake(name, d->keepsake, sizeof(d->keepsake), &err);
    if (rc == 0)
        rc = bdev_unregister(bd, malloc_deleted, d, &err);
    if (rc < 0) {
        save_drop(req, key_below(d->key, "delete"));
        malloc_deletion_free(d);
        rpc_error_from(req, &err);
    }
}

static const struct rpc_method methods[] = {
    {"bdev_null_create", RPC_PARAMS(null_params), sizeof(struct memory_args), bdev_null_create,
     "make a disk that forgets what is written and reads as zeroes", RPC_JOURNAL,
     "name of the bdev"},
    {"bdev_null_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_null_delete, "delete a null disk", RPC_JOURNAL, "true"},
    {"bdev_malloc_create", RPC_PARAMS(malloc_params), sizeof(struct memory_args),
     bdev_malloc_create,
     "make a disk in memory; its contents outlive snap_service, but not snap_emu; those of "
     "snap_target end with it",
     RPC_JOURNAL, "name of the bdev"},
    {"bdev_malloc_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_malloc_delete, "delete a memory disk and its contents", RPC_JOURNAL, "true"},
};
const struct rpc_method_table bdev_memory_methods = RPC_TABLE(methods);
