/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The bdev of a remote namespace: its channels lead to the I/O queue that the host has on their
 * reactor. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct nof_channel {
    struct nof_queue *queue;
    struct nof_ns *ns;
};

static void *open_channel(void *dev, struct reactor *r, struct err *err)
{
    struct nof_channel *ch = calloc(1, sizeof(*ch));
    struct nof_ns *ns = dev;

    if (!ch) {
        err_set(err, -ENOMEM, "bdev '%s': no memory for a channel", ns->id.bdev);
        return NULL;
    }
    ch->ns = ns;
    ch->queue = queue_get(ns->host, r, err);
    if (ch->queue)
        return ch;
    free(ch);
    return NULL;
}

static void close_channel(void *ctx)
{
    struct nof_channel *ch = ctx;

    queue_put(ch->queue);
    free(ch);
}

static int submit(void *ctx, struct bdev_req *req)
{
    struct nof_channel *ch = ctx;

    return queue_submit(ch->queue, ch->ns, req);
}

static void flush_batch(void *ctx)
{
    queue_flush(((struct nof_channel *)ctx)->queue);
}

static int detach(void *ctx, struct bdev_req *req)
{
    return queue_detach(((struct nof_channel *)ctx)->queue, req);
}

static void cancel(void *ctx, struct bdev_req *req)
{
    queue_cancel(((struct nof_channel *)ctx)->queue, req);
}

static json_t *ctrlr_data(const struct nof_ctrl *c)
{
    char vid[8];

    snprintf(vid, sizeof(vid), "0x%04x", c->vid);
    return json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:{s:i, s:i, s:i, s:i}, s:b, s:b}", "cntlid",
                     (int)c->cntlid, "vendor_id", vid, "model_number", c->mn, "serial_number",
                     c->sn, "firmware_revision", c->fr, "subnqn", c->subnqn, "oacs", "security",
                     (int)(c->oacs & NVME_OACS_SECURITY ? 1 : 0), "format",
                     (int)(c->oacs & NVME_OACS_FORMAT ? 1 : 0), "firmware",
                     (int)(c->oacs & NVME_OACS_FIRMWARE ? 1 : 0), "ns_manage",
                     (int)(c->oacs & NVME_OACS_NS_MANAGEMENT ? 1 : 0), "multi_ctrlr",
                     (int)c->multi_ctrl, "ana_reporting", (int)c->ana);
}

/* How late writes of a lost association are fenced off; now, for how many ranges and requests. */
static void describe_fence(struct nof_ns *ns, json_t *entry)
{
    unsigned ranges = fence_ranges(&ns->fence), waiting = atomic_load(&ns->fence.waiting);

    json_object_set_new(entry, "fence", json_string(fence_kind_name(ns->host->fence.kind)));
    if (ranges == 0)
        return;
    json_object_set_new(entry, "fence_ranges", json_integer(ranges));
    json_object_set_new(entry, "fence_waiting", json_integer(waiting));
}

static void describe(void *dev, struct json_t *out)
{
    struct nof_ns *ns = dev;
    struct nvme_of_host *h = ns->host;
    char version[16];
    json_t *entry;

    snprintf(version, sizeof(version), "%u.%u", h->vs >> 16, (h->vs >> 8) & 0xff);
    entry = json_pack("{s:o, s:o, s:{s:s}, s:{s:I, s:b}, s:s}", "trid", nvme_of_trid(h),
                      "ctrlr_data", ctrlr_data(&h->ctrl), "vs", "nvme_version", version, "ns_data",
                      "id", (json_int_t)ns->id.nsid, "can_share", (int)ns->shared, "state",
                      ns->held ? "held" : nvme_of_state(h));
    describe_fence(ns, entry);
    if (entry && ns->held)
        json_object_set_new(entry, "held_because", json_string(ns->why_held));
    json_object_set_new(out, "nvme", json_pack("[o]", entry));
    json_object_set_new(out, "mp_policy", json_string("active_passive"));
}

static void destroy(void *dev)
{
    struct nof_ns *ns = dev;

    list_remove(&ns->node);
    fence_fini(&ns->fence);
    free(ns);
}

const struct bdev_ops nvme_of_bdev_ops = {
    .kind = "nvme_of",
    .product = "NVMe disk",
    .open_channel = open_channel,
    .close_channel = close_channel,
    .submit = submit,
    .flush_batch = flush_batch,
    .detach = detach,
    .cancel = cancel,
    .describe = describe,
    .destroy = destroy,
};

struct nof_ns *ns_find(struct nvme_of_host *h, uint32_t nsid)
{
    list_for_each(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        if (ns->id.nsid == nsid)
            return ns;
    }
    return NULL;
}

static void insert(struct nvme_of_host *h, struct nof_ns *ns)
{
    struct list *at = &h->namespaces;

    while (at->prev != &h->namespaces &&
           list_entry(at->prev, struct nof_ns, node)->id.nsid > ns->id.nsid)
        at = at->prev;
    list_append(at, &ns->node);
}

int ns_add(struct nvme_of_host *h, const struct nvme_of_namespace *id, bool shared, struct err *err)
{
    struct nof_ns *ns = calloc(1, sizeof(*ns));
    struct bdev_info info = {
        .block_bytes = id->block_bytes,
        .nblocks = id->nblocks,
        .uuid = id->uuid,
        .write_cache = !id->no_write_cache,
        .read_only = id->read_only,
        .can_unmap = !id->no_unmap,
        .can_write_zeroes = true, /* by writing them where the target cannot */
    };
    int rc;

    if (!ns)
        return err_set(err, -ENOMEM, "no memory for namespace %u", id->nsid);
    memcpy(info.nguid, id->nguid, sizeof(info.nguid));
    memcpy(info.eui64, id->eui64, sizeof(info.eui64));
    ns->host = h;
    ns->id = *id;
    ns->shared = shared;
    fence_init(&ns->fence);
    snprintf(ns->id.bdev, sizeof(ns->id.bdev), "%sn%u", h->name, id->nsid);
    rc = bdev_register(h->of->bdevs, ns->id.bdev, &nvme_of_bdev_ops, ns, &info, &ns->bd, err);
    if (rc) {
        fence_fini(&ns->fence);
        free(ns);
        return rc;
    }
    insert(h, ns);
    return 0;
}

static void hold(struct nof_ns *ns, const char *why)
{
    if (!ns->held || strcmp(ns->why_held, why) != 0)
        log_line(LOG_ERROR, "nvme_of",
                 "bdev %s: NOT the namespace it was: %s. Its I/O is held until it is back.",
                 ns->id.bdev, why);
    snprintf(ns->why_held, sizeof(ns->why_held), "%s", why);
    atomic_store(&ns->held, true);
}

static void let_go(struct nof_ns *ns)
{
    if (!ns->held)
        return;
    log_line(LOG_INFO, "nvme_of", "bdev %s: the namespace is back, its I/O goes on", ns->id.bdev);
    ns->why_held[0] = '\0';
    atomic_store(&ns->held, false);
}

bool ns_update(struct nof_ns *ns, const struct nvme_of_namespace *found, bool live,
               const char *refused)
{
    struct err why;

    if (!found) {
        hold(ns, refused[0] ? refused : "the target does not list it as active");
        return false;
    }
    if (nof_same_ns(&ns->id, found, &why)) {
        hold(ns, why.msg);
        return false;
    }
    /* A smaller disk is believed only when the target shrinks it before our eyes. */
    if (found->nblocks < ns->id.nblocks && !live) {
        err_set(&why, -ESTALE, "its capacity was %llu and is now %llu blocks",
                (unsigned long long)ns->id.nblocks, (unsigned long long)found->nblocks);
        hold(ns, why.msg);
        return false;
    }
    let_go(ns);
    if (found->nblocks == ns->id.nblocks)
        return false;
    log_line(LOG_INFO, "nvme_of", "bdev %s: resized from %llu to %llu blocks", ns->id.bdev,
             (unsigned long long)ns->id.nblocks, (unsigned long long)found->nblocks);
    ns->id.nblocks = found->nblocks;
    bdev_resized(ns->bd, found->nblocks);
    return true;
}
