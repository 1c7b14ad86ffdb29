/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The hosts of a process as operators see them. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/fd.h"

#include <errno.h>
#include <fcntl.h>
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

static const char *family_name(const struct nvme_of_host *h)
{
    int family = h->naddrs ? h->target.tcp.addr.ss_family : h->family;

    if (family == AF_UNSPEC || family == 0)
        family = strchr(h->traddr, ':') ? AF_INET6 : AF_INET;
    return family == AF_INET6 ? "IPv6" : "IPv4";
}

bool nvme_of_is(const struct nvme_of_host *h, const char *trtype, const char *adrfam,
                const char *traddr, const char *trsvcid, const char *subnqn)
{
    return (!trtype || strcasecmp(trtype, "TCP") == 0) &&
           (!adrfam || strcasecmp(adrfam, family_name(h)) == 0) &&
           (!traddr || strcmp(traddr, h->traddr) == 0) &&
           (!trsvcid || strcmp(trsvcid, h->trsvcid) == 0) &&
           (!subnqn || strcmp(subnqn, h->subnqn) == 0);
}

json_t *nvme_of_trid(const struct nvme_of_host *h)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "trtype", "TCP", "adrfam", family_name(h),
                     "traddr", h->traddr, "trsvcid", h->trsvcid, "subnqn", h->subnqn);
}

const char *nvme_of_state(const struct nvme_of_host *h)
{
    if (h->deleting)
        return "deleting";
    return h->phase == HOST_READY ? "enabled" : "resetting";
}

uint16_t nvme_of_cntlid(const struct nvme_of_host *h)
{
    return h->ctrl.cntlid;
}

json_t *nvme_of_describe(const struct nvme_of_host *h)
{
    return json_pack("{s:s, s:[{s:s, s:o, s:[], s:i, s:{s:s, s:s, s:s}}]}", "name", h->name,
                     "ctrlrs", "state", nvme_of_state(h), "trid", nvme_of_trid(h),
                     "alternate_trids", "cntlid", (int)h->ctrl.cntlid, "host", "nqn", h->hostnqn,
                     "addr", h->hostaddr, "svcid", h->hostsvcid);
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
