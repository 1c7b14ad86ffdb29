/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What each host has of the buffers of a reactor. A buffer that waits for data belongs to the host
 * until it sends them, so none may have all: a host gets one more only while more are free than it
 * has, over all of its queues. The first host may take half, the next one half of the rest, and one
 * that has none yet finds one as long as there is any. */
#include "nvmf/inside.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- a host's connections here ---- */

struct share *share_get(struct shard *s, const struct nvme_fabrics_connect_data *d)
{
    struct share *sh;

    list_for_each(it, &s->shares)
    {
        sh = list_entry(it, struct share, node);
        if (memcmp(sh->hostid, d->hostid, sizeof(sh->hostid)) == 0 &&
            strncmp(sh->hostnqn, d->hostnqn, sizeof(sh->hostnqn)) == 0) {
            sh->conns++;
            return sh;
        }
    }
    sh = calloc(1, sizeof(*sh));
    if (!sh)
        return NULL;
    sh->shard = s;
    sh->conns = 1;
    memcpy(sh->hostid, d->hostid, sizeof(sh->hostid));
    snprintf(sh->hostnqn, sizeof(sh->hostnqn), "%s", d->hostnqn);
    list_init(&sh->hungry_node);
    list_init(&sh->waiting);
    list_append(&s->shares, &sh->node);
    return sh;
}

void share_put(struct share *sh)
{
    if (!sh || --sh->conns > 0)
        return;
    list_remove(&sh->node);
    list_remove(&sh->hungry_node);
    free(sh);
}

/* ---- buffers ---- */

static bool may_take(const struct share *sh)
{
    return sh->held < sh->shard->buffers.nfree;
}

char *share_take(struct share *sh)
{
    if (!may_take(sh))
        return NULL;
    sh->held++;
    return buffers_get(&sh->shard->buffers);
}

void share_give(struct share *sh, char *at)
{
    sh->held--;
    buffers_put(&sh->shard->buffers, at);
}

/* ---- who waits ---- */

void share_wait(struct nvmf_conn *c)
{
    struct share *sh = c->share;

    if (!list_empty(&c->starved_node))
        return;
    if (list_empty(&sh->waiting))
        list_append(&sh->shard->hungry, &sh->hungry_node);
    list_append(&sh->waiting, &c->starved_node);
}

void share_wait_no_more(struct nvmf_conn *c)
{
    list_remove(&c->starved_node);
    if (c->share && list_empty(&c->share->waiting))
        list_remove(&c->share->hungry_node);
}

/* One command of a connection, one connection of a host, then the next host's turn. */
static bool feed_one(struct shard *s)
{
    list_for_each(it, &s->hungry)
    {
        struct share *sh = list_entry(it, struct share, hungry_node);
        struct nvmf_conn *c = list_entry(sh->waiting.next, struct nvmf_conn, starved_node);
        struct list *node;

        if (!may_take(sh))
            continue;
        node = list_pop(&c->waiting);
        list_remove(&c->starved_node);
        list_remove(&sh->hungry_node);
        if (!list_empty(&c->waiting))
            list_append(&sh->waiting, &c->starved_node);
        if (!list_empty(&sh->waiting))
            list_append(&s->hungry, &sh->hungry_node);
        if (node)
            cmd_go_on(list_entry(node, struct nvmf_cmd, node));
        return true;
    }
    return false;
}

void share_feed(struct shard *s)
{
    while (!list_empty(&s->hungry) && s->buffers.nfree > 0 && feed_one(s))
        ;
}

bool share_is_wanted(const struct share *sh)
{
    if (!sh || sh->held == 0 || sh->shard->buffers.nfree > 0)
        return false;
    list_for_each(it, &sh->shard->hungry)
    {
        if (list_entry(it, struct share, hungry_node)->held < sh->held)
            return true;
    }
    return false;
}
