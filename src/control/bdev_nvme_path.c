/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a remote namespace's bdev uses the paths of its controller. */
#include "control/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- bdev_nvme_get_io_paths ---- */

struct paths_args {
    const char *name;
};
static const struct rpc_param paths_params[] = {
    {"name", RPC_STR, offsetof(struct paths_args, name), RPC_NAME, "only this bdev", "-n", NULL, 0,
     0, 0},
};

static void add_paths(struct bdev *bd, void *arg)
{
    nvme_of_io_paths(bd, arg);
}

static void bdev_nvme_get_io_paths(void *arg, struct rpc_request *req, const void *args)
{
    const struct paths_args *a = args;
    struct control_ctx *ctx = arg;
    struct bdev *bd = a->name ? need_bdev(ctx, req, a->name) : NULL;
    json_t *list;

    if (a->name && !bd)
        return;
    list = json_array();
    if (!bd) {
        bdev_for_each(ctx->bdevs, add_paths, list);
    } else if (!nvme_of_io_paths(bd, list)) {
        json_decref(list);
        rpc_error(req, -ENODEV, "bdev '%s' is not of an NVMe-oF controller", a->name);
        return;
    }
    rpc_result(req,
               json_pack("{s:[{s:s, s:o}]}", "poll_groups", "thread", "all", "io_paths", list));
}

/* ---- bdev_nvme_set_multipath_policy ---- */

struct policy_args {
    const char *name, *policy, *selector;
    uint32_t rr_min_io;
};
#define POLICY(member) offsetof(struct policy_args, member)
static const struct rpc_param policy_params[] = {
    {"name", RPC_STR, POLICY(name), RPC_REQUIRED | RPC_NAME, "name of the bdev", "-b", NULL, 0, 0,
     0},
    {"policy", RPC_STR, POLICY(policy), RPC_REQUIRED, "active_passive or active_active", "-p", NULL,
     0, 0, 0},
    {"selector", RPC_STR, POLICY(selector), 0,
     "of active_active: round_robin (default) or queue_depth", "-s", NULL, 0, 0, 0},
    {"rr_min_io", RPC_U32, POLICY(rr_min_io), 0,
     "of round_robin: requests before the next path (default 1)", "-r", NULL, 0, 1, 1000000},
};

static bool word(struct rpc_request *req, const char *member, const char *text, const char *no,
                 const char *yes, bool *ret)
{
    *ret = strcmp(text, yes) == 0;
    if (*ret || strcmp(text, no) == 0)
        return true;
    rpc_error(req, RPC_ERR_PARAMS, "Invalid parameters: '%s' is '%.30s', not %s or %s", member,
              text, no, yes);
    return false;
}

static void bdev_nvme_set_multipath_policy(void *arg, struct rpc_request *req, const void *args)
{
    const struct policy_args *a = args;
    struct control_ctx *ctx = arg;
    struct bdev *bd = need_bdev(ctx, req, a->name);
    bool active_active, queue_depth = false;
    char host[64];

    if (!bd || !word(req, "policy", a->policy, "active_passive", "active_active", &active_active))
        return;
    if (a->selector &&
        !word(req, "selector", a->selector, "round_robin", "queue_depth", &queue_depth))
        return;
    if (!active_active && (a->selector || a->rr_min_io)) {
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'selector' and 'rr_min_io' need the policy active_active");
        return;
    }
    if (queue_depth && a->rr_min_io) {
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'rr_min_io' needs the selector round_robin");
        return;
    }
    if (!nvme_of_set_policy(bd, active_active, queue_depth, a->rr_min_io)) {
        rpc_error(req, -ENODEV, "bdev '%s' is not of an NVMe-oF controller", a->name);
        return;
    }
    if (nvme_of_host_name(bd, host, sizeof(host))) {
        char *above = key_of_nvme_of(host), *policy = key_below(above, "policy"),
             *bdev = key_of_bdev(bdev_name(bd));

        save_put(req, key_below(policy, bdev));
        free(above);
        free(policy);
        free(bdev);
    }
    rpc_true(req);
}

/* ---- bdev_nvme_set_preferred_path ---- */

struct preferred_args {
    const char *name;
    uint32_t cntlid;
};
static const struct rpc_param preferred_params[] = {
    {"name", RPC_STR, offsetof(struct preferred_args, name), RPC_REQUIRED | RPC_NAME,
     "name of the bdev", "-b", NULL, 0, 0, 0},
    {"cntlid", RPC_U32, offsetof(struct preferred_args, cntlid), RPC_REQUIRED,
     "CNTLID of the path's controller", "-c", NULL, 0, 0, 65535},
};

static void bdev_nvme_set_preferred_path(void *arg, struct rpc_request *req, const void *args)
{
    const struct preferred_args *a = args;
    struct bdev *bd = need_bdev(arg, req, a->name);
    struct err err = {0};

    if (!bd)
        return;
    if (nvme_of_set_preferred(bd, (uint16_t)a->cntlid, &err))
        rpc_error_from(req, &err);
    else
        rpc_true(req);
}

static const struct rpc_method methods[] = {
    {"bdev_nvme_get_io_paths", RPC_PARAMS(paths_params), sizeof(struct paths_args),
     bdev_nvme_get_io_paths, "list the paths of remote namespaces", 0,
     "{poll_groups: [{thread, io_paths: [{bdev_name, cntlid, current, connected, accessible, "
     "transport}]}]}"},
    {"bdev_nvme_set_multipath_policy", RPC_PARAMS(policy_params), sizeof(struct policy_args),
     bdev_nvme_set_multipath_policy, "use one path of a remote namespace, or all", RPC_JOURNAL,
     "true"},
    {"bdev_nvme_set_preferred_path", RPC_PARAMS(preferred_params), sizeof(struct preferred_args),
     bdev_nvme_set_preferred_path, "use this path while it is as good as others (not saved)", 0,
     "true"},
};
const struct rpc_method_table bdev_nvme_path_methods = RPC_TABLE(methods);
