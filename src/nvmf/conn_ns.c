/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Namespaces as connections know them. Control tells by mail, in order; a removal is answered when
 * the connection has no command on the namespace any more. */
#include "nvmf/inside.h"

#include "base/log.h"

#include <stdlib.h>

/* ---- control ---- */

static void answered(struct mail *m)
{
    struct ns_tell *t = container_of(m, struct ns_tell, mail);
    struct nvmf_ns *ns = t->leaving;

    free(t);
    ns_left(ns);
}

/* ---- reactor ---- */

static void answer(struct nvmf_conn *c, struct ns_tell *t)
{
    if (!t)
        return;
    if (!t->leaving) {
        free(t);
        return;
    }
    t->mail.fn = answered;
    reactor_post(c->target->o.control, &t->mail);
}

void conn_ns_settle(struct nvmf_conn *c, struct conn_ns *ns)
{
    struct ns_tell *leave = ns->leave;

    if (!ns->leaving || ns->inflight > 0)
        return;
    for (unsigned i = 0; i < c->depth; i++)
        if (c->cmds[i].ns == ns)
            c->cmds[i].ns = NULL;
    c->ns[ns->nsid - 1] = NULL;
    bdev_channel_put(ns->channel);
    free(ns);
    answer(c, leave);
}

void conn_ns_free_all(struct nvmf_conn *c)
{
    for (uint32_t i = 0; i < c->nns; i++) {
        if (!c->ns[i])
            continue;
        c->ns[i]->leaving = true;
        conn_ns_settle(c, c->ns[i]);
    }
    free(c->ns);
    c->ns = NULL;
    c->nns = 0;
}

static uint8_t shift_of(uint32_t block_bytes)
{
    return (uint8_t)__builtin_ctz(block_bytes);
}

static void add(struct nvmf_conn *c, const struct ns_tell *t)
{
    struct bdev_info info = bdev_get_info(t->bdev);
    struct conn_ns *ns = calloc(1, sizeof(*ns));
    struct err err;

    if (ns)
        ns->channel = bdev_channel_get(t->bdev, c->shard->reactor, &err);
    if (!ns || !ns->channel) {
        log_line(LOG_ERROR, "nvmf", "host %s: queue %u: namespace %u: %s", c->peer, c->qid, t->nsid,
                 ns ? err.msg : "no memory");
        free(ns);
        return;
    }
    ns->nsid = t->nsid;
    ns->nblocks = info.nblocks;
    ns->block_shift = shift_of(info.block_bytes);
    ns->read_only = info.read_only;
    ns->write_cache = info.write_cache;
    ns->can_unmap = info.can_unmap;
    ns->path = t->path;
    c->ns[t->nsid - 1] = ns;
}

static void told(struct mail *m)
{
    struct ns_tell *t = container_of(m, struct ns_tell, mail);
    struct nvmf_conn *c = t->conn;
    struct conn_ns *ns = t->nsid <= c->nns ? c->ns[t->nsid - 1] : NULL; /* NULL too: it is gone */

    switch (t->kind) {
    case NS_ADD:
        if (c->state != CONN_CLOSED && !ns && t->nsid <= c->nns)
            add(c, t);
        break;
    case NS_REMOVE:
        if (!ns)
            break;
        ns->leaving = true;
        ns->leave = t;
        conn_ns_settle(c, ns);
        return;
    case NS_RESIZE:
        if (ns)
            ns->nblocks = t->nblocks;
        break;
    case NS_PATH:
        if (ns)
            ns->path = t->path;
        break;
    }
    answer(c, t);
}

/* ---- control ---- */

void ns_tell(struct nvmf_conn *c, enum ns_tell_kind kind, struct nvmf_ns *ns)
{
    const struct nvmf_listener *l = listener_find(ns->ss, c->port);
    struct ns_tell *t = calloc(1, sizeof(*t));

    if (!t) {
        log_line(LOG_CRITICAL, "nvmf", "no memory for %zu bytes", sizeof(*t));
        abort();
    }
    *t = (struct ns_tell){.conn = c,
                          .kind = kind,
                          .nsid = ns->o.nsid,
                          .bdev = ns->o.bdev,
                          .nblocks = ns->info.nblocks,
                          .path = l ? ana_path(ana_state_of(l, ns->o.anagrpid))
                                    : NVME_SC_ANA_INACCESSIBLE};
    if (kind == NS_REMOVE) {
        t->leaving = ns;
        ns->waits++;
    }
    t->mail.fn = told;
    reactor_post(c->shard->reactor, &t->mail);
}
