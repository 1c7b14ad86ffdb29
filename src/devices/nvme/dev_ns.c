/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The namespaces attached to one controller, on its reactor. */
#include "devices/nvme/inside.h"

#include "base/crash_point.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LEAVE_MS = 2000 }; /* a detach lets commands finish so long, then it fails */

uint32_t nvme_dev_nn(const struct nvme_dev *dev)
{
    /* Hosts size tables and old drivers scan up to NN: the default of "any NSID" is not for them. A
     * subsystem that really uses higher NSIDs reports what it needs. */
    uint32_t nn = MIN(nvme_subsystem_nn(dev->ss), (uint32_t)NVME_STATE_NS);

    return dev->nns ? MAX(nn, dev->ns[dev->nns - 1]->nsid) : nn;
}

struct nvme_dev_ns *nvme_dev_ns_next(struct nvme_dev *dev, uint32_t after)
{
    unsigned lo = 0, hi = dev->nns;

    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;

        if (dev->ns[mid]->nsid <= after)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < dev->nns ? dev->ns[lo] : NULL;
}

struct nvme_dev_ns *nvme_dev_ns_slow(struct nvme_dev *dev, uint32_t nsid)
{
    struct nvme_dev_ns *ns = nsid ? nvme_dev_ns_next(dev, nsid - 1) : NULL;

    return ns && ns->nsid == nsid ? ns : NULL;
}

nvme_status nvme_dev_ns_get(struct nvme_dev *dev, uint32_t nsid, struct nvme_dev_ns **ret)
{
    *ret = nvme_dev_ns_find(dev, nsid);
    if (likely(*ret))
        return NVME_SC_SUCCESS;
    /* An NSID that may exist but does not is another error than one that may not. */
    if (nsid == 0 || nsid > nvme_dev_nn(dev))
        return NVME_DNR(NVME_SC_INVALID_NAMESPACE);
    return NVME_DNR(NVME_SC_INVALID_FIELD);
}

static void store(struct nvme_dev *dev, struct nvme_dev_ns *ns)
{
    struct nvme_state_ns *st = nvme_state_ns_add(dev->st, ns->nsid);

    st->block_bytes = 1U << ns->block_shift;
    st->nblocks = ns->nblocks;
    st->uuid = ns->uuid;
    if (atomic_load(&st->nsid) != ns->nsid)
        st->reads = st->writes = st->bytes_read = st->bytes_written = 0;
    crash_point(nvme_ns_filled);
    atomic_store_explicit(&st->nsid, ns->nsid, memory_order_release);
    crash_point(nvme_ns_stored);
    ns->st = st;
}

void nvme_adopt_store_ns(struct nvme_dev *dev)
{
    for (unsigned i = 0; i < nvme_state_ns_used(dev->st); i++) {
        uint32_t nsid = atomic_load(&dev->st->ns[i].nsid);

        if (nsid && !nvme_dev_ns_slow(dev, nsid))
            atomic_store_explicit(&dev->st->ns[i].nsid, 0, memory_order_release);
    }
    for (unsigned i = 0; i < dev->nns; i++) {
        /* Saved, but our predecessor died before it could attach it. */
        if (!nvme_state_ns_find(dev->st, dev->ns[i]->nsid))
            nvme_event_ns_changed(dev, dev->ns[i]->nsid);
        store(dev, dev->ns[i]);
    }
}

int nvme_dev_attach(struct nvme_dev *dev, const struct nvme_dev_ns_opts *opts, struct err *err)
{
    struct bdev_info info = bdev_get_info(opts->bdev);
    struct nvme_dev_ns *ns, **grown;
    unsigned at = 0;

    if (dev->nns == NVME_STATE_NS)
        return err_set(err, -ENOSPC, "controller %s has %u namespaces, that is the limit",
                       dev->base.name, dev->nns);
    while (at < dev->nns && dev->ns[at]->nsid < opts->nsid)
        at++;
    if (at < dev->nns && dev->ns[at]->nsid == opts->nsid)
        return err_set(err, -EEXIST, "controller %s: namespace %u is attached already",
                       dev->base.name, opts->nsid);
    ns = calloc(1, sizeof(*ns));
    grown = realloc(dev->ns, (dev->nns + 1) * sizeof(*grown));
    if (grown)
        dev->ns = grown;
    if (!ns || !grown) {
        free(ns);
        return err_set(err, -ENOMEM, "controller %s: no memory for namespace %u", dev->base.name,
                       opts->nsid);
    }
    ns->channel = bdev_channel_get(opts->bdev, dev->base.reactor, err);
    if (!ns->channel) {
        free(ns);
        return err && err->code ? err->code : -EIO;
    }
    ns->dev = dev;
    ns->nsid = opts->nsid;
    ns->block_shift = (uint32_t)__builtin_ctz(info.block_bytes);
    ns->nblocks = info.nblocks;
    ns->write_cache = info.write_cache;
    ns->read_only = info.read_only;
    ns->can_unmap = info.can_unmap;
    ns->can_write_zeroes = info.can_write_zeroes;
    ns->copies = info.copies;
    dev->copies |= info.copies;
    ns->uuid = opts->uuid;
    memcpy(ns->nguid, opts->nguid, sizeof(ns->nguid));
    memcpy(ns->eui64, opts->eui64, sizeof(ns->eui64));
    memmove(&dev->ns[at + 1], &dev->ns[at], (dev->nns - at) * sizeof(*dev->ns));
    dev->ns[at] = ns;
    dev->nns++;
    /* Before the first resume after adoption the state memory tells what was; nobody is told. */
    if (dev->base.f && dev->owns_state) {
        nvme_event_ns_changed(dev, ns->nsid); /* first: who finds it stored does not tell */
        store(dev, ns);
    }
    return 0;
}

static void close_ns(struct nvme_dev *dev, struct nvme_dev_ns *ns)
{
    for (struct nvme_dev_ns **it = &dev->dirty_ns; *it; it = &(*it)->next_dirty)
        if (*it == ns) {
            *it = ns->next_dirty;
            break;
        }
    timer_cancel(&ns->leave_timer);
    bdev_channel_put(ns->channel);
    free(ns);
}

static void remove_at(struct nvme_dev *dev, unsigned at)
{
    struct nvme_dev_ns *ns = dev->ns[at];

    dev->nns--;
    memmove(&dev->ns[at], &dev->ns[at + 1], (dev->nns - at) * sizeof(*dev->ns));
    if (dev->base.f && dev->owns_state && ns->st) {
        atomic_store_explicit(&ns->st->nsid, 0, memory_order_release);
        crash_point(nvme_ns_gone);
        nvme_event_ns_changed(dev, ns->nsid);
    }
}

/* It is decided: what was held finds it, or not. */
static void decided(struct nvme_dev *dev)
{
    dev->nleaving--;
    nvme_dev_restart_held(dev);
    device_kick(&dev->base);
}

static void leave_expired(struct timer *t)
{
    struct nvme_dev_ns *ns = container_of(t, struct nvme_dev_ns, leave_timer);
    struct nvme_dev *dev = ns->dev;
    struct err err;

    err_set(&err, -ETIMEDOUT,
            "controller %s: %u commands of namespace %u are still in flight after %d ms; it stays "
            "attached and works on",
            dev->base.name, ns->inflight, ns->nsid, LEAVE_MS);
    ns->leaving = false;
    decided(dev);
    ns->left(ns->left_arg, -ETIMEDOUT, &err);
}

bool nvme_dev_ns_leaves(struct nvme_dev *dev, uint32_t nsid)
{
    const struct nvme_dev_ns *ns = nvme_dev_ns_find(dev, nsid);

    return nsid == NVME_NSID_ALL ? dev->nleaving > 0 : ns && ns->leaving;
}

void nvme_dev_detach(struct nvme_dev *dev, uint32_t nsid, controller_cb left, void *arg)
{
    struct nvme_dev_ns *ns = nvme_dev_ns_slow(dev, nsid);
    struct err err;

    if (!ns || ns->leaving) {
        int rc = ns ? -EBUSY : -ENOENT;

        err_set(&err, rc, "controller %s: namespace %u is %s", dev->base.name, nsid,
                ns ? "being detached" : "not attached");
        left(arg, rc, &err);
        return;
    }
    ns->leaving = true;
    ns->left = left;
    ns->left_arg = arg;
    dev->nleaving++;
    if (ns->inflight)
        timer_arm(dev->base.reactor, &ns->leave_timer, LEAVE_MS, leave_expired);
    dev->base.settle = true;
    device_settle(&dev->base);
}

void nvme_dev_ns_settle(struct nvme_dev *dev)
{
    unsigned left_now = 0;

    for (unsigned i = 0; i < dev->nns; i++) {
        struct nvme_dev_ns *ns = dev->ns[i];
        controller_cb left = ns->left;
        void *arg = ns->left_arg;

        if (!ns->leaving || ns->inflight)
            continue;
        /* Requests that hold a pointer to it are over; held ones look it up again. */
        remove_at(dev, i--);
        close_ns(dev, ns);
        left(arg, 0, NULL);
        left_now++;
    }
    while (left_now-- > 0)
        decided(dev);
}

void nvme_dev_resize(struct nvme_dev *dev, uint32_t nsid, uint64_t nblocks)
{
    struct nvme_dev_ns *ns = nvme_dev_ns_slow(dev, nsid);

    if (!ns || ns->nblocks == nblocks)
        return;
    ns->nblocks = nblocks;
    if (dev->base.f && dev->owns_state) {
        nvme_event_ns_changed(dev, nsid); /* first: who finds it stored does not tell */
        crash_point(nvme_ns_resized);
        ns->st->nblocks = nblocks;
    }
}

void nvme_dev_ns_close_all(struct nvme_dev *dev)
{
    /* State memory keeps them: the next service must attach the same. */
    while (dev->nns > 0) {
        struct nvme_dev_ns *ns = dev->ns[--dev->nns];
        controller_cb left = ns->leaving ? ns->left : NULL;
        void *arg = ns->left_arg;

        close_ns(dev, ns);
        if (left)
            left(arg, 0, NULL);
    }
    dev->nleaving = 0;
}
