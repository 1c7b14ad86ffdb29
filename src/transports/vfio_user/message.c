/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The messages of a client: rules are columns, handlers see only what has passed them. */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <string.h>

static int dma_map(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    int none = -1, rc, *fd = vu->stream.nfds ? &vu->stream.fds[0] : &none;
    struct vfio_user_dma_map map;
    const struct dma_range *range;

    (void)r;
    memcpy(&map, m->payload, sizeof(map));
    if (map.argsz < sizeof(map))
        return -EINVAL;
    range = dma_add(&vu->dma, &map, fd, &rc);
    if (!range)
        return rc;
    if (range->dma.fd >= 0)
        vu->o.ops->dma_added(vu->o.dev, &range->dma);
    return 0;
}

static enum vfio_user_answer removed(void *arg, const struct vfio_user_dma *dma)
{
    struct vfio_user *vu = arg;

    return vu->o.ops->dma_removed(vu->o.dev, dma);
}

/* Ranges nobody has mapped are fine: a client behind an IOMMU unmaps more than it has mapped. */
static int dma_unmap(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_dma_unmap u;
    bool all;
    int rc;

    memcpy(&u, m->payload, sizeof(u));
    if (u.argsz < sizeof(u))
        return -EINVAL;
    if (u.flags & VFIO_USER_UNMAP_F_DIRTY_BITMAP)
        return -ENOTSUP; /* dirty logging is not offered */
    all = u.flags & VFIO_USER_UNMAP_F_ALL;
    if ((u.flags & ~(uint32_t)VFIO_USER_UNMAP_F_ALL) || (all && (u.iova || u.size)))
        return -EINVAL;
    rc = dma_remove(&vu->dma, u.iova, u.size, all, removed, vu);
    if (rc < 0)
        return rc;
    memcpy(r->payload, &u, sizeof(u));
    r->len = sizeof(u);
    if (rc == 0)
        return 0;
    vu->stream.wait = WAIT_UNMAP;
    return STREAM_LATER;
}

static int device_info(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_device_info info;

    (void)vu;
    memcpy(&info, m->payload, sizeof(info));
    if (info.argsz < sizeof(info))
        return -EINVAL;
    info = (struct vfio_user_device_info){
        .argsz = sizeof(info),
        .flags = VFIO_DEVICE_F_RESET | VFIO_DEVICE_F_PCI,
        .num_regions = VFIO_PCI_REGIONS,
        .num_irqs = VFIO_PCI_IRQS,
    };
    memcpy(r->payload, &info, sizeof(info));
    r->len = sizeof(info);
    return 0;
}

/* Without NORESIZE clients add vectors one by one; with it they would take all away and assign all
 * for each new one. */
static int irq_info(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_irq_info info;

    memcpy(&info, m->payload, sizeof(info));
    if (info.argsz < sizeof(info) || info.index >= VFIO_PCI_IRQS)
        return -EINVAL;
    info.argsz = sizeof(info);
    info.count = irq_count(&vu->irqs, info.index);
    info.flags = info.count ? VFIO_IRQ_F_EVENTFD : 0;
    memcpy(r->payload, &info, sizeof(info));
    r->len = sizeof(info);
    return 0;
}

static int set_irqs(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_irq_set set;
    unsigned start, count;
    int rc;

    (void)r;
    memcpy(&set, m->payload, sizeof(set));
    if (set.argsz < sizeof(set))
        return -EINVAL;
    rc = irq_set(&vu->irqs, vu->o.pci, &set, m->payload + sizeof(set), m->len - sizeof(set),
                 vu->stream.fds, vu->stream.nfds, &start, &count);
    if (rc == 0 && count > 0)
        vu->o.ops->irqs_changed(vu->o.dev, start, count);
    return rc;
}

static int device_reset(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    (void)m;
    (void)r;
    if (vu->o.ops->reset(vu->o.dev) == VFIO_USER_DONE)
        return 0;
    vu->stream.wait = WAIT_RESET;
    return STREAM_LATER;
}

/* No feature, migration included. */
static int device_feature(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    (void)vu;
    (void)m;
    (void)r;
    return -ENOTTY;
}

struct message_rule {
    const char *name;
    uint32_t min, max; /* bytes of payload; max: up to MESSAGE_BYTES */
    unsigned max_fds;
    int (*handle)(struct vfio_user *vu, const struct message *m, struct reply *r);
};

static const struct message_rule rules[VFIO_USER_COMMANDS] = {
    [VFIO_USER_VERSION] = {"VERSION", sizeof(struct vfio_user_version), MESSAGE_BYTES, 0,
                           version_handle},
    [VFIO_USER_DMA_MAP] = {"DMA_MAP", sizeof(struct vfio_user_dma_map),
                           sizeof(struct vfio_user_dma_map), 1, dma_map},
    /* The dirty bitmap's description may follow. */
    [VFIO_USER_DMA_UNMAP] = {"DMA_UNMAP", sizeof(struct vfio_user_dma_unmap),
                             sizeof(struct vfio_user_dma_unmap) + 16, 0, dma_unmap},
    [VFIO_USER_DEVICE_GET_INFO] = {"DEVICE_GET_INFO", sizeof(struct vfio_user_device_info),
                                   MESSAGE_BYTES, 0, device_info},
    [VFIO_USER_DEVICE_GET_REGION_INFO] = {"DEVICE_GET_REGION_INFO",
                                          sizeof(struct vfio_user_region_info), MESSAGE_BYTES, 0,
                                          region_info},
    [VFIO_USER_DEVICE_GET_IRQ_INFO] = {"DEVICE_GET_IRQ_INFO", sizeof(struct vfio_user_irq_info),
                                       MESSAGE_BYTES, 0, irq_info},
    [VFIO_USER_DEVICE_SET_IRQS] = {"DEVICE_SET_IRQS", sizeof(struct vfio_user_irq_set),
                                   sizeof(struct vfio_user_irq_set) + PCI_MSIX_MAX_VECTORS,
                                   VFIO_USER_MAX_MSG_FDS, set_irqs},
    [VFIO_USER_REGION_READ] = {"REGION_READ", sizeof(struct vfio_user_region_access),
                               sizeof(struct vfio_user_region_access), 0, region_read},
    [VFIO_USER_REGION_WRITE] = {"REGION_WRITE", sizeof(struct vfio_user_region_access) + 1,
                                MESSAGE_BYTES, 0, region_write},
    [VFIO_USER_DEVICE_RESET] = {"DEVICE_RESET", 0, 0, 0, device_reset},
    [VFIO_USER_REGION_WRITE_MULTI] = {"REGION_WRITE_MULTI", sizeof(struct vfio_user_write_multi),
                                      sizeof(struct vfio_user_write_multi) +
                                          VFIO_USER_WRITE_MULTI_MAX *
                                              sizeof(struct vfio_user_write_one),
                                      0, region_write_multi},
    [VFIO_USER_DEVICE_FEATURE] = {"DEVICE_FEATURE", sizeof(struct vfio_user_device_feature),
                                  MESSAGE_BYTES, 0, device_feature},
};

int message_handle(struct vfio_user *vu)
{
    static struct log_limit limit;
    struct stream *s = &vu->stream;
    const struct message *m = &vu->msg;
    const struct message_rule *rule;
    int rc;

    if (!s->agreed && m->h.command != VFIO_USER_VERSION) {
        s->closing = true;
        return -EINVAL;
    }
    rule = m->h.command < VFIO_USER_COMMANDS ? &rules[m->h.command] : NULL;
    if (!rule || !rule->handle)
        return -ENOTSUP;
    if (m->len < rule->min || m->len > rule->max || s->nfds > rule->max_fds) {
        s->closing = s->closing || !s->agreed;
        rc = -EINVAL;
    } else {
        rc = rule->handle(vu, m, &vu->reply);
    }
    if (rc < 0)
        log_limited(&limit, LOG_DEBUG, "vfio-user", "%s: %s (%u bytes, %u descriptors): %s",
                    s->name, rule->name, m->len, s->nfds, strerror(-rc));
    return rc;
}
