/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A reactor's share: its connections send and flush at the end of the turn, all together. */
#include "nvmf/inside.h"

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
