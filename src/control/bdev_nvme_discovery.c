/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Discoveries: lasting connections to discovery controllers, whose subsystems are attached. */
#include "control/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct start_args {
    const char *name, *trtype, *traddr, *adrfam, *trsvcid, *hostnqn;
    bool wait_for_attach;
    uint64_t attach_timeout_ms;
    int32_t loss_timeout;
    uint32_t reconnect_delay, fast_io_fail;
};
#define AT(member) offsetof(struct start_args, member)
static const struct rpc_param start_params[] = {
    {"name", RPC_STR, AT(name), RPC_REQUIRED | RPC_NAME, "name; the controllers are <name>0, ...",
     "-b", NULL, 0, 0, 0},
    {"trtype", RPC_STR, AT(trtype), RPC_REQUIRED, "transport: TCP", "-t", NULL, 0, 0, 0},
    {"traddr", RPC_STR, AT(traddr), RPC_REQUIRED, "address or host name", "-a", NULL, 0, 0, 255},
    {"adrfam", RPC_STR, AT(adrfam), 0, "IPv4 or IPv6", "-f", NULL, 0, 0, 0},
    {"trsvcid", RPC_STR, AT(trsvcid), 0, "port (default 8009)", "-s", NULL, 0, 0, 15},
    {"hostnqn", RPC_STR, AT(hostnqn), RPC_NQN, "our NQN", "-q", NULL, 0, 0, 0},
    {"wait_for_attach", RPC_BOOL, AT(wait_for_attach), 0, "answer when the subsystems are attached",
     "-w", NULL, 0, 0, 0},
    {"attach_timeout_ms", RPC_U64, AT(attach_timeout_ms), 0,
     "give up when they are not attached by then (default 0: never); waits, too", "-T", NULL, 0, 0,
     3600000},
    {"ctrlr_loss_timeout_sec", RPC_I32, AT(loss_timeout), RPC_UNSUPPORTED,
     "-1: connects again for ever", "-l", NULL, 0, 0, 0},
    {"reconnect_delay_sec", RPC_U32, AT(reconnect_delay), RPC_UNSUPPORTED, "1: every second", "-o",
     NULL, 0, 0, 1},
    {"fast_io_fail_timeout_sec", RPC_U32, AT(fast_io_fail), RPC_UNSUPPORTED,
     "0: I/O waits for the connection", "-u", NULL, 0, 0, 0},
};

static void started(struct rpc_request *req)
{
    json_t *name = json_object_get(rpc_saved_params(req), "name");

    save_put(req, key_of_discovery(json_string_value(name)));
    rpc_true(req);
}

static void settled(void *arg, const struct err *err)
{
    struct rpc_request *req = arg;

    if (err) {
        rpc_error_from(req, err);
        return;
    }
    started(req);
}

static void bdev_nvme_start_discovery(void *arg, struct rpc_request *req, const void *args)
{
    const struct start_args *a = args;
    struct control_ctx *ctx = arg;
    bool replaying = rpc_replaying(req),
         wait = (a->wait_for_attach || a->attach_timeout_ms) && !replaying;
    struct nvme_of_discovery_opts opts = {
        .name = a->name,
        .trtype = a->trtype,
        .traddr = a->traddr,
        .adrfam = a->adrfam,
        .trsvcid = a->trsvcid,
        .hostnqn = a->hostnqn,
        .later = replaying,
        .attach_timeout_ms = wait ? a->attach_timeout_ms : 0,
        .settled = wait ? settled : NULL,
        .settled_arg = req,
        .changed = nvme_of_discovered,
        .gone = nvme_of_undiscovered,
        .changed_arg = ctx,
    };
    struct err err = {0};

    if (nvme_of_discovery_start(ctx->nvme_of, &opts, &err)) {
        rpc_error_from(req, &err);
        return;
    }
    if (!wait)
        started(req);
}

/* ---- stop ---- */

struct stop_args {
    const char *name;
};
static const struct rpc_param stop_params[] = {
    {"name", RPC_STR, offsetof(struct stop_args, name), RPC_REQUIRED | RPC_NAME,
     "name of the discovery", "-b", NULL, 0, 0, 0},
};

static void stopped(void *arg)
{
    rpc_true(arg);
}

static void bdev_nvme_stop_discovery(void *arg, struct rpc_request *req, const void *args)
{
    const struct stop_args *a = args;
    struct control_ctx *ctx = arg;
    struct nof_discovery *d = nvme_of_discovery_find(ctx->nvme_of, a->name);
    struct err err = {0};

    if (!d)
        rpc_error(req, -ENODEV, "no discovery '%s'", a->name);
    else if (nvme_of_discovery_stop(d, stopped, req, &err))
        rpc_error_from(req, &err);
    else
        save_drop(req, key_of_discovery(a->name));
}

/* ---- list ---- */

static void bdev_nvme_get_discovery_info(void *arg, struct rpc_request *req, const void *args)
{
    struct control_ctx *ctx = arg;

    rpc_result(req, nvme_of_discovery_list(ctx->nvme_of));
}

static const struct rpc_method methods[] = {
    {"bdev_nvme_start_discovery", RPC_PARAMS(start_params), sizeof(struct start_args),
     bdev_nvme_start_discovery, "attach what a discovery controller lists, now and later",
     RPC_JOURNAL, "true"},
    {"bdev_nvme_stop_discovery", RPC_PARAMS(stop_params), sizeof(struct stop_args),
     bdev_nvme_stop_discovery, "detach what a discovery has attached, and end it", RPC_JOURNAL,
     "true"},
    {"bdev_nvme_get_discovery_info", RPC_NO_PARAMS, 0, bdev_nvme_get_discovery_info,
     "list discoveries", 0, "array of {name, trid, referrals, connected, entries}"},
};
const struct rpc_method_table bdev_nvme_discovery_methods = RPC_TABLE(methods);
