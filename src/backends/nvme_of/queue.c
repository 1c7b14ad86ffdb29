/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The life of an I/O queue: made for a lane and a path, connected and hung up as the path wishes,
 * reports by mail, freed by the path when either of the two is no more. */
#include "backends/nvme_of/queue.h"
#include "backends/nvme_of/fabrics.h"
#include "backends/nvme_of/status.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- reports to the path ---- */

static void report_arrived(struct mail *m)
{
    struct nof_queue *q = container_of(m, struct nof_queue, report_mail);
    struct nvme_of_host *h = q->path->host;
    struct nof_report report;

    pthread_mutex_lock(&h->lock);
    q->report_posted = false;
    report = q->report;
    memset(&q->report, 0, sizeof(q->report));
    pthread_mutex_unlock(&h->lock);
    path_report(q->path, q, &report);
}

/* Under host->lock. */
static void post_report(struct nof_queue *q)
{
    if (q->report_posted)
        return;
    q->report_posted = true;
    q->report_mail.fn = report_arrived;
    reactor_post(q->path->host->of->control, &q->report_mail);
}

static void report_lost(struct nof_queue *q, const struct err *why)
{
    pthread_mutex_lock(&q->path->host->lock);
    q->report.lost_assoc = q->target.assoc;
    q->report.why = *why;
    post_report(q);
    pthread_mutex_unlock(&q->path->host->lock);
}

void queue_ask_ana(struct nof_queue *q)
{
    pthread_mutex_lock(&q->path->host->lock);
    q->report.ana = true;
    post_report(q);
    pthread_mutex_unlock(&q->path->host->lock);
}

void queue_ask_rescan(struct nof_queue *q)
{
    pthread_mutex_lock(&q->path->host->lock);
    q->report.rescan = true;
    post_report(q);
    pthread_mutex_unlock(&q->path->host->lock);
}

/* ---- the connection ---- */

static void conn_up(struct tcp_conn *c)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    struct tcp_cmd *cmd = tcp_cmd_get(c);
    struct fabrics_connect connect = {
        .hostid = &q->path->host->of->hostid,
        .subnqn = q->path->host->subnqn,
        .hostnqn = q->path->host->hostnqn,
        .cntlid = q->target.cntlid,
        .qid = (uint16_t)q->qid,
        .entries = q->target.entries,
        .no_sq_flow = q->target.no_sq_flow,
    };

    fabrics_connect(cmd, &connect, &q->connect_data, &q->connect_iov);
    cmd->timeout_ms = q->target.tcp.phase_timeout_ms;
    tcp_submit(c, cmd);
}

static void connect_done(struct nof_queue *q, uint16_t status, const struct nvme_cqe *cqe)
{
    char text[160];

    if (status) {
        nof_connect_text(status, le32_get(cqe->dw0), text, sizeof(text));
        tcp_fail(&q->conn, -ECONNREFUSED, "Connect: %s", text);
    } else if (NVME_CONNECT_AUTHREQ(le32_get(cqe->dw0))) {
        tcp_fail(&q->conn, -EACCES, "the target demands authentication, which is not supported");
    } else {
        q->up = true;
        lane_look_again(q->lane);
        io_pump_lane(q->lane);
    }
}

static void conn_done(struct tcp_conn *c, struct tcp_cmd *cmd)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    uint16_t status = le16_get(cmd->cqe.sf) >> 1;
    struct nvme_cqe cqe = cmd->cqe;
    void *arg = cmd->arg;
    uint32_t blocks = cmd->arg_blocks;

    tcp_cmd_put(c, cmd);
    if (likely(q->up))
        io_command_done(q, arg, blocks, status);
    else
        connect_done(q, status, &cqe);
}

static void conn_batch_end(struct tcp_conn *c)
{
    io_pump(container_of(c, struct nof_queue, conn));
}

/* Nothing of this connection remains. Its requests are sent by others before anybody else hears of
 * the loss. */
static void hang_up(struct nof_queue *q)
{
    q->open = q->up = false;
    lane_choose(q->lane);
    io_connection_lost(q);
    tcp_close(&q->conn);
    io_pump_lane(q->lane);
}

static void conn_down(struct tcp_conn *c, const struct err *why)
{
    struct nof_queue *q = container_of(c, struct nof_queue, conn);
    struct err copy = *why;

    hang_up(q);
    report_lost(q, &copy);
}

static const struct tcp_ops conn_ops = {
    .up = conn_up,
    .done = conn_done,
    .down = conn_down,
    .batch_end = conn_batch_end,
};

/* ---- wishes of the path ---- */

static void leave(struct nof_queue *q)
{
    if (q->open)
        hang_up(q);
    lane_part(q->lane, q);
    queue_close(q);
}

static void fulfil(struct nof_queue *q, const struct nof_wish *wish)
{
    struct err err;

    if (wish->leave) {
        leave(q);
        return;
    }
    if (!q->in_lane && !lane_join(q->lane, q))
        return; /* there are fewer paths than places */
    if (q->open && (!wish->up || wish->target.assoc != q->target.assoc))
        hang_up(q);
    if (!wish->up)
        return;
    if (wish->target.assoc != q->target.assoc || !q->have_target) {
        q->target = wish->target;
        q->have_target = true;
        q->limit = MIN(q->target.entries - 1U, (unsigned)QUEUE_SLOTS);
        q->lane->seen = true;
        q->lane->volatile_cache = q->target.volatile_cache;
        q->lane->dsm = q->target.dsm;
        if (tcp_open(&q->conn, &q->target.tcp, &err))
            report_lost(q, &err);
        else
            q->open = true;
    }
    lane_look_again(q->lane);
    io_pump_lane(q->lane);
}

static void wish_arrived(struct mail *m)
{
    struct nof_queue *q = container_of(m, struct nof_queue, wish_mail);
    struct nvme_of_host *h = q->path->host;
    struct nof_wish wish;
    bool closed;

    pthread_mutex_lock(&h->lock);
    q->wish_posted = false;
    wish = q->wish;
    closed = q->closed;
    if (closed) {
        q->report.closed = true;
        post_report(q);
    }
    pthread_mutex_unlock(&h->lock);
    if (!closed)
        fulfil(q, &wish);
}

void queue_want(struct nof_queue *q, const struct nof_target *t, bool leave)
{
    if (q->closed)
        return;
    q->wish.up = t != NULL;
    q->wish.leave |= leave;
    if (t)
        q->wish.target = *t;
    if (q->wish_posted)
        return;
    q->wish_posted = true;
    q->wish_mail.fn = wish_arrived;
    reactor_post(q->r, &q->wish_mail);
}

/* ---- life ---- */

unsigned queue_qid(const struct nof_queue *q)
{
    return q->qid;
}

struct nof_queue *queue_of_node(struct list *node)
{
    return list_entry(node, struct nof_queue, node);
}

struct list *queue_node(struct nof_queue *q)
{
    return &q->node;
}

void queue_free(struct nof_queue *q)
{
    tcp_fini(&q->conn);
    free(q);
}

/* The next free QID; not the one freed last, which the target may still be busy closing. 0: there
 * is none. */
static unsigned take_qid(struct nof_path *p)
{
    for (unsigned i = 0; i < p->max_queues; i++) {
        unsigned qid = (p->last_qid + i) % p->max_queues + 1;

        if (!p->qid_used[qid]) {
            p->qid_used[qid] = true;
            p->last_qid = qid;
            return qid;
        }
    }
    return 0;
}

struct nof_queue *queue_create(struct nof_path *p, struct nof_lane *lane, struct err *err)
{
    struct nof_queue *q = calloc(1, sizeof(*q));
    unsigned qid;

    if (!q || tcp_init(&q->conn, lane->r, QUEUE_SLOTS, &conn_ops) < 0) {
        free(q);
        err_set(err, -ENOMEM, "controller '%s': no memory for an I/O queue", p->host->name);
        return NULL;
    }
    qid = take_qid(p);
    if (!qid) {
        err_set(err, -EMFILE, "controller '%s': all of its %u I/O queues are in use", p->host->name,
                p->max_queues);
        queue_free(q);
        return NULL;
    }
    q->path = p;
    q->lane = lane;
    q->r = lane->r;
    q->qid = qid;
    list_init(&q->pending);
    list_init(&q->active);
    list_append(&p->queues, &q->node);
    p->nqueues++;
    q->report.opened = true;
    post_report(q);
    return q;
}

/* A wish under way is waited for: then nobody but the path knows this queue, which frees it. */
void queue_close(struct nof_queue *q)
{
    struct nvme_of_host *h = q->path->host;

    tcp_close(&q->conn);
    pthread_mutex_lock(&h->lock);
    q->closed = true;
    if (!q->wish_posted) {
        q->report.closed = true;
        post_report(q);
    }
    pthread_mutex_unlock(&h->lock);
}
