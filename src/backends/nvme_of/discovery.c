/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A discovery: a lasting connection to a discovery controller. Its log is read until it holds
 * still, and again on each notice; what it lists is attached, what it lists no more is detached,
 * one after the other. The hosts are known by the discovery's name, so that those of a former
 * process are found again. Thread: control. */
#include "backends/nvme_of/discovery_log.h"
#include "backends/nvme_of/host.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum {
    PHASE_MS = 10000,
    KEEP_ALIVE_MS = 10000,
    POLL_MS = 100,
    READY_POLLS = 100,
    TURNS = 10,      /* of a log that does not hold still */
    AGAIN_MS = 5000, /* after something could not be attached or detached */
    ADMIN_ENTRIES = 32,
    RECORD_BYTES = sizeof(struct nvme_discovery_entry),
};

enum command {
    CMD_CONNECT,
    CMD_CAP,
    CMD_ENABLE,
    CMD_READY,
    CMD_IDENTIFY,
    CMD_EVENTS,
    CMD_HEADER,
    CMD_RECORDS,
    CMD_CHECK, /* the header again */
    CMD_IDLE,  /* the log has been read */
    CMD_KEEP_ALIVE,
    CMD_EVENT,
};

static const char *const names[] = {
    [CMD_CONNECT] = "Connect",
    [CMD_CAP] = "Property Get (CAP)",
    [CMD_ENABLE] = "Property Set (CC)",
    [CMD_READY] = "Property Get (CSTS)",
    [CMD_IDENTIFY] = "Identify Controller",
    [CMD_EVENTS] = "Set Features (Asynchronous Events)",
    [CMD_HEADER] = "Get Log Page (Discovery)",
    [CMD_RECORDS] = "Get Log Page (Discovery)",
    [CMD_CHECK] = "Get Log Page (Discovery)",
    [CMD_KEEP_ALIVE] = "Keep Alive",
    [CMD_EVENT] = "Asynchronous Event Request",
};

struct nof_discovery {
    struct list node; /* nvme_of.discoveries */
    struct nvme_of *of;
    char name[64], traddr[256], trsvcid[16], adrfam[8], hostnqn[224];
    struct nvme_of_discovery_opts o; /* its callbacks; the strings are above */

    struct resolve *resolve;
    struct tcp_conn admin;
    struct timer reconnect_timer, step_timer, keep_alive_timer, again_timer, limit_timer;
    struct sockaddr_storage addr;
    char last_failure[300];
    enum command step;
    bool connected, keep_alive_out, notices, look_again;
    uint64_t cap, genctr;
    unsigned polls, turns, nrecords, at;
    struct iovec iov;
    _Alignas(8) uint8_t buf[4096];
    struct nof_record *reading; /* NOF_DISCOVERY_RECORDS */
    unsigned nreading;

    struct nof_record *records; /* of the newest whole log */
    bool *tried;                /* in this round */
    unsigned n;
    bool listed;  /* there was one */
    bool busy;    /* something is being attached or detached */
    bool stuck;   /* something could not be, in this round */
    bool settled; /* the first round is over */
    bool stopping;
    void (*stopped)(void *arg);
    void *stopped_arg;
};

static void begin(struct nof_discovery *d);
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
        timer_arm(d->of->control, &d->again_timer, AGAIN_MS, round_again);
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

static void new_log(struct nof_discovery *d)
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

/* ---- the connection ---- */

static void disconnect(struct nof_discovery *d)
{
    resolve_abandon(d->resolve);
    d->resolve = NULL;
    tcp_close(&d->admin);
    timer_cancel(&d->reconnect_timer);
    timer_cancel(&d->step_timer);
    timer_cancel(&d->keep_alive_timer);
    d->connected = d->keep_alive_out = d->look_again = false;
}

static void reconnect(struct timer *t)
{
    begin(container_of(t, struct nof_discovery, reconnect_timer));
}

static void lost(struct nof_discovery *d, const struct err *why)
{
    struct err copy = *why;

    disconnect(d);
    if (strcmp(d->last_failure, copy.msg) != 0)
        log_line(LOG_WARNING, "nvme_of", "discovery %s (%s:%s): %s; tried again every %u ms",
                 d->name, d->traddr, d->trsvcid, copy.msg, NOF_RECONNECT_MS);
    snprintf(d->last_failure, sizeof(d->last_failure), "%s", copy.msg);
    timer_arm(d->of->control, &d->reconnect_timer, NOF_RECONNECT_MS, reconnect);
}

static struct tcp_cmd *command(struct nof_discovery *d, enum command c)
{
    struct tcp_cmd *cmd = tcp_cmd_get(&d->admin);

    if (!cmd) { /* three at a time */
        tcp_fail(&d->admin, -ENOBUFS, "no admin command slot");
        return NULL;
    }
    cmd->arg = (void *)(uintptr_t)(c + 1);
    cmd->timeout_ms = PHASE_MS;
    return cmd;
}

static void send_command(struct nof_discovery *d, struct tcp_cmd *cmd)
{
    tcp_submit(&d->admin, cmd);
    tcp_flush(&d->admin);
}

static void keep_alive(struct timer *t)
{
    struct nof_discovery *d = container_of(t, struct nof_discovery, keep_alive_timer);
    struct tcp_cmd *cmd;

    if (d->keep_alive_out) {
        tcp_fail(&d->admin, -ETIMEDOUT, "keep-alive not answered within %u ms", KEEP_ALIVE_MS / 2);
        return;
    }
    cmd = command(d, CMD_KEEP_ALIVE);
    if (!cmd)
        return;
    cmd->sqe.opc = NVME_ADMIN_KEEP_ALIVE;
    d->keep_alive_out = true;
    send_command(d, cmd);
    timer_arm(d->of->control, &d->keep_alive_timer, KEEP_ALIVE_MS / 2, keep_alive);
}

static void want_event(struct nof_discovery *d)
{
    struct tcp_cmd *cmd = command(d, CMD_EVENT);

    if (!cmd)
        return;
    cmd->sqe.opc = NVME_ADMIN_ASYNC_EVENT;
    cmd->patient = true;
    send_command(d, cmd);
}

static void data(struct nof_discovery *d, struct tcp_cmd *cmd, uint32_t bytes, bool to_host)
{
    d->iov = (struct iovec){d->buf, bytes};
    cmd->iov = &d->iov;
    cmd->iovcnt = 1;
    cmd->bytes = bytes;
    cmd->to_host = to_host;
}

static void property(struct tcp_cmd *cmd, uint8_t fctype, uint32_t offset, uint8_t attrib,
                     uint64_t value)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = fctype;
    sqe->attrib = attrib;
    sqe->ofst = le32_of(offset);
    sqe->value = le64_of(value);
}

static void connect_command(struct nof_discovery *d, struct tcp_cmd *cmd)
{
    struct nvme_fabrics_connect *sqe = (void *)&cmd->sqe;
    struct nvme_fabrics_connect_data *c = (void *)d->buf;

    memset(c, 0, sizeof(*c));
    memcpy(c->hostid, &d->of->hostid, sizeof(c->hostid));
    c->cntlid = le16_of(NVME_CNTLID_DYNAMIC);
    memcpy(c->subnqn, NVME_DISCOVERY_NQN, sizeof(NVME_DISCOVERY_NQN));
    memcpy(c->hostnqn, d->hostnqn, sizeof(d->hostnqn));
    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_CONNECT;
    sqe->sqsize = le16_of(ADMIN_ENTRIES - 1);
    sqe->kato = le32_of(KEEP_ALIVE_MS);
    data(d, cmd, sizeof(*c), false);
}

/* The notice of a change is asked for only when the whole log has been read. */
static void log_command(struct nof_discovery *d, struct tcp_cmd *cmd, uint64_t offset,
                        uint32_t bytes, bool last)
{
    memset(d->buf, 0, sizeof(d->buf));
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.cdw10 =
        le32_of(NVME_LOG_DISCOVERY | (last ? 0 : NVME_LOG_RAE) | (bytes / 4 - 1) << 16);
    cmd->sqe.cdw12 = le32_of((uint32_t)offset);
    data(d, cmd, bytes, true);
}

static uint32_t piece(const struct nof_discovery *d)
{
    return MIN(d->nrecords - d->at, (unsigned)(sizeof(d->buf) / RECORD_BYTES));
}

static void run(struct nof_discovery *d, enum command step)
{
    struct tcp_cmd *cmd;

    if (step == CMD_EVENTS && !d->notices)
        step = CMD_HEADER;
    if (step == CMD_RECORDS && d->at == d->nrecords)
        step = CMD_CHECK;
    d->step = step;
    cmd = command(d, step);
    if (!cmd)
        return;
    switch (step) {
    case CMD_CONNECT:
        connect_command(d, cmd);
        break;
    case CMD_CAP:
        property(cmd, NVME_FCTYPE_PROPERTY_GET, NVME_REG_CAP, NVME_CATTR_BYTES_8, 0);
        break;
    case CMD_ENABLE:
        property(cmd, NVME_FCTYPE_PROPERTY_SET, NVME_REG_CC, 0,
                 NVME_CC_EN | NVME_CAP_MPSMIN(d->cap) << NVME_CC_MPS_SHIFT |
                     6U << NVME_CC_IOSQES_SHIFT | 4U << NVME_CC_IOCQES_SHIFT);
        break;
    case CMD_READY:
        property(cmd, NVME_FCTYPE_PROPERTY_GET, NVME_REG_CSTS, 0, 0);
        break;
    case CMD_IDENTIFY:
        cmd->sqe.opc = NVME_ADMIN_IDENTIFY;
        cmd->sqe.cdw10 = le32_of(NVME_CNS_CTRL);
        data(d, cmd, NVME_IDENTIFY_BYTES, true);
        break;
    case CMD_EVENTS:
        cmd->sqe.opc = NVME_ADMIN_SET_FEATURES;
        cmd->sqe.cdw10 = le32_of(NVME_FEAT_ASYNC_EVENT);
        cmd->sqe.cdw11 = le32_of(NVME_OAES_DISCOVERY);
        break;
    case CMD_HEADER:
        log_command(d, cmd, 0, sizeof(struct nvme_log_discovery), false);
        break;
    case CMD_RECORDS:
        log_command(d, cmd, sizeof(struct nvme_log_discovery) + (uint64_t)d->at * RECORD_BYTES,
                    piece(d) * (uint32_t)RECORD_BYTES, false);
        break;
    default: /* CMD_CHECK */
        log_command(d, cmd, 0, sizeof(struct nvme_log_discovery), true);
    }
    send_command(d, cmd);
}

static void ready_again(struct timer *t)
{
    run(container_of(t, struct nof_discovery, step_timer), CMD_READY);
}

static void read_log(struct timer *t)
{
    run(container_of(t, struct nof_discovery, step_timer), CMD_HEADER);
}

static void take_records(struct nof_discovery *d)
{
    static struct log_limit limit;
    const struct nvme_discovery_entry *raw = (const void *)d->buf;

    for (uint32_t i = 0, n = piece(d); i < n; i++, d->at++) {
        struct err err;
        int rc = nof_discovery_record(&raw[i], &d->reading[d->nreading], &err);

        if (rc < 0)
            log_limited(&limit, LOG_WARNING, "nvme_of", "discovery %s: record %u left out: %s",
                        d->name, d->at, err.msg);
        else if (rc > 0)
            d->nreading++;
    }
}

static void log_is_read(struct nof_discovery *d)
{
    d->step = CMD_IDLE;
    d->turns = 0;
    d->last_failure[0] = '\0';
    if (!d->connected)
        log_line(LOG_INFO, "nvme_of", "discovery %s (%s:%s): connected, %u subsystem addresses%s",
                 d->name, d->traddr, d->trsvcid, d->nreading,
                 d->notices ? "" : "; the target does not tell of changes");
    if (!d->connected && d->notices)
        want_event(d);
    d->connected = true;
    if (d->look_again) {
        d->look_again = false;
        run(d, CMD_HEADER);
    }
    new_log(d);
}

/* Goes on after a success; -errno with err filled. */
static int step_done(struct nof_discovery *d, const struct nvme_cqe *cqe, struct err *err)
{
    const struct nvme_id_ctrl *id = (const void *)d->buf;
    const struct nvme_log_discovery *head = (const void *)d->buf;
    uint32_t dw0 = le32_get(cqe->dw0);
    int rc;

    switch (d->step) {
    case CMD_CONNECT:
        if (NVME_CONNECT_AUTHREQ(dw0))
            return err_set(err, -EACCES,
                           "the target demands authentication, which is not supported");
        timer_arm(d->of->control, &d->keep_alive_timer, KEEP_ALIVE_MS / 2, keep_alive);
        break;
    case CMD_CAP:
        d->cap = dw0 | (uint64_t)le32_get(cqe->dw1) << 32;
        d->polls = 0;
        break;
    case CMD_READY:
        if (dw0 & NVME_CSTS_CFS)
            return err_set(err, -EIO, "the controller reports a fatal error (CSTS %08xh)", dw0);
        if (dw0 & NVME_CSTS_RDY)
            break;
        if (++d->polls > READY_POLLS)
            return err_set(err, -ETIMEDOUT, "not ready within %u ms", READY_POLLS * POLL_MS);
        timer_arm(d->of->control, &d->step_timer, POLL_MS, ready_again);
        return 0;
    case CMD_IDENTIFY:
        if (id->cntrltype != 0 && id->cntrltype != NVME_CNTRLTYPE_DISCOVERY)
            return err_set(err, -EPROTO, "this is not a discovery controller");
        d->notices = le32_get(id->oaes) & NVME_OAES_DISCOVERY;
        break;
    case CMD_HEADER:
        rc = nof_discovery_count(head, &d->nrecords, err);
        if (rc)
            return rc;
        d->genctr = le64_get(head->genctr);
        d->at = d->nreading = 0;
        break;
    case CMD_RECORDS:
        take_records(d);
        run(d, CMD_RECORDS);
        return 0;
    case CMD_CHECK:
        if (le64_get(head->genctr) == d->genctr) {
            log_is_read(d);
            return 0;
        }
        if (++d->turns == TURNS)
            return err_set(err, -EPROTO, "the discovery log changes while it is read, %u times",
                           TURNS);
        timer_arm(d->of->control, &d->step_timer, POLL_MS, read_log);
        return 0;
    default:
        break;
    }
    run(d, d->step + 1);
    return 0;
}

static void changed(struct nof_discovery *d)
{
    if (d->step == CMD_IDLE)
        timer_arm(d->of->control, &d->step_timer, POLL_MS, read_log);
    else
        d->look_again = true;
}

static void admin_done(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nof_discovery *d = container_of(c, struct nof_discovery, admin);
    enum command what = (enum command)((uintptr_t)cmd->arg - 1);
    struct nvme_cqe cqe = cmd->cqe;
    uint16_t status = le16_get(cqe.sf) >> 1;
    uint32_t dw0 = le32_get(cqe.dw0);
    struct err err = {0};
    char text[160];

    tcp_cmd_put(c, cmd);
    if (what == CMD_KEEP_ALIVE)
        d->keep_alive_out = false;
    if (status && what == CMD_EVENTS) {
        d->notices = false;
    } else if (status) {
        if (what == CMD_CONNECT)
            nof_connect_text(status, dw0, text, sizeof(text));
        else
            nof_status_text(status, text, sizeof(text));
        tcp_fail(c, -EIO, "%s: %s", names[what], text);
        return;
    }
    if (what == CMD_EVENT) {
        if ((dw0 & 7) == NVME_AER_NOTICE && (dw0 >> 8 & 0xff) == NVME_AER_NOTICE_DISCOVERY)
            changed(d);
        want_event(d);
        return;
    }
    if (what == CMD_KEEP_ALIVE)
        return;
    if (step_done(d, &cqe, &err))
        tcp_fail(c, err.code, "%s: %s", names[what], err.msg);
}

static void admin_up(struct tcp_conn *c)
{
    run(container_of(c, struct nof_discovery, admin), CMD_CONNECT);
}

static void admin_down(struct tcp_conn *c, const struct err *why)
{
    lost(container_of(c, struct nof_discovery, admin), why);
}

static void admin_batch_end(struct tcp_conn *c)
{
}

static const struct tcp_ops ops = {
    .up = admin_up, .done = admin_done, .down = admin_down, .batch_end = admin_batch_end};

static void resolved(void *arg, const struct sockaddr_storage *addrs, unsigned n,
                     const struct err *why)
{
    struct nof_discovery *d = arg;
    struct tcp_opts o = {.phase_timeout_ms = PHASE_MS, .inline_bytes = NVME_TCP_ADMIN_INLINE_BYTES};
    struct err err;

    d->resolve = NULL;
    if (n == 0) {
        lost(d, why);
        return;
    }
    o.addr = addrs[0];
    if (tcp_open(&d->admin, &o, &err))
        lost(d, &err);
}

static void begin(struct nof_discovery *d)
{
    int family = d->adrfam[0] ? strcasecmp(d->adrfam, "IPv6") == 0 ? AF_INET6 : AF_INET : AF_UNSPEC;
    struct err err;

    d->turns = 0;
    d->resolve = resolve_start(d->of->control, d->traddr, d->trsvcid, family, resolved, d);
    if (d->resolve)
        return;
    err_set(&err, -ENOMEM, "no thread to resolve '%s'", d->traddr);
    lost(d, &err);
}

/* ---- the door ---- */

static void discovery_free(struct nof_discovery *d)
{
    if (!d)
        return;
    list_remove(&d->node);
    if (d->admin.r) {
        disconnect(d);
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
    disconnect(d);
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

static int copy(char *out, size_t size, const char *text, const char *what, struct err *err)
{
    if (!text || !text[0] || strlen(text) >= size)
        return err_set(err, -EINVAL, "%s is missing or longer than %zu bytes", what, size - 1);
    strcpy(out, text);
    return 0;
}

static int copy_options(struct nof_discovery *d, const struct nvme_of_discovery_opts *o,
                        struct err *err)
{
    bool family = o->adrfam && o->adrfam[0];
    int rc;

    if (o->trtype && strcasecmp(o->trtype, "TCP") != 0)
        return err_set(err, -EOPNOTSUPP, "trtype '%s' is not supported (TCP is)", o->trtype);
    if (family && strcasecmp(o->adrfam, "IPv4") != 0 && strcasecmp(o->adrfam, "IPv6") != 0)
        return err_set(err, -EINVAL, "adrfam '%s' is neither IPv4 nor IPv6", o->adrfam);
    rc = copy(d->name, 59, o->name, "name", err); /* hosts are <name><number> */
    if (!rc)
        rc = copy(d->traddr, sizeof(d->traddr), o->traddr, "traddr", err);
    if (!rc)
        rc = copy(d->trsvcid, sizeof(d->trsvcid), o->trsvcid && o->trsvcid[0] ? o->trsvcid : "8009",
                  "trsvcid", err);
    if (!rc && family)
        rc = copy(d->adrfam, sizeof(d->adrfam), o->adrfam, "adrfam", err);
    if (!rc && o->hostnqn && o->hostnqn[0])
        rc = copy(d->hostnqn, sizeof(d->hostnqn), o->hostnqn, "hostnqn", err);
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
    if (!d->records || !d->reading || !d->tried || tcp_init(&d->admin, of->control, 8, &ops)) {
        rc = err_set(err, -ENOMEM, "no memory for discovery '%s'", o->name);
        goto out;
    }
    list_append(&of->discoveries, &d->node);
    if (o->attach_timeout_ms && !o->later)
        timer_arm(of->control, &d->limit_timer, o->attach_timeout_ms, too_late);
    if (!o->later)
        timer_arm(of->control, &d->reconnect_timer, 0, reconnect);
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
            timer_arm(of->control, &d->reconnect_timer, 0, reconnect);
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

        if (!is_ours(d, h))
            continue;
        list_for_each(at, &h->namespaces)
        {
            struct nof_ns *ns = list_entry(at, struct nof_ns, node);

            if (bdev_claims(ns->bd) > 0)
                return err_set(err, -EBUSY, "discovery '%s': the bdev '%s' is in use", d->name,
                               ns->id.bdev);
        }
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
