/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A lane: all that a host has on one reactor. Made when the first channel of one of its bdevs is
 * opened there, with a queue of each path; chooses which of them a channel uses, by what the
 * namespace's access is and by its policy. Nothing here is called for a request, unless requests
 * are to be spread. */
#include "backends/nvme_of/queue.h"
#include "base/log.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

/* ---- which queue ---- */

static unsigned grade(const struct nof_channel *ch, const struct nof_queue *q)
{
    if (!q->up)
        return NOF_ACCESS_NONE;
    return atomic_load_explicit(&ch->ns->access[q->path->number], memory_order_relaxed);
}

static bool in_set(const struct nof_channel *ch, const struct nof_queue *q)
{
    for (unsigned i = 0; i < ch->nset; i++)
        if (ch->set[i] == q)
            return true;
    return false;
}

static struct nof_queue *preferred(const struct nof_channel *ch)
{
    int number = atomic_load_explicit(&ch->ns->preferred, memory_order_relaxed);

    for (unsigned i = 0; i < ch->nset; i++)
        if ((int)ch->set[i]->path->number == number)
            return ch->set[i];
    return NULL;
}

static void choose(struct nof_channel *ch)
{
    struct nof_lane *lane = ch->lane;
    struct nof_queue *wanted;
    unsigned best = NOF_ACCESS_NONE;

    ch->nset = 0;
    for (unsigned i = 0; i < lane->nqueues; i++) {
        unsigned g = grade(ch, lane->queues[i]);

        if (g > best) {
            best = g;
            ch->nset = 0;
        }
        if (g == best && g != NOF_ACCESS_NONE)
            ch->set[ch->nset++] = lane->queues[i];
    }
    wanted = preferred(ch);
    if (wanted)
        ch->queue = wanted;
    else if (ch->nset == 0)
        ch->queue = NULL;
    else if (!in_set(ch, ch->queue)) /* else it stays where it is */
        ch->queue = ch->set[0];
    ch->spread = ch->nset > 1 && atomic_load_explicit(&ch->ns->active_active, memory_order_relaxed);
    ch->at = ch->left = 0;
}

struct nof_queue *channel_spread(struct nof_channel *ch)
{
    struct nof_queue *best;

    if (atomic_load_explicit(&ch->ns->queue_depth, memory_order_relaxed)) {
        best = ch->set[0];
        for (unsigned i = 1; i < ch->nset; i++)
            if (ch->set[i]->load < best->load)
                best = ch->set[i];
        return best;
    }
    if (ch->left == 0) {
        ch->at = (ch->at + 1) % ch->nset;
        ch->left = atomic_load_explicit(&ch->ns->rr_min_io, memory_order_relaxed);
    }
    ch->left--;
    return ch->set[ch->at];
}

void lane_choose(struct nof_lane *lane)
{
    list_for_each(it, &lane->channels)
    {
        struct nof_channel *ch = list_entry(it, struct nof_channel, node);

        choose(ch);
        for (unsigned i = 0; i < lane->nqueues; i++)
            if (!in_set(ch, lane->queues[i]))
                io_leave_queue(ch, lane->queues[i]);
    }
}

void lane_look_again(struct nof_lane *lane)
{
    lane_choose(lane);
    io_look_again(lane);
}

bool lane_join(struct nof_lane *lane, struct nof_queue *q)
{
    if (lane->nqueues == NOF_MAX_PATHS)
        return false;
    lane->queues[lane->nqueues++] = q;
    return q->in_lane = true;
}

void lane_part(struct nof_lane *lane, struct nof_queue *q)
{
    unsigned kept = 0;

    for (unsigned i = 0; i < lane->nqueues; i++)
        if (lane->queues[i] != q)
            lane->queues[kept++] = lane->queues[i];
    lane->nqueues = kept;
    q->in_lane = false;
    lane_choose(lane);
}

/* ---- life ---- */

/* Under host->lock. */
static struct nof_lane *lane_create(struct nvme_of_host *h, struct reactor *r, struct err *err)
{
    struct nof_lane *lane = calloc(1, sizeof(*lane));

    if (!lane) {
        err_set(err, -ENOMEM, "controller '%s': no memory for a lane", h->name);
        return NULL;
    }
    lane->host = h;
    lane->r = r;
    list_init(&lane->channels);
    list_init(&lane->waiting);
    list_init(&lane->fenced);
    list_init(&lane->delayed);
    list_init(&lane->ended);
    list_for_each(it, &h->paths)
    {
        struct nof_path *p = list_entry(it, struct nof_path, node);
        struct nof_queue *q = p->is_attached && !p->leaving ? queue_create(p, lane, err) : NULL;

        if (q)
            lane_join(lane, q);
    }
    if (lane->nqueues == 0) {
        free(lane);
        return NULL;
    }
    list_append(&h->lanes, &lane->node);
    return lane;
}

static struct nof_lane *lane_get(struct nvme_of_host *h, struct reactor *r, struct err *err)
{
    struct nof_lane *lane = NULL;

    err_set(err, -ENODEV, "controller '%s' has no path", h->name);
    pthread_mutex_lock(&h->lock);
    list_for_each(it, &h->lanes)
    {
        if (list_entry(it, struct nof_lane, node)->r == r)
            lane = list_entry(it, struct nof_lane, node);
    }
    if (!lane)
        lane = lane_create(h, r, err);
    if (lane)
        lane->refs++;
    pthread_mutex_unlock(&h->lock);
    return lane;
}

void lanes_add_path(struct nof_path *p)
{
    list_for_each(it, &p->host->lanes)
    {
        struct err err;

        if (!queue_create(p, list_entry(it, struct nof_lane, node), &err))
            log_line(LOG_WARNING, "nvme_of", "%s: a reactor does not use the new path", err.msg);
    }
}

/* A queue of this lane that is not closed, or NULL; also one that has not joined yet. */
static struct nof_queue *next_queue(struct nof_lane *lane)
{
    struct nof_queue *found = NULL;

    pthread_mutex_lock(&lane->host->lock);
    list_for_each(it, &lane->host->paths)
    {
        list_for_each(at, &list_entry(it, struct nof_path, node)->queues)
        {
            struct nof_queue *q = queue_of_node(at);

            if (!q->closed && q->lane == lane)
                found = q;
        }
    }
    pthread_mutex_unlock(&lane->host->lock);
    return found;
}

static void lane_put(struct nof_lane *lane)
{
    struct nof_queue *q;

    pthread_mutex_lock(&lane->host->lock);
    if (--lane->refs > 0) {
        pthread_mutex_unlock(&lane->host->lock);
        return;
    }
    list_remove(&lane->node);
    pthread_mutex_unlock(&lane->host->lock);
    io_stop(lane);
    while ((q = next_queue(lane)))
        queue_close(q);
    free(lane);
}

/* ---- channels ---- */

struct nof_channel *channel_open(struct nof_ns *ns, struct reactor *r, struct err *err)
{
    struct nof_channel *ch = calloc(1, sizeof(*ch));

    if (!ch) {
        err_set(err, -ENOMEM, "bdev '%s': no memory for a channel", ns->id.bdev);
        return NULL;
    }
    ch->ns = ns;
    ch->lane = lane_get(ns->host, r, err);
    if (!ch->lane) {
        free(ch);
        return NULL;
    }
    list_append(&ch->lane->channels, &ch->node);
    choose(ch);
    return ch;
}

void channel_close(struct nof_channel *ch)
{
    list_remove(&ch->node);
    lane_put(ch->lane);
    free(ch);
}

void channel_flush(struct nof_channel *ch)
{
    struct nof_lane *lane = ch->lane;

    for (unsigned i = 0; i < lane->nqueues; i++)
        tcp_flush(&lane->queues[i]->conn);
}
