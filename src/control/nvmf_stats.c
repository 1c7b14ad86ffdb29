/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Who is connected to snap_target, and what its reactors do. */
#include "control/nvmf.h"

#include <string.h>

struct controllers_args {
    const char *nqn, *tgt_name;
};
static const struct rpc_param controllers_params[] = {
    NVMF_NQN_PARAM(controllers_args),
    NVMF_TGT_NAME_PARAM(controllers_args, "-t"),
};

static void add_controller(const struct nvmf_controller_info *c, void *list)
{
    struct bdev_uuid hostid;

    memcpy(&hostid, c->hostid, sizeof(hostid));
    json_array_append_new(list,
                          json_pack("{s:i,s:s,s:o,s:I,s:I}", "cntlid", c->cntlid, "hostnqn",
                                    c->hostnqn, "hostid", uuid_json(&hostid), "num_io_qpairs",
                                    (json_int_t)c->io_queues, "kato_ms", (json_int_t)c->kato_ms));
}

static void nvmf_subsystem_get_controllers(void *arg, struct rpc_request *req, const void *args)
{
    const struct controllers_args *a = args;
    struct nvmf_subsystem *ss = need_nvmf_subsystem(arg, req, a->nqn);
    json_t *list;

    if (!ss)
        return;
    list = json_array();
    nvmf_controller_for_each(ss, add_controller, list);
    rpc_result(req, list);
}

struct stats_args {
    const char *tgt_name;
};
static const struct rpc_param stats_params[] = {NVMF_TGT_NAME_PARAM(stats_args, "-t")};

static json_t *poll_group_json(const struct control_ctx *ctx, unsigned i)
{
    struct nvmf_reactor_stats s = nvmf_get_stats(ctx->nvmf, i);
    json_t *transports = json_array();

    if (nvmf_transport_get(ctx->nvmf))
        json_array_append_new(transports,
                              json_pack("{s:s,s:I}", "trtype", "TCP", "pending_data_buffer",
                                        (json_int_t)s.waited_for_buffer));
    return json_pack("{s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:o}", "name", s.name, "admin_qpairs",
                     (json_int_t)s.admin_queues, "io_qpairs", (json_int_t)s.io_queues,
                     "current_admin_qpairs", (json_int_t)s.current_admin_queues,
                     "current_io_qpairs", (json_int_t)s.current_io_queues, "pending_bdev_io",
                     (json_int_t)s.pending_io, "completed_nvme_io", (json_int_t)s.completed_io,
                     "transports", transports);
}

static void nvmf_get_stats_rpc(void *arg, struct rpc_request *req, const void *args)
{
    struct control_ctx *ctx = arg;
    json_t *list = json_array();

    for (unsigned i = 0; i < ctx->nreactors; i++)
        json_array_append_new(list, poll_group_json(ctx, i));
    rpc_result(req,
               json_pack("{s:I,s:o}", "tick_rate", (json_int_t)1000000000, "poll_groups", list));
}

static const struct rpc_method methods[] = {
    {"nvmf_subsystem_get_controllers", RPC_PARAMS(controllers_params),
     sizeof(struct controllers_args), nvmf_subsystem_get_controllers,
     "list the hosts that are connected to a subsystem", 0,
     "array of {cntlid, hostnqn, hostid, num_io_qpairs, kato_ms}"},
    {"nvmf_get_stats", RPC_PARAMS(stats_params), sizeof(struct stats_args), nvmf_get_stats_rpc,
     "queues and I/O of each reactor", 0,
     "{tick_rate, poll_groups: [{name, admin_qpairs, io_qpairs, completed_nvme_io, ...}]}"},
};
const struct rpc_method_table nvmf_stats_methods = RPC_TABLE(methods);
