/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Block devices of every kind: lists and statistics. */
#include "control/bdev.h"
#include "base/clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- shared by the kinds ---- */

void bdev_created(struct rpc_request *req, struct bdev *bd)
{
    save_put(req, key_of_bdev(bdev_name(bd)));
    rpc_result(req, json_string(bdev_name(bd)));
}

const struct rpc_param bdev_delete_params[1] = {
    {"name", RPC_STR, offsetof(struct bdev_delete_args, name),
     RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME, "bdev name", NULL, NULL, 0, 0, 0},
};

struct bdev *need_bdev_of_kind(struct control_ctx *ctx, struct rpc_request *req, const char *name,
                               const char *kind)
{
    struct bdev *bd = need_bdev(ctx, req, name);

    if (bd && strcmp(bdev_ops_of(bd)->kind, kind) != 0) {
        rpc_error(req, -ENODEV, "bdev '%s' is not of kind %s but %s", name, kind,
                  bdev_ops_of(bd)->kind);
        bd = NULL;
    }
    return bd;
}

struct deletion {
    struct rpc_request *req;
    char *key;
};

static void deleted(void *arg)
{
    struct deletion *d = arg;

    save_drop(d->req, d->key);
    rpc_true(d->req);
    free(d);
}

void bdev_delete(struct control_ctx *ctx, struct rpc_request *req, const char *name,
                 const char *kind)
{
    struct bdev *bd = need_bdev_of_kind(ctx, req, name, kind);
    struct deletion *d;
    struct err err = {0};

    if (!bd)
        return;
    d = malloc(sizeof(*d));
    if (!d) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *d = (struct deletion){req, key_of_bdev(name)};
    if (bdev_unregister(bd, deleted, d, &err) < 0) {
        free(d->key);
        free(d);
        rpc_error_from(req, &err);
    }
}

/* ---- bdev_get_bdevs ---- */

struct get_args {
    const char *name;
    uint64_t timeout_ms;
};
static const struct rpc_param get_params[] = {
    {"name", RPC_STR, offsetof(struct get_args, name), RPC_NAME, "only this one", "-b", NULL, 0, 0,
     0},
    {"timeout", RPC_U64, offsetof(struct get_args, timeout_ms), 0,
     "milliseconds to wait for it to appear", "-t", "timeout_ms", 0, 0, 3600000},
};

static json_t *io_types_json(const struct bdev_info *info)
{
    json_t *o = json_object();
    const struct {
        const char *name;
        bool on;
    } types[] = {
        {"read", true},
        {"write", !info->read_only},
        {"unmap", info->can_unmap},
        {"flush", true},
        {"reset", false},
        {"nvme_admin", false},
        {"nvme_io", false},
        {"nvme_io_md", false},
        {"write_zeroes", info->can_write_zeroes},
        {"zcopy", false},
        {"get_zone_info", false},
        {"zone_management", false},
        {"zone_append", false},
        {"compare", false},
        {"compare_and_write", false},
        {"abort", false},
        {"seek_hole", false},
        {"seek_data", false},
        {"copy", false},
        {"nvme_iov_md", false},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(types); i++)
        json_object_set_new(o, types[i].name, json_boolean(types[i].on));
    return o;
}

static json_t *bdev_json(struct bdev *bd)
{
    struct bdev_info info = bdev_get_info(bd);
    json_t *o = json_object(), *specific = json_object(), *uuid = uuid_json(&info.uuid);

    json_object_set_new(o, "name", json_string(bdev_name(bd)));
    json_object_set_new(o, "aliases", json_pack("[O]", uuid));
    json_object_set_new(o, "product_name", json_string(bdev_ops_of(bd)->product));
    json_object_set_new(o, "block_size", json_integer(info.block_bytes));
    json_object_set_new(o, "num_blocks", json_integer((json_int_t)info.nblocks));
    json_object_set_new(o, "uuid", uuid);
    json_object_set_new(o, "assigned_rate_limits",
                        json_pack("{s:i,s:i,s:i,s:i}", "rw_ios_per_sec", 0, "rw_mbytes_per_sec", 0,
                                  "r_mbytes_per_sec", 0, "w_mbytes_per_sec", 0));
    json_object_set_new(o, "claimed", json_boolean(bdev_claims(bd) > 0));
    json_object_set_new(o, "zoned", json_false());
    json_object_set_new(o, "read_only", json_boolean(info.read_only));
    json_object_set_new(o, "supported_io_types", io_types_json(&info));
    bdev_ops_of(bd)->describe(bdev_dev(bd), specific);
    json_object_set_new(o, "driver_specific", specific);
    return o;
}

static void add_bdev(struct bdev *bd, void *arg)
{
    json_array_append_new(arg, bdev_json(bd));
}

enum { APPEAR_POLL_MS = 20 };

struct appearing { /* a call that waits for a bdev */
    struct timer timer;
    struct control_ctx *ctx;
    struct rpc_request *req;
    const char *name;
    uint64_t deadline_us;
};

static void look_again(struct timer *t)
{
    struct appearing *w = container_of(t, struct appearing, timer);
    struct bdev *bd = bdev_find(w->ctx->bdevs, w->name);

    if (!bd && reactor_now_us(w->ctx->reactor) < w->deadline_us) {
        timer_arm(w->ctx->reactor, t, APPEAR_POLL_MS, look_again);
        return;
    }
    if (bd)
        rpc_result(w->req, json_pack("[o]", bdev_json(bd)));
    else
        rpc_error(w->req, -ENODEV, "bdev '%s' has not appeared in time", w->name);
    free(w);
}

static void wait_for_bdev(struct control_ctx *ctx, struct rpc_request *req,
                          const struct get_args *a)
{
    struct appearing *w = calloc(1, sizeof(*w));

    if (!w) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    w->ctx = ctx;
    w->req = req;
    w->name = a->name; /* valid until the answer */
    w->deadline_us = reactor_now_us(ctx->reactor) + a->timeout_ms * 1000;
    timer_arm(ctx->reactor, &w->timer, APPEAR_POLL_MS, look_again);
}

static void bdev_get_bdevs(void *arg, struct rpc_request *req, const void *args)
{
    const struct get_args *a = args;
    struct control_ctx *ctx = arg;
    struct bdev *bd;
    json_t *list;

    if (a->name) {
        if (a->timeout_ms && !bdev_find(ctx->bdevs, a->name)) {
            wait_for_bdev(ctx, req, a);
            return;
        }
        bd = need_bdev(ctx, req, a->name);
        if (bd)
            rpc_result(req, json_pack("[o]", bdev_json(bd)));
        return;
    }
    list = json_array();
    bdev_for_each(ctx->bdevs, add_bdev, list);
    rpc_result(req, list);
}

/* ---- bdev_get_iostat ---- */

struct iostat_args {
    const char *name, *reset_mode;
    json_t *names;
    bool per_channel;
};
static const struct rpc_param iostat_params[] = {
    {"name", RPC_STR, offsetof(struct iostat_args, name), RPC_NAME, "only this one", "-b", NULL, 0,
     0, 0},
    {"names", RPC_JSON, offsetof(struct iostat_args, names), 0, "only these: an array of names",
     NULL, NULL, 0, 0, 0},
    {"per_channel", RPC_BOOL, offsetof(struct iostat_args, per_channel), RPC_UNSUPPORTED,
     "one entry per channel", "-c", NULL, 0, 0, 0},
    {"reset_mode", RPC_STR, offsetof(struct iostat_args, reset_mode), 0,
     "which counters to reset after reading; only none", NULL, NULL, 0, 0, 0},
};

static json_t *iostat_json(struct bdev *bd)
{
    static const struct {
        enum bdev_op op;
        const char *bytes, *ops, *error;
    } rows[] = {
        {BDEV_READ, "bytes_read", "num_read_ops", "read"},
        {BDEV_WRITE, "bytes_written", "num_write_ops", "write"},
        {BDEV_UNMAP, "bytes_unmapped", "num_unmap_ops", "unmap"},
        {BDEV_WRITE_ZEROES, "bytes_zeroed", "num_write_zeroes_ops", "write_zeroes"},
        {BDEV_FLUSH, NULL, "num_flush_ops", "flush"},
    };
    struct bdev_stats st;
    json_t *o = json_object(), *errors = json_object();

    bdev_get_stats(bd, &st);
    json_object_set_new(o, "name", json_string(bdev_name(bd)));
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        if (rows[i].bytes)
            json_object_set_new(o, rows[i].bytes, json_integer((json_int_t)st.bytes[rows[i].op]));
        json_object_set_new(o, rows[i].ops, json_integer((json_int_t)st.ops[rows[i].op]));
        if (st.errors[rows[i].op])
            json_object_set_new(errors, rows[i].error,
                                json_integer((json_int_t)st.errors[rows[i].op]));
    }
    json_object_set_new(o, "bounce_bytes", json_integer((json_int_t)st.bounce_bytes));
    json_object_set_new(o, "io_error", errors);
    return o;
}

static void add_iostat(struct bdev *bd, void *arg)
{
    json_array_append_new(arg, iostat_json(bd));
}

/* false: answered. */
static bool add_named(struct control_ctx *ctx, struct rpc_request *req, json_t *names, json_t *list)
{
    json_t *entry;
    size_t i;

    json_array_foreach(names, i, entry)
    {
        const char *name =
            json_string_value(json_is_object(entry) ? json_object_get(entry, "name") : entry);
        struct bdev *bd;

        if (!name) {
            rpc_error(req, RPC_ERR_PARAMS,
                      "Invalid parameters: 'names' must be an array of strings");
            return false;
        }
        bd = need_bdev(ctx, req, name);
        if (!bd)
            return false;
        add_iostat(bd, list);
    }
    return true;
}

static void bdev_get_iostat(void *arg, struct rpc_request *req, const void *args)
{
    const struct iostat_args *a = args;
    struct control_ctx *ctx = arg;
    json_t *list;
    bool ok = true;

    if (a->reset_mode && strcmp(a->reset_mode, "none") != 0) {
        rpc_error(req, -ENOTSUP, "parameter 'reset_mode' is not supported with this value");
        return;
    }
    if (a->names && !json_is_array(a->names)) {
        rpc_error(req, RPC_ERR_PARAMS, "Invalid parameters: 'names' must be an array of strings");
        return;
    }
    list = json_array();
    if (a->names) {
        ok = add_named(ctx, req, a->names, list);
    } else if (a->name) {
        struct bdev *bd = need_bdev(ctx, req, a->name);

        ok = bd;
        if (bd)
            add_iostat(bd, list);
    } else {
        bdev_for_each(ctx->bdevs, add_iostat, list);
    }
    if (!ok) {
        json_decref(list);
        return;
    }
    rpc_result(req, json_pack("{s:I,s:I,s:o}", "tick_rate", (json_int_t)1000000000, "ticks",
                              (json_int_t)clock_ns(), "bdevs", list));
}

static const struct rpc_method methods[] = {
    {"bdev_get_bdevs", RPC_PARAMS(get_params), sizeof(struct get_args), bdev_get_bdevs,
     "list block devices", 0, "array of {name, product_name, block_size, num_blocks, uuid, ...}"},
    {"bdev_get_iostat", RPC_PARAMS(iostat_params), sizeof(struct iostat_args), bdev_get_iostat,
     "I/O counters of block devices", 0, "{tick_rate, ticks, bdevs: [{name, bytes_read, ...}]}"},
};
const struct rpc_method_table bdev_methods = RPC_TABLE(methods);
