/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A virtio-blk controller on the control thread. Its life is controller/'s; here it gets its
 * device, and its bdev comes and goes. */
#include "devices/virtio_blk/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vblk_ctrl {
    struct controller base;
    struct vblk_dev *dev;
    struct bdev *bdev; /* claimed; NULL: none */
    bool moving;       /* an attach or detach is under way */
    struct bdev_listener listener;
    bool indirect_desc;
    char vblk_id[VBLK_ID_BYTES + 1];
};

struct disk_errand {
    struct errand base;
    struct bdev *bdev;
    uint64_t nblocks;
    char vblk_id[VBLK_ID_BYTES];
    bool set_id;
};

struct rings_errand {
    struct errand base;
    struct vblk_rings *ret;
};

static struct vblk_ctrl *ctrl_of(struct controller *c)
{
    return container_of(c, struct vblk_ctrl, base);
}

static struct disk_errand *disk_errand_of(struct errand *e)
{
    return container_of(e, struct disk_errand, base);
}

/* ---- the bdev ---- */

static void resize_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    vblk_disk_resize(vblk_dev_of(e->ctrl->dev), disk_errand_of(e)->nblocks);
    errand_back(e, 0);
}

static void resized(struct bdev_listener *l, struct bdev *bd)
{
    struct vblk_ctrl *ctrl = container_of(l, struct vblk_ctrl, listener);
    struct errand *e;

    if (ctrl->base.state == CONTROLLER_LEAVING)
        return;
    e = errand_new(&ctrl->base, sizeof(struct disk_errand), NULL, NULL);
    disk_errand_of(e)->nblocks = bdev_get_info(bd).nblocks;
    errand_go(e, resize_on_reactor);
}

static int take_bdev(struct vblk_ctrl *ctrl, struct bdev *bdev, struct err *err)
{
    char who[LINK_NAME_BYTES + 16];
    int rc;

    if (bdev_claims(bdev)) /* two hosts that do not know of each other */
        return err_set(err, -EBUSY,
                       "bdev '%s' is in use already, by a namespace or another controller",
                       bdev_name(bdev));
    snprintf(who, sizeof(who), "controller %s", ctrl->base.ctrl_id);
    rc = bdev_claim(bdev, who, err);
    if (rc < 0)
        return rc;
    ctrl->bdev = bdev;
    ctrl->listener.resized = resized;
    bdev_listen(bdev, &ctrl->listener);
    return 0;
}

static void leave_bdev(struct vblk_ctrl *ctrl)
{
    if (!ctrl->bdev)
        return;
    bdev_unlisten(&ctrl->listener);
    bdev_release(ctrl->bdev);
    ctrl->bdev = NULL;
}

/* ---- its kind ---- */

static void ctrl_free(struct controller *c)
{
    struct vblk_ctrl *ctrl = ctrl_of(c);

    leave_bdev(ctrl);
    vblk_dev_destroy(ctrl->dev);
    free(ctrl);
}

static const struct controller_kind kind = {
    .word = "virtio-blk",
    .function_kind = FUNCTION_VIRTIO_BLK,
    .ops = &vblk_function_ops,
    .free = ctrl_free,
};

struct controller *vblk_ctrl_base(struct vblk_ctrl *ctrl)
{
    return &ctrl->base;
}

struct vblk_ctrl *vblk_ctrl_from(struct controller *c)
{
    return c->kind == &kind ? ctrl_of(c) : NULL;
}

/* ---- create ---- */

static uint64_t features_of(const struct vblk_ctrl_opts *o)
{
    uint64_t f = VIRTIO_BLK_F_SEG_MAX | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH |
                 VIRTIO_BLK_F_TOPOLOGY | VIRTIO_BLK_F_CONFIG_WCE | VIRTIO_BLK_F_MQ |
                 VIRTIO_F_RING_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED |
                 VIRTIO_F_RING_RESET;
    struct bdev_info info = {.can_unmap = true, .can_write_zeroes = true};

    /* What one comes with is not known yet when there is none. */
    if (o->bdev)
        info = bdev_get_info(o->bdev);
    if (o->size_max)
        f |= VIRTIO_BLK_F_SIZE_MAX;
    if (o->indirect_desc)
        f |= VIRTIO_F_RING_INDIRECT_DESC;
    if (o->read_only || info.read_only)
        return f | VIRTIO_BLK_F_RO;
    if (info.can_unmap)
        f |= VIRTIO_BLK_F_DISCARD;
    if (info.can_write_zeroes)
        f |= VIRTIO_BLK_F_WRITE_ZEROES;
    return f;
}

static int check_opts(const struct vblk_ctrl_opts *o, struct vblk_dev_opts *d, struct err *err)
{
    const struct link_function_info *f;
    uint32_t most;
    int rc = controller_check_function(o->base.link, o->base.function, &kind, err);

    if (rc < 0)
        return rc;
    f = link_function_get(o->base.link, o->base.function);
    most = MIN(f->num_msix > 1 ? f->num_msix - 1 : 1, (uint32_t)VBLK_MAX_QUEUES);
    if (o->num_queues > most)
        return err_set(err, -EINVAL,
                       "num_queues %u: function %s has %u vectors, so 1 to %u are "
                       "possible",
                       o->num_queues, f->vuid, f->num_msix, most);
    d->num_queues = o->num_queues ? o->num_queues : most;
    d->queue_size =
        o->queue_size ? o->queue_size : MIN((uint32_t)VBLK_DEFAULT_QUEUE_SIZE, f->max_queue_depth);
    if (d->queue_size < 2 || d->queue_size > f->max_queue_depth ||
        (d->queue_size & (d->queue_size - 1)))
        return err_set(err, -EINVAL,
                       "queue_size %u: a power of two from 2 to %u is possible "
                       "(VIRTIO_BLK_EMULATION_MAX_QUEUE_DEPTH of the topology)",
                       d->queue_size, f->max_queue_depth);
    d->seg_max = o->seg_max ? o->seg_max : MAX(d->queue_size - 2, 1U);
    d->seg_max = o->seg_max ? d->seg_max : MIN(d->seg_max, (uint32_t)VBLK_MAX_SEGMENTS);
    if (d->seg_max > VBLK_MAX_SEGMENTS)
        return err_set(err, -EINVAL, "seg_max %u: 1 to %d are possible", o->seg_max,
                       VBLK_MAX_SEGMENTS);
    if (o->size_max && o->size_max < 4096)
        return err_set(err, -EINVAL, "size_max %u: at least 4096", o->size_max);
    if (o->vblk_id && strlen(o->vblk_id) > VBLK_ID_BYTES)
        return err_set(err, -EINVAL, "vblk_id '%.40s' has %zu characters, %d are possible",
                       o->vblk_id, strlen(o->vblk_id), VBLK_ID_BYTES);
    d->size_max = o->size_max;
    d->read_only = o->read_only;
    d->features = features_of(o);
    return 0;
}

/* The serial number: given, or so that two disks differ. */
static void choose_id(const struct vblk_ctrl_opts *o, char id[VBLK_ID_BYTES])
{
    const char *vuid = link_function_get(o->base.link, o->base.function)->vuid;
    size_t len = strlen(vuid);

    memset(id, 0, VBLK_ID_BYTES);
    if (!o->vblk_id)
        vuid += len > VBLK_ID_BYTES ? len - VBLK_ID_BYTES : 0;
    memcpy(id, o->vblk_id ? o->vblk_id : vuid,
           strnlen(o->vblk_id ? o->vblk_id : vuid, VBLK_ID_BYTES));
}

static void open_disk_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    errand_back(e, vblk_disk_open(vblk_dev_of(e->ctrl->dev), disk_errand_of(e)->bdev, &e->err));
}

/* Opened ahead of the lease, so that the device never shows capacity 0 to a host that knows it. */
static void disk_opened(struct errand *e)
{
    struct vblk_ctrl *ctrl = ctrl_of(e->ctrl);

    if (e->rc < 0)
        leave_bdev(ctrl);
}

int vblk_ctrl_create(const struct vblk_ctrl_opts *opts, struct vblk_ctrl **ret,
                     controller_cb created, void *arg, struct err *err)
{
    struct vblk_dev_opts dev_opts = {.name = opts->base.ctrl_id, .reactor = opts->base.reactor};
    struct vblk_ctrl *ctrl;
    struct errand *e;
    int rc = check_opts(opts, &dev_opts, err);

    if (rc < 0)
        return rc;
    choose_id(opts, dev_opts.vblk_id);
    ctrl = calloc(1, sizeof(*ctrl));
    if (!ctrl)
        return err_set(err, -ENOMEM, "no memory for controller %s", opts->base.ctrl_id);
    ctrl->indirect_desc = opts->indirect_desc;
    memcpy(ctrl->vblk_id, dev_opts.vblk_id, VBLK_ID_BYTES);
    snprintf(ctrl->base.ctrl_id, sizeof(ctrl->base.ctrl_id), "%s", opts->base.ctrl_id);
    ctrl->dev = vblk_dev_create(&dev_opts, err);
    rc = ctrl->dev ? 0 : -ENOMEM;
    if (rc == 0 && opts->bdev)
        rc = take_bdev(ctrl, opts->bdev, err);
    if (rc == 0)
        rc = controller_open(&ctrl->base, &kind, &ctrl->dev->base, &opts->base, created, arg, err);
    if (rc < 0) {
        ctrl_free(&ctrl->base);
        return rc;
    }
    if (opts->bdev) { /* reaches the reactor before the lease's adoption does */
        e = errand_new(&ctrl->base, sizeof(struct disk_errand), NULL, NULL);
        disk_errand_of(e)->bdev = opts->bdev;
        e->back = disk_opened;
        errand_go(e, open_disk_on_reactor);
    }
    if (ret)
        *ret = ctrl;
    return 0;
}

/* ---- attach and detach ---- */

static void attach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct disk_errand *d = disk_errand_of(e);
    struct vblk_dev *dev = vblk_dev_of(e->ctrl->dev);
    int rc = vblk_disk_open(dev, d->bdev, &e->err);

    if (rc == 0) {
        if (d->set_id)
            memcpy(dev->o.vblk_id, d->vblk_id, sizeof(d->vblk_id));
        if (dev->base.f) {
            vblk_config_put(dev, dev->owns_state);
            crash_point(vblk_config_told);
            if (dev->owns_state)
                vblk_store_identity(dev);
        }
    }
    errand_back(e, rc);
}

static void attached(struct errand *e)
{
    struct vblk_ctrl *ctrl = ctrl_of(e->ctrl);
    struct disk_errand *d = disk_errand_of(e);

    ctrl->moving = false;
    if (e->rc < 0)
        leave_bdev(ctrl);
    else if (d->set_id)
        memcpy(ctrl->vblk_id, d->vblk_id, sizeof(d->vblk_id));
}

void vblk_ctrl_attach(struct vblk_ctrl *ctrl, struct bdev *bdev, const char *vblk_id,
                      controller_cb done, void *arg)
{
    struct errand *e = errand_new(&ctrl->base, sizeof(struct disk_errand), done, arg);
    struct disk_errand *d = disk_errand_of(e);
    int rc = 0;

    if (ctrl->base.state == CONTROLLER_LEAVING || ctrl->moving)
        rc = err_set(&e->err, -EBUSY, "controller %s is busy with its bdev, or is being destroyed",
                     ctrl->base.ctrl_id);
    else if (ctrl->bdev)
        rc = err_set(&e->err, -EBUSY, "controller %s has bdev '%s' attached: detach it first",
                     ctrl->base.ctrl_id, bdev_name(ctrl->bdev));
    else if (vblk_id && strlen(vblk_id) > VBLK_ID_BYTES)
        rc = err_set(&e->err, -EINVAL, "vblk_id '%.40s' has %zu characters, %d are possible",
                     vblk_id, strlen(vblk_id), VBLK_ID_BYTES);
    else
        rc = take_bdev(ctrl, bdev, &e->err);
    if (rc < 0) {
        errand_now(e, rc);
        return;
    }
    ctrl->moving = true;
    d->bdev = bdev;
    d->set_id = vblk_id;
    if (vblk_id)
        memcpy(d->vblk_id, vblk_id, strlen(vblk_id));
    e->back = attached;
    errand_go(e, attach_on_reactor);
}

static void detach_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);

    vblk_dev_detach(vblk_dev_of(e->ctrl->dev), errand_answer, e);
}

static void detached(struct errand *e)
{
    struct vblk_ctrl *ctrl = ctrl_of(e->ctrl);

    ctrl->moving = false;
    if (e->rc == 0)
        leave_bdev(ctrl);
}

void vblk_ctrl_detach(struct vblk_ctrl *ctrl, controller_cb done, void *arg)
{
    struct errand *e = errand_new(&ctrl->base, sizeof(*e), done, arg);

    if (ctrl->base.state == CONTROLLER_LEAVING || ctrl->moving) {
        err_set(&e->err, -EBUSY, "controller %s is busy with its bdev, or is being destroyed",
                ctrl->base.ctrl_id);
        errand_now(e, -EBUSY);
        return;
    }
    if (!ctrl->bdev) {
        err_set(&e->err, -ENODEV, "controller %s has no bdev", ctrl->base.ctrl_id);
        errand_now(e, -ENODEV);
        return;
    }
    ctrl->moving = true;
    e->back = detached;
    errand_go(e, detach_on_reactor);
}

/* ---- describing ---- */

struct vblk_ctrl_info vblk_ctrl_get_info(const struct vblk_ctrl *ctrl)
{
    const struct vblk_dev *dev = ctrl->dev;

    return (struct vblk_ctrl_info){
        .ctrl_id = ctrl->base.ctrl_id,
        .vblk_id = ctrl->vblk_id,
        .bdev = ctrl->bdev,
        .num_queues = dev->o.num_queues,
        .queue_size = dev->o.queue_size,
        .seg_max = dev->o.seg_max,
        .size_max = dev->o.size_max,
        .read_only = dev->o.read_only,
        .indirect_desc = ctrl->indirect_desc,
        .counts = &dev->base.counts,
    };
}

bool vblk_ctrl_queue_stats(const struct vblk_ctrl *ctrl, unsigned index,
                           struct vblk_queue_stats *ret)
{
    const struct vblk_dev *dev = ctrl->dev;

    *ret = (struct vblk_queue_stats){dev->stats[index].reads,        dev->stats[index].writes,
                                     dev->stats[index].flushes,      dev->stats[index].discards,
                                     dev->stats[index].write_zeroes, dev->stats[index].errors};
    return atomic_load(&dev->has_queue) >> index & 1;
}

static void rings_on_reactor(struct mail *m)
{
    struct errand *e = errand_of(m);
    struct vblk_rings *r = container_of(e, struct rings_errand, base)->ret;
    struct vblk_dev *dev = vblk_dev_of(e->ctrl->dev);

    r->n = 0;
    for (unsigned i = 0; i < dev->nqueues; i++) {
        struct vblk_queue *q = dev->queue[i];

        if (!q || !q->vq)
            continue;
        r->ring[r->n].index = i;
        r->ring[r->n].run = !vblk_queue_held(q);
        r->ring[r->n++].info = virtq_get_info(q->vq);
    }
    errand_back(e, 0);
}

void vblk_ctrl_rings(struct vblk_ctrl *ctrl, struct vblk_rings *ret, controller_cb done, void *arg)
{
    struct errand *e = errand_new(&ctrl->base, sizeof(struct rings_errand), done, arg);

    container_of(e, struct rings_errand, base)->ret = ret;
    errand_go(e, rings_on_reactor);
}
