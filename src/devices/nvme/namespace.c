/* SPDX-License-Identifier: BSD-3-Clause */
#include "devices/nvme/room.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void resized(struct bdev_listener *l, struct bdev *bd)
{
    struct nvme_ns *ns = container_of(l, struct nvme_ns, listener);

    if (ns->attached)
        nvme_ctrl_ns_resized(ns->attached, ns->nsid, bdev_get_info(bd).nblocks);
}

int nvme_ns_create(const struct nvme_ns_opts *opts, struct nvme_ns **ret, struct err *err)
{
    struct nvme_subsystem *ss = opts->subsystem;
    struct bdev_info info = bdev_get_info(opts->bdev);
    char who[300];
    struct nvme_ns *ns;
    int rc;

    if (opts->nsid == 0 || opts->nsid > ss->nn)
        return err_set(err, -EINVAL, "nsid %u: subsystem %s takes 1 to %u", opts->nsid, ss->nqn,
                       ss->nn);
    if (nvme_ns_find(ss, opts->nsid))
        return err_set(err, -EEXIST, "namespace %u of %s exists already", opts->nsid, ss->nqn);
    if (ss->nnamespaces >= ss->mnan)
        return err_set(err, -ENOSPC, "subsystem %s has %u namespaces, its limit is %u", ss->nqn,
                       ss->nnamespaces, ss->mnan);
    if (info.block_bytes < 512 || info.block_bytes > 65536 ||
        info.block_bytes & (info.block_bytes - 1))
        return err_set(err, -EINVAL, "bdev %s: block size %u cannot be an NVMe format",
                       bdev_name(opts->bdev), info.block_bytes);
    snprintf(who, sizeof(who), "namespace %u of %s", opts->nsid, ss->nqn);
    rc = bdev_claim(opts->bdev, who, err);
    if (rc < 0)
        return rc;
    ns = calloc(1, sizeof(*ns));
    if (!ns) {
        bdev_release(opts->bdev);
        return err_set(err, -ENOMEM, "no memory for namespace %u of %s", opts->nsid, ss->nqn);
    }
    ns->ss = ss;
    ns->bdev = opts->bdev;
    ns->nsid = opts->nsid;
    ns->uuid = opts->uuid;
    memcpy(ns->nguid, opts->nguid, sizeof(ns->nguid));
    memcpy(ns->eui64, opts->eui64, sizeof(ns->eui64));
    /* Hosts that know no UUID tell disks apart by NGUID; the UUID is as good a value as any, and as
     * stable. */
    if (memcmp(ns->nguid, (uint8_t[16]){0}, sizeof(ns->nguid)) == 0)
        memcpy(ns->nguid, ns->uuid.b, sizeof(ns->nguid));
    ns->listener.resized = resized;
    bdev_listen(ns->bdev, &ns->listener);
    list_append(&ss->namespaces, &ns->node);
    ss->nnamespaces++;
    if (ret)
        *ret = ns;
    return 0;
}

int nvme_ns_destroy(struct nvme_ns *ns, struct err *err)
{
    if (ns->attached)
        return err_set(err, -EBUSY,
                       "namespace %u of %s is attached to controller %s: detach it first", ns->nsid,
                       ns->ss->nqn, nvme_ctrl_get_info(ns->attached).ctrl_id);
    bdev_unlisten(&ns->listener);
    bdev_release(ns->bdev);
    list_remove(&ns->node);
    ns->ss->nnamespaces--;
    free(ns);
    return 0;
}

struct nvme_ns *nvme_ns_find(struct nvme_subsystem *ss, uint32_t nsid)
{
    list_for_each(it, &ss->namespaces)
    {
        struct nvme_ns *ns = list_entry(it, struct nvme_ns, node);

        if (ns->nsid == nsid)
            return ns;
    }
    return NULL;
}

struct nvme_ns_info nvme_ns_get_info(const struct nvme_ns *ns)
{
    return (struct nvme_ns_info){
        .nsid = ns->nsid, .bdev = ns->bdev, .uuid = ns->uuid, .subsystem = ns->ss};
}

void nvme_ns_for_each(struct nvme_subsystem *ss, void (*fn)(struct nvme_ns *ns, void *arg),
                      void *arg)
{
    list_for_each_safe(it, &ss->namespaces)
    {
        fn(list_entry(it, struct nvme_ns, node), arg);
    }
}

struct nvme_dev_ns_opts nvme_ns_dev_opts(const struct nvme_ns *ns)
{
    struct nvme_dev_ns_opts o = {.bdev = ns->bdev, .nsid = ns->nsid, .uuid = ns->uuid};

    memcpy(o.nguid, ns->nguid, sizeof(o.nguid));
    memcpy(o.eui64, ns->eui64, sizeof(o.eui64));
    return o;
}
