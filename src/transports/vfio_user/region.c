/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Regions: the BARs and the configuration space. */
#include "base/checked.h"
#include "base/util.h"
#include "spec/pci.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <string.h>

static uint64_t region_bytes(const struct vfio_user *vu, uint32_t index)
{
    if (index < PCI_BARS)
        return vu->o.bar_bytes[index];
    return index == VFIO_PCI_CONFIG ? PCI_CONFIG_BYTES : 0;
}

/* The reply says how long the full answer is; the descriptor comes only with the full answer, as
 * QEMU refuses a second one. */
int region_info(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct {
        struct vfio_user_region_info info;
        struct vfio_region_cap cap; /* struct vfio_region_sparse_mmap with one area */
        uint32_t nr_areas, reserved;
        struct vfio_region_area area;
    } answer = {0};
    struct vfio_user_region_info *info = &answer.info;
    uint32_t argsz;

    memcpy(info, m->payload, sizeof(*info));
    argsz = info->argsz;
    if (info->index >= VFIO_PCI_REGIONS || argsz < sizeof(*info))
        return -EINVAL;
    info->size = region_bytes(vu, info->index);
    info->flags = info->size ? VFIO_REGION_F_READ | VFIO_REGION_F_WRITE : 0;
    info->offset = 0;
    info->cap_offset = 0;
    info->argsz = sizeof(*info);
    r->len = sizeof(*info);
    if (vu->mapped && info->index == vu->o.map_bar) {
        info->flags |= VFIO_REGION_F_MMAP | VFIO_REGION_F_CAPS;
        info->argsz = sizeof(answer);
        if (argsz >= sizeof(answer)) {
            info->cap_offset = offsetof(__typeof__(answer), cap);
            answer.cap = (struct vfio_region_cap){.id = VFIO_REGION_CAP_SPARSE_MMAP, .version = 1};
            answer.nr_areas = 1;
            answer.area = (struct vfio_region_area){vu->o.map_offset, vu->o.map_bytes};
            r->len = sizeof(answer);
            r->fd = vu->o.map_fd;
        }
    }
    memcpy(r->payload, &answer, r->len);
    return 0;
}

static int check_access(const struct vfio_user *vu, const struct vfio_user_region_access *a)
{
    uint64_t bytes = a->region < VFIO_PCI_REGIONS ? region_bytes(vu, a->region) : 0;

    if (bytes == 0 || a->count == 0 || !checked_range(a->offset, a->count, bytes))
        return -EINVAL;
    return 0;
}

int region_read(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_region_access a;
    uint8_t *data = r->payload + sizeof(a);
    int rc;

    memcpy(&a, m->payload, sizeof(a));
    rc = check_access(vu, &a);
    if (rc < 0)
        return rc;
    if (a.count > sizeof(r->payload) - sizeof(a))
        return -EINVAL;
    memcpy(r->payload, &a, sizeof(a));
    r->len = (uint32_t)sizeof(a) + a.count;
    if (vu->hidden)
        memset(data, 0xff, a.count);
    else if (a.region == VFIO_PCI_CONFIG)
        pci_config_read(vu->o.pci, a.offset, data, a.count);
    else if (a.region == vu->o.msix_bar)
        pci_msix_read(vu->o.pci, a.offset, data, a.count);
    else
        vu->o.ops->bar_read(vu->o.dev, a.region, a.offset, data, a.count);
    return 0;
}

/* 0, STREAM_LATER (for the reply) or -errno. */
static int write_one(struct vfio_user *vu, const struct vfio_user_region_access *a,
                     const void *data)
{
    int rc = check_access(vu, a);
    unsigned events;

    if (rc < 0)
        return rc;
    if (vu->hidden)
        return 0;
    if (a->region == VFIO_PCI_CONFIG) {
        events = pci_config_write(vu->o.pci, a->offset, data, a->count);
        if (events && vu->o.ops->config_written(vu->o.dev, events) == VFIO_USER_LATER) {
            vu->stream.wait = WAIT_CONFIG;
            return STREAM_LATER;
        }
    } else if (a->region == vu->o.msix_bar) {
        pci_msix_write(vu->o.pci, a->offset, data, a->count);
    } else {
        vu->o.ops->bar_write(vu->o.dev, a->region, a->offset, data, a->count);
    }
    return 0;
}

int region_write(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_region_access a;

    memcpy(&a, m->payload, sizeof(a));
    if (m->len - sizeof(a) != a.count)
        return -EINVAL;
    memcpy(r->payload, &a, sizeof(a));
    r->len = sizeof(a);
    return write_one(vu, &a, m->payload + sizeof(a));
}

/* Entries are taken in order; a bad one is skipped: nobody waits for a reply. */
int region_write_multi(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    struct vfio_user_write_multi head;
    int rc = 0, worst = 0;

    memcpy(&head, m->payload, sizeof(head));
    if (head.wr_cnt > VFIO_USER_WRITE_MULTI_MAX ||
        m->len != sizeof(head) + head.wr_cnt * sizeof(struct vfio_user_write_one))
        return -EINVAL;
    for (uint64_t i = 0; i < head.wr_cnt; i++) {
        struct vfio_user_write_one w;
        struct vfio_user_region_access a;

        memcpy(&w, m->payload + sizeof(head) + i * sizeof(w), sizeof(w));
        a = (struct vfio_user_region_access){w.offset, w.region, w.count};
        rc = w.count <= sizeof(w.data) ? write_one(vu, &a, w.data) : -EINVAL;
        if (rc < 0)
            worst = rc;
    }
    memcpy(r->payload, &head, sizeof(head));
    r->len = sizeof(head);
    if (vu->stream.wait != WAIT_NOTHING)
        return STREAM_LATER;
    return worst;
}
