/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Controllers: the association of a host, from Connect of its admin queue to the end of the last
 * command of its last queue.
 *
 * A host that comes again may have lost its connections with writes in flight. None of those may
 * reach the medium behind a write of its new controller. So Connect waits until each older
 * controller of the same host has ended, with all of its commands, or has shown that it is alive:
 * then it is another path, or of another program. One that is silent ends by its keep-alive
 * timeout. Identify Controller says that this is so (NVME_VS_FENCE_MARK). */
#include "nvmf/inside.h"

#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LOOK_MS = 20, SILENT_MS = 5000, KATO_GRACE_MS = 500 };

static struct log_limit life_limit;

void ctrl_for_each_io(struct nvmf_subsystem *ss, void (*fn)(struct nvmf_conn *c, void *arg),
                      void *arg)
{
    list_for_each(it, &ss->ctrls)
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        list_for_each(at, &ctrl->conns)
        {
            struct nvmf_conn *c = list_entry(at, struct nvmf_conn, node);

            if (c->is_io)
                fn(c, arg);
        }
    }
}

void nvmf_controller_for_each(struct nvmf_subsystem *ss,
                              void (*fn)(const struct nvmf_controller_info *c, void *arg),
                              void *arg)
{
    list_for_each(it, &ss->ctrls)
    {
        const struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);
        struct nvmf_controller_info info = {
            .cntlid = ctrl->cntlid, .hostnqn = ctrl->hostnqn, .kato_ms = ctrl->kato_ms};

        memcpy(info.hostid, ctrl->hostid, sizeof(info.hostid));
        list_for_each(at, &ctrl->conns)
        {
            info.io_queues += list_entry(at, struct nvmf_conn, node)->is_io;
        }
        fn(&info, arg);
    }
}

/* ---- the end ---- */

static const char *name_of(const struct nvmf_ctrl *ctrl)
{
    return ctrl->ss ? ctrl->ss->nqn : "discovery";
}

static void settle(struct nvmf_ctrl *ctrl)
{
    struct nvmf_subsystem *ss = ctrl->ss;
    struct list suitors;

    if (!ctrl->ending || !list_empty(&ctrl->conns))
        return;
    list_init(&suitors);
    list_splice(&suitors, &ctrl->suitors);
    timer_cancel(&ctrl->watchdog);
    list_remove(&ctrl->node);
    port_put(ctrl->port);
    free(ctrl);
    for (struct list *node; (node = list_pop(&suitors));)
        ctrl_connect(&list_entry(node, struct nvmf_conn, suitor_node)->first);
    if (ss)
        subsystem_settle(ss);
}

void ctrl_end(struct nvmf_ctrl *ctrl, const char *why)
{
    if (ctrl->ending)
        return;
    log_limited(&life_limit, LOG_INFO, "nvmf", "%s: controller %u of host %s ends: %s",
                name_of(ctrl), ctrl->cntlid, ctrl->hostnqn, why);
    ctrl->ending = true;
    ctrl->csts &= ~NVME_CSTS_RDY;
    event_abort_all(ctrl);
    list_for_each(it, &ctrl->conns)
    {
        conn_close(list_entry(it, struct nvmf_conn, node));
    }
    settle(ctrl);
}

/* ---- reset and shutdown ---- */

bool ctrl_is_enabled(const struct nvmf_ctrl *ctrl)
{
    return ctrl->cc & NVME_CC_EN && ctrl->csts & NVME_CSTS_RDY;
}

static bool has_io_queues(const struct nvmf_ctrl *ctrl)
{
    list_for_each(it, &ctrl->conns)
    {
        if (list_entry(it, struct nvmf_conn, node)->is_io)
            return true;
    }
    return false;
}

/* CSTS says that it has stopped only when no command can reach the medium any more. */
static void settle_stop(struct nvmf_ctrl *ctrl)
{
    bool stopped = !has_io_queues(ctrl);

    if (!(ctrl->cc & NVME_CC_EN) && stopped)
        ctrl->csts = 0;
    if (NVME_CC_SHN(ctrl->cc) == NVME_CC_SHN_NONE)
        return;
    ctrl->csts &= ~NVME_CSTS_SHST_MASK;
    ctrl->csts |= (uint32_t)(stopped ? NVME_SHST_COMPLETE : NVME_SHST_OCCURRING)
                  << NVME_CSTS_SHST_SHIFT;
}

void ctrl_stop(struct nvmf_ctrl *ctrl)
{
    list_for_each(it, &ctrl->conns)
    {
        struct nvmf_conn *c = list_entry(it, struct nvmf_conn, node);

        if (c->is_io)
            conn_close(c);
    }
    settle_stop(ctrl);
}

void ctrl_conn_lost(struct nvmf_conn *c)
{
    if (c->ctrl && !c->is_io)
        ctrl_end(c->ctrl, "its admin queue is gone");
    if (list_empty(&c->suitor_node))
        return;
    list_remove(&c->suitor_node);
    cmd_answer(&c->first, NVME_SC_ABORTED_SQ_DELETION, 0);
}

void ctrl_conn_gone(struct nvmf_conn *c)
{
    struct nvmf_ctrl *ctrl = c->ctrl;

    list_remove(&c->node);
    c->target->nconns--;
    c->target->nnew -= ctrl ? 0 : 1;
    c->shard->nconns--;
    port_put(c->port);
    conn_free(c);
    if (!ctrl)
        return;
    settle_stop(ctrl);
    settle(ctrl);
}

/* ---- keep alive ---- */

/* When something last came on any connection; awaited: or one of its commands was under way. */
static uint64_t last_use(const struct nvmf_ctrl *ctrl, bool awaited)
{
    uint64_t last = 0;

    list_for_each(it, &ctrl->conns)
    {
        const struct nvmf_conn *c = list_entry(it, struct nvmf_conn, node);
        uint64_t came = atomic_load_explicit(&c->active_ms, memory_order_relaxed);
        uint64_t seen = atomic_load_explicit(&c->awaited_ms, memory_order_relaxed);

        last = MAX(last, awaited ? MAX(came, seen) : came);
    }
    return last;
}

static uint64_t last_sign(const struct nvmf_ctrl *ctrl)
{
    return last_use(ctrl, false);
}

/* A host that disconnects sends no Keep Alive any more, but may wait for commands and for its own
 * tables; and Linux waits a minute for the answer to its shutdown when the connection has been
 * closed under it. So a controller that is in nobody's way has twice the time (a host has to reckon
 * with that and more, TP4129), and all of it behind its last command. With a Connect that waits for
 * its end it has what the host has set, whatever is under way. */
static bool is_silent(const struct nvmf_ctrl *ctrl)
{
    uint64_t now = clock_coarse_ms(), kato = ctrl->kato_ms;

    if (list_empty(&ctrl->suitors))
        return kato && now > last_use(ctrl, true) + 2 * kato + KATO_GRACE_MS;
    return now > last_sign(ctrl) + (kato ? kato + KATO_GRACE_MS : SILENT_MS);
}

static void look(struct timer *t);

void ctrl_look(struct nvmf_ctrl *ctrl)
{
    uint64_t wait = ctrl->kato_ms ? MAX(ctrl->kato_ms / 2, (uint32_t)LOOK_MS) : 0;

    if (!list_empty(&ctrl->suitors))
        wait = LOOK_MS;
    if (wait)
        timer_arm(ctrl->target->o.control, &ctrl->watchdog, wait, look);
}

static void look(struct timer *t)
{
    struct nvmf_ctrl *ctrl = container_of(t, struct nvmf_ctrl, watchdog);
    uint64_t last = last_sign(ctrl);

    list_for_each_safe(it, &ctrl->suitors)
    {
        struct nvmf_conn *c = list_entry(it, struct nvmf_conn, suitor_node);

        if (ctrl->ending || last <= c->arrived_ms)
            continue;
        list_remove(&c->suitor_node); /* it is alive */
        ctrl_connect(&c->first);
    }
    if (!ctrl->ending && is_silent(ctrl))
        ctrl_end(ctrl, "keep-alive timeout");
    else
        ctrl_look(ctrl);
}

/* ---- Connect ---- */

static void refuse(struct nvmf_cmd *cmd, nvme_status st, uint32_t dw0, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void refuse(struct nvmf_cmd *cmd, nvme_status st, uint32_t dw0, const char *fmt, ...)
{
    char why[300];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    log_limited(&life_limit, LOG_WARNING, "nvmf", "host %s: Connect is refused: %s",
                cmd->conn->peer, why);
    cmd_answer(cmd, NVME_DNR(st), dw0);
}

/* Dword 0 of Connect Invalid Parameters: which bytes are wrong, of the command or its data. */
#define BAD_COMMAND(member) ((uint32_t)offsetof(struct nvme_fabrics_connect, member))
#define BAD_DATA(member) (1U << 16 | (uint32_t)offsetof(struct nvme_fabrics_connect_data, member))

static bool text_ends(const char *text)
{
    return memchr(text, '\0', NVME_NQN_MAX + 1) != NULL && text[0];
}

static struct list *controllers_of(struct nvmf_target *t, struct nvmf_subsystem *ss)
{
    return ss ? &ss->ctrls : &t->discovery;
}

static struct nvmf_ctrl *find_ctrl(struct nvmf_target *t, struct nvmf_subsystem *ss,
                                   uint16_t cntlid)
{
    list_for_each(it, controllers_of(t, ss))
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        if (ctrl->cntlid == cntlid)
            return ctrl;
    }
    return NULL;
}

/* 0: all are taken. */
static uint16_t free_cntlid(struct nvmf_target *t, struct nvmf_subsystem *ss)
{
    uint16_t min = ss ? ss->o.min_cntlid : 1, max = ss ? ss->o.max_cntlid : NVME_CNTLID_MAX;
    uint16_t *next = ss ? &ss->next_cntlid : &t->next_discovery_cntlid;

    for (uint32_t n = 0; n <= (uint32_t)max - min; n++) {
        uint16_t id = *next < min || *next > max ? min : *next;

        *next = (uint16_t)(id + 1);
        if (!find_ctrl(t, ss, id))
            return id;
    }
    return 0;
}

/* An older controller of the same host that may still have writes under way. */
static struct nvmf_ctrl *predecessor(struct nvmf_conn *c, struct nvmf_subsystem *ss,
                                     const struct nvme_fabrics_connect_data *d)
{
#ifdef SNAP_LEAVE_OUT_TARGET_FENCE
    return NULL;
#endif
    list_for_each(it, controllers_of(c->target, ss))
    {
        struct nvmf_ctrl *ctrl = list_entry(it, struct nvmf_ctrl, node);

        if (memcmp(ctrl->hostid, d->hostid, sizeof(ctrl->hostid)) == 0 &&
            strcmp(ctrl->hostnqn, d->hostnqn) == 0 &&
            (ctrl->ending || last_sign(ctrl) <= c->arrived_ms))
            return ctrl;
    }
    return NULL;
}

static void join(struct nvmf_ctrl *ctrl, struct nvmf_conn *c)
{
    list_remove(&c->node);
    list_append(&ctrl->conns, &c->node);
    c->ctrl = ctrl;
    c->target->nnew--;
}

static struct nvmf_ctrl *make_ctrl(struct nvmf_conn *c, struct nvmf_subsystem *ss, uint16_t cntlid,
                                   const struct nvme_fabrics_connect *pdu,
                                   const struct nvme_fabrics_connect_data *d)
{
    struct nvmf_ctrl *ctrl = calloc(1, sizeof(*ctrl));

    if (!ctrl)
        return NULL;
    ctrl->target = c->target;
    ctrl->ss = ss;
    ctrl->port = c->port;
    c->port->refs++;
    ctrl->cntlid = cntlid;
    ctrl->kato_ms = le32_get(pdu->kato);
    memcpy(ctrl->hostid, d->hostid, sizeof(ctrl->hostid));
    snprintf(ctrl->hostnqn, sizeof(ctrl->hostnqn), "%s", d->hostnqn);
    ctrl->io_queues = c->target->transport.max_io_queues;
    list_init(&ctrl->conns);
    list_init(&ctrl->aers);
    list_init(&ctrl->suitors);
    list_append(controllers_of(c->target, ss), &ctrl->node);
    return ctrl;
}

static void take_queue(struct nvmf_conn *c, const struct nvme_fabrics_connect *pdu)
{
    const struct nvmf_transport *tr = &c->target->transport;

    c->qid = le16_get(pdu->qid);
    c->is_io = c->qid > 0;
    c->sq_size = (uint16_t)(le16_get(pdu->sqsize) + 1);
    c->sq_flow = !(pdu->cattr & NVME_CATTR_DISABLE_SQFLOW);
    c->c2h_success = tr->c2h_success && !c->sq_flow;
    c->capsule_bytes = c->is_io ? tr->in_capsule_bytes : NVME_TCP_ADMIN_INLINE_BYTES;
    c->max_io_bytes = tr->max_io_bytes;
}

static void connect_admin(struct nvmf_cmd *cmd, struct nvmf_subsystem *ss,
                          const struct nvme_fabrics_connect *pdu,
                          const struct nvme_fabrics_connect_data *d)
{
    struct nvmf_conn *c = cmd->conn;
    struct nvmf_ctrl *ctrl;
    uint16_t cntlid;

    if (le16_get(d->cntlid) != NVME_CNTLID_DYNAMIC) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_DATA(cntlid),
               "cntlid %u for an admin queue: the target chooses it", le16_get(d->cntlid));
        return;
    }
    if (!c->arrived_ms)
        c->arrived_ms = clock_coarse_ms();
    ctrl = predecessor(c, ss, d);
    if (ctrl) {
        list_append(&ctrl->suitors, &c->suitor_node);
        ctrl_look(ctrl);
        return;
    }
    cntlid = free_cntlid(c->target, ss);
    if (!cntlid) {
        refuse(cmd, NVME_SC_CONNECT_CTRL_BUSY, 0, "subsystem '%s' has no free controller ID",
               d->subnqn);
        return;
    }
    ctrl = make_ctrl(c, ss, cntlid, pdu, d);
    if (!ctrl) {
        cmd_answer(cmd, NVME_SC_INTERNAL_ERROR, 0);
        return;
    }
    join(ctrl, c);
    take_queue(c, pdu);
    ctrl_look(ctrl);
    log_limited(&life_limit, LOG_INFO, "nvmf", "%s: controller %u for host %s (%s)", name_of(ctrl),
                ctrl->cntlid, ctrl->hostnqn, c->peer);
    cmd_answer(cmd, NVME_SC_SUCCESS, ctrl->cntlid);
}

static bool qid_taken(const struct nvmf_ctrl *ctrl, uint16_t qid)
{
    list_for_each(it, &ctrl->conns)
    {
        if (list_entry(it, struct nvmf_conn, node)->qid == qid)
            return true;
    }
    return false;
}

static void connect_io(struct nvmf_cmd *cmd, struct nvmf_subsystem *ss,
                       const struct nvme_fabrics_connect *pdu,
                       const struct nvme_fabrics_connect_data *d)
{
    struct nvmf_conn *c = cmd->conn;
    uint16_t cntlid = le16_get(d->cntlid), qid = le16_get(pdu->qid);
    struct nvmf_ctrl *ctrl = ss ? find_ctrl(c->target, ss, cntlid) : NULL;

    if (!ctrl || ctrl->ending || ctrl->port != c->port || strcmp(ctrl->hostnqn, d->hostnqn) != 0 ||
        memcmp(ctrl->hostid, d->hostid, sizeof(ctrl->hostid)) != 0) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_DATA(cntlid),
               "this host has no controller %u here", cntlid);
        return;
    }
    if (!ctrl_is_enabled(ctrl)) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_DATA(cntlid), "controller %u is not enabled",
               cntlid);
        return;
    }
    if (qid > ctrl->io_queues || qid_taken(ctrl, qid)) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_COMMAND(qid), "queue %u: %s", qid,
               qid > ctrl->io_queues ? "there are not so many" : "it is connected already");
        return;
    }
    c->ns = calloc(ss->o.max_namespaces, sizeof(*c->ns));
    if (!c->ns) {
        cmd_answer(cmd, NVME_SC_INTERNAL_ERROR, 0);
        return;
    }
    c->nns = ss->o.max_namespaces;
    join(ctrl, c);
    take_queue(c, pdu);
    for (struct nvmf_ns *ns = NULL; (ns = ns_next(ss, ns ? ns->o.nsid : 0));)
        ns_tell(c, NS_ADD, ns); /* known before the first command can come */
    cmd_answer(cmd, NVME_SC_SUCCESS, cntlid);
}

void ctrl_connect(struct nvmf_cmd *cmd)
{
    const struct nvme_fabrics_connect_data *d = (const void *)cmd->data;
    struct nvmf_conn *c = cmd->conn;
    const struct nvmf_transport *tr = &c->target->transport;
    struct nvme_fabrics_connect pdu;
    struct nvmf_subsystem *ss = NULL;
    uint32_t qid, size, most;

    memcpy(&pdu, &cmd->sqe, sizeof(pdu));
    qid = le16_get(pdu.qid);
    size = le16_get(pdu.sqsize) + 1U;
    most = qid ? tr->max_queue_depth : tr->max_aq_depth;
    if (pdu.opc != NVME_OPC_FABRICS || pdu.fctype != NVME_FCTYPE_CONNECT) {
        refuse(cmd, NVME_SC_SEQUENCE_ERROR, 0, "the first command is %02xh, not Connect", pdu.opc);
    } else if (cmd->bytes != sizeof(*d)) {
        refuse(cmd, NVME_SC_SGL_DATA_LENGTH, 0, "%u bytes of data, it has %zu", cmd->bytes,
               sizeof(*d));
    } else if (le16_get(pdu.recfmt) != 0) {
        refuse(cmd, NVME_SC_CONNECT_FORMAT, 0, "record format %u", le16_get(pdu.recfmt));
    } else if (!text_ends(d->subnqn) || !text_ends(d->hostnqn)) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM,
               text_ends(d->subnqn) ? BAD_DATA(hostnqn) : BAD_DATA(subnqn), "an NQN has no end");
    } else if (size < 2 || size > most) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_COMMAND(sqsize),
               "queue %u of %u entries: it is 2 to %u", qid, size, most);
    } else if (strcmp(d->subnqn, NVME_DISCOVERY_NQN) != 0 &&
               (!(ss = nvmf_subsystem_find(c->target, d->subnqn)) || ss->leaving ||
                !listener_find(ss, c->port))) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_PARAM, BAD_DATA(subnqn),
               "there is no subsystem '%s' at %s port %s", d->subnqn, c->port->traddr,
               c->port->trsvcid);
    } else if (ss && !host_allowed(ss, d->hostnqn)) {
        refuse(cmd, NVME_SC_CONNECT_INVALID_HOST, 0, "subsystem '%s' does not admit host '%s'",
               ss->nqn, d->hostnqn);
    } else if (qid == 0) {
        connect_admin(cmd, ss, &pdu, d);
    } else {
        connect_io(cmd, ss, &pdu, d);
    }
}
