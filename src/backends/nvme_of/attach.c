/* SPDX-License-Identifier: BSD-3-Clause
 *
 * How a host begins, and gets another path. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int add_known(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err)
{
    for (unsigned i = 0; i < o->nknown; i++) {
        struct nvme_of_namespace id = o->known[i];
        int rc;

        if (id.nsid == 0 || id.nsid == NVME_NSID_ALL || ns_find(h, id.nsid))
            rc = err_set(err, -EINVAL, "namespace ID %u is not valid or given twice", id.nsid);
        else
            rc = ns_add(h, &id, false, err);
        if (rc) {
            host_remove_namespaces(h);
            return rc;
        }
    }
    return 0;
}

static void attach_expired(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, attach_timer);
    static const char *const phases[] = {
        [PATH_WAITING] = "waiting",       [PATH_RESOLVING] = "resolving the name",
        [PATH_CONNECTING] = "connecting", [PATH_SETTING_UP] = "setting up the controller",
        [PATH_READY] = "ready",
    };
    struct err err;

    err_set(&err, -ETIMEDOUT, "no answer within %u ms (%s)", p->host->phase_timeout_ms,
            phases[p->phase]);
    host_attach_failed(p, &err);
}

static void known_attached(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, attach_timer);

    path_begin(p);
    p->attached(p->attached_arg, p->host, NULL);
}

/* Not one that was used lately: the fences may still know what it lost. */
static unsigned free_number(struct nvme_of_host *h)
{
    for (unsigned n = h->last_number + 1;; n++) {
        bool used = false;

        list_for_each(it, &h->paths)
        {
            used |= list_entry(it, struct nof_path, node)->number == n % FENCE_PATHS;
        }
        if (!used)
            return h->last_number = n % FENCE_PATHS;
    }
}

static void start(struct nof_path *p, bool known,
                  void (*done)(void *arg, struct nvme_of_host *host, const struct err *err),
                  void *arg)
{
    struct nvme_of_host *h = p->host;

    p->attached = done;
    p->attached_arg = arg;
    p->number = free_number(h);
    pthread_mutex_lock(&h->lock);
    list_append(&h->paths, &p->node);
    h->npaths++;
    if (known) {
        p->is_attached = h->is_attached = true;
        lanes_add_path(p);
    }
    pthread_mutex_unlock(&h->lock);
    if (known) {
        timer_arm(h->of->control, &p->attach_timer, 0, known_attached);
        return;
    }
    timer_arm(h->of->control, &p->attach_timer, h->phase_timeout_ms, attach_expired);
    path_begin(p);
}

static struct nvme_of_host *host_create(struct nvme_of *of)
{
    struct nvme_of_host *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->of = of;
    list_init(&h->node);
    list_init(&h->namespaces);
    list_init(&h->paths);
    list_init(&h->lanes);
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

/* Another path of a host that there is. */
static int check_another(const struct nvme_of_host *h, const struct nvme_of_opts *o,
                         struct err *err)
{
    if (h->deleting || !h->is_attached)
        return err_set(err, -EBUSY, "controller '%s' is being %s", h->name,
                       h->deleting ? "detached" : "attached");
    if (o->multipath == NVME_OF_DISABLE)
        return err_set(err, -EEXIST,
                       "a controller named '%s' is attached already, and multipath is disabled",
                       h->name);
    if (o->subnqn && strcmp(o->subnqn, h->subnqn) != 0)
        return err_set(err, -EINVAL,
                       "controller '%s' is of the subsystem %s: a path leads to the same one",
                       h->name, h->subnqn);
    if (o->hostnqn && o->hostnqn[0] && strcmp(o->hostnqn, h->hostnqn) != 0)
        return err_set(err, -EINVAL,
                       "controller '%s' has the host NQN %s: its paths have the same one", h->name,
                       h->hostnqn);
    if (h->npaths == NOF_MAX_PATHS)
        return err_set(err, -ENOSPC, "controller '%s' has %u paths, there can be no more", h->name,
                       NOF_MAX_PATHS);
    return 0;
}

static bool same_address(const struct nof_path *a, const struct nof_path *b)
{
    return strcmp(a->traddr, b->traddr) == 0 && strcmp(a->trsvcid, b->trsvcid) == 0 &&
           strcmp(a->hostaddr, b->hostaddr) == 0;
}

static int attach_another(struct nvme_of_host *h, const struct nvme_of_opts *opts,
                          void (*done)(void *arg, struct nvme_of_host *host, const struct err *err),
                          void *arg, struct err *err)
{
    int rc = check_another(h, opts, err);
    struct nof_path *p = rc ? NULL : path_create(h, opts, err);

    if (!p)
        return err->code;
    list_for_each(it, &h->paths)
    {
        if (!same_address(list_entry(it, struct nof_path, node), p))
            continue;
        path_free(p);
        return err_set(err, -EEXIST, "controller '%s' is attached at this address already",
                       h->name);
    }
    start(p, opts->background, done, arg);
    return 0;
}

int nvme_of_attach(struct nvme_of *of, const struct nvme_of_opts *opts,
                   void (*done)(void *arg, struct nvme_of_host *host, const struct err *err),
                   void *arg, struct err *err)
{
    struct nvme_of_host *h = opts->name ? nvme_of_find(of, opts->name) : NULL;
    struct nof_path *p;
    int rc;

    if (h)
        return attach_another(h, opts, done, arg, err);
    h = host_create(of);
    if (!h)
        return err_set(err, -ENOMEM, "no memory for controller '%s'", opts->name);
    rc = host_options(h, opts, err);
    if (rc)
        goto out;
    p = path_create(h, opts, err);
    if (!p) {
        rc = err->code;
        goto out;
    }
    rc = add_known(h, opts, err);
    if (rc) {
        path_free(p);
        goto out;
    }
    list_append(&of->hosts, &h->node);
    start(p, opts->known != NULL || opts->background, done, arg);
    return 0;
out:
    host_free(h);
    return rc;
}

struct nvme_of *nvme_of_create(struct reactor *control, struct bdev_set *bdevs,
                               const struct bdev_uuid *hostid)
{
    struct nvme_of *of = calloc(1, sizeof(*of));

    if (!of)
        return NULL;
    of->control = control;
    of->bdevs = bdevs;
    of->hostid = *hostid;
    list_init(&of->hosts);
    list_init(&of->discoveries);
    return of;
}

void nvme_of_destroy(struct nvme_of *of)
{
    free(of);
}
