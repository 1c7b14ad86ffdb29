/* SPDX-License-Identifier: BSD-3-Clause
 *
 * From a connection to queues that run. */
#include "base/util.h"
#include "client/virtio_blk_inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

/* As in a small guest: RAM below and above 4 GiB. */
#define CONTROL_GPA 0x40000000ULL
#define DATA_GPA 0x100000000ULL
enum { RING_MIN = 128, RING_MAX = 1024 };

/* ---- features and configuration ---- */

static int choose_features(struct virtio_blk_host *h, struct err *err)
{
    uint64_t offered = vhost_client_get_info(h->vc).features;
    uint64_t wanted = VIRTIO_F_VERSION_1 | VIRTIO_BLK_F_SIZE_MAX | VIRTIO_BLK_F_SEG_MAX |
                      VIRTIO_BLK_F_RO | VIRTIO_BLK_F_BLK_SIZE | VIRTIO_BLK_F_FLUSH |
                      VIRTIO_BLK_F_MQ | VIRTIO_BLK_F_DISCARD | VIRTIO_BLK_F_WRITE_ZEROES |
                      VHOST_USER_F_PROTOCOL_FEATURES;

    wanted |= h->o.no_indirect ? 0 : VIRTIO_F_RING_INDIRECT_DESC;
    wanted |= h->o.no_event_idx ? 0 : VIRTIO_F_RING_EVENT_IDX;
    wanted |= h->o.packed ? VIRTIO_F_RING_PACKED : 0;
    if (!(offered & VIRTIO_F_VERSION_1))
        return err_set(err, -ENOTSUP, "%s: the device is a legacy one (no VERSION_1)", h->o.path);
    if (h->o.packed && !(offered & VIRTIO_F_RING_PACKED))
        return err_set(err, -ENOTSUP, "%s: the device has no packed rings: use split ones",
                       h->o.path);
    if (h->o.reconnect && !vhost_client_has(h->vc, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
        return err_set(err, -ENOTSUP,
                       "%s: the back end does not track what is in flight: requests would be lost "
                       "when reconnecting",
                       h->o.path);
    h->features = offered & wanted;
    return 0;
}

static int read_config(struct virtio_blk_host *h, struct virtio_blk_config *cfg, struct err *err)
{
    uint32_t got = 0;
    int rc;

    memset(cfg, 0, sizeof(*cfg)); /* what the device does not have reads as zeroes */
    rc = vhost_client_get_config(h->vc, cfg, sizeof(*cfg), &got, err);
    if (!rc && got < sizeof(cfg->capacity))
        rc = err_set(err, -EBADMSG, "%s: %u bytes of configuration hold no capacity", h->o.path,
                     got);
    return rc;
}

int blk_read_capacity(struct virtio_blk_host *h, struct err *err)
{
    struct virtio_blk_config cfg;
    int rc = read_config(h, &cfg, err);

    if (!rc)
        h->info.nblocks =
            le64_get(cfg.capacity) / (h->info.block_bytes / (unsigned)VIRTIO_BLK_SECTOR);
    return rc;
}

static int take_config(struct virtio_blk_host *h, const struct virtio_blk_config *cfg,
                       struct err *err)
{
    struct disk_info *i = &h->info;
    uint32_t queues = vhost_client_get_info(h->vc).max_queues, sectors;

    i->block_bytes = VIRTIO_BLK_SECTOR;
    if (h->features & VIRTIO_BLK_F_BLK_SIZE)
        i->block_bytes = le32_get(cfg->blk_size);
    if (i->block_bytes < VIRTIO_BLK_SECTOR || i->block_bytes > 65536 ||
        i->block_bytes & (i->block_bytes - 1))
        return err_set(err, -EBADMSG, "%s: a block size of %u bytes", h->o.path, i->block_bytes);
    sectors = i->block_bytes / VIRTIO_BLK_SECTOR;
    i->nblocks = le64_get(cfg->capacity) / sectors;
    i->read_only = h->features & VIRTIO_BLK_F_RO;
    i->can_flush = h->features & VIRTIO_BLK_F_FLUSH;
    if (h->features & VIRTIO_BLK_F_DISCARD)
        i->max_deallocate_blocks = le32_get(cfg->max_discard_sectors) / sectors;
    if (h->features & VIRTIO_BLK_F_WRITE_ZEROES)
        i->max_zeroes_blocks = le32_get(cfg->max_write_zeroes_sectors) / sectors;
    h->nqueues = h->features & VIRTIO_BLK_F_MQ ? le16_get(cfg->num_queues) : 1;
    if (queues)
        h->nqueues = MIN(h->nqueues, queues);
    h->nqueues = MIN(MIN(h->nqueues, h->o.queues), (unsigned)DISK_MAX_QUEUES);
    if (!h->nqueues)
        return err_set(err, -EBADMSG, "%s: the device has no queues", h->o.path);
    return 0;
}

/* ---- sizes and memory ---- */

static int choose_segments(struct virtio_blk_host *h, const struct virtio_blk_config *cfg,
                           struct err *err)
{
    uint32_t max = h->features & VIRTIO_BLK_F_SEG_MAX ? le32_get(cfg->seg_max) : 1, n;

    h->segment_bytes = h->o.segment_bytes ? h->o.segment_bytes : UINT32_MAX;
    if (h->features & VIRTIO_BLK_F_SIZE_MAX && le32_get(cfg->size_max))
        h->segment_bytes = MIN(h->segment_bytes, le32_get(cfg->size_max));
    max = MIN(MAX(max, 1U), (uint32_t)BLK_MAX_DATA_SEGMENTS);
    n = (uint32_t)(((uint64_t)h->o.io_bytes + h->segment_bytes - 1) / h->segment_bytes);
    if (n > max)
        return err_set(err, -EINVAL,
                       "%s: a command of %u bytes has %u segments of %u bytes, the limit is %u",
                       h->o.path, h->o.io_bytes, n, h->segment_bytes, max);
    h->request_segments = MAX(n, 1U) + 2 + h->o.split_header;
    h->info.max_segments = max;
    h->info.max_transfer_bytes = h->o.io_bytes;
    return 0;
}

static int choose_ring(struct virtio_blk_host *h, struct err *err)
{
    bool indirect = h->features & VIRTIO_F_RING_INDIRECT_DESC;
    uint64_t need = indirect ? h->o.depth : (uint64_t)h->o.depth * h->request_segments;
    uint32_t size = RING_MIN;

    while (size < need && size < RING_MAX)
        size *= 2;
    if (h->o.ring_size)
        size = h->o.ring_size;
    if (size > VIRTQ_MAX_SIZE || (!h->o.packed && size & (size - 1)))
        return err_set(err, -EINVAL,
                       "%s: a ring of %u descriptors: at most %u, and a power of two when split",
                       h->o.path, size, VIRTQ_MAX_SIZE);
    if (size < h->request_segments) /* 2.7.5.3.1: also an indirect chain is not longer than that */
        return err_set(err, -EINVAL, "%s: a ring of %u descriptors is too small for requests of %u",
                       h->o.path, size, h->request_segments);
    h->ring_size = size;
    h->info.queues = h->nqueues;
    h->info.depth = MIN(h->o.depth, indirect ? size : size / h->request_segments);
    snprintf(h->info.how, sizeof(h->info.how), "%s ring of %u%s%s",
             h->o.packed ? "packed" : "split", size, indirect ? ", indirect" : "",
             h->features & VIRTIO_F_RING_EVENT_IDX ? ", event index" : "");
    return 0;
}

static uint64_t pages(uint64_t bytes)
{
    return (bytes + ARENA_PAGE - 1) & ~(uint64_t)(ARENA_PAGE - 1);
}

static int make_queue(struct virtio_blk_host *h, unsigned index, struct err *err)
{
    struct blk_queue *q = &h->queue[index];
    struct virtio_ring_opts o = {
        .packed = h->o.packed,
        .event_idx = h->features & VIRTIO_F_RING_EVENT_IDX,
        .indirect = h->features & VIRTIO_F_RING_INDIRECT_DESC,
        .size = (uint16_t)h->ring_size,
        .max_segments = (uint16_t)h->request_segments,
    };
    uint64_t ids = virtio_ring_ids(&o), gpa;

    q->index = index;
    q->depth = h->info.depth;
    q->shift = (unsigned)__builtin_ctz(h->info.block_bytes / VIRTIO_BLK_SECTOR);
    q->segment_bytes = h->segment_bytes;
    q->split_header = h->o.split_header;
    o.memory.desc = arena_alloc(&h->control, virtq_desc_bytes(h->ring_size), &gpa);
    o.memory.driver = arena_alloc(&h->control, virtq_avail_bytes(h->ring_size), &gpa);
    o.memory.device = arena_alloc(&h->control, virtq_used_bytes(h->ring_size), &gpa);
    q->control = arena_alloc(&h->control, ids * sizeof(q->control[0]), &q->control_gpa);
    if (o.indirect)
        o.memory.tables =
            arena_alloc(&h->control, virtq_desc_bytes((uint32_t)ids * h->request_segments),
                        &o.memory.tables_gpa);
    if (!o.memory.desc || !o.memory.driver || !o.memory.device || !q->control ||
        (o.indirect && !o.memory.tables) || blk_queue_init(q, &o))
        return err_set(err, -ENOMEM, "%s: no memory for queue %u", h->o.path, index);
    q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->kick_fd < 0 || q->call_fd < 0)
        return err_set(err, -errno, "%s: no eventfd: %s", h->o.path, strerror(errno));
    return 0;
}

static int make_memory(struct virtio_blk_host *h, struct err *err)
{
    uint64_t per_queue = pages(virtq_desc_bytes(h->ring_size)) +
                         pages(virtq_avail_bytes(h->ring_size)) +
                         pages(virtq_used_bytes(h->ring_size)) +
                         pages((uint64_t)h->ring_size * sizeof(struct blk_control)) +
                         pages(virtq_desc_bytes(h->ring_size * h->request_segments));
    int rc = arena_open(&h->control, "virtio-blk-rings", per_queue * h->nqueues, CONTROL_GPA);

    if (!rc)
        rc = arena_open(&h->data, "virtio-blk-data", h->o.data_bytes + ARENA_PAGE, DATA_GPA);
    if (rc)
        return err_set(err, rc, "%s: no memory for rings and data: %s", h->o.path, strerror(-rc));
    for (unsigned i = 0; !rc && i < h->nqueues; i++)
        rc = make_queue(h, i, err);
    return rc;
}

int blk_start_prepare(struct virtio_blk_host *h, struct err *err)
{
    struct virtio_blk_config cfg;
    int rc = choose_features(h, err);

    if (rc || (rc = read_config(h, &cfg, err)) || (rc = take_config(h, &cfg, err)) ||
        (rc = choose_segments(h, &cfg, err)) || (rc = choose_ring(h, err)))
        return rc;
    return make_memory(h, err);
}

/* ---- start and stop ---- */

static int give_inflight(struct virtio_blk_host *h, struct err *err)
{
    if (!vhost_client_has(h->vc, VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD))
        return h->area_fd < 0
                   ? 0
                   : err_set(err, -EPROTO, "%s: the back end came back without in-flight tracking",
                             h->o.path);
    if (h->area_fd < 0) {
        int rc;

        h->area = (struct vhost_user_inflight){.num_queues = (uint16_t)h->nqueues,
                                               .queue_size = (uint16_t)h->ring_size};
        rc = vhost_client_get_inflight(h->vc, &h->area, &h->area_fd, err);
        if (rc)
            return rc;
    }
    return vhost_client_set_inflight(h->vc, &h->area, h->area_fd, err);
}

static struct vhost_client_memory region_of(const struct arena *a)
{
    return (struct vhost_client_memory){
        .region = {.gpa = a->base, .size_bytes = a->bytes, .user_addr = (uintptr_t)a->at},
        .fd = a->fd,
    };
}

int blk_start(struct virtio_blk_host *h, struct err *err)
{
    const struct vhost_client_memory memory[] = {region_of(&h->control), region_of(&h->data)};
    uint64_t offered = vhost_client_get_info(h->vc).features;
    int rc;

    if (h->features & ~offered)
        return err_set(err, -EPROTO, "%s: the device came back without features %#llx", h->o.path,
                       (unsigned long long)(h->features & ~offered));
    if ((rc = vhost_client_set_features(h->vc, h->features, err)) || (rc = give_inflight(h, err)) ||
        (rc = vhost_client_set_memory(h->vc, memory, ARRAY_SIZE(memory), err)))
        return rc;
    for (unsigned i = 0; i < h->nqueues; i++) {
        const struct virtio_ring_opts *r = &h->queue[i].ring.o;
        struct vhost_client_vring v = {
            .index = i,
            .size = h->ring_size,
            .base = virtio_ring_base(&h->queue[i].ring),
            .desc = r->memory.desc,
            .driver = r->memory.driver,
            .device = r->memory.device,
            .kick_fd = h->queue[i].kick_fd,
            .call_fd = h->queue[i].call_fd,
        };

        if ((rc = vhost_client_start_vring(h->vc, &v, err)))
            return rc;
    }
    for (unsigned i = 0; i < h->nqueues; i++)
        if ((rc = vhost_client_enable_vring(h->vc, i, true, err)))
            return rc;
    return vhost_client_set_status(h->vc,
                                   VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER |
                                       VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK,
                                   err);
}

int blk_stop(struct virtio_blk_host *h, struct err *err)
{
    uint32_t base;
    int rc = 0;

    for (unsigned i = 0; !rc && i < h->nqueues; i++)
        rc = vhost_client_stop_vring(h->vc, i, &base, err);
    return rc ? rc : vhost_client_set_status(h->vc, 0, err);
}
