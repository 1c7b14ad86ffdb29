/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Error bdevs. */
#include "backends/backends.h"
#include "control/bdev.h"

#include <errno.h>
#include <string.h>

struct create_args {
    const char *base_name, *uuid;
};
static const struct rpc_param create_params[] = {
    {"base_name", RPC_STR, offsetof(struct create_args, base_name),
     RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME, "bdev it stands on", NULL, NULL, 0, 0, 0},
    {"uuid", RPC_STR, offsetof(struct create_args, uuid), 0, "UUID (default: made from the name)",
     "-u", NULL, 0, 0, 0},
};

static void bdev_error_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct bdev_uuid uuid;
    struct bdev *base, *bd;
    struct err err = {0};

    if (a->uuid && !uuid_param(req, "uuid", a->uuid, &uuid))
        return;
    base = need_bdev(ctx, req, a->base_name);
    if (!base)
        return;
    if (error_bdev_create(ctx->bdevs, base, a->uuid ? &uuid : NULL, &bd, &err) < 0)
        rpc_error_from(req, &err);
    else
        bdev_created(req, bd);
}

static void bdev_error_delete(void *ctx, struct rpc_request *req, const void *args)
{
    bdev_delete(ctx, req, ((const struct bdev_delete_args *)args)->name, "error");
}

struct inject_args {
    const char *name, *io_type, *error_type;
    uint32_t num, corrupt_value, nvme_sct, nvme_sc;
    uint64_t queue_depth, corrupt_offset;
    bool num_set;
};
#define AT(member) offsetof(struct inject_args, member)
static const struct rpc_param inject_params[] = {
    {"name", RPC_STR, AT(name), RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME, "bdev name", NULL, NULL,
     0, 0, 0},
    {"io_type", RPC_STR, AT(io_type), RPC_REQUIRED | RPC_POSITIONAL,
     "read, write, unmap, flush, all, or clear: no errors any more, and what is pending fails",
     NULL, NULL, 0, 0, 0},
    {"error_type", RPC_STR, AT(error_type), RPC_REQUIRED | RPC_POSITIONAL,
     "failure, pending, corrupt_data or nomem", NULL, NULL, 0, 0, 0},
    {"num", RPC_U32, AT(num), 0, "so many requests (default: 1)", "-n", NULL, AT(num_set) + 1, 0,
     0},
    {"queue_depth", RPC_U64, AT(queue_depth), 0,
     "only when so many others are under way (default: 0)", "-q", NULL, 0, 0, 0},
    {"corrupt_offset", RPC_U64, AT(corrupt_offset), 0, "the byte that is corrupted (default: 0)",
     "-d", NULL, 0, 0, 0},
    {"corrupt_value", RPC_U32, AT(corrupt_value), 0, "what it is xored with, 1 to 255", "-v", NULL,
     0, 0, 255},
    {"nvme_sct", RPC_U32, AT(nvme_sct), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
    {"nvme_sc", RPC_U32, AT(nvme_sc), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
};

static const struct word {
    const char *text;
    unsigned value;
} io_types[] = {{"clear", 0},
                {"read", 1U << BDEV_READ},
                {"write", 1U << BDEV_WRITE},
                {"unmap", 1U << BDEV_UNMAP},
                {"flush", 1U << BDEV_FLUSH},
                {"all", (1U << BDEV_OPS) - 1}},
  error_types[] = {{"failure", ERROR_FAILURE},
                   {"pending", ERROR_PENDING},
                   {"corrupt_data", ERROR_CORRUPT_DATA},
                   {"nomem", ERROR_NOMEM}};

/* False: answered. */
static bool word_param(struct rpc_request *req, const char *member, const char *text,
                       const struct word *words, unsigned n, unsigned *ret)
{
    for (unsigned i = 0; i < n; i++) {
        if (strcmp(text, words[i].text) == 0) {
            *ret = words[i].value;
            return true;
        }
    }
    rpc_error(req, RPC_ERR_PARAMS, "Invalid parameters: '%s' cannot be '%.30s'", member, text);
    return false;
}

static void bdev_error_inject_error(void *arg, struct rpc_request *req, const void *args)
{
    const struct inject_args *a = args;
    struct error_injection f = {.num = a->num_set ? a->num : 1,
                                .queue_depth = a->queue_depth,
                                .corrupt_offset = a->corrupt_offset,
                                .corrupt_value = (uint8_t)a->corrupt_value};
    unsigned ops, type;
    struct bdev *bd;
    struct err err = {0};
    int rc;

    if (strcmp(a->error_type, "nvme_failure") == 0) {
        rpc_error(req, -ENOTSUP,
                  "parameter 'error_type' is not supported with the value 'nvme_failure'");
        return;
    }
    if (!word_param(req, "io_type", a->io_type, io_types, ARRAY_SIZE(io_types), &ops) ||
        !word_param(req, "error_type", a->error_type, error_types, ARRAY_SIZE(error_types), &type))
        return;
    bd = need_bdev_of_kind(arg, req, a->name, "error");
    if (!bd)
        return;
    f.type = (enum error_type)type;
    rc = ops ? error_bdev_inject(bd, ops, &f, &err) : error_bdev_clear(bd, &err);
    if (rc < 0)
        rpc_error_from(req, &err);
    else
        rpc_true(req);
}

static const struct rpc_method methods[] = {
    {"bdev_error_create", RPC_PARAMS(create_params), sizeof(struct create_args), bdev_error_create,
     "make EE_<base_name>, a disk of another bdev that fails when it is told to", RPC_JOURNAL,
     "name of the bdev"},
    {"bdev_error_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_error_delete, "delete such a disk (the bdev it stands on stays)", RPC_JOURNAL, "true"},
    {"bdev_error_inject_error", RPC_PARAMS(inject_params), sizeof(struct inject_args),
     bdev_error_inject_error, "let requests fail; this is not saved", 0, "true"},
};
const struct rpc_method_table bdev_error_methods = RPC_TABLE(methods);
