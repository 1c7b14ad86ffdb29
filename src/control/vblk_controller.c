/* SPDX-License-Identifier: BSD-3-Clause
 *
 * virtio-blk controllers: made on a function, suspended, resumed, given a bdev, destroyed. */
#include "control/controller.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- create ---- */

struct create_args {
    const char *ctrl_id, *bdev, *dbg_bdev_type, *vblk_id;
    struct function_selector function;
    uint32_t num_queues, queue_size, size_max, seg_max, vf_num_msix;
    bool read_only, indirect_desc, indirect_desc_set, force_in_order, admin_q, dbg_local_optimized,
        suspended, live_update_listener, dynamic_msix;
};
#define AT(member) offsetof(struct create_args, member)
static const struct rpc_param create_params[] = {
    {"ctrl_id", RPC_STR, AT(ctrl_id), RPC_NAME, "its name (default: VblkCtrl<n>)", "-c", "ctrl", 0,
     0, 0},
    FUNCTION_SELECTOR(create_args, function),
    {"bdev", RPC_STR, AT(bdev), 0, "bdev behind it (default, or \"none\": none, capacity 0)", "-b",
     NULL, 0, 0, 63},
    {"dbg_bdev_type", RPC_STR, AT(dbg_bdev_type), 0,
     "\"null\": serve the function without a bdev; \"spdk\": the default", NULL, NULL, 0, 0, 0},
    {"vblk_id", RPC_STR, AT(vblk_id), 0,
     "serial number, up to 20 characters (default: the end of the vuid)", NULL, "serial", 0, 0,
     VBLK_ID_BYTES},
    {"num_queues", RPC_U32, AT(num_queues), 0, "virtqueues (default: as many as possible)", NULL,
     NULL, 0, 1, VBLK_MAX_QUEUES},
    {"queue_size", RPC_U32, AT(queue_size), 0,
     "largest ring accepted, a power of two (default 256)", NULL, "queue_depth", 0, 2, 32768},
    {"size_max", RPC_U32, AT(size_max), 0, "bytes of a segment (default: no limit)", NULL, NULL, 0,
     4096, UINT32_MAX},
    {"seg_max", RPC_U32, AT(seg_max), 0, "segments of a request (default: queue_size - 2)", NULL,
     NULL, 0, 1, VBLK_MAX_SEGMENTS},
    {"read_only", RPC_BOOL, AT(read_only), 0, "writes are refused", NULL, NULL, 0, 0, 0},
    {"indirect_desc", RPC_BOOL, AT(indirect_desc), 0, "indirect descriptors (default: on)", NULL,
     NULL, AT(indirect_desc_set) + 1, 0, 0},
    {"force_in_order", RPC_BOOL, AT(force_in_order), RPC_UNSUPPORTED, "complete in order", NULL,
     NULL, 0, 0, 0},
    {"admin_q", RPC_BOOL, AT(admin_q), RPC_UNSUPPORTED, "administration virtqueue", NULL,
     "dbg_admin_q", 0, 0, 0},
    {"dbg_local_optimized", RPC_BOOL, AT(dbg_local_optimized), RPC_UNSUPPORTED, "", NULL, NULL, 0,
     0, 0},
    {"suspended", RPC_BOOL, AT(suspended), 0, "serve nothing before virtio_blk_controller_resume",
     NULL, NULL, 0, 0, 0},
    {"live_update_listener", RPC_BOOL, AT(live_update_listener), RPC_UNSUPPORTED,
     "be the destination of a live update", "-lu", NULL, 0, 0, 0},
    {"dynamic_msix", RPC_BOOL, AT(dynamic_msix), RPC_UNSUPPORTED, "share vectors with the VFs",
     NULL, NULL, 0, 0, 0},
    {"vf_num_msix", RPC_U32, AT(vf_num_msix), RPC_UNSUPPORTED, "vectors of this VF", NULL, NULL, 0,
     0, 0},
};

/* false: answered. *ret NULL: none wanted. */
static bool find_bdev(struct control_ctx *ctx, struct rpc_request *req, const char *name,
                      const char *type, struct bdev **ret)
{
    *ret = NULL;
    if (type && strcmp(type, "null") != 0 && strcmp(type, "spdk") != 0 &&
        strcmp(type, "none") != 0) {
        rpc_error(req, RPC_ERR_PARAMS,
                  "Invalid parameters: 'dbg_bdev_type' is '%.30s', not one of null, spdk, none",
                  type);
        return false;
    }
    if (!name || strcmp(name, "none") == 0)
        return true;
    *ret = bdev_find(ctx->bdevs, name);
    /* Saved when it was created, detached and deleted since: what was attached later follows in the
     * journal. If nothing does, the host is not shown another disk (identity). */
    if (*ret || rpc_replaying(req))
        return true;
    rpc_error(req, -ENODEV, "no bdev '%s'", name);
    return false;
}

static void virtio_blk_controller_create(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    int function = select_function(ctx, req, &a->function, FUNCTION_VIRTIO_BLK);
    struct controller_opts base;
    struct vblk_ctrl_opts opts;
    struct err err = {0};
    struct action *act;
    struct bdev *bdev;
    char ctrl_id[64];

    if (function < 0 || !find_bdev(ctx, req, a->bdev, a->dbg_bdev_type, &bdev) ||
        !choose_ctrl_id(ctx, req, a->ctrl_id, "VblkCtrl", ctrl_id))
        return;
    act = creation_create(ctx, req, key_of_vblk(ctrl_id), ctrl_id, (unsigned)function, a->suspended,
                          &base);
    if (!act)
        return;
    opts = (struct vblk_ctrl_opts){
        .base = base,
        .bdev = bdev,
        .vblk_id = a->vblk_id,
        .num_queues = a->num_queues,
        .queue_size = a->queue_size,
        .seg_max = a->seg_max,
        .size_max = a->size_max,
        .read_only = a->read_only,
        .indirect_desc = a->indirect_desc_set ? a->indirect_desc : true,
    };
    if (vblk_ctrl_create(&opts, NULL, controller_created, act, &err) < 0)
        controller_created(act, err.code, &err);
}

/* ---- the calls all controllers have ---- */

struct vblk_ctrl *need_vblk(struct control_ctx *ctx, struct rpc_request *req, const char *ctrl_id)
{
    struct controller *c = controller_find(&ctx->controllers, ctrl_id);
    struct vblk_ctrl *ctrl = c ? vblk_ctrl_from(c) : NULL;

    if (!ctrl)
        rpc_error(req, -ENODEV, "no virtio-blk controller '%s'", ctrl_id);
    return ctrl;
}

static void virtio_blk_controller_destroy(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_destroy_args *a = args;
    struct vblk_ctrl *ctrl = need_vblk(arg, req, a->ctrl_id);

    if (ctrl)
        destroy_controller(arg, req, vblk_ctrl_base(ctrl), key_of_vblk(a->ctrl_id), a);
}

static const struct rpc_param suspend_params[] = {
    CTRL_ID(ctrl_suspend_args),
    {"timeout_ms", RPC_U64, offsetof(struct ctrl_suspend_args, timeout_ms), 0,
     "longest wait for I/O in flight (default: none)", "-t", NULL, 0, 0, 3600000},
    {"events_only", RPC_BOOL, offsetof(struct ctrl_suspend_args, events_only), 0,
     "stop control events only; I/O goes on. Not saved", NULL, NULL, 0, 0, 0},
    {"live_update_notifier", RPC_BOOL, offsetof(struct ctrl_suspend_args, live_update_notifier),
     RPC_UNSUPPORTED, "tell the destination of a live update", "-lu", NULL, 0, 0, 0},
    {"force", RPC_BOOL, offsetof(struct ctrl_suspend_args, force), RPC_UNSUPPORTED, "", NULL, NULL,
     0, 0, 0},
};

static void virtio_blk_controller_suspend(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_suspend_args *a = args;
    struct vblk_ctrl *ctrl = need_vblk(arg, req, a->ctrl_id);

    if (ctrl)
        suspend_controller(arg, req, vblk_ctrl_base(ctrl), key_of_vblk(a->ctrl_id), a);
}

static void virtio_blk_controller_resume(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_args *a = args;
    struct vblk_ctrl *ctrl = need_vblk(arg, req, a->ctrl_id);

    if (ctrl)
        resume_controller(arg, req, vblk_ctrl_base(ctrl), key_of_vblk(a->ctrl_id));
}

/* ---- the bdev comes and goes: the last such call is saved, behind the bdevs there are now ---- */

struct attach_args {
    const char *ctrl_id, *bdev, *vblk_id, *dbg_bdev_type;
    uint32_t size_max, seg_max;
};
static const struct rpc_param attach_params[] = {
    CTRL_ID(attach_args),
    {"bdev", RPC_STR, offsetof(struct attach_args, bdev), RPC_REQUIRED, "bdev", "-b", NULL, 0, 0,
     63},
    {"vblk_id", RPC_STR, offsetof(struct attach_args, vblk_id), 0,
     "serial number from now on, up to 20 characters", NULL, NULL, 0, 0, VBLK_ID_BYTES},
    {"dbg_bdev_type", RPC_STR, offsetof(struct attach_args, dbg_bdev_type), 0,
     "\"null\": no bdev; \"spdk\": the default", NULL, NULL, 0, 0, 0},
    {"size_max", RPC_U32, offsetof(struct attach_args, size_max), RPC_UNSUPPORTED, "", NULL, NULL,
     0, 0, 0},
    {"seg_max", RPC_U32, offsetof(struct attach_args, seg_max), RPC_UNSUPPORTED, "", NULL, NULL, 0,
     0, 0},
};

static void save_bdev(struct action *act)
{
    char *key = key_below(act->key, "bdev");

    rpc_journal_drop(act->req, key);
    save_put(act->req, key);
}

static void forget_bdev(struct action *act)
{
    save_drop(act->req, key_below(act->key, "bdev"));
}

struct replacing {
    struct vblk_ctrl *ctrl;
    struct bdev *bdev;
    struct action *act;
    char vblk_id[VBLK_ID_BYTES + 1];
};

static void attach_next(void *arg, int rc, const struct err *err)
{
    struct replacing r = *(struct replacing *)arg;

    free(arg);
    if (rc < 0)
        acted(r.act, rc, err);
    else
        vblk_ctrl_attach(r.ctrl, r.bdev, r.vblk_id[0] ? r.vblk_id : NULL, acted, r.act);
}

static void virtio_blk_controller_bdev_attach(void *arg, struct rpc_request *req, const void *args)
{
    const struct attach_args *a = args;
    struct control_ctx *ctx = arg;
    struct vblk_ctrl *ctrl = need_vblk(ctx, req, a->ctrl_id);
    struct replacing *r;
    struct action *act;
    struct err err = {0};
    struct bdev *bdev;
    int rc;

    if (!ctrl || !find_bdev(ctx, req, a->bdev, a->dbg_bdev_type, &bdev))
        return;
    if (!bdev) { /* "none": a dummy, as it is without one; or a saved bdev that does not come back
                  */
        if (strcmp(a->bdev, "none") == 0)
            rpc_true(req);
        else
            rpc_error(req, -ENODEV, "no bdev '%s'", a->bdev);
        return;
    }
    act = action_create(ctx, req, key_of_vblk(a->ctrl_id), a->ctrl_id, NULL);
    if (!act)
        return;
    if (rpc_replaying(req) && vblk_ctrl_get_info(ctrl).bdev) { /* of the saved creation */
        r = calloc(1, sizeof(*r));
        if (!r) {
            err_set(&err, -ENOMEM, "out of memory");
            acted(act, -ENOMEM, &err);
            return;
        }
        *r = (struct replacing){.ctrl = ctrl, .bdev = bdev, .act = act};
        snprintf(r->vblk_id, sizeof(r->vblk_id), "%s", a->vblk_id ? a->vblk_id : "");
        vblk_ctrl_detach(ctrl, attach_next, r);
        return;
    }
    if (vblk_ctrl_get_info(ctrl).bdev) {
        err_set(&err, -EBUSY, "controller '%s' has bdev '%s' attached: detach it first", a->ctrl_id,
                bdev_name(vblk_ctrl_get_info(ctrl).bdev));
        acted(act, -EBUSY, &err);
        return;
    }
    act->failure = forget_bdev;
    /* Saved first: once the host has been told, the next service has to show the same disk. The
     * other way round does no harm. So a detach is saved last. */
    save_bdev(act);
    rc = rpc_journal_flush(req, &err);
    if (rc < 0) {
        acted(act, rc, &err);
        return;
    }
    vblk_ctrl_attach(ctrl, bdev, a->vblk_id, acted, act);
}

static void virtio_blk_controller_bdev_detach(void *arg, struct rpc_request *req, const void *args)
{
    const struct ctrl_args *a = args;
    struct control_ctx *ctx = arg;
    struct vblk_ctrl *ctrl = need_vblk(ctx, req, a->ctrl_id);
    struct action *act;

    if (!ctrl)
        return;
    if (rpc_replaying(req) && !vblk_ctrl_get_info(ctrl).bdev) {
        rpc_true(req); /* the bdev of the saved creation is gone */
        return;
    }
    act = action_create(ctx, req, key_of_vblk(a->ctrl_id), a->ctrl_id, save_bdev);
    if (act)
        vblk_ctrl_detach(ctrl, acted, act);
}

static const struct rpc_method methods[] = {
    {"virtio_blk_controller_create", RPC_PARAMS(create_params), sizeof(struct create_args),
     virtio_blk_controller_create, "open a virtio-blk controller on a function", RPC_JOURNAL,
     "{ctrl_id}"},
    {"virtio_blk_controller_destroy", RPC_PARAMS(ctrl_destroy_params),
     sizeof(struct ctrl_destroy_args), virtio_blk_controller_destroy,
     "close a controller and give its function back", RPC_JOURNAL, "true"},
    {"virtio_blk_controller_suspend", RPC_PARAMS(suspend_params), sizeof(struct ctrl_suspend_args),
     virtio_blk_controller_suspend, "stop fetching requests and finish those in flight",
     RPC_JOURNAL, "true"},
    {"virtio_blk_controller_resume", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     virtio_blk_controller_resume, "serve requests (again)", RPC_JOURNAL, "true"},
    {"virtio_blk_controller_bdev_attach", RPC_PARAMS(attach_params), sizeof(struct attach_args),
     virtio_blk_controller_bdev_attach, "show a bdev to the host", RPC_JOURNAL, "true"},
    {"virtio_blk_controller_bdev_detach", RPC_PARAMS(ctrl_params), sizeof(struct ctrl_args),
     virtio_blk_controller_bdev_detach, "take the bdev away from the host: capacity 0", RPC_JOURNAL,
     "true"},
};
const struct rpc_method_table vblk_controller_methods = RPC_TABLE(methods);
