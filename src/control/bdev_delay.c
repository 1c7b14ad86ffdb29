/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Delay bdevs. */
#include "backends/backends.h"
#include "control/bdev.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LATENCY_MAX_US 86400000000ULL /* a day */

struct create_args {
    const char *base_bdev_name, *name, *uuid;
    uint64_t latency_us[DELAY_KINDS];
};
#define AT(member) offsetof(struct create_args, member)
#define LATENCY(name, kind, what, cli_short)                                                       \
    {                                                                                              \
        name, RPC_U64, AT(latency_us[kind]), RPC_REQUIRED, what ", microseconds", cli_short, NULL, \
            0, 0, LATENCY_MAX_US                                                                   \
    }
static const struct rpc_param create_params[] = {
    {"base_bdev_name", RPC_STR, AT(base_bdev_name), RPC_REQUIRED | RPC_NAME, "bdev it stands on",
     "-b", NULL, 0, 0, 0},
    {"name", RPC_STR, AT(name), RPC_REQUIRED | RPC_NAME, "bdev name", "-d", NULL, 0, 0, 0},
    {"uuid", RPC_STR, AT(uuid), 0, "UUID (default: made from the name)", "-u", NULL, 0, 0, 0},
    LATENCY("avg_read_latency", DELAY_AVG_READ, "wait of a read", "-r"),
    LATENCY("p99_read_latency", DELAY_P99_READ, "wait of one read in a hundred", "-t"),
    LATENCY("avg_write_latency", DELAY_AVG_WRITE, "wait of a write", "-w"),
    LATENCY("p99_write_latency", DELAY_P99_WRITE, "wait of one write in a hundred", "-n"),
};

static void bdev_delay_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct delay_opts opts = {.name = a->name};
    struct bdev_uuid uuid;
    struct bdev *bd;
    struct err err = {0};

    if (a->uuid) {
        if (!uuid_param(req, "uuid", a->uuid, &uuid))
            return;
        opts.uuid = &uuid;
    }
    opts.base = need_bdev(ctx, req, a->base_bdev_name);
    if (!opts.base)
        return;
    memcpy(opts.latency_us, a->latency_us, sizeof(opts.latency_us));
    if (delay_bdev_create(ctx->bdevs, &opts, &bd, &err) < 0)
        rpc_error_from(req, &err);
    else
        bdev_created(req, bd);
}

static void bdev_delay_delete(void *ctx, struct rpc_request *req, const void *args)
{
    bdev_delete(ctx, req, ((const struct bdev_delete_args *)args)->name, "delay");
}

struct update_args {
    const char *delay_bdev_name, *latency_type;
    uint64_t latency_us;
};
#define UPDATE(member) offsetof(struct update_args, member)
static const struct rpc_param update_params[] = {
    {"delay_bdev_name", RPC_STR, UPDATE(delay_bdev_name), RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME,
     "bdev name", NULL, NULL, 0, 0, 0},
    {"latency_type", RPC_STR, UPDATE(latency_type), RPC_REQUIRED | RPC_POSITIONAL,
     "avg_read, p99_read, avg_write or p99_write", NULL, NULL, 0, 0, 0},
    {"latency_us", RPC_U64, UPDATE(latency_us), RPC_REQUIRED | RPC_POSITIONAL, "microseconds", NULL,
     NULL, 0, 0, LATENCY_MAX_US},
};

static bool latency_type(struct rpc_request *req, const char *text, enum delay_kind *ret)
{
    static const char *const names[] = {[DELAY_AVG_READ] = "avg_read",
                                        [DELAY_P99_READ] = "p99_read",
                                        [DELAY_AVG_WRITE] = "avg_write",
                                        [DELAY_P99_WRITE] = "p99_write"};

    for (unsigned i = 0; i < DELAY_KINDS; i++) {
        if (strcmp(text, names[i]) == 0) {
            *ret = (enum delay_kind)i;
            return true;
        }
    }
    rpc_error(req, RPC_ERR_PARAMS,
              "Invalid parameters: 'latency_type' is '%.30s', not avg_read, p99_read, avg_write or "
              "p99_write",
              text);
    return false;
}

/* Saved below the bdev, behind the call that made it. */
static void save_latency(struct rpc_request *req, const struct update_args *a)
{
    char part[40], *key = key_of_bdev(a->delay_bdev_name);

    snprintf(part, sizeof(part), "latency/%s", a->latency_type);
    save_put(req, key_below(key, part));
    free(key);
}

static void bdev_delay_update_latency(void *arg, struct rpc_request *req, const void *args)
{
    const struct update_args *a = args;
    struct bdev *bd = need_bdev_of_kind(arg, req, a->delay_bdev_name, "delay");
    enum delay_kind kind;
    struct err err = {0};

    if (!bd || !latency_type(req, a->latency_type, &kind))
        return;
    if (delay_bdev_update(bd, kind, a->latency_us, &err) < 0) {
        rpc_error_from(req, &err);
        return;
    }
    save_latency(req, a);
    rpc_true(req);
}

static const struct rpc_method methods[] = {
    {"bdev_delay_create", RPC_PARAMS(create_params), sizeof(struct create_args), bdev_delay_create,
     "make a slow disk of another bdev: requests are accepted, wait, and only then reach it",
     RPC_JOURNAL, "name of the bdev"},
    {"bdev_delay_delete", RPC_PARAMS(bdev_delete_params), sizeof(struct bdev_delete_args),
     bdev_delay_delete, "delete such a disk (the bdev it stands on stays)", RPC_JOURNAL, "true"},
    {"bdev_delay_update_latency", RPC_PARAMS(update_params), sizeof(struct update_args),
     bdev_delay_update_latency, "change a wait, for requests that come from now on", RPC_JOURNAL,
     "true"},
};
const struct rpc_method_table bdev_delay_methods = RPC_TABLE(methods);
