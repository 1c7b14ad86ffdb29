/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A host: options, the life of its associations (resolve, connect, set up, ready; lost: again after
 * a second, for ever), and what its I/O queues report. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void begin(struct nvme_of_host *h);

static void address_text(const struct nvme_of_host *h, char *out, size_t size)
{
    if (h->naddrs)
        tcp_addr_text(&h->target.tcp.addr, out, size);
    else
        snprintf(out, size, "%s:%s", h->traddr, h->trsvcid);
}

/* ---- what I/O queues are told and tell ---- */

/* Every queue connects (ready) or hangs up. */
static void tell_queues(struct nvme_of_host *h)
{
    pthread_mutex_lock(&h->lock);
    list_for_each(it, &h->queues)
    {
        queue_want(queue_of_node(it), h->phase == HOST_READY ? &h->target : NULL);
    }
    pthread_mutex_unlock(&h->lock);
}

static void maybe_detached(struct nvme_of_host *h);

static void queue_closed(struct nvme_of_host *h, struct nof_queue *q)
{
    pthread_mutex_lock(&h->lock);
    list_remove(queue_node(q));
    h->nqueues--;
    h->qid_used[queue_qid(q)] = false;
    pthread_mutex_unlock(&h->lock);
    queue_free(q);
    maybe_detached(h);
}

void host_report(struct nvme_of_host *h, struct nof_queue *q, const struct nof_report *report)
{
    if (report->closed) {
        queue_closed(h, q);
        return;
    }
    if (report->lost_assoc == h->assoc && h->phase == HOST_READY) {
        tcp_fail(&h->admin, report->why.code, "I/O queue %u: %s", queue_qid(q), report->why.msg);
        return;
    }
    if (report->opened && h->phase == HOST_READY) {
        pthread_mutex_lock(&h->lock);
        queue_want(q, &h->target);
        pthread_mutex_unlock(&h->lock);
    }
    if (report->rescan && h->phase == HOST_READY)
        steps_rescan(h);
}

/* ---- the end ---- */

static void host_free(struct nvme_of_host *h)
{
    if (!h)
        return;
    list_remove(&h->node);
    resolve_abandon(h->resolve);
    if (h->admin.r) {
        admin_stop(h);
        tcp_close(&h->admin);
        tcp_fini(&h->admin);
    }
    timer_cancel(&h->attach_timer);
    timer_cancel(&h->reconnect_timer);
    pthread_mutex_destroy(&h->lock);
    free(h->scan);
    free(h->scan_shared);
    free(h->scan_nsids);
    free(h);
}

static void disconnect(struct nvme_of_host *h)
{
    resolve_abandon(h->resolve);
    h->resolve = NULL;
    admin_stop(h);
    tcp_close(&h->admin);
    timer_cancel(&h->reconnect_timer);
    h->phase = HOST_WAITING;
    tell_queues(h);
}

static void attach_failed(struct nvme_of_host *h, const struct err *why)
{
    void (*attached)(void *arg, struct nvme_of_host *host, const struct err *err) = h->attached;
    void *arg = h->attached_arg;
    struct err err;
    char where[320];

    address_text(h, where, sizeof(where));
    err_set(&err, why->code ? why->code : -EIO, "cannot attach '%s': %s, %s: %s", h->name, where,
            h->subnqn, why->msg);
    disconnect(h);
    host_free(h);
    attached(arg, NULL, &err);
}

static void attach_expired(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, attach_timer);
    static const char *const phases[] = {
        [HOST_WAITING] = "waiting",       [HOST_RESOLVING] = "resolving the name",
        [HOST_CONNECTING] = "connecting", [HOST_SETTING_UP] = "setting up the controller",
        [HOST_READY] = "ready",
    };
    struct err err;

    err_set(&err, -ETIMEDOUT, "no answer within %u ms (%s)", h->phase_timeout_ms, phases[h->phase]);
    attach_failed(h, &err);
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

static void detach_last(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, reconnect_timer);

    disconnect(h);
    finish_detach(h);
}

/* Deleting: once bdevs and queues are gone, says good-bye; host_lost() brings the end. */
static void maybe_detached(struct nvme_of_host *h)
{
    if (!h->deleting || h->leaving > 0 || h->nqueues > 0 || h->reconnect_timer.armed)
        return;
    if (!admin_shutdown(h))
        timer_arm(h->of->control, &h->reconnect_timer, 0, detach_last);
}

/* ---- associations ---- */

static void reconnect(struct timer *t)
{
    begin(container_of(t, struct nvme_of_host, reconnect_timer));
}

static void log_failure(struct nvme_of_host *h, const char *what, const char *msg)
{
    char where[320];

    h->failures++;
    /* The first, a new reason, and a sign of life every minute. */
    if (strcmp(h->last_failure, msg) == 0 && h->failures % 60)
        return;
    snprintf(h->last_failure, sizeof(h->last_failure), "%s", msg);
    address_text(h, where, sizeof(where));
    log_line(LOG_WARNING, "nvme_of", "controller %s (%s): %s: %s; I/O is held, try %u in %u ms",
             h->name, where, what, msg, h->failures, NOF_RECONNECT_MS);
}

void host_lost(struct nvme_of_host *h, const struct err *why)
{
    bool was_ready = h->phase == HOST_READY;

    if (h->deleting) {
        disconnect(h);
        maybe_detached(h);
        return;
    }
    if (!h->is_attached) {
        attach_failed(h, why);
        return;
    }
    disconnect(h);
    log_failure(h, was_ready ? "connection lost" : "cannot connect", why->msg);
    timer_arm(h->of->control, &h->reconnect_timer, NOF_RECONNECT_MS, reconnect);
}

static void open_admin(struct nvme_of_host *h)
{
    struct tcp_opts *o = &h->target.tcp;
    struct err err;

    memset(&h->target, 0, sizeof(h->target));
    o->addr = h->addrs[h->next_addr++ % h->naddrs];
    o->local = h->local;
    o->hdgst = h->hdgst;
    o->ddgst = h->ddgst;
    o->phase_timeout_ms = h->phase_timeout_ms;
    o->inline_bytes = NVME_TCP_ADMIN_INLINE_BYTES;
    h->target.assoc = h->assoc;
    h->target.io_timeout_ms = h->io_timeout_ms;
    h->target.no_sq_flow = h->no_sq_flow;
    h->phase = HOST_CONNECTING;
    if (tcp_open(&h->admin, o, &err))
        host_lost(h, &err);
}

static void resolved(void *arg, const struct sockaddr_storage *addrs, unsigned n,
                     const struct err *why)
{
    struct nvme_of_host *h = arg;

    h->resolve = NULL;
    if (n == 0) {
        host_lost(h, why);
        return;
    }
    memcpy(h->addrs, addrs, n * sizeof(*addrs));
    h->naddrs = n;
    open_admin(h);
}

static void no_resolver(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, reconnect_timer);
    struct err err;

    err_set(&err, -ENOMEM, "no thread to resolve '%s'", h->traddr);
    host_lost(h, &err);
}

static void begin(struct nvme_of_host *h)
{
    h->assoc++;
    h->phase = HOST_RESOLVING;
    h->resolve = resolve_start(h->of->control, h->traddr, h->trsvcid, h->family, resolved, h);
    if (!h->resolve)
        timer_arm(h->of->control, &h->reconnect_timer, 0, no_resolver);
}

/* The association is set up: those before it have ended, or will in a bounded time. A target may
 * have become another one between them: the longer time counts. */
static void set_fence(struct nvme_of_host *h)
{
    struct fence_rule rule = fence_rule_for(&h->ctrl, h->keep_alive_ms);

    h->fence_delay_us = 1000ULL * MAX(rule.delay_ms, h->fence.delay_ms);
    h->fence = rule;
}

static void tell_fences(struct nvme_of_host *h)
{
    list_for_each(it, &h->namespaces)
    {
        fence_ready(&list_entry(it, struct nof_ns, node)->fence, h->assoc, h->fence_delay_us);
    }
}

/* What the target shows, against what we know. True when something to be saved has changed. */
static bool compare(struct nvme_of_host *h, bool live)
{
    bool changed = false;

    list_for_each(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);
        const struct nvme_of_namespace *found = NULL;

        for (unsigned i = 0; i < h->nscan; i++)
            if (h->scan[i].nsid == ns->id.nsid) {
                found = &h->scan[i];
                ns->shared = h->scan_shared[i];
            }
        changed |= ns_update(ns, found, live, h->scan_refused);
    }
    return changed;
}

static bool add_new(struct nvme_of_host *h)
{
    bool changed = false;
    unsigned n = nvme_of_namespaces(h, NULL, 0);
    struct err err;

    for (unsigned i = 0; i < h->nscan; i++) {
        if (ns_find(h, h->scan[i].nsid))
            continue;
        if (n == h->max_bdevs)
            err_set(&err, -E2BIG, "more than %u namespaces (max_bdevs)", h->max_bdevs);
        else if (ns_add(h, &h->scan[i], h->scan_shared[i], &err) == 0) {
            log_line(LOG_INFO, "nvme_of", "controller %s: new namespace %u", h->name,
                     h->scan[i].nsid);
            changed = true;
            n++;
            continue;
        }
        log_line(LOG_WARNING, "nvme_of", "controller %s: namespace %u left out: %s", h->name,
                 h->scan[i].nsid, err.msg);
    }
    return changed;
}

static void tell_changed(struct nvme_of_host *h)
{
    if (h->changed)
        h->changed(h->changed_arg, h);
}

static void remove_namespaces(struct nvme_of_host *h)
{
    list_for_each_safe(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        bdev_unregister(ns->bd, NULL, NULL, NULL);
    }
}

/* First attach: all namespaces or none. */
static int first_set_up(struct nvme_of_host *h, struct err *err)
{
    if (h->nscan == 0 && h->scan_refused[0])
        return err_set(err, -EPROTO, "no namespace can be used: %s", h->scan_refused);
    for (unsigned i = 0; i < h->nscan; i++) {
        int rc = ns_add(h, &h->scan[i], h->scan_shared[i], err);

        if (rc) {
            remove_namespaces(h);
            return rc;
        }
    }
    return 0;
}

int host_set_up(struct nvme_of_host *h, struct err *err)
{
    bool changed = false, first = !h->is_attached;
    char where[320];

    if (first) {
        int rc = first_set_up(h, err);

        if (rc)
            return rc;
    } else {
        changed = compare(h, false);
        changed |= add_new(h);
    }
    set_fence(h);
    tell_fences(h); /* before any queue sends */
    h->phase = HOST_READY;
    h->failures = 0;
    h->last_failure[0] = '\0';
    address_text(h, where, sizeof(where));
    log_line(LOG_INFO, "nvme_of",
             "controller %s (%s): connected, CNTLID %u, %u namespaces, up to %u I/O queues",
             h->name, where, h->target.cntlid, h->nscan, h->max_queues);
    tell_queues(h);
    if (first) {
        h->is_attached = true;
        timer_cancel(&h->attach_timer);
        h->attached(h->attached_arg, h, NULL);
    } else if (changed) {
        tell_changed(h);
    }
    return 0;
}

void host_rescanned(struct nvme_of_host *h)
{
    bool changed = compare(h, true);

    changed |= add_new(h);
    tell_fences(h);
    tell_queues(h); /* held ones are looked at again */
    if (changed)
        tell_changed(h);
}

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
            remove_namespaces(h);
            return rc;
        }
    }
    return 0;
}

/* ---- the door ---- */

static void known_attached(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, attach_timer);

    begin(h);
    h->attached(h->attached_arg, h, NULL);
}

static struct nvme_of_host *host_create(struct nvme_of *of)
{
    struct nvme_of_host *h = calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->of = of;
    list_init(&h->node);
    list_init(&h->namespaces);
    list_init(&h->queues);
    pthread_mutex_init(&h->lock, NULL);
    if (tcp_init(&h->admin, of->control, 8, &admin_ops)) {
        host_free(h);
        return NULL;
    }
    return h;
}

int nvme_of_attach(struct nvme_of *of, const struct nvme_of_opts *opts,
                   void (*done)(void *arg, struct nvme_of_host *host, const struct err *err),
                   void *arg, struct err *err)
{
    struct nvme_of_host *h;
    int rc;

    if (opts->name && nvme_of_find(of, opts->name))
        return err_set(err, -EEXIST, "a controller named '%s' is attached already", opts->name);
    h = host_create(of);
    if (!h)
        return err_set(err, -ENOMEM, "no memory for controller '%s'", opts->name);
    rc = host_options(h, opts, err);
    if (rc)
        goto out;
    h->scan = calloc(h->max_bdevs, sizeof(*h->scan));
    h->scan_shared = calloc(h->max_bdevs, sizeof(*h->scan_shared));
    h->scan_nsids = calloc(h->max_bdevs, sizeof(*h->scan_nsids));
    if (!h->scan || !h->scan_shared || !h->scan_nsids) {
        rc = err_set(err, -ENOMEM, "no memory for controller '%s'", opts->name);
        goto out;
    }
    rc = add_known(h, opts, err);
    if (rc)
        goto out;
    h->attached = done;
    h->attached_arg = arg;
    list_append(&of->hosts, &h->node);
    if (opts->known) {
        h->is_attached = true;
        timer_arm(of->control, &h->attach_timer, 0, known_attached);
        return 0;
    }
    timer_arm(of->control, &h->attach_timer, h->phase_timeout_ms, attach_expired);
    begin(h);
    return 0;
out:
    host_free(h);
    return rc;
}

static void bdev_gone(void *arg)
{
    struct nvme_of_host *h = arg;

    h->leaving--;
    maybe_detached(h);
}

int nvme_of_detach(struct nvme_of_host *h, void (*done)(void *arg), void *arg, struct err *err)
{
    if (h->deleting)
        return err_set(err, -EALREADY, "controller '%s' is being detached already", h->name);
    if (!h->is_attached || h->attach_timer.armed)
        return err_set(err, -EBUSY, "controller '%s' is still being attached", h->name);
    list_for_each(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        if (bdev_claims(ns->bd) > 0)
            return err_set(err, -EBUSY, "controller '%s': its bdev '%s' is in use", h->name,
                           ns->id.bdev);
    }
    h->deleting = true;
    h->detached = done;
    h->detached_arg = arg;
    timer_cancel(&h->reconnect_timer);
    h->leaving = 1; /* done() must not run inside this call */
    list_for_each_safe(it, &h->namespaces)
    {
        struct nof_ns *ns = list_entry(it, struct nof_ns, node);

        h->leaving++;
        if (bdev_unregister(ns->bd, bdev_gone, h, NULL))
            h->leaving--;
    }
    h->leaving--;
    maybe_detached(h);
    return 0;
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
    return of;
}

void nvme_of_destroy(struct nvme_of *of)
{
    free(of);
}
