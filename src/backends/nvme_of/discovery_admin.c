/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The connection of a discovery: Connect, the log, keep-alive, notices. Thread: control. */
#include "backends/nvme_of/discovery.h"
#include "backends/nvme_of/fabrics.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum {
    PHASE_MS = 10000,
    KEEP_ALIVE_MS = 10000,
    POLL_MS = 100,
    READY_POLLS = 100,
    TURNS = 10, /* of a log that does not hold still */
    RECORD_BYTES = sizeof(struct nvme_discovery_entry),
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

static void begin(struct nof_discovery *d);

/* ---- the connection ---- */

void discovery_disconnect(struct nof_discovery *d)
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

    discovery_disconnect(d);
    if (strcmp(d->last_failure, copy.msg) != 0)
        log_line(LOG_WARNING, "nvme_of", "discovery %s (%s:%s): %s; tried again every %u ms",
                 d->name, d->traddr, d->trsvcid, copy.msg, NOF_RECONNECT_MS);
    snprintf(d->last_failure, sizeof(d->last_failure), "%s", copy.msg);
    timer_arm(d->of->control, &d->reconnect_timer, NOF_RECONNECT_MS, reconnect);
}

static struct tcp_cmd *command(struct nof_discovery *d, enum discovery_command c)
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

/* The notice of a change is asked for only when the whole log has been read. */
static void log_command(struct nof_discovery *d, struct tcp_cmd *cmd, uint64_t offset,
                        uint32_t bytes, bool last)
{
    memset(d->buf, 0, sizeof(d->buf));
    cmd->sqe.opc = NVME_ADMIN_GET_LOG_PAGE;
    cmd->sqe.cdw10 =
        le32_of(NVME_LOG_DISCOVERY | (last ? 0 : NVME_LOG_RAE) | (bytes / 4 - 1) << 16);
    cmd->sqe.cdw12 = le32_of((uint32_t)offset);
    tcp_cmd_data(cmd, &d->iov, d->buf, bytes, true);
}

static uint32_t piece(const struct nof_discovery *d)
{
    return MIN(d->nrecords - d->at, (unsigned)(sizeof(d->buf) / RECORD_BYTES));
}

static void run(struct nof_discovery *d, enum discovery_command step)
{
    const struct fabrics_connect connect = {
        .hostid = &d->of->hostid,
        .subnqn = NVME_DISCOVERY_NQN,
        .hostnqn = d->hostnqn,
        .cntlid = NVME_CNTLID_DYNAMIC,
        .entries = FABRICS_ADMIN_ENTRIES,
        .kato_ms = KEEP_ALIVE_MS,
    };
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
        fabrics_connect(cmd, &connect, (void *)d->buf, &d->iov);
        break;
    case CMD_CAP:
        fabrics_property_get(cmd, NVME_REG_CAP, true);
        break;
    case CMD_ENABLE:
        fabrics_property_set(cmd, NVME_REG_CC, fabrics_cc(d->cap));
        break;
    case CMD_READY:
        fabrics_property_get(cmd, NVME_REG_CSTS, false);
        break;
    case CMD_IDENTIFY:
        cmd->sqe.opc = NVME_ADMIN_IDENTIFY;
        cmd->sqe.cdw10 = le32_of(NVME_CNS_CTRL);
        tcp_cmd_data(cmd, &d->iov, d->buf, NVME_IDENTIFY_BYTES, true);
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
    discovery_new_log(d);
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
    enum discovery_command what = (enum discovery_command)((uintptr_t)cmd->arg - 1);
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

int discovery_admin_init(struct nof_discovery *d)
{
    return tcp_init(&d->admin, d->of->control, 8, &ops);
}

void discovery_connect_soon(struct nof_discovery *d)
{
    timer_arm(d->of->control, &d->reconnect_timer, 0, reconnect);
}
