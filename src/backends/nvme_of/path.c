/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A path: the life of its associations (resolve, connect, set up, ready; lost: again after a
 * second, for ever), and what its I/O queues report. Thread: control. */
#include "backends/nvme_of/host.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void path_address_text(const struct nof_path *p, char *out, size_t size)
{
    if (p->naddrs)
        tcp_addr_text(&p->target.tcp.addr, out, size);
    else
        snprintf(out, size, "%s:%s", p->traddr, p->trsvcid);
}

/* ---- what I/O queues are told and tell ---- */

void path_tell_queues(struct nof_path *p)
{
    pthread_mutex_lock(&p->host->lock);
    list_for_each(it, &p->queues)
    {
        queue_want(queue_of_node(it), p->phase == PATH_READY && !p->leaving ? &p->target : NULL,
                   p->leaving);
    }
    pthread_mutex_unlock(&p->host->lock);
}

static void queue_closed(struct nof_path *p, struct nof_queue *q)
{
    struct nvme_of_host *h = p->host;

    pthread_mutex_lock(&h->lock);
    list_remove(queue_node(q));
    p->nqueues--;
    p->qid_used[queue_qid(q)] = false;
    pthread_mutex_unlock(&h->lock);
    queue_free(q);
    if (p->leaving)
        path_maybe_ended(p);
    else
        host_maybe_gone(h);
}

void path_report(struct nof_path *p, struct nof_queue *q, const struct nof_report *report)
{
    if (report->closed) {
        queue_closed(p, q);
        return;
    }
    if (report->lost_assoc == p->assoc && p->phase == PATH_READY) {
        tcp_fail(&p->admin, report->why.code, "I/O queue %u: %s", queue_qid(q), report->why.msg);
        return;
    }
    if (report->opened && p->phase == PATH_READY) {
        pthread_mutex_lock(&p->host->lock);
        queue_want(q, &p->target, p->leaving);
        pthread_mutex_unlock(&p->host->lock);
    }
    if (report->rescan && p->phase == PATH_READY)
        steps_rescan(p);
    if (report->ana && p->phase == PATH_READY)
        steps_read_ana(p);
}

/* ---- the end ---- */

void path_free(struct nof_path *p)
{
    if (!p)
        return;
    list_remove(&p->node);
    resolve_abandon(p->resolve);
    if (p->admin.r) {
        admin_stop(p);
        tcp_close(&p->admin);
        tcp_fini(&p->admin);
    }
    timer_cancel(&p->attach_timer);
    timer_cancel(&p->reconnect_timer);
    free(p->scan);
    free(p->scan_shared);
    free(p->scan_nsids);
    free(p->scan_anagrpids);
    free(p->ana.log);
    free(p);
}

void path_disconnect(struct nof_path *p)
{
    resolve_abandon(p->resolve);
    p->resolve = NULL;
    admin_stop(p);
    tcp_close(&p->admin);
    timer_cancel(&p->reconnect_timer);
    p->phase = PATH_WAITING;
    path_tell_queues(p);
}

static void end_now(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, reconnect_timer);

    path_disconnect(p);
    host_path_ended(p);
}

/* Leaving: once the queues are gone, says good-bye; path_lost() brings the end. */
void path_maybe_ended(struct nof_path *p)
{
    if (!p->leaving || p->nqueues > 0 || p->reconnect_timer.armed)
        return;
    if (!admin_shutdown(p))
        timer_arm(p->host->of->control, &p->reconnect_timer, 0, end_now);
}

void path_leave(struct nof_path *p)
{
    if (p->leaving)
        return;
    pthread_mutex_lock(&p->host->lock);
    p->leaving = true; /* no lane makes a queue of it any more */
    pthread_mutex_unlock(&p->host->lock);
    timer_cancel(&p->reconnect_timer);
    timer_cancel(&p->attach_timer);
    path_tell_queues(p);
    path_maybe_ended(p);
}

/* ---- associations ---- */

static void reconnect(struct timer *t)
{
    path_begin(container_of(t, struct nof_path, reconnect_timer));
}

static bool others_ready(const struct nof_path *p)
{
    list_for_each(it, &p->host->paths)
    {
        const struct nof_path *other = list_entry(it, struct nof_path, node);

        if (other != p && other->phase == PATH_READY)
            return true;
    }
    return false;
}

static void log_failure(struct nof_path *p, const char *what, const char *msg)
{
    char where[320];

    p->failures++;
    /* The first, a new reason, and a sign of life every minute. */
    if (strcmp(p->last_failure, msg) == 0 && p->failures % 60)
        return;
    snprintf(p->last_failure, sizeof(p->last_failure), "%s", msg);
    path_address_text(p, where, sizeof(where));
    log_line(LOG_WARNING, "nvme_of", "controller %s (%s): %s: %s; %s, try %u in %u ms",
             p->host->name, where, what, msg,
             others_ready(p) ? "I/O goes by its other paths" : "I/O is held", p->failures,
             NOF_RECONNECT_MS);
}

void path_lost(struct nof_path *p, const struct err *why)
{
    bool was_ready = p->phase == PATH_READY;

    if (p->leaving) {
        path_disconnect(p);
        path_maybe_ended(p);
        return;
    }
    if (!p->is_attached) {
        host_attach_failed(p, why);
        return;
    }
    path_disconnect(p);
    log_failure(p, was_ready ? "connection lost" : "cannot connect", why->msg);
    timer_arm(p->host->of->control, &p->reconnect_timer, NOF_RECONNECT_MS, reconnect);
}

void path_ready_logged(struct nof_path *p)
{
    char where[320];

    p->failures = 0;
    p->last_failure[0] = '\0';
    path_address_text(p, where, sizeof(where));
    log_line(LOG_INFO, "nvme_of",
             "controller %s (%s): connected, CNTLID %u, %u namespaces, up to %u I/O queues",
             p->host->name, where, p->target.cntlid, p->nscan, p->max_queues);
}

static void open_admin(struct nof_path *p)
{
    struct tcp_opts *o = &p->target.tcp;
    struct err err;

    memset(&p->target, 0, sizeof(p->target));
    o->addr = p->addrs[p->next_addr++ % p->naddrs];
    o->local = p->local;
    o->hdgst = p->hdgst;
    o->ddgst = p->ddgst;
    o->phase_timeout_ms = p->host->phase_timeout_ms;
    o->inline_bytes = NVME_TCP_ADMIN_INLINE_BYTES;
    p->target.assoc = p->assoc;
    p->target.io_timeout_ms = p->host->io_timeout_ms;
    p->target.no_sq_flow = p->no_sq_flow;
    p->phase = PATH_CONNECTING;
    if (tcp_open(&p->admin, o, &err))
        path_lost(p, &err);
}

static void resolved(void *arg, const struct sockaddr_storage *addrs, unsigned n,
                     const struct err *why)
{
    struct nof_path *p = arg;

    p->resolve = NULL;
    if (n == 0) {
        path_lost(p, why);
        return;
    }
    memcpy(p->addrs, addrs, n * sizeof(*addrs));
    p->naddrs = n;
    open_admin(p);
}

static void no_resolver(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, reconnect_timer);
    struct err err;

    err_set(&err, -ENOMEM, "no thread to resolve '%s'", p->traddr);
    path_lost(p, &err);
}

void path_begin(struct nof_path *p)
{
    p->assoc = ++p->host->assoc;
    p->begun_us = reactor_now_us(p->host->of->control);
    p->phase = PATH_RESOLVING;
    p->resolve = resolve_start(p->host->of->control, p->traddr, p->trsvcid, p->family, resolved, p);
    if (!p->resolve)
        timer_arm(p->host->of->control, &p->reconnect_timer, 0, no_resolver);
}

/* ---- birth ---- */

struct nof_path *path_create(struct nvme_of_host *h, const struct nvme_of_opts *o, struct err *err)
{
    struct nof_path *p = calloc(1, sizeof(*p));

    if (!p) {
        err_set(err, -ENOMEM, "no memory for controller '%s'", h->name);
        return NULL;
    }
    p->host = h;
    list_init(&p->node);
    list_init(&p->queues);
    if (path_options(p, o, err))
        goto out;
    p->scan = calloc(h->max_bdevs, sizeof(*p->scan));
    p->scan_shared = calloc(h->max_bdevs, sizeof(*p->scan_shared));
    p->scan_nsids = calloc(h->max_bdevs, sizeof(*p->scan_nsids));
    p->scan_anagrpids = calloc(h->max_bdevs, sizeof(*p->scan_anagrpids));
    if (!p->scan || !p->scan_shared || !p->scan_nsids || !p->scan_anagrpids ||
        tcp_init(&p->admin, h->of->control, 8, &admin_ops)) {
        err_set(err, -ENOMEM, "no memory for controller '%s'", h->name);
        goto out;
    }
    return p;
out:
    path_free(p);
    return NULL;
}
