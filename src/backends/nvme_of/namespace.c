/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The bdev of a remote namespace, and what its host's paths show of it. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *open_channel(void *dev, struct reactor *r, struct err *err)
{
    return channel_open(dev, r, err);
}

static void close_channel(void *ctx)
{
    channel_close(ctx);
}

static int submit(void *ctx, struct bdev_req *req)
{
    return channel_submit(ctx, req);
}

static void flush_batch(void *ctx)
{
    channel_flush(ctx);
}

static int detach(void *ctx, struct bdev_req *req)
{
    return channel_detach(ctx, req);
}

static void cancel(void *ctx, struct bdev_req *req)
{
    channel_cancel(ctx, req);
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
static void describe_fence(struct nof_ns *ns, const struct nof_path *p, json_t *entry)
{
    unsigned ranges = fence_ranges(&ns->fence), waiting = atomic_load(&ns->fence.waiting);

    json_object_set_new(entry, "fence", json_string(fence_kind_name(p->fence.kind)));
    if (ranges == 0)
        return;
    json_object_set_new(entry, "fence_ranges", json_integer(ranges));
    json_object_set_new(entry, "fence_waiting", json_integer(waiting));
}

static json_t *describe_path(struct nof_ns *ns, const struct nof_path *p)
{
    char version[16];
    json_t *entry;

    snprintf(version, sizeof(version), "%u.%u", p->vs >> 16, (p->vs >> 8) & 0xff);
    entry = json_pack("{s:o, s:o, s:{s:s}, s:{s:I, s:b}, s:s}", "trid", nvme_of_trid(p),
                      "ctrlr_data", ctrlr_data(&p->ctrl), "vs", "nvme_version", version, "ns_data",
                      "id", (json_int_t)ns->id.nsid, "can_share", (int)ns->shared, "state",
                      ns->held ? "held" : nvme_of_path_state(p));
    if (!entry)
        return NULL;
    if (p->ctrl.ana && p->ana.known)
        json_object_set_new(
            entry, "ana_state",
            json_string(nof_ana_name(nof_ana_state(&p->ana, ns->anagrpid[p->number]))));
    describe_fence(ns, p, entry);
    if (ns->strange & 1ULL << p->number)
        json_object_set_new(entry, "held_because", json_string(ns->why_held));
    return entry;
}

static void describe(void *dev, struct json_t *out)
{
    struct nof_ns *ns = dev;
    json_t *list = json_array();

    list_for_each(it, &ns->host->paths)
    {
        struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->is_attached)
            json_array_append_new(list, describe_path(ns, p));
    }
    json_object_set_new(out, "nvme", list);
    json_object_set_new(out, "mp_policy",
                        json_string(ns->active_active ? "active_active" : "active_passive"));
    if (!ns->active_active)
        return;
    json_object_set_new(out, "selector",
                        json_string(ns->queue_depth ? "queue_depth" : "round_robin"));
    if (!ns->queue_depth)
        json_object_set_new(out, "rr_min_io", json_integer(ns->rr_min_io));
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
    ns->rr_min_io = 1;
    ns->preferred = -1;
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

/* ---- what paths show of it ---- */

/* Held: all paths that are there show something else. */
static void settle(struct nof_ns *ns)
{
    bool held = false;

    list_for_each(it, &ns->host->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->phase != PATH_READY)
            continue;
        held = ns->strange & 1ULL << p->number;
        if (!held)
            break;
    }
    if (ns->held && !held)
        log_line(LOG_INFO, "nvme_of", "bdev %s: the namespace is back, its I/O goes on",
                 ns->id.bdev);
    ns->held = held;
    if (!ns->strange)
        ns->why_held[0] = '\0';
}

static void hold(struct nof_ns *ns, struct nof_path *p, const char *why)
{
    bool news = !(ns->strange & 1ULL << p->number) || strcmp(ns->why_held, why) != 0;
    char where[320];

    snprintf(ns->why_held, sizeof(ns->why_held), "%s", why);
    ns->strange |= 1ULL << p->number;
    ns_set_access(ns, p);
    settle(ns);
    path_address_text(p, where, sizeof(where));
    if (news)
        log_line(LOG_ERROR, "nvme_of", "bdev %s (%s): NOT the namespace it was: %s. %s",
                 ns->id.bdev, where, why,
                 ns->held ? "Its I/O is held until it is back." : "This path is not used for it.");
}

void ns_set_access(struct nof_ns *ns, struct nof_path *p)
{
    static struct log_limit limit;
    uint8_t access = NOF_ACCESS_OPTIMIZED, state;

    if (p->ctrl.ana) {
        state = nof_ana_state(&p->ana, ns->anagrpid[p->number]);
        if (!state)
            log_limited(&limit, LOG_WARNING, "nvme_of",
                        "bdev %s: the target does not tell the state of its ANA group %u: this "
                        "path is not used for it",
                        ns->id.bdev, ns->anagrpid[p->number]);
        access = state == NVME_ANA_OPTIMIZED       ? NOF_ACCESS_OPTIMIZED
                 : state == NVME_ANA_NON_OPTIMIZED ? NOF_ACCESS_NON_OPTIMIZED
                                                   : NOF_ACCESS_NONE;
    }
    if (ns->strange & 1ULL << p->number)
        access = NOF_ACCESS_NONE;
    atomic_store(&ns->access[p->number], access);
}

void ns_forget_path(struct nof_ns *ns, const struct nof_path *p)
{
    ns->strange &= ~(1ULL << p->number);
    atomic_store(&ns->access[p->number], NOF_ACCESS_NONE);
    if (ns->preferred == (int)p->number)
        atomic_store(&ns->preferred, -1);
    fence_path_gone(&ns->fence, p->number);
    settle(ns);
}

bool ns_update(struct nof_ns *ns, struct nof_path *p, const struct nvme_of_namespace *found,
               bool live, const char *refused)
{
    struct err why;

    if (!found) {
        hold(ns, p, refused[0] ? refused : "the target does not list it as active");
        return false;
    }
    if (nof_same_ns(&ns->id, found, &why)) {
        hold(ns, p, why.msg);
        return false;
    }
    /* A smaller disk is believed only when the target shrinks it before our eyes. */
    if (found->nblocks < ns->id.nblocks && !live) {
        err_set(&why, -ESTALE, "its capacity was %llu and is now %llu blocks",
                (unsigned long long)ns->id.nblocks, (unsigned long long)found->nblocks);
        hold(ns, p, why.msg);
        return false;
    }
    ns->strange &= ~(1ULL << p->number);
    ns_set_access(ns, p);
    settle(ns);
    if (found->nblocks == ns->id.nblocks)
        return false;
    log_line(LOG_INFO, "nvme_of", "bdev %s: resized from %llu to %llu blocks", ns->id.bdev,
             (unsigned long long)ns->id.nblocks, (unsigned long long)found->nblocks);
    ns->id.nblocks = found->nblocks;
    bdev_resized(ns->bd, found->nblocks);
    return true;
}
