/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A reactor's share: its connections send and flush at the end of the turn, all together. */
#include "nvmf/inside.h"

#include "base/log.h"

#include <stdlib.h>

static unsigned nothing_to_poll(struct poller *p)
{
    (void)p;
    return 0;
}

static void end_of_turn(struct poller *p)
{
    struct shard *s = container_of(p, struct shard, poller);
    struct list *node;

    do {
        while ((node = list_pop(&s->dirty))) {
            struct nvmf_conn *c = list_entry(node, struct nvmf_conn, dirty_node);

            c->is_dirty = false;
            io_flush_batch(c);
            conn_send(c);
        }
        share_feed(s);
    } while (!list_empty(&s->dirty));
}

static void start(struct mail *m)
{
    struct shard *s = container_of(m, struct shard, start);

    s->poller = (struct poller){.poll = nothing_to_poll, .flush = end_of_turn};
    poller_add(s->reactor, &s->poller);
}

/* ---- what control has told is known ----
 * Mail is delivered in order: what has been to each reactor and back has arrived there behind all
 * that was told before. */

struct round_trip {
    nvmf_cb done;
    void *arg;
    unsigned out; /* of legs */
    struct leg {
        struct mail mail;
        struct round_trip *trip;
        struct reactor *control;
    } legs[];
};

static void is_back(struct mail *m)
{
    struct round_trip *trip = container_of(m, struct leg, mail)->trip;

    if (--trip->out > 0)
        return;
    trip->done(trip->arg, 0, NULL);
    free(trip);
}

static void turn(struct mail *m)
{
    m->fn = is_back;
    reactor_post(container_of(m, struct leg, mail)->control, m);
}

void nvmf_when_told(struct nvmf_target *t, nvmf_cb done, void *arg)
{
    struct round_trip *trip = calloc(1, sizeof(*trip) + t->o.nreactors * sizeof(trip->legs[0]));

    if (!trip) {
        log_line(LOG_CRITICAL, "nvmf", "out of memory");
        abort();
    }
    trip->done = done;
    trip->arg = arg;
    trip->out = t->o.nreactors;
    for (unsigned i = 0; i < t->o.nreactors; i++) {
        trip->legs[i] = (struct leg){.mail.fn = turn, .trip = trip, .control = t->o.control};
        reactor_post(t->o.reactors[i], &trip->legs[i].mail);
    }
}

void shard_init(struct shard *s, struct nvmf_target *t, struct reactor *r)
{
    s->target = t;
    s->reactor = r;
    list_init(&s->dirty);
    list_init(&s->shares);
    list_init(&s->hungry);
    s->start.fn = start;
    reactor_post(r, &s->start);
}
