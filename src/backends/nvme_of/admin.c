/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The admin queue of a host: its connection, keep-alive, events, good-bye. */
#include "backends/nvme_of/admin.h"
#include "backends/nvme_of/status.h"
#include "base/log.h"

#include <errno.h>

enum {
    EVENT_DELAY_MS = 100, /* between an event and the next request for one: a storm costs little */
    SHUTDOWN_MS = 1000,
};

struct tcp_cmd *admin_cmd(struct nvme_of_host *h, uint8_t opc, const struct errand *errand)
{
    struct tcp_cmd *cmd = tcp_cmd_get(&h->admin);

    if (!cmd) { /* a few commands at a time use 32 slots: cannot be */
        tcp_fail(&h->admin, -ENOBUFS, "no admin command slot");
        return NULL;
    }
    cmd->sqe.opc = opc;
    cmd->arg = (void *)(uintptr_t)errand;
    cmd->timeout_ms = h->phase_timeout_ms;
    return cmd;
}

void admin_property_set(struct tcp_cmd *cmd, uint32_t offset, uint32_t value)
{
    struct nvme_fabrics_property *sqe = (void *)&cmd->sqe;

    sqe->opc = NVME_OPC_FABRICS;
    sqe->fctype = NVME_FCTYPE_PROPERTY_SET;
    sqe->ofst = le32_of(offset);
    sqe->value = le64_of(value);
}

uint32_t admin_cc(const struct nvme_of_host *h)
{
    return NVME_CC_EN | (uint32_t)NVME_CC_CSS_NVM << NVME_CC_CSS_SHIFT |
           NVME_CAP_MPSMIN(h->cap) << NVME_CC_MPS_SHIFT | 6U << NVME_CC_IOSQES_SHIFT |
           4U << NVME_CC_IOCQES_SHIFT;
}

/* ---- keep-alive ---- */

static void keep_alive_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe)
{
    char text[160];

    h->keep_alive_out = false;
    if (status) {
        nof_status_text(status, text, sizeof(text));
        tcp_fail(&h->admin, -EIO, "Keep Alive: %s", text);
    }
}

static const struct errand keep_alive_errand = {keep_alive_answer};

static void send_keep_alive(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, keep_alive_timer);
    struct tcp_cmd *cmd;

    if (h->keep_alive_out) {
        tcp_fail(&h->admin, -ETIMEDOUT, "keep-alive not answered within %u ms",
                 h->keep_alive_ms / 2);
        return;
    }
    cmd = admin_cmd(h, NVME_ADMIN_KEEP_ALIVE, &keep_alive_errand);
    if (!cmd)
        return;
    cmd->timeout_ms = h->keep_alive_ms;
    h->keep_alive_out = true;
    tcp_submit(&h->admin, cmd);
    tcp_flush(&h->admin);
    admin_start_keep_alive(h);
}

void admin_start_keep_alive(struct nvme_of_host *h)
{
    timer_arm(h->of->control, &h->keep_alive_timer, MAX(h->keep_alive_ms / 2, 1U), send_keep_alive);
}

/* ---- events ---- */

static void event_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe);
static const struct errand event_errand = {event_answer};

static void event_again(struct timer *t)
{
    struct nvme_of_host *h = container_of(t, struct nvme_of_host, event_timer);
    struct tcp_cmd *cmd = admin_cmd(h, NVME_ADMIN_ASYNC_EVENT, &event_errand);

    if (!cmd)
        return;
    cmd->patient = true;
    tcp_submit(&h->admin, cmd);
    tcp_flush(&h->admin);
}

static bool event_request_out(struct nvme_of_host *h)
{
    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&h->admin, cmd));)
        if (cmd->arg == &event_errand)
            return true;
    return false;
}

void admin_want_events(struct nvme_of_host *h)
{
    if (!h->event_timer.armed && !event_request_out(h))
        timer_arm(h->of->control, &h->event_timer, EVENT_DELAY_MS, event_again);
}

static void event_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe)
{
    uint32_t dw0 = le32_get(cqe->dw0);
    unsigned type = dw0 & 7, info = (dw0 >> 8) & 0xff;
    static struct log_limit limit;
    char text[160];

    if (status) { /* then there are no events; sizes are looked at again after each reconnect */
        nof_status_text(status, text, sizeof(text));
        log_line(LOG_WARNING, "nvme_of", "controller %s: no asynchronous events: %s", h->name,
                 text);
        return;
    }
    if (type == NVME_AER_NOTICE && info == NVME_AER_NOTICE_NS_ATTR) {
        steps_rescan(h); /* asks for the next event when it is over */
        if (!h->scanning)
            admin_want_events(h);
        return;
    }
    log_limited(&limit, LOG_WARNING, "nvme_of", "controller %s: event type %u, information %02xh",
                h->name, type, info);
    admin_want_events(h);
}

/* ---- leaving ---- */

static void shutdown_answer(struct nvme_of_host *h, uint16_t status, const struct nvme_cqe *cqe)
{
    tcp_fail(&h->admin, -ESHUTDOWN, "shut down");
}

static const struct errand shutdown_errand = {shutdown_answer};

bool admin_shutdown(struct nvme_of_host *h)
{
    struct tcp_cmd *cmd;

    if (h->phase != HOST_READY || h->admin.state != TCP_UP)
        return false;
    admin_stop(h);
    cmd = admin_cmd(h, 0, &shutdown_errand);
    if (!cmd)
        return false;
    admin_property_set(cmd, NVME_REG_CC,
                       admin_cc(h) | (uint32_t)NVME_CC_SHN_NORMAL << NVME_CC_SHN_SHIFT);
    cmd->timeout_ms = SHUTDOWN_MS;
    tcp_submit(&h->admin, cmd);
    tcp_flush(&h->admin);
    return true;
}

void admin_stop(struct nvme_of_host *h)
{
    steps_stop(h);
    timer_cancel(&h->keep_alive_timer);
    timer_cancel(&h->event_timer);
    h->keep_alive_out = false;
}

/* ---- the connection ---- */

static void admin_up(struct tcp_conn *c)
{
    steps_start(container_of(c, struct nvme_of_host, admin));
}

static void admin_done(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nvme_of_host *h = container_of(c, struct nvme_of_host, admin);
    const struct errand *errand = cmd->arg;
    struct nvme_cqe cqe = cmd->cqe;

    tcp_cmd_put(c, cmd);
    errand->answer(h, le16_get(cqe.sf) >> 1, &cqe);
}

static void admin_down(struct tcp_conn *c, const struct err *why)
{
    struct err copy = *why;

    host_lost(container_of(c, struct nvme_of_host, admin), &copy);
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
