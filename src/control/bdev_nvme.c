/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Remote namespaces: NVMe-oF controllers we attach to. */
#include "base/log.h"
#include "control/bdev_nvme_saved.h"
#include "control/inside.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct attach_args {
    const char *name, *trtype, *traddr, *adrfam, *trsvcid, *priority, *subnqn, *hostnqn, *hostaddr,
        *hostsvcid, *multipath, *psk, *dhchap_key, *dhchap_ctrlr_key;
    bool prchk_reftag, prchk_guard, hdgst, ddgst, allow_unrecognized_csi, no_flow_control;
    uint64_t connect_timeout_us;
    uint32_t num_io_queues, max_bdevs, reconnect_delay, fast_io_fail;
    int32_t loss_timeout;
    json_t *multipath_opts, *namespaces, *paths, *discovery;
};
#define AT(member) offsetof(struct attach_args, member)
static const struct rpc_param attach_params[] = {
    {"name", RPC_STR, AT(name), RPC_REQUIRED | RPC_NAME, "name; the bdevs are <name>n<nsid>", "-b",
     NULL, 0, 0, 0},
    {"trtype", RPC_STR, AT(trtype), RPC_REQUIRED, "transport: TCP", "-t", NULL, 0, 0, 0},
    {"traddr", RPC_STR, AT(traddr), RPC_REQUIRED, "address or host name", "-a", NULL, 0, 0, 255},
    {"adrfam", RPC_STR, AT(adrfam), 0, "IPv4 or IPv6", "-f", NULL, 0, 0, 0},
    {"trsvcid", RPC_STR, AT(trsvcid), 0, "port (default 4420)", "-s", NULL, 0, 0, 32},
    {"priority", RPC_STR, AT(priority), RPC_UNSUPPORTED, "socket priority", "-p", NULL, 0, 0, 0},
    {"subnqn", RPC_STR, AT(subnqn), RPC_NQN, "NQN of the remote subsystem", "-n", NULL, 0, 0, 0},
    {"hostnqn", RPC_STR, AT(hostnqn), RPC_NQN, "our NQN", "-q", NULL, 0, 0, 0},
    {"hostaddr", RPC_STR, AT(hostaddr), 0, "our address", "-i", NULL, 0, 0, 255},
    {"hostsvcid", RPC_STR, AT(hostsvcid), 0, "our port", "-c", NULL, 0, 0, 32},
    {"prchk_reftag", RPC_BOOL, AT(prchk_reftag), RPC_UNSUPPORTED, "", "-r", NULL, 0, 0, 0},
    {"prchk_guard", RPC_BOOL, AT(prchk_guard), RPC_UNSUPPORTED, "", "-g", NULL, 0, 0, 0},
    {"hdgst", RPC_BOOL, AT(hdgst), 0, "header digests", "-e", NULL, 0, 0, 0},
    {"ddgst", RPC_BOOL, AT(ddgst), 0, "data digests", "-d", NULL, 0, 0, 0},
    {"fabrics_connect_timeout_us", RPC_U64, AT(connect_timeout_us), 0,
     "microseconds for the first connection (default 10 s)", NULL, "fabrics-timeout", 0, 0,
     3600000000},
    {"multipath", RPC_STR, AT(multipath), 0,
     "when the name is there: failover or multipath (default failover) add a path, disable refuses",
     "-x", NULL, 0, 0, 0},
    {"num_io_queues", RPC_U32, AT(num_io_queues), 0, "at most so many I/O queues", NULL, NULL, 0, 0,
     65535},
    {"ctrlr_loss_timeout_sec", RPC_I32, AT(loss_timeout), RPC_UNSUPPORTED,
     "-1: connects again for ever", "-l", NULL, 0, 0, 0},
    {"reconnect_delay_sec", RPC_U32, AT(reconnect_delay), RPC_UNSUPPORTED, "1: every second", "-o",
     NULL, 0, 0, 1},
    {"fast_io_fail_timeout_sec", RPC_U32, AT(fast_io_fail), RPC_UNSUPPORTED,
     "0: I/O waits for the connection", "-u", NULL, 0, 0, 0},
    {"psk", RPC_STR, AT(psk), RPC_UNSUPPORTED | RPC_SECRET, "TLS key", "-k", NULL, 0, 0, 0},
    {"max_bdevs", RPC_U32, AT(max_bdevs), 0, "at most so many namespaces (default 128)", "-m", NULL,
     0, 1, NVME_OF_NAMESPACES_MAX},
    {"dhchap_key", RPC_STR, AT(dhchap_key), RPC_UNSUPPORTED | RPC_SECRET, "", NULL, NULL, 0, 0, 0},
    {"dhchap_ctrlr_key", RPC_STR, AT(dhchap_ctrlr_key), RPC_UNSUPPORTED | RPC_SECRET, "", NULL,
     NULL, 0, 0, 0},
    {"allow_unrecognized_csi", RPC_BOOL, AT(allow_unrecognized_csi), RPC_UNSUPPORTED, "", NULL,
     NULL, 0, 0, 0},
    {"multipath_opts", RPC_JSON, AT(multipath_opts), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0, 0},
    {"disable_sq_flow_control", RPC_BOOL, AT(no_flow_control), 0, "ask for no SQ flow control",
     NULL, NULL, 0, 0, 0},
    {"_namespaces", RPC_JSON, AT(namespaces), 0, "", NULL, NULL, 0, 0, 0},
    {"_paths", RPC_JSON, AT(paths), 0, "", NULL, NULL, 0, 0, 0},
    {"_discovery", RPC_JSON, AT(discovery), 0, "", NULL, NULL, 0, 0, 0},
};

static void namespaces_changed(void *arg, struct nvme_of_host *host)
{
    save_nvme_of_again(arg, host);
}

/* ---- attach ---- */

static json_t *bdev_names_json(const struct nvme_of_host *host)
{
    unsigned n;
    struct nvme_of_namespace *ns = nvme_of_namespace_list(host, &n);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++)
        json_array_append_new(list, json_string(ns[i].bdev));
    free(ns);
    return list;
}

struct attach {
    struct control_ctx *ctx;
    struct rpc_request *req;
};

static void attached(void *arg, struct nvme_of_host *host, const struct err *err)
{
    struct attach at = *(struct attach *)arg;
    static const struct err unknown = {-EIO, "cannot attach"};
    json_t *call;

    free(arg);
    if (!host) {
        rpc_error_from(at.req, err ? err : &unknown);
        return;
    }
    call = saved_nvme_of_call(at.ctx, host);
    if (!call) {
        if (!at.ctx->attached)
            at.ctx->attached = json_object();
        call = json_deep_copy(rpc_saved_params(at.req));
        json_object_set_new(at.ctx->attached, nvme_of_name(host), call);
    }
    update_nvme_of_call(call, host);
    /* Another path is saved with the call that made the controller. */
    json_object_clear(rpc_saved_params(at.req));
    json_object_update(rpc_saved_params(at.req), call);
    save_put(at.req, key_of_nvme_of(nvme_of_name(host)));
    rpc_result(at.req, bdev_names_json(host));
}

/* Replayed: the other paths of the controller. */
static void path_restored(void *arg, struct nvme_of_host *host, const struct err *err)
{
}

static void restore_paths(struct control_ctx *ctx, const struct nvme_of_opts *first, json_t *paths)
{
    size_t i;
    json_t *p;

    json_array_foreach(paths, i, p)
    {
        struct nvme_of_opts opts = *first;
        struct err err = {0};

        opts.known = NULL;
        opts.nknown = 0;
        opts.background = true;
        opts.multipath = NVME_OF_MULTIPATH;
        opts.traddr = json_string_value(json_object_get(p, "traddr"));
        opts.trsvcid = json_string_value(json_object_get(p, "trsvcid"));
        opts.adrfam = json_string_value(json_object_get(p, "adrfam"));
        opts.hostaddr = json_string_value(json_object_get(p, "hostaddr"));
        opts.hdgst = json_is_true(json_object_get(p, "hdgst"));
        opts.ddgst = json_is_true(json_object_get(p, "ddgst"));
        opts.disable_sq_flow = json_is_true(json_object_get(p, "disable_sq_flow_control"));
        if (nvme_of_attach(ctx->nvme_of, &opts, path_restored, NULL, &err))
            log_line(LOG_ERROR, "control", "controller '%s': a path is not restored: %s",
                     first->name, err.msg);
    }
}

static bool multipath_value(struct rpc_request *req, const char *text, enum nvme_of_multipath *ret)
{
    static const char *const names[] = {[NVME_OF_FAILOVER] = "failover",
                                        [NVME_OF_MULTIPATH] = "multipath",
                                        [NVME_OF_DISABLE] = "disable"};

    *ret = NVME_OF_FAILOVER;
    for (unsigned i = 0; text && i < ARRAY_SIZE(names); i++)
        if (strcasecmp(text, names[i]) == 0) {
            *ret = i;
            return true;
        }
    if (text)
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'multipath' is '%.30s', not failover, multipath or disable",
                  text);
    return !text;
}

static void bdev_nvme_attach_controller(void *arg, struct rpc_request *req, const void *args)
{
    const struct attach_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_of_namespace *known;
    unsigned nknown;
    enum nvme_of_multipath multipath;
    struct attach *at;
    struct err err = {0};
    int rc;

    if (!multipath_value(req, a->multipath, &multipath))
        return;
    if (!a->subnqn) {
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'subnqn' is missing (discovery by attach is not supported)");
        return;
    }
    if (!saved_nvme_of_namespaces(a->namespaces, &known, &nknown)) {
        rpc_error(req, -EINVAL, "'%s': the saved namespaces are damaged", a->name);
        return;
    }
    at = malloc(sizeof(*at));
    if (!at) {
        free(known);
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *at = (struct attach){ctx, req};
    struct nvme_of_opts opts = {
        .name = a->name,
        .trtype = a->trtype,
        .adrfam = a->adrfam,
        .traddr = a->traddr,
        .trsvcid = a->trsvcid,
        .subnqn = a->subnqn,
        .hostnqn = a->hostnqn,
        .hostaddr = a->hostaddr,
        .hostsvcid = a->hostsvcid,
        .hdgst = a->hdgst,
        .ddgst = a->ddgst,
        .disable_sq_flow = a->no_flow_control,
        .num_io_queues = a->num_io_queues,
        .max_bdevs = a->max_bdevs,
        .connect_timeout_us = a->connect_timeout_us,
        .known = known,
        .nknown = nknown,
        .multipath = multipath,
        .discovery = json_string_value(a->discovery),
        .changed = namespaces_changed,
        .changed_arg = ctx,
    };
    rc = nvme_of_attach(ctx->nvme_of, &opts, attached, at, &err);
    free(known);
    if (rc == 0)
        restore_paths(ctx, &opts, a->paths);
    if (rc < 0) {
        free(at);
        rpc_error_from(req, &err);
    }
}

/* ---- detach ---- */

struct detach_args {
    const char *name, *trtype, *traddr, *adrfam, *trsvcid, *subnqn, *hostaddr, *hostsvcid;
};
#define DETACH(member) offsetof(struct detach_args, member)
static const struct rpc_param detach_params[] = {
    {"name", RPC_STR, DETACH(name), RPC_REQUIRED | RPC_POSITIONAL | RPC_NAME,
     "name of the controller", NULL, NULL, 0, 0, 0},
    {"trtype", RPC_STR, DETACH(trtype), 0, "only this path: transport", "-t", NULL, 0, 0, 0},
    {"traddr", RPC_STR, DETACH(traddr), 0, "address", "-a", NULL, 0, 0, 0},
    {"adrfam", RPC_STR, DETACH(adrfam), 0, "IPv4 or IPv6", "-f", NULL, 0, 0, 0},
    {"trsvcid", RPC_STR, DETACH(trsvcid), 0, "port", "-s", NULL, 0, 0, 0},
    {"subnqn", RPC_STR, DETACH(subnqn), 0, "NQN of the remote subsystem", "-n", NULL, 0, 0, 0},
    {"hostaddr", RPC_STR, DETACH(hostaddr), 0, "our address", "-i", NULL, 0, 0, 0},
    {"hostsvcid", RPC_STR, DETACH(hostsvcid), RPC_UNSUPPORTED, "our port", "-c", NULL, 0, 0, 0},
};

struct detach {
    struct control_ctx *ctx;
    struct rpc_request *req;
    char name[64];
};

static void detached(void *arg)
{
    struct detach *d = arg;
    struct nvme_of_host *host = nvme_of_find(d->ctx->nvme_of, d->name);

    if (host) { /* one path less */
        save_nvme_of_again(d->ctx, host);
    } else {
        json_object_del(d->ctx->attached, d->name);
        save_drop(d->req, key_of_nvme_of(d->name));
    }
    rpc_true(d->req);
    free(d);
}

static void bdev_nvme_detach_controller(void *arg, struct rpc_request *req, const void *args)
{
    const struct detach_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_of_host *host = nvme_of_find(ctx->nvme_of, a->name);
    struct nvme_of_address address = {a->trtype,  a->adrfam, a->traddr,
                                      a->trsvcid, a->subnqn, a->hostaddr};
    struct detach *d;
    struct err err = {0};
    int rc;

    if (!host) {
        rpc_error(req, -ENODEV, "no NVMe-oF controller '%s'", a->name);
        return;
    }
    d = malloc(sizeof(*d));
    if (!d) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    *d = (struct detach){.ctx = ctx, .req = req};
    snprintf(d->name, sizeof(d->name), "%s", a->name);
    if (a->trtype || a->adrfam || a->traddr || a->trsvcid || a->subnqn || a->hostaddr)
        rc = nvme_of_detach_path(host, &address, detached, d, &err);
    else
        rc = nvme_of_detach(host, detached, d, &err);
    if (rc < 0) {
        free(d);
        rpc_error_from(req, &err);
    }
}

/* ---- list ---- */

struct get_args {
    const char *name;
};
static const struct rpc_param get_params[] = {
    {"name", RPC_STR, offsetof(struct get_args, name), RPC_NAME, "only this one", "-n", NULL, 0, 0,
     0},
};

static void add_host(struct nvme_of_host *host, void *arg)
{
    json_array_append_new(arg, nvme_of_describe(host));
}

static void bdev_nvme_get_controllers(void *arg, struct rpc_request *req, const void *args)
{
    const struct get_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_of_host *host = a->name ? nvme_of_find(ctx->nvme_of, a->name) : NULL;
    json_t *list;

    if (a->name && !host) {
        rpc_error(req, -ENODEV, "no NVMe-oF controller '%s'", a->name);
        return;
    }
    list = json_array();
    if (host)
        add_host(host, list);
    else
        nvme_of_for_each(ctx->nvme_of, add_host, list);
    rpc_result(req, list);
}

static const struct rpc_method methods[] = {
    {"bdev_nvme_attach_controller", RPC_PARAMS(attach_params), sizeof(struct attach_args),
     bdev_nvme_attach_controller, "connect to a remote NVMe subsystem, or by another path",
     RPC_JOURNAL, "array of bdev names"},
    {"bdev_nvme_detach_controller", RPC_PARAMS(detach_params), sizeof(struct detach_args),
     bdev_nvme_detach_controller, "remove a path, or all and its bdevs", RPC_JOURNAL, "true"},
    {"bdev_nvme_get_controllers", RPC_PARAMS(get_params), sizeof(struct get_args),
     bdev_nvme_get_controllers, "list remote controllers", 0,
     "array of {name, ctrlrs: [{state, trid, cntlid, host}]}"},
};
const struct rpc_method_table bdev_nvme_methods = RPC_TABLE(methods);
