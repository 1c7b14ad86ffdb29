/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A host: its paths come and go, and what they show of its namespaces is compared with what is
 * known. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct nof_path *first_path(const struct nvme_of_host *h)
{
    return list_empty(&h->paths) ? NULL : list_entry(h->paths.next, struct nof_path, node);
}

/* ---- what a path shows ---- */

/* The association is set up: those before it have ended, or will in a bounded time. A target may
 * have become another one between them: the longer time counts. */
static void set_fence(struct nof_path *p)
{
    struct fence_rule rule = fence_rule_for(&p->ctrl, p->host->keep_alive_ms);

    p->fence_delay_us = 1000ULL * MAX(rule.delay_ms, p->fence.delay_ms);
    p->fence = rule;
    p->target.fence_marked = rule.kind == FENCE_CONFIRMED;
    p->target.fence_bound_us = 1000ULL * fence_bound_ms(&p->ctrl, p->host->keep_alive_ms);
}

/* Also for namespaces that are new. */
static void tell_fences(struct nvme_of_host *h)
{
    list_for_each(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        list_for_each(at, &h->paths)
        {
            struct nof_path *p = list_entry(at, struct nof_path, node);

            if (p->phase == PATH_READY)
                fence_ready(&ns->fence, p->number, p->assoc, p->begun_us, p->fence_delay_us);
        }
    }
}

static const struct nvme_of_namespace *found_by(const struct nof_path *p, uint32_t nsid,
                                                unsigned *ret_i)
{
    for (unsigned i = 0; i < p->nscan; i++)
        if (p->scan[i].nsid == nsid) {
            *ret_i = i;
            return &p->scan[i];
        }
    return NULL;
}

/* What the path shows, against what we know. True when something to be saved has changed. */
static bool compare(struct nof_path *p, bool live)
{
    bool changed = false;

    list_for_each(it, &p->host->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);
        unsigned i;
        const struct nvme_of_namespace *found = found_by(p, ns->id.nsid, &i);

        if (found) {
            ns->shared = p->scan_shared[i];
            ns->anagrpid[p->number] = p->scan_anagrpids[i];
        }
        changed |= ns_update(ns, p, found, live, p->scan_refused);
    }
    return changed;
}

static bool add_new(struct nof_path *p)
{
    struct nvme_of_host *h = p->host;
    bool changed = false;
    unsigned n = nvme_of_namespaces(h, NULL, 0);
    struct err err;

    for (unsigned i = 0; i < p->nscan; i++) {
        if (ns_find(h, p->scan[i].nsid))
            continue;
        if (n == h->max_bdevs)
            err_set(&err, -E2BIG, "more than %u namespaces (max_bdevs)", h->max_bdevs);
        else if (ns_add(h, &p->scan[i], p->scan_shared[i], &err) == 0) {
            log_line(LOG_INFO, "nvme_of", "controller %s: new namespace %u", h->name,
                     p->scan[i].nsid);
            changed = true;
            n++;
            continue;
        }
        log_line(LOG_WARNING, "nvme_of", "controller %s: namespace %u left out: %s", h->name,
                 p->scan[i].nsid, err.msg);
    }
    return changed;
}

static void tell_changed(struct nvme_of_host *h)
{
    if (h->changed)
        h->changed(h->changed_arg, h);
}

void host_remove_namespaces(struct nvme_of_host *h)
{
    list_for_each_safe(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        bdev_unregister(ns->bd, NULL, NULL, NULL);
    }
}

/* First attach: all namespaces or none. */
static int first_set_up(struct nof_path *p, struct err *err)
{
    if (p->nscan == 0 && p->scan_refused[0])
        return err_set(err, -EPROTO, "no namespace can be used: %s", p->scan_refused);
    for (unsigned i = 0; i < p->nscan; i++) {
        int rc = ns_add(p->host, &p->scan[i], p->scan_shared[i], err);

        if (rc) {
            host_remove_namespaces(p->host);
            return rc;
        }
    }
    return 0;
}

/* A new path leads to the same namespaces, or is refused. */
static int same_namespaces(struct nof_path *p, struct err *err)
{
    list_for_each(it, &p->host->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);
        unsigned i;
        const struct nvme_of_namespace *found = found_by(p, ns->id.nsid, &i);
        struct err why;

        if (found && nof_same_ns(&ns->id, found, &why))
            return err_set(err, -ESTALE,
                           "its namespace %u is not that of bdev '%s': %s by this path",
                           ns->id.nsid, ns->id.bdev, why.msg);
    }
    return 0;
}

static void path_is_attached(struct nof_path *p)
{
    timer_cancel(&p->attach_timer);
    pthread_mutex_lock(&p->host->lock);
    p->is_attached = p->host->is_attached = true;
    lanes_add_path(p);
    pthread_mutex_unlock(&p->host->lock);
}

int host_set_up(struct nof_path *p, struct err *err)
{
    struct nvme_of_host *h = p->host;
    bool first = !p->is_attached, changed;
    int rc = !first ? 0 : h->is_attached ? same_namespaces(p, err) : first_set_up(p, err);

    if (rc)
        return rc;
    p->phase = PATH_READY;
    changed = h->is_attached && add_new(p);
    changed |= compare(p, false);
    set_fence(p);
    tell_fences(h); /* before any queue sends */
    path_ready_logged(p);
    if (first)
        path_is_attached(p);
    path_tell_queues(p);
    if (first)
        p->attached(p->attached_arg, h, NULL);
    else if (changed)
        tell_changed(h);
    return 0;
}

void host_rescanned(struct nof_path *p)
{
    bool changed = add_new(p);

    changed |= compare(p, true);
    tell_fences(p->host);
    path_tell_queues(p); /* what waits is looked at again */
    if (changed)
        tell_changed(p->host);
}

void host_ana_read(struct nof_path *p)
{
    list_for_each(it, &p->host->namespaces)
    {
        ns_set_access(list_entry(it, struct nof_ns, node), p);
    }
    path_tell_queues(p);
}

/* ---- the end ---- */

void host_free(struct nvme_of_host *h)
{
    if (!h)
        return;
    list_remove(&h->node);
    while (!list_empty(&h->paths))
        path_free(first_path(h));
    timer_cancel(&h->end_timer);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

static void remove_path(struct nof_path *p)
{
    struct nvme_of_host *h = p->host;

    list_for_each(it, &h->namespaces)
    {
        ns_forget_path(list_entry(it, struct nof_ns, node), p);
    }
    pthread_mutex_lock(&h->lock);
    list_remove(&p->node);
    h->npaths--;
    pthread_mutex_unlock(&h->lock);
    path_free(p);
}

void host_attach_failed(struct nof_path *p, const struct err *why)
{
    void (*attached)(void *arg, struct nvme_of_host *host, const struct err *err) = p->attached;
    void *arg = p->attached_arg;
    struct nvme_of_host *h = p->host;
    struct err err;
    char where[320];

    path_address_text(p, where, sizeof(where));
    err_set(&err, why->code ? why->code : -EIO, "cannot attach '%s': %s, %s: %s", h->name, where,
            h->subnqn, why->msg);
    path_disconnect(p);
    if (h->is_attached)
        remove_path(p);
    else
        host_free(h);
    attached(arg, NULL, &err);
}

static void finish_detach(struct nvme_of_host *h)
{
    void (*detached)(void *arg) = h->detached;
    void *arg = h->detached_arg;

    log_line(LOG_INFO, "nvme_of", "controller %s: detached", h->name);
    host_free(h);
    if (detached)
        detached(arg);
}

static void end_later(struct timer *t)
{
    finish_detach(container_of(t, struct nvme_of_host, end_timer));
}

/* Deleting: the paths leave when bdevs and queues are gone. */
void host_maybe_gone(struct nvme_of_host *h)
{
    unsigned nqueues = 0;

    if (!h->deleting || h->leaving > 0 || h->end_timer.armed)
        return;
    list_for_each(it, &h->paths)
    {
        nqueues += list_entry(it, struct nof_path, node)->nqueues;
    }
    if (nqueues > 0)
        return;
    if (list_empty(&h->paths)) {
        timer_arm(h->of->control, &h->end_timer, 0, end_later);
        return;
    }
    list_for_each_safe(it, &h->paths)
    {
        path_leave(list_entry(it, struct nof_path, node));
    }
}

void host_path_ended(struct nof_path *p)
{
    struct nvme_of_host *h = p->host;
    void (*gone)(void *arg) = p->gone;
    void *arg = p->gone_arg;
    char where[320];

    path_address_text(p, where, sizeof(where));
    if (!h->deleting)
        log_line(LOG_INFO, "nvme_of", "controller %s (%s): path removed", h->name, where);
    remove_path(p);
    if (gone)
        gone(arg);
    if (h->deleting)
        host_maybe_gone(h);
}

static void bdev_gone(void *arg)
{
    struct nvme_of_host *h = arg;

    h->leaving--;
    host_maybe_gone(h);
}

static int check_detach(struct nvme_of_host *h, struct err *err)
{
    if (h->deleting)
        return err_set(err, -EALREADY, "controller '%s' is being detached already", h->name);
    list_for_each(it, &h->paths)
    {
        struct nof_path *p = list_entry(it, struct nof_path, node);

        if (!p->is_attached || p->attach_timer.armed)
            return err_set(err, -EBUSY, "controller '%s' is still being attached", h->name);
        if (p->leaving)
            return err_set(err, -EBUSY, "a path of controller '%s' is being removed", h->name);
    }
    return 0;
}

const char *host_bdev_in_use(const struct nvme_of_host *h)
{
    list_for_each(it, &h->namespaces)
    {
        const struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        if (bdev_claims(ns->bd) > 0)
            return ns->id.bdev;
    }
    return NULL;
}

int nvme_of_detach(struct nvme_of_host *h, void (*done)(void *arg), void *arg, struct err *err)
{
    const char *bdev = host_bdev_in_use(h);
    int rc = check_detach(h, err);

    if (rc)
        return rc;
    if (bdev)
        return err_set(err, -EBUSY, "controller '%s': its bdev '%s' is in use", h->name, bdev);
    h->deleting = true;
    h->detached = done;
    h->detached_arg = arg;
    h->leaving = 1; /* done() must not run inside this call */
    list_for_each_safe(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        h->leaving++;
        if (bdev_unregister(ns->bd, bdev_gone, h, NULL))
            h->leaving--;
    }
    h->leaving--;
    host_maybe_gone(h);
    return 0;
}

int nvme_of_detach_path(struct nvme_of_host *h, const struct nvme_of_address *a,
                        void (*done)(void *arg), void *arg, struct err *err)
{
    struct nof_path *found = NULL;
    int rc = check_detach(h, err);

    if (rc)
        return rc;
    list_for_each(it, &h->paths)
    {
        struct nof_path *p = list_entry(it, struct nof_path, node);

        if (!nvme_of_path_is(p, a))
            continue;
        if (found)
            return err_set(err, -EINVAL, "controller '%s' has several paths like that: name one",
                           h->name);
        found = p;
    }
    if (!found)
        return err_set(err, -ENODEV, "controller '%s' has no such path", h->name);
    if (h->npaths == 1)
        return nvme_of_detach(h, done, arg, err);
    found->gone = done;
    found->gone_arg = arg;
    path_leave(found);
    return 0;
}
