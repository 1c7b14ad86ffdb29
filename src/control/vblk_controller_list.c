/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio-blk controllers: what they are and what they have done. */
#include "control/controller.h"

#include <errno.h>
#include <stdlib.h>

static json_t *vblk_json(struct vblk_ctrl *ctrl)
{
    struct vblk_ctrl_info info = vblk_ctrl_get_info(ctrl);
    json_t *o = json_object();

    set_names(o, vblk_ctrl_base(ctrl));
    set_number(o, "num_queues", info.num_queues);
    set_number(o, "queue_size", info.queue_size);
    set_number(o, "seg_max", info.seg_max);
    set_number(o, "size_max", info.size_max);
    json_object_set_new(o, "bdev", json_string(info.bdev ? bdev_name(info.bdev) : "none"));
    json_object_set_new(o, "vblk_id", json_string(info.vblk_id));
    json_object_set_new(o, "force_in_order", json_false());
    json_object_set_new(o, "admin_q", json_false());
    json_object_set_new(o, "dbg_local_optimized", json_false());
    json_object_set_new(o, "indirect_desc", json_boolean(info.indirect_desc));
    json_object_set_new(o, "read_only", json_boolean(info.read_only));
    set_state(o, vblk_ctrl_base(ctrl));
    return o;
}

static const struct rpc_param list_params[] = {
    {"ctrl_id", RPC_STR, offsetof(struct ctrl_args, ctrl_id), RPC_NAME, "only this one", "-c",
     "ctrl", 0, 0, 0},
};
static void add_one(struct controller *c, void *list)
{
    struct vblk_ctrl *ctrl = vblk_ctrl_from(c);

    if (ctrl)
        json_array_append_new(list, vblk_json(ctrl));
}

static void virtio_blk_controller_list(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_args *a = args;
    struct control_ctx *ctx = arg;
    struct vblk_ctrl *ctrl = a->ctrl_id ? need_vblk(ctx, req, a->ctrl_id) : NULL;
    json_t *list;

    if (a->ctrl_id && !ctrl)
        return;
    list = json_array();
    if (ctrl)
        add_one(vblk_ctrl_base(ctrl), list);
    else
        controller_for_each(&ctx->controllers, add_one, list);
    rpc_result(req, list);
}

/* ---- counters ---- */

static void set_io_counts(json_t *o, const struct vblk_queue_stats *st)
{
    set_number(o, "read_io_count", st->reads);
    set_number(o, "write_io_count", st->writes);
    set_number(o, "flush_io_count", st->flushes);
    set_number(o, "discard_io_count", st->discards);
    set_number(o, "write_zeroes_io_count", st->write_zeroes);
    set_number(o, "error_io_count", st->errors);
}

static void add_counts(struct vblk_queue_stats *sum, const struct vblk_queue_stats *st)
{
    sum->reads += st->reads;
    sum->writes += st->writes;
    sum->flushes += st->flushes;
    sum->discards += st->discards;
    sum->write_zeroes += st->write_zeroes;
    sum->errors += st->errors;
}

static void virtio_blk_controller_dbg_io_stats_get(void *arg, struct rpc_request *req,
                                                   const void *args)
{
    const struct ctrl_args *a = args;
    struct control_ctx *ctx = arg;
    struct vblk_ctrl *ctrl = need_vblk(ctx, req, a->ctrl_id);
    struct vblk_queue_stats total = {0};
    struct bdev_stats bdev = {0};
    struct vblk_ctrl_info info;
    json_t *o, *queues, *recovery;

    if (!ctrl)
        return;
    info = vblk_ctrl_get_info(ctrl);
    o = json_object();
    queues = json_array();
    for (unsigned i = 0; i < info.num_queues; i++) {
        struct vblk_queue_stats st;
        bool started = vblk_ctrl_queue_stats(ctrl, i, &st);
        json_t *q;

        add_counts(&total, &st);
        if (!started)
            continue;
        q = json_object();
        set_number(q, "queue_id", i);
        set_number(q, "core_id", controller_core(ctx, info.ctrl_id));
        set_io_counts(q, &st);
        json_array_append_new(queues, q);
    }
    if (info.bdev)
        bdev_get_stats(info.bdev, &bdev);
    json_object_set_new(o, "ctrl_id", json_string(info.ctrl_id));
    json_object_set_new(o, "queues", queues);
    set_io_counts(o, &total);
    set_number(o, "interrupts", info.counts->interrupts);
    set_number(o, "kicks", info.counts->kicks);
    set_number(o, "memory_parked", info.counts->memory_parked);
    set_number(o, "in_flight", info.counts->in_flight);
    set_number(o, "bounce_bytes", bdev.bounce_bytes);
    recovery = recovery_json(info.counts);
    set_number(recovery, "from_area", info.counts->from_area);
    json_object_set_new(o, "recovery", recovery);
    rpc_result(req, o);
}

/* ---- rings ---- */

struct rings {
    struct rpc_request *req;
    char ctrl_id[64];
    struct vblk_rings r;
};

static void rings_there(void *arg, int rc, const struct err *err)
{
    struct rings *s = arg;
    json_t *queues = json_array();

    if (rc < 0) {
        json_decref(queues);
        rpc_error_from(s->req, err);
        free(s);
        return;
    }
    for (unsigned i = 0; i < s->r.n; i++) {
        const struct virtq_info *info = &s->r.ring[i].info;
        json_t *q = json_object();
        bool runs = s->r.ring[i].run || info->state[0] != 'R';

        set_number(q, "qid", s->r.ring[i].index);
        json_object_set_new(q, "state", json_string(runs ? info->state : "SUSPENDED"));
        set_number(q, "size", info->size);
        set_number(q, "hw_available_index", info->hw_avail);
        set_number(q, "sw_available_index", info->sw_avail);
        set_number(q, "hw_used_index", info->hw_used);
        set_number(q, "sw_used_index", info->sw_used);
        set_number(q, "hw_received_descs", info->fetched);
        set_number(q, "hw_completed_descs", info->completed);
        json_array_append_new(queues, q);
    }
    rpc_result(s->req, json_pack("{s:s,s:o}", "ctrl_id", s->ctrl_id, "queues", queues));
    free(s);
}

static void virtio_blk_controller_dbg_debug_stats_get(void *arg, struct rpc_request *req,
                                                      const void *args)
{
    const struct ctrl_args *a = args;
    struct vblk_ctrl *ctrl = need_vblk(arg, req, a->ctrl_id);
    struct rings *s = ctrl ? calloc(1, sizeof(*s)) : NULL;

    if (!s) {
        if (ctrl)
            rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    s->req = req;
    snprintf(s->ctrl_id, sizeof(s->ctrl_id), "%s", a->ctrl_id);
    vblk_ctrl_rings(ctrl, &s->r, rings_there, s);
}

static const struct rpc_method methods[] = {
    {"virtio_blk_controller_list", RPC_PARAMS(list_params), sizeof(struct ctrl_args),
     virtio_blk_controller_list, "list virtio-blk controllers", 0,
     "array of {ctrl_id, vhca_id, vuid, num_queues, queue_size, seg_max, bdev, vblk_id, state, "
     "plugged, ...}"},
    {"virtio_blk_controller_dbg_io_stats_get", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     virtio_blk_controller_dbg_io_stats_get, "I/O counters of a controller and its queues", 0,
     "{ctrl_id, queues: [{queue_id, read_io_count, ...}], interrupts, kicks, recovery, ...}"},
    {"virtio_blk_controller_dbg_debug_stats_get", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     virtio_blk_controller_dbg_debug_stats_get, "indices and state of a controller's virtqueues", 0,
     "{ctrl_id, queues: [{qid, state, hw_available_index, sw_available_index, ...}]}"},
};
const struct rpc_method_table vblk_controller_list_methods = RPC_TABLE(methods);
