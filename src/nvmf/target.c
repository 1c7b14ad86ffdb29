/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvmf/inside.h"

#include "base/undumped.h"

#include <errno.h>
#include <stdlib.h>

const struct nvmf_transport nvmf_transport_default = {
    .max_queue_depth = 128,
    .max_aq_depth = 128,
    .max_io_queues = 127,
    .in_capsule_bytes = 4096,
    .max_io_bytes = 128 << 10,
    .c2h_success = true,
};

enum { BUFFER_BYTES = 64 << 20, PAGE = 4096, MAX_IO = 1 << 20, MAX_CAPSULE = 64 << 10 };

struct nvmf_target *nvmf_create(const struct nvmf_opts *opts)
{
    struct nvmf_target *t = calloc(1, sizeof(*t));
    bool made = true;

    if (!t)
        return NULL;
    t->o = *opts;
    t->transport = nvmf_transport_default;
    list_init(&t->subsystems);
    list_init(&t->ports);
    list_init(&t->new_conns);
    list_init(&t->discovery);
    t->shards = calloc(opts->nreactors, sizeof(*t->shards));
    for (unsigned i = 0; t->shards && i < opts->nreactors; i++) {
        t->shards[i].scratch = undumped_alloc(SCRATCH_BYTES);
        made = made && t->shards[i].scratch;
    }
    if (!t->shards || !made) {
        for (unsigned i = 0; t->shards && i < opts->nreactors; i++)
            undumped_free(t->shards[i].scratch, SCRATCH_BYTES);
        free(t->shards);
        free(t);
        return NULL;
    }
    for (unsigned i = 0; i < opts->nreactors; i++)
        shard_init(&t->shards[i], t, opts->reactors[i]);
    return t;
}

/* ---- transport ---- */

static int check(const char *name, uint32_t value, uint32_t least, uint32_t most, struct err *err)
{
    return value >= least && value <= most
               ? 0
               : err_set(err, -EINVAL, "%s %u: it is %u to %u", name, value, least, most);
}

int nvmf_transport_create(struct nvmf_target *t, const struct nvmf_transport *o, struct err *err)
{
    unsigned buffers = o->buffers;
    int rc;

    if (t->has_transport)
        return err_set(err, -EEXIST, "transport 'TCP' exists already");
    rc = check("max_queue_depth", o->max_queue_depth, 2, 1024, err);
    if (rc == 0)
        rc = check("max_aq_depth", o->max_aq_depth, 32, 4096, err);
    if (rc == 0)
        rc = check("max_io_qpairs_per_ctrlr", o->max_io_queues, 1, 1023, err);
    if (rc == 0)
        rc = check("in_capsule_data_size", o->in_capsule_bytes, 0, MAX_CAPSULE, err);
    if (rc == 0)
        rc = check("max_io_size", o->max_io_bytes, 2 * PAGE, MAX_IO, err);
    if (rc < 0)
        return rc;
    if (o->in_capsule_bytes % 16)
        return err_set(err, -EINVAL, "in_capsule_data_size %u: it is a multiple of 16",
                       o->in_capsule_bytes);
    if (o->max_io_bytes & (o->max_io_bytes - 1))
        return err_set(err, -EINVAL, "max_io_size %u: it is a power of two", o->max_io_bytes);
    if (buffers == 0)
        buffers = BUFFER_BYTES / o->max_io_bytes;
    for (unsigned i = 0; i < t->o.nreactors; i++)
        if (!t->shards[i].buffers.at &&
            buffers_init(&t->shards[i].buffers, o->max_io_bytes, buffers) < 0)
            return err_set(err, -ENOMEM, "no memory for %u buffers of %u bytes", buffers,
                           o->max_io_bytes);
    t->transport = *o;
    t->transport.buffers = buffers;
    t->has_transport = true;
    return 0;
}

const struct nvmf_transport *nvmf_transport_get(const struct nvmf_target *t)
{
    return t->has_transport ? &t->transport : NULL;
}

/* ---- statistics ---- */

struct nvmf_reactor_stats nvmf_get_stats(const struct nvmf_target *t, unsigned index)
{
    const struct shard *s = &t->shards[index];
#define GET(member) atomic_load_explicit(&s->member, memory_order_relaxed)

    return (struct nvmf_reactor_stats){
        .name = reactor_name(s->reactor),
        .admin_queues = GET(admin_queues),
        .io_queues = GET(io_queues),
        .current_admin_queues = GET(current_admin),
        .current_io_queues = GET(current_io),
        .pending_io = GET(pending),
        .completed_io = GET(completed),
        .waited_for_buffer = GET(waited),
    };
#undef GET
}
