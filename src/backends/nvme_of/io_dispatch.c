/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Which queue a request goes to, or what it waits for. A lost connection, or a path that does not
 * want it, gives a request to another queue, in the order of arrival. */
#include "backends/nvme_of/io_inside.h"

enum { RETRY_TICK_MS = 100 };

static void start_over(struct nof_io *io)
{
    io->issued = io->finished = io->out = 0;
    io->rc = 0;
    io->retry = io->elsewhere = false;
}

/* Where it belongs by its arrival: mostly at the end. */
static void insert(struct list *list, struct nof_io *io)
{
    struct list *at = list->prev;

    while (at != list && list_entry(at, struct nof_io, node)->seq > io->seq)
        at = at->prev;
    list_prepend(at, &io->node);
}

static void give_to(struct nof_queue *q, struct nof_io *io)
{
    io->state = IO_PENDING;
    io->queue = q;
    q->load++;
    insert(&q->pending, io);
}

static struct nof_queue *queue_for(struct nof_channel *ch)
{
    return unlikely(ch->spread) ? channel_spread(ch) : ch->queue;
}

void io_dispatch(struct nof_io *io)
{
    struct nof_queue *q = queue_for(io->ch);

    if (likely(q != NULL)) {
        give_to(q, io);
        return;
    }
    io->state = IO_WAITING;
    insert(&io->ch->lane->waiting, io);
}

static void dispatch_again(struct nof_io *io)
{
    io_leave_list(io);
    start_over(io);
    io_dispatch(io);
}

static void dispatch_all(struct list *list)
{
    struct list batch;

    list_init(&batch);
    list_splice(&batch, list);
    while (!list_empty(&batch))
        dispatch_again(list_entry(batch.next, struct nof_io, node));
}

static void retry_tick(struct timer *t)
{
    struct nof_lane *lane = container_of(t, struct nof_lane, retry_timer);

    list_for_each_safe(it, &lane->delayed)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (--io->wait_ticks == 0)
            dispatch_again(io);
    }
    if (!list_empty(&lane->delayed))
        timer_arm(lane->r, &lane->retry_timer, RETRY_TICK_MS, retry_tick);
    io_pump_lane(lane);
}

/* 0.1, 0.2, 0.4 ... at most 2 s apart. */
static void delay(struct nof_io *io)
{
    struct nof_lane *lane = io->ch->lane;

    io->wait_ticks = (uint8_t)MIN(1U << MIN(io->tries, 5), 20U);
    io_wait_in(&lane->delayed, io, IO_DELAYED);
    if (!lane->retry_timer.armed)
        timer_arm(lane->r, &lane->retry_timer, RETRY_TICK_MS, retry_tick);
}

/* Another queue than q that can be used, the best first. */
static struct nof_queue *other_queue(const struct nof_channel *ch, const struct nof_queue *q)
{
    for (unsigned i = 0; i < ch->nset; i++)
        if (ch->set[i] != q)
            return ch->set[i];
    for (unsigned i = 0; i < ch->lane->nqueues; i++) {
        struct nof_queue *other = ch->lane->queues[i];

        if (other != q && other->up && atomic_load(&ch->ns->access[other->path->number]))
            return other;
    }
    return NULL;
}

/* Two paths that both refuse are not asked in turns without end. */
void io_try_again(struct nof_io *io)
{
    struct nof_queue *other = io->elsewhere ? other_queue(io->ch, io->queue) : NULL;

    if (io->tries < UINT8_MAX)
        io->tries++;
    if (!other || io->tries > 2) {
        delay(io);
        return;
    }
    io_leave_list(io);
    start_over(io);
    give_to(other, io);
    io_pump(other);
    tcp_flush(&other->conn);
}

/* ---- a lost connection, another path ---- */

void io_connection_lost(struct nof_queue *q)
{
    struct list batch;

    for (struct tcp_cmd *cmd = NULL; (cmd = tcp_next_busy(&q->conn, cmd));) {
        struct nof_io *io = cmd->arg;

        if (io && tcp_cmd_started(cmd))
            io->uncertain = io->lost = true;
    }
    list_for_each(it, &q->active)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        /* Whoever changes data that are being sent makes data digests wrong: the third try sends a
         * copy. */
        if (io->losses < UINT8_MAX && ++io->losses >= 2 && io->req->op == BDEV_WRITE &&
            q->target.tcp.ddgst)
            io_copy_data(io);
    }
    list_init(&batch);
    for (struct list *list = &q->active;; list = &q->pending) {
        while (!list_empty(list)) {
            struct nof_io *io = list_entry(list->next, struct nof_io, node);

            io_leave_list(io);
            start_over(io);
            insert(&batch, io);
        }
        if (list == &q->pending)
            break;
    }
    /* In the order of arrival: the first of two that overlap is sent at once, the second waits. All
     * are guarded before any is sent. */
    list_for_each(it, &batch)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (io->lost && io_changes_blocks(io))
            io_guard(io, q);
        io->lost = false;
    }
    while (!list_empty(&batch)) {
        struct nof_io *io = list_entry(batch.next, struct nof_io, node);

        list_remove(&io->node);
        io_dispatch(io);
    }
}

void io_leave_queue(struct nof_channel *ch, struct nof_queue *q)
{
    list_for_each_safe(it, &q->pending)
    {
        struct nof_io *io = list_entry(it, struct nof_io, node);

        if (io->ch == ch && io->issued == 0)
            dispatch_again(io);
    }
}

void io_look_again(struct nof_lane *lane)
{
    timer_cancel(&lane->fence_timer);
    dispatch_all(&lane->waiting);
    dispatch_all(&lane->fenced);
}
