/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The hosts of a process as operators see them. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

struct nvme_of_host *nvme_of_find(struct nvme_of *of, const char *name)
{
    list_for_each(it, &of->hosts)
    {
        struct nvme_of_host *h = list_entry(it, struct nvme_of_host, node);

        if (strcmp(h->name, name) == 0)
            return h;
    }
    return NULL;
}

void nvme_of_for_each(struct nvme_of *of, void (*fn)(struct nvme_of_host *host, void *arg),
                      void *arg)
{
    list_for_each_safe(it, &of->hosts)
    {
        struct nvme_of_host *h = list_entry(it, struct nvme_of_host, node);

        if (h->is_attached)
            fn(h, arg);
    }
}

const char *nvme_of_name(const struct nvme_of_host *h)
{
    return h->name;
}

const char *nvme_of_discovery_of(const struct nvme_of_host *h)
{
    return h->discovery;
}

const char *nvme_of_hostnqn(const struct nvme_of_host *h)
{
    return h->hostnqn;
}

const char *nvme_of_subnqn(const struct nvme_of_host *h)
{
    return h->subnqn;
}

unsigned nvme_of_namespaces(const struct nvme_of_host *h, struct nvme_of_namespace *ret,
                            unsigned max)
{
    unsigned n = 0;

    list_for_each(it, &h->namespaces)
    {
        if (n < max)
            ret[n] = list_entry(it, struct nof_ns, node)->id;
        n++;
    }
    return n;
}

static const char *family_name(const struct nof_path *p)
{
    int family = p->naddrs ? p->target.tcp.addr.ss_family : p->family;

    if (family == AF_UNSPEC || family == 0)
        family = strchr(p->traddr, ':') ? AF_INET6 : AF_INET;
    return family == AF_INET6 ? "IPv6" : "IPv4";
}

bool nvme_of_path_is(const struct nof_path *p, const struct nvme_of_address *a)
{
    return p->is_attached && (!a->trtype || strcasecmp(a->trtype, "TCP") == 0) &&
           (!a->adrfam || strcasecmp(a->adrfam, family_name(p)) == 0) &&
           (!a->traddr || strcmp(a->traddr, p->traddr) == 0) &&
           (!a->trsvcid || strcmp(a->trsvcid, p->trsvcid) == 0) &&
           (!a->subnqn || strcmp(a->subnqn, p->host->subnqn) == 0) &&
           (!a->hostaddr || strcmp(a->hostaddr, p->hostaddr) == 0);
}

json_t *nvme_of_trid(const struct nof_path *p)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "trtype", "TCP", "adrfam", family_name(p),
                     "traddr", p->traddr, "trsvcid", p->trsvcid, "subnqn", p->host->subnqn);
}

const char *nvme_of_path_state(const struct nof_path *p)
{
    if (p->host->deleting || p->leaving)
        return "deleting";
    return p->phase == PATH_READY ? "enabled" : "resetting";
}

const char *nvme_of_state(const struct nvme_of_host *h)
{
    const char *state = h->deleting ? "deleting" : "resetting";

    list_for_each(it, &h->paths)
    {
        if (!h->deleting && list_entry(it, struct nof_path, node)->phase == PATH_READY)
            state = "enabled";
    }
    return state;
}

json_t *nvme_of_describe(const struct nvme_of_host *h)
{
    json_t *paths = json_array();

    list_for_each(it, &h->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->is_attached)
            json_array_append_new(paths, json_pack("{s:s, s:o, s:[], s:i, s:{s:s, s:s, s:s}}",
                                                   "state", nvme_of_path_state(p), "trid",
                                                   nvme_of_trid(p), "alternate_trids", "cntlid",
                                                   (int)p->ctrl.cntlid, "host", "nqn", h->hostnqn,
                                                   "addr", p->hostaddr, "svcid", ""));
    }
    return json_pack("{s:s, s:o}", "name", h->name, "ctrlrs", paths);
}

/* What an attach call for the path would say. */
static json_t *path_params(const struct nof_path *p)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:b, s:b, s:b}", "trtype", "TCP", "traddr", p->traddr,
                          "trsvcid", p->trsvcid, "hdgst", (int)p->hdgst, "ddgst", (int)p->ddgst,
                          "disable_sq_flow_control", (int)p->no_sq_flow);

    if (p->family != AF_UNSPEC)
        json_object_set_new(o, "adrfam", json_string(family_name(p)));
    if (p->hostaddr[0])
        json_object_set_new(o, "hostaddr", json_string(p->hostaddr));
    return o;
}

json_t *nvme_of_paths(const struct nvme_of_host *h)
{
    json_t *list = json_array();

    list_for_each(it, &h->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->is_attached && !p->leaving)
            json_array_append_new(list, path_params(p));
    }
    return list;
}

/* ---- how a bdev uses the paths ---- */

static struct nof_ns *ns_of(struct bdev *bd)
{
    return bdev_ops_of(bd) == &nvme_of_bdev_ops ? bdev_dev(bd) : NULL;
}

bool nvme_of_io_paths(struct bdev *bd, json_t *out)
{
    struct nof_ns *ns = ns_of(bd);
    unsigned best = NOF_ACCESS_NONE;

    if (!ns)
        return false;
    list_for_each(it, &ns->host->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->phase == PATH_READY)
            best = MAX(best, (unsigned)atomic_load(&ns->access[p->number]));
    }
    list_for_each(it, &ns->host->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);
        unsigned access = atomic_load(&ns->access[p->number]);
        bool connected = p->phase == PATH_READY;

        if (!p->is_attached)
            continue;
        json_array_append_new(
            out,
            json_pack("{s:s, s:i, s:b, s:b, s:b, s:o}", "bdev_name", ns->id.bdev, "cntlid",
                      (int)p->ctrl.cntlid, "current",
                      (int)(connected && access == best && access != NOF_ACCESS_NONE), "connected",
                      (int)connected, "accessible", (int)(connected && access != NOF_ACCESS_NONE),
                      "transport", nvme_of_trid(p)));
    }
    return true;
}

bool nvme_of_host_name(struct bdev *bd, char *out, size_t size)
{
    struct nof_ns *ns = ns_of(bd);

    if (ns)
        snprintf(out, size, "%s", ns->host->name);
    return ns != NULL;
}

static void choose_anew(struct nof_ns *ns)
{
    list_for_each(it, &ns->host->paths)
    {
        path_tell_queues(list_entry(it, struct nof_path, node));
    }
}

bool nvme_of_set_policy(struct bdev *bd, bool active_active, bool queue_depth, uint32_t rr_min_io)
{
    struct nof_ns *ns = ns_of(bd);

    if (!ns)
        return false;
    atomic_store(&ns->active_active, active_active);
    atomic_store(&ns->queue_depth, queue_depth);
    atomic_store(&ns->rr_min_io, MAX(rr_min_io, 1U));
    choose_anew(ns);
    return true;
}

int nvme_of_set_preferred(struct bdev *bd, uint16_t cntlid, struct err *err)
{
    struct nof_ns *ns = ns_of(bd);

    if (!ns)
        return err_set(err, -ENODEV, "bdev '%s' is not of an NVMe-oF controller", bdev_name(bd));
    list_for_each(it, &ns->host->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (p->phase != PATH_READY || p->ctrl.cntlid != cntlid)
            continue;
        atomic_store(&ns->preferred, (int)p->number);
        choose_anew(ns);
        return 0;
    }
    return err_set(err, -ENODEV, "bdev '%s' has no connected path with CNTLID %u", bdev_name(bd),
                   cntlid);
}

/* ---- the host's identity ---- */

static int save_hostid(const char *path, const char *text, struct err *err)
{
    char temp[4096];
    int fd, rc = 0;

    snprintf(temp, sizeof(temp), "%s.%d", path, (int)getpid());
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(err, -errno, "cannot create %s: %s", temp, strerror(errno));
    if (write(fd, text, 36) != 36 || write(fd, "\n", 1) != 1 || fsync(fd) < 0)
        rc = -errno;
    fd_close(&fd);
    /* link() keeps what another process has put there at the same moment. */
    if (!rc && link(temp, path) < 0 && errno != EEXIST)
        rc = -errno;
    unlink(temp);
    return rc ? err_set(err, rc, "cannot write %s: %s", path, strerror(-rc)) : 0;
}

int nvme_of_hostid_load(const char *state_dir, struct bdev_uuid *ret, struct err *err)
{
    char path[4000], text[64] = "";
    struct bdev_uuid uuid;

    if ((size_t)snprintf(path, sizeof(path), "%s/hostid", state_dir) >= sizeof(path))
        return err_set(err, -ENAMETOOLONG, "the path of the state directory is too long");
    for (unsigned tries = 0; tries < 2; tries++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        ssize_t n;
        int rc;

        if (fd >= 0) {
            n = read(fd, text, sizeof(text) - 1);
            fd_close(&fd);
            text[n > 36 ? 36 : n < 0 ? 0 : n] = '\0';
            if (bdev_uuid_parse(text, ret))
                return err_set(err, -EINVAL, "%s does not hold a UUID", path);
            return 0;
        }
        if (errno != ENOENT)
            return err_set(err, -errno, "cannot read %s: %s", path, strerror(errno));
        bdev_uuid_random(&uuid);
        bdev_uuid_format(&uuid, text);
        rc = save_hostid(path, text, err);
        if (rc)
            return rc;
    }
    return err_set(err, -EIO, "cannot read %s", path);
}
