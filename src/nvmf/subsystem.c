/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Subsystems, the hosts they admit, their namespaces. */
#include "nvmf/inside.h"

#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- subsystems ---- */

/* Base 2.0, 4.5: "nqn.yyyy-mm." and a reversed domain name, or the uuid form. */
static int check_nqn(const char *nqn, struct err *err)
{
    size_t len = strlen(nqn);

    if (strncmp(nqn, "nqn.", 4) != 0 || len < 12 || len > NVME_NQN_MAX)
        return err_set(
            err, -EINVAL,
            "nqn '%.240s': it begins with \"nqn.\", the year and the month, and has up to %d bytes",
            nqn, NVME_NQN_MAX);
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)nqn[i] <= ' ' || (unsigned char)nqn[i] == 0x7f)
            return err_set(err, -EINVAL, "nqn '%.240s': it has a blank or control character", nqn);
    if (strcmp(nqn, NVME_DISCOVERY_NQN) == 0)
        return err_set(err, -EINVAL, "nqn '%s' is that of the discovery subsystem", nqn);
    return 0;
}

static int check_text(const char *what, const char *text, size_t max, struct err *err)
{
    if (strlen(text) > max)
        return err_set(err, -EINVAL, "%s '%s' has more than %zu bytes", what, text, max);
    for (const char *p = text; *p; p++)
        if (*p < ' ' || *p > '~')
            return err_set(err, -EINVAL, "%s '%s': it is printable ASCII", what, text);
    return 0;
}

/* Also one that is being deleted: its name is taken until it is gone. */
static struct nvmf_subsystem *find(struct nvmf_target *t, const char *nqn)
{
    list_for_each(it, &t->subsystems)
    {
        struct nvmf_subsystem *ss = list_entry(it, struct nvmf_subsystem, node);

        if (strcmp(ss->nqn, nqn) == 0)
            return ss;
    }
    return NULL;
}

int nvmf_subsystem_create(struct nvmf_target *t, const struct nvmf_subsystem_opts *opts,
                          struct nvmf_subsystem **ret, struct err *err)
{
    const char *sn = opts->serial_number ? opts->serial_number : "00000000000000000000";
    const char *mn = opts->model_number ? opts->model_number : "OpenSNAP NVMe Target";
    struct nvmf_subsystem *ss;
    int rc = check_nqn(opts->nqn, err);

    if (rc == 0)
        rc = check_text("serial_number", sn, 20, err);
    if (rc == 0)
        rc = check_text("model_number", mn, 40, err);
    if (rc < 0)
        return rc;
    if (find(t, opts->nqn))
        return err_set(err, -EEXIST, "subsystem '%s' exists already", opts->nqn);
    if (opts->max_namespaces > NVMF_MAX_NAMESPACES)
        return err_set(err, -EINVAL, "max_namespaces %u: it is 1 to %d", opts->max_namespaces,
                       NVMF_MAX_NAMESPACES);
    if (opts->max_cntlid > NVME_CNTLID_MAX ||
        (opts->max_cntlid && opts->min_cntlid > opts->max_cntlid))
        return err_set(err, -EINVAL, "cntlid %u to %u: they are 1 to %u", opts->min_cntlid,
                       opts->max_cntlid, NVME_CNTLID_MAX);
    ss = calloc(1, sizeof(*ss));
    if (!ss)
        return err_set(err, -ENOMEM, "no memory for subsystem '%s'", opts->nqn);
    ss->target = t;
    ss->o = *opts;
    snprintf(ss->nqn, sizeof(ss->nqn), "%s", opts->nqn);
    snprintf(ss->sn, sizeof(ss->sn), "%s", sn);
    snprintf(ss->mn, sizeof(ss->mn), "%s", mn);
    ss->o.nqn = ss->nqn;
    ss->o.serial_number = ss->sn;
    ss->o.model_number = ss->mn;
    if (!ss->o.max_namespaces)
        ss->o.max_namespaces = 32;
    if (!ss->o.min_cntlid)
        ss->o.min_cntlid = 1;
    if (!ss->o.max_cntlid)
        ss->o.max_cntlid = NVME_CNTLID_MAX;
    ss->next_cntlid = ss->o.min_cntlid;
    list_init(&ss->namespaces);
    list_init(&ss->hosts);
    list_init(&ss->listeners);
    list_init(&ss->ctrls);
    list_append(&t->subsystems, &ss->node);
    event_discovery_changed(t);
    *ret = ss;
    return 0;
}

struct nvmf_subsystem *nvmf_subsystem_find(struct nvmf_target *t, const char *nqn)
{
    struct nvmf_subsystem *ss = find(t, nqn);

    return ss && !ss->leaving ? ss : NULL;
}

void nvmf_subsystem_for_each(struct nvmf_target *t,
                             void (*fn)(struct nvmf_subsystem *ss, void *arg), void *arg)
{
    list_for_each_safe(it, &t->subsystems)
    {
        struct nvmf_subsystem *ss = list_entry(it, struct nvmf_subsystem, node);

        if (!ss->leaving)
            fn(ss, arg);
    }
}

struct nvmf_subsystem_opts nvmf_subsystem_get_opts(const struct nvmf_subsystem *ss)
{
    return ss->o;
}

static bool has_removals(const struct nvmf_subsystem *ss)
{
    list_for_each(it, &ss->namespaces)
    {
        if (list_entry(it, struct nvmf_ns, node)->leaving)
            return true;
    }
    return false;
}

void subsystem_settle(struct nvmf_subsystem *ss)
{
    nvmf_cb done = ss->destroyed;
    void *arg = ss->destroyed_arg;
    struct list *node;

    if (!ss->leaving || !list_empty(&ss->ctrls) || has_removals(ss))
        return;
    while ((node = list_pop(&ss->namespaces))) {
        struct nvmf_ns *ns = list_entry(node, struct nvmf_ns, node);

        bdev_unlisten(&ns->listener);
        bdev_release(ns->o.bdev);
        free(ns);
    }
    while ((node = list_pop(&ss->hosts)))
        free(list_entry(node, struct nvmf_host, node));
    list_remove(&ss->node);
    event_discovery_changed(ss->target);
    free(ss);
    done(arg, 0, NULL);
}

void nvmf_subsystem_destroy(struct nvmf_subsystem *ss, nvmf_cb done, void *arg)
{
    struct err err;

    if (ss->leaving) {
        err_set(&err, -EBUSY, "subsystem '%s' is being deleted", ss->nqn);
        done(arg, -EBUSY, &err);
        return;
    }
    ss->leaving = true;
    ss->destroyed = done;
    ss->destroyed_arg = arg;
    listener_remove_all(ss);
    list_for_each_safe(it, &ss->ctrls)
    {
        ctrl_end(list_entry(it, struct nvmf_ctrl, node), "its subsystem is deleted");
    }
    subsystem_settle(ss);
}

/* ---- hosts ---- */

static struct nvmf_host *host_find(const struct nvmf_subsystem *ss, const char *hostnqn)
{
    list_for_each(it, &ss->hosts)
    {
        struct nvmf_host *h = list_entry(it, struct nvmf_host, node);

        if (strcmp(h->nqn, hostnqn) == 0)
            return h;
    }
    return NULL;
}

bool host_allowed(const struct nvmf_subsystem *ss, const char *hostnqn)
{
    return ss->o.allow_any_host || host_find(ss, hostnqn);
}

int nvmf_host_add(struct nvmf_subsystem *ss, const char *hostnqn, struct err *err)
{
    int rc = check_nqn(hostnqn, err);
    struct nvmf_host *h;

    if (rc < 0)
        return rc;
    if (host_find(ss, hostnqn))
        return err_set(err, -EEXIST, "subsystem '%s' admits host '%s' already", ss->nqn, hostnqn);
    h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(err, -ENOMEM, "no memory for host '%s'", hostnqn);
    snprintf(h->nqn, sizeof(h->nqn), "%s", hostnqn);
    list_append(&ss->hosts, &h->node);
    event_discovery_changed(ss->target);
    return 0;
}

static void end_those_not_admitted(struct nvmf_subsystem *ss)
{
    list_for_each_safe(it, &ss->ctrls)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        if (!host_allowed(ss, ctrl->hostnqn))
            ctrl_end(ctrl, "its host is not admitted any more");
    }
    event_discovery_changed(ss->target);
}

int nvmf_host_remove(struct nvmf_subsystem *ss, const char *hostnqn, struct err *err)
{
    struct nvmf_host *h = host_find(ss, hostnqn);

    if (!h)
        return err_set(err, -ENOENT, "subsystem '%s' has no host '%s'", ss->nqn, hostnqn);
    list_remove(&h->node);
    free(h);
    end_those_not_admitted(ss);
    return 0;
}

void nvmf_allow_any_host(struct nvmf_subsystem *ss, bool allow)
{
    ss->o.allow_any_host = allow;
    end_those_not_admitted(ss);
}

void nvmf_host_for_each(struct nvmf_subsystem *ss, void (*fn)(const char *hostnqn, void *arg),
                        void *arg)
{
    list_for_each(it, &ss->hosts)
    {
        fn(list_entry(it, struct nvmf_host, node)->nqn, arg);
    }
}

/* ---- namespaces ---- */

struct nvmf_ns *nvmf_ns_find(const struct nvmf_subsystem *ss, uint32_t nsid)
{
    list_for_each(it, &ss->namespaces)
    {
        struct nvmf_ns *ns = list_entry(it, struct nvmf_ns, node);

        if (ns->o.nsid == nsid && !ns->leaving)
            return ns;
    }
    return NULL;
}

struct nvmf_ns *ns_next(const struct nvmf_subsystem *ss, uint32_t after)
{
    list_for_each(it, &ss->namespaces)
    {
        struct nvmf_ns *ns = list_entry(it, struct nvmf_ns, node);

        if (ns->o.nsid > after && !ns->leaving)
            return ns;
    }
    return NULL;
}

struct told_of {
    struct nvmf_ns *ns;
    enum ns_tell_kind kind;
};

static void tell_conn(struct nvmf_conn *c, void *arg)
{
    const struct told_of *o = arg;

    ns_tell(c, o->kind, o->ns);
}

/* All connections; events to the controllers. */
static void tell_all(struct nvmf_ns *ns, enum ns_tell_kind kind)
{
    struct told_of o = {ns, kind};

    ctrl_for_each_io(ns->ss, tell_conn, &o);
    list_for_each(it, &ns->ss->ctrls)
    {
        event_ns_changed(list_entry(it, struct nvmf_ctrl, node), ns->o.nsid);
    }
}

static void resized(struct bdev_listener *l, struct bdev *bd)
{
    struct nvmf_ns *ns = container_of(l, struct nvmf_ns, listener);

    ns->info = bdev_get_info(bd);
    tell_all(ns, NS_RESIZE);
}

static uint32_t lowest_free(const struct nvmf_subsystem *ss)
{
    uint32_t nsid = 1;

    list_for_each(it, &ss->namespaces)
    {
        if (list_entry(it, struct nvmf_ns, node)->o.nsid != nsid)
            break;
        nsid++;
    }
    return nsid;
}

static bool is_taken(const struct nvmf_subsystem *ss, uint32_t nsid)
{
    list_for_each(it, &ss->namespaces)
    {
        if (list_entry(it, struct nvmf_ns, node)->o.nsid == nsid)
            return true;
    }
    return false;
}

static void insert(struct nvmf_subsystem *ss, struct nvmf_ns *ns)
{
    struct list *at = ss->namespaces.next;

    while (at != &ss->namespaces && list_entry(at, struct nvmf_ns, node)->o.nsid < ns->o.nsid)
        at = at->next;
    list_append(at, &ns->node); /* before it */
}

int nvmf_ns_add(struct nvmf_subsystem *ss, const struct nvmf_ns_opts *opts, uint32_t *nsid,
                struct err *err)
{
    static const struct bdev_uuid none;
    struct nvmf_ns_opts o = *opts;
    char who[300];
    struct nvmf_ns *ns;
    int rc;

    if (o.nsid == 0)
        o.nsid = lowest_free(ss);
    if (o.nsid > ss->o.max_namespaces)
        return err_set(err, opts->nsid ? -EINVAL : -ENOSPC,
                       "subsystem '%s': nsid %u, max_namespaces is %u", ss->nqn, o.nsid,
                       ss->o.max_namespaces);
    if (is_taken(ss, o.nsid))
        return err_set(err, -EEXIST, "subsystem '%s' has a namespace %u already", ss->nqn, o.nsid);
    if (o.anagrpid == 0)
        o.anagrpid = o.nsid;
    if (o.anagrpid > ss->o.max_namespaces)
        return err_set(err, -EINVAL, "anagrpid %u: it is 1 to %u (max_namespaces)", o.anagrpid,
                       ss->o.max_namespaces);
    ns = calloc(1, sizeof(*ns));
    if (!ns)
        return err_set(err, -ENOMEM, "no memory for namespace %u", o.nsid);
    snprintf(who, sizeof(who), "namespace %u of '%s'", o.nsid, ss->nqn);
    rc = bdev_claim(o.bdev, who, err);
    if (rc < 0) {
        free(ns);
        return rc;
    }
    ns->ss = ss;
    ns->info = bdev_get_info(o.bdev);
    if (memcmp(&o.uuid, &none, sizeof(none)) == 0)
        o.uuid = ns->info.uuid;
    ns->o = o;
    ns->listener.resized = resized;
    bdev_listen(o.bdev, &ns->listener);
    insert(ss, ns);
    tell_all(ns, NS_ADD);
    *nsid = o.nsid;
    return 0;
}

static void settle_removal(struct nvmf_ns *ns)
{
    struct nvmf_subsystem *ss = ns->ss;
    nvmf_cb removed = ns->removed;
    void *arg = ns->removed_arg;

    if (ns->waits > 0)
        return;
    list_remove(&ns->node);
    bdev_release(ns->o.bdev);
    free(ns);
    subsystem_settle(ss);
    removed(arg, 0, NULL);
}

void ns_left(struct nvmf_ns *ns)
{
    ns->waits--;
    settle_removal(ns);
}

void nvmf_ns_remove(struct nvmf_subsystem *ss, uint32_t nsid, nvmf_cb done, void *arg)
{
    struct nvmf_ns *ns = nvmf_ns_find(ss, nsid);
    struct err err;

    if (!ns) {
        err_set(&err, -ENOENT, "subsystem '%s' has no namespace %u", ss->nqn, nsid);
        done(arg, -ENOENT, &err);
        return;
    }
    ns->leaving = true;
    ns->removed = done;
    ns->removed_arg = arg;
    bdev_unlisten(&ns->listener);
    ns->waits = 1; /* done() may run inside this call, but not before all are told */
    tell_all(ns, NS_REMOVE);
    ns_left(ns);
}

void nvmf_ns_for_each(struct nvmf_subsystem *ss,
                      void (*fn)(const struct nvmf_ns_opts *ns, void *arg), void *arg)
{
    for (struct nvmf_ns *ns = NULL; (ns = ns_next(ss, ns ? ns->o.nsid : 0));)
        fn(&ns->o, arg);
}
