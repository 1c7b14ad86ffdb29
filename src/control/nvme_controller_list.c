/* SPDX-License-Identifier: BSD-3-Clause
 *
 * NVMe controllers: what they are and what they have done. */
#include "control/controller.h"

#include <errno.h>
#include <string.h>

static void add_namespace(struct nvme_ns *ns, void *arg)
{
    struct nvme_ns_info info = nvme_ns_get_info(ns);

    json_array_append_new(arg, json_pack("{s:I,s:s,s:o}", "nsid", (json_int_t)info.nsid, "bdev",
                                         bdev_name(info.bdev), "uuid", uuid_json(&info.uuid)));
}

json_t *controller_json(struct control_ctx *ctx, struct nvme_ctrl *ctrl)
{
    struct nvme_ctrl_info info = nvme_ctrl_get_info(ctrl);
    json_t *o = json_object(), *namespaces = json_array();

    set_names(o, nvme_ctrl_base(ctrl));
    json_object_set_new(o, "nqn", json_string(nvme_subsystem_get_info(info.subsystem).nqn));
    set_number(o, "cntlid", info.cntlid);
    set_number(o, "mdts", info.mdts);
    set_number(o, "num_queues", info.num_queues);
    set_number(o, "max_queues", NVME_MAX_IO_QUEUES + 1); /* with the admin queue */
    set_state(o, nvme_ctrl_base(ctrl));
    nvme_ctrl_ns_for_each(ctrl, add_namespace, namespaces);
    json_object_set_new(o, "namespaces", namespaces);
    return o;
}

struct list_args {
    const char *ctrl_id, *nqn;
};
static const struct rpc_param list_params[] = {
    {"ctrl_id", RPC_STR, offsetof(struct list_args, ctrl_id), RPC_NAME, "only this one", "-c",
     "ctrl", 0, 0, 0},
    {"nqn", RPC_STR, offsetof(struct list_args, nqn), RPC_NQN, "only of this subsystem", "-s", NULL,
     0, 0, 0},
};

struct listing {
    struct control_ctx *ctx;
    struct nvme_subsystem *ss; /* NULL: all */
    json_t *list;
};

static void add_controller(struct nvme_ctrl *ctrl, void *arg)
{
    struct listing *l = arg;

    if (!l->ss || nvme_ctrl_get_info(ctrl).subsystem == l->ss)
        json_array_append_new(l->list, controller_json(l->ctx, ctrl));
}

static void nvme_controller_list(void *arg, struct rpc_request *req, const void *args)
{
    const struct list_args *a = args;
    struct control_ctx *ctx = arg;
    struct listing l = {.ctx = ctx};
    struct nvme_ctrl *ctrl = NULL;

    if (a->ctrl_id) {
        ctrl = need_controller(ctx, req, a->ctrl_id);
        if (!ctrl)
            return;
    }
    if (a->nqn) {
        l.ss = need_subsystem(ctx, req, a->nqn);
        if (!l.ss)
            return;
    }
    l.list = json_array();
    if (ctrl)
        add_controller(ctrl, &l);
    else
        nvme_ctrl_for_each(ctx->subsystems, add_controller, &l);
    rpc_result(req, l.list);
}

/* ---- counters ---- */

static void set_io_counts(json_t *o, const struct nvme_queue_stats *st)
{
    set_number(o, "read_io_count", st->reads);
    set_number(o, "write_io_count", st->writes);
    set_number(o, "flush_io_count", st->flushes);
}

static void add_bounce(struct nvme_ns *ns, void *arg)
{
    struct bdev_stats st;

    bdev_get_stats(nvme_ns_get_info(ns).bdev, &st);
    *(uint64_t *)arg += st.bounce_bytes;
}

static void nvme_controller_dbg_io_stats_get(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvme_ctrl *ctrl = need_controller(ctx, req, a->ctrl_id);
    struct nvme_queue_stats total = {0};
    struct nvme_ctrl_info info;
    uint64_t bounce_bytes = 0, core;
    json_t *o, *queues;

    if (!ctrl)
        return;
    info = nvme_ctrl_get_info(ctrl);
    core = controller_core(ctx, info.ctrl_id);
    o = json_object();
    queues = json_array();
    for (unsigned qid = 1; qid <= NVME_MAX_IO_QUEUES; qid++) {
        struct nvme_queue_stats st;
        json_t *q;

        if (!nvme_ctrl_queue_stats(ctrl, qid, &st))
            continue;
        q = json_object();
        set_number(q, "queue_id", qid);
        set_number(q, "core_id", core);
        set_io_counts(q, &st);
        json_array_append_new(queues, q);
        total.reads += st.reads;
        total.writes += st.writes;
        total.flushes += st.flushes;
    }
    nvme_ctrl_ns_for_each(ctrl, add_bounce, &bounce_bytes);
    json_object_set_new(o, "ctrl_id", json_string(info.ctrl_id));
    json_object_set_new(o, "queues", queues);
    set_io_counts(o, &total);
    set_number(o, "interrupts", info.counts->interrupts);
    set_number(o, "doorbell_messages", info.doorbell_messages);
    set_number(o, "memory_parked", info.counts->memory_parked);
    set_number(o, "in_flight", info.counts->in_flight);
    set_number(o, "bounce_bytes", bounce_bytes);
    json_object_set_new(o, "recovery", recovery_json(info.counts));
    rpc_result(req, o);
}

static const struct rpc_method methods[] = {
    {"nvme_controller_list", RPC_PARAMS(list_params), sizeof(struct list_args),
     nvme_controller_list, "list NVMe controllers", 0,
     "array of {ctrl_id, vhca_id, vuid, nqn, cntlid, mdts, num_queues, state, plugged, namespaces, "
     "...}"},
    {"nvme_controller_dbg_io_stats_get", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     nvme_controller_dbg_io_stats_get, "I/O counters of a controller and its queues", 0,
     "{ctrl_id, queues: [{queue_id, read_io_count, ...}], interrupts, doorbell_messages, recovery, "
     "...}"},
};
const struct rpc_method_table nvme_controller_list_methods = RPC_TABLE(methods);
