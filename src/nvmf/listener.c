/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Listening sockets, which subsystems share; the state of ANA groups at each. */
#include "nvmf/inside.h"

#include "base/fd.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BACKLOG = 128, ACCEPTS_PER_TURN = 16, PAUSE_MS = 100 };

static struct log_limit accept_limit;

/* ---- addresses ---- */

static int parse(const struct nvmf_address *a, struct sockaddr_storage *ret, socklen_t *len,
                 struct err *err)
{
    char *end;
    unsigned long port = strtoul(a->trsvcid, &end, 10);

    memset(ret, 0, sizeof(*ret));
    if (!a->trsvcid[0] || *end || port > 65535)
        return err_set(err, -EINVAL, "trsvcid '%s': it is a port, 1 to 65535", a->trsvcid);
    if (a->ipv6) {
        struct sockaddr_in6 *in6 = (void *)ret;

        in6->sin6_family = AF_INET6;
        in6->sin6_port = htons((uint16_t)port);
        *len = sizeof(*in6);
        if (inet_pton(AF_INET6, a->traddr, &in6->sin6_addr) != 1)
            return err_set(err, -EINVAL, "traddr '%s' is no IPv6 address", a->traddr);
    } else {
        struct sockaddr_in *in = (void *)ret;

        in->sin_family = AF_INET;
        in->sin_port = htons((uint16_t)port);
        *len = sizeof(*in);
        if (inet_pton(AF_INET, a->traddr, &in->sin_addr) != 1)
            return err_set(err, -EINVAL, "traddr '%s' is no IPv4 address", a->traddr);
    }
    return 0;
}

static void port_text(const struct sockaddr_storage *addr, char *host, size_t size, unsigned *port)
{
    struct sockaddr_in6 in6 = {0};
    struct sockaddr_in in = {0};

    if (addr->ss_family == AF_INET6) {
        memcpy(&in6, addr, sizeof(in6));
        inet_ntop(AF_INET6, &in6.sin6_addr, host, (socklen_t)size);
        *port = ntohs(in6.sin6_port);
    } else {
        memcpy(&in, addr, sizeof(in));
        inet_ntop(AF_INET, &in.sin_addr, host, (socklen_t)size);
        *port = ntohs(in.sin_port);
    }
}

/* ---- ports ---- */

static void resume(struct timer *t)
{
    struct nvmf_port *p = container_of(t, struct nvmf_port, pause);

    watch_modify(p->target->o.control, &p->watch, EPOLLIN);
}

/* The connection stays in the kernel's queue, which is ready all the time. */
static void accept_failed(struct nvmf_port *p, int error)
{
    if (error != EMFILE && error != ENFILE && error != ENOBUFS && error != ENOMEM)
        return;
    log_limited(&accept_limit, LOG_WARNING, "nvmf", "%s port %s: accept: %s", p->traddr, p->trsvcid,
                strerror(error));
    watch_modify(p->target->o.control, &p->watch, 0);
    timer_arm(p->target->o.control, &p->pause, PAUSE_MS, resume);
}

static void incoming(struct watch *w, uint32_t events)
{
    struct nvmf_port *p = container_of(w, struct nvmf_port, watch);

    (void)events;
    for (int i = 0; i < ACCEPTS_PER_TURN && p->fd >= 0; i++) {
        struct sockaddr_storage addr = {0};
        socklen_t len = sizeof(addr);
        char host[INET6_ADDRSTRLEN] = "?", peer[64];
        unsigned port = 0;
        int fd = accept4(p->fd, (struct sockaddr *)&addr, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0) {
            accept_failed(p, errno);
            return;
        }
        port_text(&addr, host, sizeof(host), &port);
        snprintf(peer, sizeof(peer), "%s:%u", host, port);
        conn_create(p->target, p, fd, peer);
    }
}

static int port_accept(struct nvmf_port *p)
{
    return watch_add(p->target->o.control, &p->watch, p->fd, EPOLLIN, incoming);
}

static int open_port(struct nvmf_port *p, const struct sockaddr_storage *addr, socklen_t len,
                     struct err *err)
{
    const char *what = "socket";
    int one = 1, rc;
    unsigned port;

    p->fd = socket(addr->ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (p->fd < 0)
        return err_set(err, -errno, "socket: %s", strerror(errno));
    setsockopt(p->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (addr->ss_family == AF_INET6)
        setsockopt(p->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(p->fd, (const struct sockaddr *)addr, len) < 0)
        what = "bind";
    else if (listen(p->fd, BACKLOG) < 0)
        what = "listen";
    else if (getsockname(p->fd, (struct sockaddr *)&p->addr, &len) < 0)
        what = "getsockname";
    else
        what = NULL;
    if (what) {
        rc = -errno;
        return err_set(err, rc, "%s port %s: %s: %s%s", p->traddr, p->trsvcid, what, strerror(-rc),
                       rc == -EACCES ? " (ports below 1024 need privileges)" : "");
    }
    port_text(&p->addr, p->traddr, sizeof(p->traddr), &port);
    snprintf(p->trsvcid, sizeof(p->trsvcid), "%u", port);
    rc = p->target->o.held ? 0 : port_accept(p);
    return rc < 0 ? err_set(err, rc, "%s port %s: %s", p->traddr, p->trsvcid, strerror(-rc)) : 0;
}

void nvmf_accept(struct nvmf_target *t)
{
    t->o.held = false;
    list_for_each(it, &t->ports)
    {
        struct nvmf_port *p = list_entry(it, struct nvmf_port, node);
        int rc = port_accept(p);

        if (rc < 0)
            log_line(LOG_ERROR, "nvmf", "%s port %s: %s", p->traddr, p->trsvcid, strerror(-rc));
    }
}

static void port_stop(struct nvmf_port *p)
{
    if (p->fd < 0)
        return;
    timer_cancel(&p->pause);
    watch_remove(p->target->o.control, &p->watch);
    fd_close(&p->fd);
    list_remove(&p->node);
}

void port_put(struct nvmf_port *p)
{
    if (--p->refs == 0)
        free(p);
}

static struct nvmf_port *find_port(struct nvmf_target *t, const struct sockaddr_storage *addr)
{
    list_for_each(it, &t->ports)
    {
        struct nvmf_port *p = list_entry(it, struct nvmf_port, node);

        if (memcmp(&p->addr, addr, sizeof(*addr)) == 0)
            return p;
    }
    return NULL;
}

static struct nvmf_port *get_port(struct nvmf_target *t, const struct nvmf_address *a,
                                  struct err *err)
{
    struct sockaddr_storage addr;
    struct nvmf_port *p;
    socklen_t len = 0;

    if (parse(a, &addr, &len, err) < 0)
        return NULL;
    p = find_port(t, &addr);
    if (p) {
        p->refs++;
        return p;
    }
    p = calloc(1, sizeof(*p));
    if (!p) {
        err_set(err, -ENOMEM, "no memory for a listener");
        return NULL;
    }
    p->target = t;
    p->ipv6 = a->ipv6;
    p->fd = -1;
    p->portid = ++t->next_portid;
    list_init(&p->node);
    snprintf(p->traddr, sizeof(p->traddr), "%s", a->traddr);
    snprintf(p->trsvcid, sizeof(p->trsvcid), "%.5s", a->trsvcid);
    p->refs = 1;
    if (open_port(p, &addr, len, err) < 0) {
        fd_close(&p->fd);
        free(p);
        return NULL;
    }
    list_append(&t->ports, &p->node);
    return p;
}

/* ---- listeners ---- */

struct nvmf_listener *listener_find(const struct nvmf_subsystem *ss, const struct nvmf_port *port)
{
    list_for_each(it, &ss->listeners)
    {
        struct nvmf_listener *l = list_entry(it, struct nvmf_listener, node);

        if (l->port == port)
            return l;
    }
    return NULL;
}

static struct nvmf_listener *find(struct nvmf_subsystem *ss, const struct nvmf_address *a,
                                  struct err *err)
{
    struct sockaddr_storage addr;
    struct nvmf_listener *l = NULL;
    struct nvmf_port *p;
    socklen_t len = 0;

    if (parse(a, &addr, &len, err) < 0)
        return NULL;
    p = find_port(ss->target, &addr);
    if (p)
        l = listener_find(ss, p);
    if (!l)
        err_set(err, -ENOENT, "subsystem '%s' does not listen at %s port %s", ss->nqn, a->traddr,
                a->trsvcid);
    return l;
}

static bool is_known(enum nvme_ana_state state)
{
    return state == NVME_ANA_OPTIMIZED || state == NVME_ANA_NON_OPTIMIZED ||
           state == NVME_ANA_INACCESSIBLE;
}

int nvmf_listener_add(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                      enum nvme_ana_state state, struct err *err)
{
    struct nvmf_port *port;
    struct nvmf_listener *l;

    if (!is_known(state) || (state != NVME_ANA_OPTIMIZED && !ss->o.ana_reporting))
        return err_set(err, -EINVAL, "subsystem '%s': ana_state needs ana_reporting", ss->nqn);
    port = get_port(ss->target, addr, err);
    if (!port)
        return err->code;
    if (listener_find(ss, port)) {
        port_put(port);
        return err_set(err, -EEXIST, "subsystem '%s' listens at %s port %s already", ss->nqn,
                       addr->traddr, addr->trsvcid);
    }
    l = calloc(1, sizeof(*l));
    if (l)
        l->ana = malloc(ss->o.max_namespaces);
    if (!l || !l->ana) {
        free(l);
        port_put(port);
        return err_set(err, -ENOMEM, "no memory for a listener");
    }
    memset(l->ana, state, ss->o.max_namespaces);
    l->port = port;
    port->users++;
    list_append(&ss->listeners, &l->node);
    event_discovery_changed(ss->target);
    return 0;
}

/* Nobody listens there any more: also who came for discovery, or has not said what for, ends. */
static void end_of_port(struct nvmf_port *port)
{
    struct nvmf_target *t = port->target;

    list_for_each_safe(it, &t->discovery)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        if (ctrl->port == port)
            ctrl_end(ctrl, "its listener is removed");
    }
    list_for_each(it, &t->new_conns)
    {
        struct nvmf_conn *c = list_entry(it, struct nvmf_conn, node);

        if (c->port == port)
            conn_close(c);
    }
    port_stop(port);
}

static void remove_one(struct nvmf_subsystem *ss, struct nvmf_listener *l)
{
    struct nvmf_port *port = l->port;

    list_remove(&l->node);
    list_for_each_safe(it, &ss->ctrls)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        if (ctrl->port == port)
            ctrl_end(ctrl, "its listener is removed");
    }
    if (--port->users == 0)
        end_of_port(port);
    port_put(port);
    free(l->ana);
    free(l);
    event_discovery_changed(ss->target);
}

int nvmf_listener_remove(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                         struct err *err)
{
    struct nvmf_listener *l = find(ss, addr, err);

    if (!l)
        return err->code;
    remove_one(ss, l);
    return 0;
}

void listener_remove_all(struct nvmf_subsystem *ss)
{
    while (!list_empty(&ss->listeners))
        remove_one(ss, list_entry(ss->listeners.next, struct nvmf_listener, node));
}

void nvmf_listener_for_each(struct nvmf_subsystem *ss,
                            void (*fn)(const struct nvmf_listener_info *l, void *arg), void *arg)
{
    list_for_each(it, &ss->listeners)
    {
        const struct nvmf_listener *l = list_entry(it, struct nvmf_listener, node);
        struct nvmf_listener_info info = {
            .addr = {l->port->traddr, l->port->trsvcid, l->port->ipv6},
            .portid = l->port->portid,
            .ana_states = l->ana,
            .ngroups = ss->o.max_namespaces,
        };

        fn(&info, arg);
    }
}

/* ---- ANA ---- */

enum nvme_ana_state ana_state_of(const struct nvmf_listener *l, uint32_t anagrpid)
{
    return l->ana[anagrpid - 1];
}

nvme_status ana_path(enum nvme_ana_state state)
{
    return state == NVME_ANA_INACCESSIBLE ? NVME_SC_ANA_INACCESSIBLE : NVME_SC_SUCCESS;
}

/* All connections know: now their hosts may. */
static void report_ana(void *arg, int rc, const struct err *err)
{
    struct nvmf_target *t = arg;

    (void)rc;
    (void)err;
    list_for_each(it, &t->subsystems)
    {
        list_for_each(at, &list_entry(it, struct nvmf_subsystem, node)->ctrls)
        {
            struct nvmf_ctrl *ctrl = list_entry(at, struct nvmf_ctrl, node);

            if (!ctrl->ana_news)
                continue;
            ctrl->ana_news = false;
            event_ana_changed(ctrl);
        }
    }
}

struct moved {
    struct nvmf_subsystem *ss;
    const struct nvmf_port *port;
    uint32_t anagrpid;
};

static void tell_path(struct nvmf_conn *c, void *arg)
{
    const struct moved *m = arg;

    if (c->port != m->port)
        return;
    for (struct nvmf_ns *ns = NULL; (ns = ns_next(m->ss, ns ? ns->o.nsid : 0));)
        if (m->anagrpid == 0 || ns->o.anagrpid == m->anagrpid)
            ns_tell(c, NS_PATH, ns);
}

int nvmf_listener_set_ana_state(struct nvmf_subsystem *ss, const struct nvmf_address *addr,
                                uint32_t anagrpid, enum nvme_ana_state state, struct err *err)
{
    struct nvmf_listener *l = find(ss, addr, err);
    struct moved m;

    if (!l)
        return err->code;
    if (!ss->o.ana_reporting)
        return err_set(err, -EINVAL, "subsystem '%s' was created without ana_reporting", ss->nqn);
    if (!is_known(state))
        return err_set(err, -EINVAL, "ana_state %d: it is optimized, non_optimized or inaccessible",
                       (int)state);
    if (anagrpid > ss->o.max_namespaces)
        return err_set(err, -EINVAL, "anagrpid %u: it is 1 to %u (max_namespaces)", anagrpid,
                       ss->o.max_namespaces);
    if (anagrpid)
        l->ana[anagrpid - 1] = (uint8_t)state;
    else
        memset(l->ana, state, ss->o.max_namespaces);
    l->chgcnt++;
    m = (struct moved){ss, l->port, anagrpid};
    ctrl_for_each_io(ss, tell_path, &m);
    list_for_each(it, &ss->ctrls)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        ctrl->ana_news |= ctrl->port == l->port;
    }
    nvmf_when_told(ss->target, report_ana, ss->target);
    return 0;
}
