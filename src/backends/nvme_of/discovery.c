/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A discovery: a lasting connection to a discovery controller. Its log is read until it holds
 * still, and again on each notice; what it lists is attached, what it lists no more is detached,
 * one after the other. The hosts are known by the discovery's name, so that those of a former
 * process are found again. Thread: control. */
#include "backends/nvme_of/discovery.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static void reconcile(struct nof_discovery *d);

/* ---- hosts ---- */

static bool listed(const struct nof_discovery *d, const struct nof_path *p)
{
    for (unsigned i = 0; i < d->n; i++)
        if (strcmp(d->records[i].subnqn, p->host->subnqn) == 0 &&
            strcmp(d->records[i].traddr, p->traddr) == 0 &&
            strcmp(d->records[i].trsvcid, p->trsvcid) == 0)
            return true;
    return false;
}

static bool is_ours(const struct nof_discovery *d, const struct nvme_of_host *h)
{
    return strcmp(h->discovery, d->name) == 0;
}

static struct nvme_of_host *host_of(struct nof_discovery *d, const char *subnqn)
{
    list_for_each(it, &d->of->hosts)
    {
        struct nvme_of_host *h = list_entry(it, struct nvme_of_host, node);

        if (is_ours(d, h) && strcmp(h->subnqn, subnqn) == 0)
            return h;
    }
    return NULL;
}

static bool has_path(const struct nvme_of_host *h, const struct nof_record *r)
{
    list_for_each(it, &h->paths)
    {
        const struct nof_path *p = list_entry(it, struct nof_path, node);

        if (strcmp(p->traddr, r->traddr) == 0 && strcmp(p->trsvcid, r->trsvcid) == 0)
            return true;
    }
    return false;
}

static void round_again(struct timer *t)
{
    struct nof_discovery *d = container_of(t, struct nof_discovery, again_timer);

    d->stuck = false;
    memset(d->tried, 0, NOF_DISCOVERY_RECORDS * sizeof(*d->tried));
    reconcile(d);
}

static void finish_stop(struct nof_discovery *d);

static void settle(struct nof_discovery *d)
{
    void (*settled)(void *arg, const struct err *err) = d->o.settled;

    if (d->stuck)
        timer_arm(d->of->control, &d->again_timer, DISCOVERY_AGAIN_MS, round_again);
    if (d->settled)
        return;
    d->settled = true;
    timer_cancel(&d->limit_timer);
    if (settled)
        settled(d->o.settled_arg, NULL);
}

static void attached(void *arg, struct nvme_of_host *h, const struct err *err)
{
    struct nof_discovery *d = arg;

    d->busy = false;
    if (h) {
        d->o.changed(d->o.changed_arg, h);
    } else {
        d->stuck = true;
        log_line(LOG_WARNING, "nvme_of", "discovery %s: %s", d->name, err->msg);
    }
    reconcile(d);
}

/* Something is begun. */
static bool attach(struct nof_discovery *d, const struct nof_record *r)
{
    struct nvme_of_host *h = host_of(d, r->subnqn);
    char name[80];
    struct nvme_of_opts opts = {
        .name = h ? h->name : name,
        .discovery = d->name,
        .traddr = r->traddr,
        .trsvcid = r->trsvcid,
        .adrfam = r->ipv6 ? "IPv6" : "IPv4",
        .subnqn = r->subnqn,
        .hostnqn = d->hostnqn,
        .multipath = NVME_OF_MULTIPATH,
        .changed = d->o.changed,
        .changed_arg = d->o.changed_arg,
    };
    struct err err;

    for (unsigned i = 0; !h && i <= UINT16_MAX; i++) {
        snprintf(name, sizeof(name), "%.58s%u", d->name, i);
        if (!nvme_of_find(d->of, name))
            break;
    }
    if (nvme_of_attach(d->of, &opts, attached, d, &err) == 0)
        return true;
    d->stuck = true;
    log_line(LOG_WARNING, "nvme_of", "discovery %s: %s: %s", d->name, r->subnqn, err.msg);
    return false;
}

struct detachment {
    struct nof_discovery *d;
    char host[64];
};

static void detached(void *arg)
{
    struct detachment *det = arg;
    struct nof_discovery *d = det->d;
    struct nvme_of_host *h = nvme_of_find(d->of, det->host);

    if (h)
        d->o.changed(d->o.changed_arg, h);
    else
        d->o.gone(d->o.changed_arg, det->host);
    free(det);
    d->busy = false;
    reconcile(d);
}

static bool detach(struct nof_discovery *d, struct nof_path *p)
{
    struct detachment *det = malloc(sizeof(*det));
    struct nvme_of_address a = {.traddr = p->traddr, .trsvcid = p->trsvcid};
    struct err err = {.msg = "no memory"};

    if (det) {
        det->d = d;
        memcpy(det->host, p->host->name, sizeof(det->host));
        if (nvme_of_detach_path(p->host, &a, detached, det, &err) == 0)
            return true;
    }
    free(det);
    d->stuck = true;
    log_line(LOG_WARNING, "nvme_of", "discovery %s: %s:%s is listed no more, but: %s", d->name,
             p->traddr, p->trsvcid, err.msg);
    return false;
}

/* One thing that is missing or too much. */
static bool begin_one(struct nof_discovery *d)
{
    list_for_each_safe(it, &d->of->hosts)
    {
        struct nvme_of_host *h = list_entry(it, struct nvme_of_host, node);

        if (!is_ours(d, h) || !h->is_attached || h->deleting)
            continue;
        list_for_each_safe(at, &h->paths)
        {
            struct nof_path *p = list_entry(at, struct nof_path, node);

            if (!p->leaving && (d->stopping || !listed(d, p)) && detach(d, p))
                return true;
        }
    }
    for (unsigned i = 0; i < d->n && !d->stopping; i++) {
        struct nvme_of_host *h = host_of(d, d->records[i].subnqn);

        if (d->tried[i] || (h && has_path(h, &d->records[i])))
            continue;
        d->tried[i] = true;
        if (attach(d, &d->records[i]))
            return true;
    }
    return false;
}

static void reconcile(struct nof_discovery *d)
{
    if (d->busy || !(d->listed || d->stopping))
        return;
    d->busy = true;
    if (begin_one(d))
        return;
    d->busy = false;
    if (d->stopping)
        finish_stop(d);
    else
        settle(d);
}

void discovery_new_log(struct nof_discovery *d)
{
    struct nof_record *old = d->records;

    d->records = d->reading;
    d->reading = old;
    d->n = d->nreading;
    d->listed = true;
    d->stuck = false;
    timer_cancel(&d->again_timer);
    memset(d->tried, 0, NOF_DISCOVERY_RECORDS * sizeof(*d->tried));
    reconcile(d);
}

/* ---- the door ---- */

static void discovery_free(struct nof_discovery *d)
{
    if (!d)
        return;
    list_remove(&d->node);
    if (d->admin.r) {
        discovery_disconnect(d);
        tcp_fini(&d->admin);
    }
    timer_cancel(&d->again_timer);
    timer_cancel(&d->limit_timer);
    free(d->records);
    free(d->reading);
    free(d->tried);
    free(d);
}

static void finish_stop(struct nof_discovery *d)
{
    void (*stopped)(void *arg) = d->stopped;
    void *arg = d->stopped_arg;

    log_line(LOG_INFO, "nvme_of", "discovery %s: stopped", d->name);
    discovery_free(d);
    if (stopped)
        stopped(arg);
}

static void stop_later(struct timer *t)
{
    reconcile(container_of(t, struct nof_discovery, limit_timer));
}

static void stop(struct nof_discovery *d, void (*done)(void *arg), void *arg)
{
    d->stopping = true;
    d->stopped = done;
    d->stopped_arg = arg;
    discovery_disconnect(d);
    timer_cancel(&d->again_timer);
    timer_arm(d->of->control, &d->limit_timer, 0, stop_later);
}

static void too_late(struct timer *t)
{
    struct nof_discovery *d = container_of(t, struct nof_discovery, limit_timer);
    void (*settled)(void *arg, const struct err *err) = d->o.settled;
    void *arg = d->o.settled_arg;
    struct err err;

    err_set(&err, -ETIMEDOUT, "discovery '%s': not all is attached within %llu ms: %s", d->name,
            (unsigned long long)d->o.attach_timeout_ms,
            d->last_failure[0] ? d->last_failure : "see the log");
    d->settled = true;
    stop(d, NULL, NULL);
    if (settled)
        settled(arg, &err);
}

static int copy_options(struct nof_discovery *d, const struct nvme_of_discovery_opts *o,
                        struct err *err)
{
    int family, rc = transport_options(o->trtype, o->adrfam, &family, err);

    if (rc)
        return rc;
    rc = text_option(d->name, 59, o->name, "name", err); /* hosts are <name><number> */
    if (!rc)
        rc = text_option(d->traddr, sizeof(d->traddr), o->traddr, "traddr", err);
    if (!rc)
        rc = text_option(d->trsvcid, sizeof(d->trsvcid),
                         o->trsvcid && o->trsvcid[0] ? o->trsvcid : "8009", "trsvcid", err);
    if (!rc && family != AF_UNSPEC)
        rc = text_option(d->adrfam, sizeof(d->adrfam), o->adrfam, "adrfam", err);
    if (!rc && o->hostnqn && o->hostnqn[0])
        rc = text_option(d->hostnqn, sizeof(d->hostnqn), o->hostnqn, "hostnqn", err);
    else if (!rc)
        nvme_of_default_hostnqn(d->of, d->hostnqn, sizeof(d->hostnqn));
    return rc;
}

struct nof_discovery *nvme_of_discovery_find(struct nvme_of *of, const char *name)
{
    list_for_each(it, &of->discoveries)
    {
        struct nof_discovery *d = list_entry(it, struct nof_discovery, node);

        if (strcmp(d->name, name) == 0)
            return d;
    }
    return NULL;
}

int nvme_of_discovery_start(struct nvme_of *of, const struct nvme_of_discovery_opts *o,
                            struct err *err)
{
    struct nof_discovery *d;
    int rc;

    if (o->name && nvme_of_discovery_find(of, o->name))
        return err_set(err, -EEXIST, "a discovery named '%s' runs already", o->name);
    d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(err, -ENOMEM, "no memory for discovery '%s'", o->name);
    d->of = of;
    d->o = *o;
    list_init(&d->node);
    rc = copy_options(d, o, err);
    if (rc)
        goto out;
    d->records = calloc(NOF_DISCOVERY_RECORDS, sizeof(*d->records));
    d->reading = calloc(NOF_DISCOVERY_RECORDS, sizeof(*d->reading));
    d->tried = calloc(NOF_DISCOVERY_RECORDS, sizeof(*d->tried));
    if (!d->records || !d->reading || !d->tried || discovery_admin_init(d)) {
        rc = err_set(err, -ENOMEM, "no memory for discovery '%s'", o->name);
        goto out;
    }
    list_append(&of->discoveries, &d->node);
    if (o->attach_timeout_ms && !o->later)
        timer_arm(of->control, &d->limit_timer, o->attach_timeout_ms, too_late);
    if (!o->later)
        discovery_connect_soon(d);
    return 0;
out:
    discovery_free(d);
    return rc;
}

void nvme_of_discoveries_begin(struct nvme_of *of)
{
    list_for_each(it, &of->discoveries)
    {
        struct nof_discovery *d = list_entry(it, struct nof_discovery, node);

        if (d->o.later)
            discovery_connect_soon(d);
        d->o.later = false;
    }
}

int nvme_of_discovery_stop(struct nof_discovery *d, void (*done)(void *arg), void *arg,
                           struct err *err)
{
    if (d->stopping)
        return err_set(err, -EALREADY, "discovery '%s' is being stopped already", d->name);
    list_for_each(it, &d->of->hosts)
    {
        struct nvme_of_host *h = list_entry(it, struct nvme_of_host, node);
        const char *bdev;

        if (!is_ours(d, h))
            continue;
        bdev = host_bdev_in_use(h);
        if (bdev)
            return err_set(err, -EBUSY, "discovery '%s': the bdev '%s' is in use", d->name, bdev);
    }
    stop(d, done, arg);
    return 0;
}

json_t *nvme_of_discovery_list(struct nvme_of *of)
{
    json_t *list = json_array();

    list_for_each(it, &of->discoveries)
    {
        const struct nof_discovery *d = list_entry(it, struct nof_discovery, node);
        bool ipv6 =
            d->adrfam[0] ? strcasecmp(d->adrfam, "IPv6") == 0 : strchr(d->traddr, ':') != NULL;

        json_array_append_new(
            list, json_pack("{s:s, s:{s:s, s:s, s:s, s:s, s:s}, s:[], s:b, s:i}", "name", d->name,
                            "trid", "trtype", "TCP", "adrfam", ipv6 ? "IPv6" : "IPv4", "traddr",
                            d->traddr, "trsvcid", d->trsvcid, "subnqn", NVME_DISCOVERY_NQN,
                            "referrals", "connected", (int)d->connected, "entries", (int)d->n));
    }
    return list;
}
