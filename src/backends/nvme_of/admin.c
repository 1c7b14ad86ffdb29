/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The admin queue of a host: its connection, keep-alive, events, good-bye. */
#include "backends/nvme_of/admin.h"
#include "backends/nvme_of/fabrics.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>

enum {
    EVENT_DELAY_MS = 100, /* between an event and the next request for one: a storm costs little */
    SHUTDOWN_MS = 1000,
};

struct tcp_cmd *admin_cmd(struct nof_path *p, uint8_t opc, const struct errand *errand)
{
    struct tcp_cmd *cmd = tcp_cmd_get(&p->admin);

    if (!cmd) { /* a few commands at a time use 32 slots: cannot be */
        tcp_fail(&p->admin, -ENOBUFS, "no admin command slot");
        return NULL;
    }
    cmd->sqe.opc = opc;
    cmd->arg = (void *)(uintptr_t)errand;
    cmd->timeout_ms = p->host->phase_timeout_ms;
    return cmd;
}

/* ---- keep-alive ---- */

static void keep_alive_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe)
{
    char text[160];

    p->keep_alive_out = false;
    if (status) {
        nof_status_text(status, text, sizeof(text));
        tcp_fail(&p->admin, -EIO, "Keep Alive: %s", text);
    }
}

static const struct errand keep_alive_errand = {keep_alive_answer};

static void send_keep_alive(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, keep_alive_timer);
    struct tcp_cmd *cmd;

    if (p->keep_alive_out) {
        tcp_fail(&p->admin, -ETIMEDOUT, "keep-alive not answered within %u ms",
                 p->host->keep_alive_ms / 2);
        return;
    }
    cmd = admin_cmd(p, NVME_ADMIN_KEEP_ALIVE, &keep_alive_errand);
    if (!cmd)
        return;
    cmd->timeout_ms = p->host->keep_alive_ms;
    p->keep_alive_out = true;
    tcp_submit(&p->admin, cmd);
    tcp_flush(&p->admin);
    admin_start_keep_alive(p);
}

void admin_start_keep_alive(struct nof_path *p)
{
    timer_arm(p->host->of->control, &p->keep_alive_timer, MAX(p->host->keep_alive_ms / 2, 1U),
              send_keep_alive);
}

/* ---- events ---- */

static void event_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe);
static const struct errand event_errand = {event_answer};

static void event_again(struct timer *t)
{
    struct nof_path *p = container_of(t, struct nof_path, event_timer);
    struct tcp_cmd *cmd = admin_cmd(p, NVME_ADMIN_ASYNC_EVENT, &event_errand);

    if (!cmd)
        return;
    cmd->patient = true;
    tcp_submit(&p->admin, cmd);
    tcp_flush(&p->admin);
}

static bool event_request_out(struct nof_path *p)
{
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&p->admin, cmd));)
        if (cmd->arg == &event_errand)
            return true;
    return false;
}

void admin_want_events(struct nof_path *p)
{
    if (!p->event_timer.armed && !event_request_out(p))
        timer_arm(p->host->of->control, &p->event_timer, EVENT_DELAY_MS, event_again);
}

static void event_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe)
{
    uint32_t dw0 = le32_get(cqe->dw0);
    unsigned type = dw0 & 7, info = (dw0 >> 8) & 0xff;
    static struct log_limit limit;
    char text[160];

    if (status) { /* then there are no events; sizes are looked at again after each reconnect */
        nof_status_text(status, text, sizeof(text));
        log_line(LOG_WARNING, "nvme_of", "controller %s: no asynchronous events: %s", p->host->name,
                 text);
        return;
    }
    if (type == NVME_AER_NOTICE && info == NVME_AER_NOTICE_NS_ATTR) {
        steps_rescan(p); /* asks for the next event when it is over */
        if (!p->scanning)
            admin_want_events(p);
        return;
    }
    if (type == NVME_AER_NOTICE && info == NVME_AER_NOTICE_ANA) {
        steps_read_ana(p);
        if (!p->scanning)
            admin_want_events(p);
        return;
    }
    log_limited(&limit, LOG_WARNING, "nvme_of", "controller %s: event type %u, information %02xh",
                p->host->name, type, info);
    admin_want_events(p);
}

/* ---- leaving ---- */

static void shutdown_answer(struct nof_path *p, uint16_t status, const struct nvme_cqe *cqe)
{
    tcp_fail(&p->admin, -ESHUTDOWN, "shut down");
}

static const struct errand shutdown_errand = {shutdown_answer};

bool admin_shutdown(struct nof_path *p)
{
    struct tcp_cmd *cmd;

    if (p->phase != PATH_READY || p->admin.state != TCP_UP)
        return false;
    admin_stop(p);
    cmd = admin_cmd(p, 0, &shutdown_errand);
    if (!cmd)
        return false;
    fabrics_property_set(cmd, NVME_REG_CC,
                         fabrics_cc(p->cap) | (uint32_t)NVME_CC_SHN_NORMAL << NVME_CC_SHN_SHIFT);
    cmd->timeout_ms = SHUTDOWN_MS;
    tcp_submit(&p->admin, cmd);
    tcp_flush(&p->admin);
    return true;
}

void admin_stop(struct nof_path *p)
{
    steps_stop(p);
    timer_cancel(&p->keep_alive_timer);
    timer_cancel(&p->event_timer);
    p->keep_alive_out = false;
}

/* ---- the connection ---- */

static void admin_up(struct tcp_conn *c)
{
    steps_start(container_of(c, struct nof_path, admin));
}

static void admin_done(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nof_path *p = container_of(c, struct nof_path, admin);
    const struct errand *errand = cmd->arg;
    struct nvme_cqe cqe = cmd->cqe;

    tcp_cmd_put(c, cmd);
    errand->answer(p, le16_get(cqe.sf) >> 1, &cqe);
}

static void admin_down(struct tcp_conn *c, const struct err *why)
{
    struct err copy = *why;

    path_lost(container_of(c, struct nof_path, admin), &copy);
}

static void admin_batch_end(struct tcp_conn *c)
{
    (void)c;
}

const struct tcp_ops admin_ops = {
    .up = admin_up,
    .done = admin_done,
    .down = admin_down,
    .batch_end = admin_batch_end,
};
