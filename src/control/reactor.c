/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the I/O reactors do with their time, in the members of SPDK's framework_get_reactors. Each
 * is asked by mail, so that no counter is read across threads and a sleeper's sleep counts. */
#include "control/inside.h"

#include "base/tick.h"
#include "runtime/meter.h"

#include <errno.h>
#include <stdlib.h>

struct leg {
    struct mail mail;
    struct trip *trip;
    struct reactor *reactor;
    struct reactor_times times;
};

struct trip {
    struct control_ctx *ctx;
    struct rpc_request *req;
    unsigned pending, nlegs;
    struct leg legs[];
};

static json_t *reactor_json(const struct leg *leg, unsigned i, uint64_t rate)
{
    const struct reactor_times *t = &leg->times;
    uint64_t busy = tick_span(t->busy_ns, rate), idle = tick_span(t->idle_ns, rate);
    json_t *o = json_pack("{s:i,s:i}", "lcore", t->cpu, "tid", (int)t->tid);
    json_t *thread = json_pack("{s:s,s:i}", "name", reactor_name(leg->reactor), "id", (int)i + 1);
    char mask[20];

    set_number(o, "busy", busy);
    set_number(o, "idle", idle);
    json_object_set_new(o, "in_interrupt", json_boolean(t->sleeps));
    snprintf(mask, sizeof(mask), "%llx", (unsigned long long)t->cpumask);
    json_object_set_new(thread, "cpumask", json_string(mask));
    set_number(thread, "elapsed", busy + idle);
    json_object_set_new(o, "lw_threads", json_pack("[o]", thread));
    return o;
}

static void answer(struct trip *t)
{
    uint64_t rate = reactor_tick_rate(t->ctx->reactor);
    json_t *list = json_array(), *result = json_object();

    for (unsigned i = 0; i < t->nlegs; i++)
        json_array_append_new(list, reactor_json(&t->legs[i], i, rate));
    set_number(result, "tick_rate", rate);
    json_object_set_new(result, "reactors", list);
    rpc_result(t->req, result);
    free(t);
}

static void is_back(struct mail *m)
{
    struct trip *t = container_of(m, struct leg, mail)->trip;

    if (--t->pending == 0)
        answer(t);
}

static void ask(struct mail *m)
{
    struct leg *leg = container_of(m, struct leg, mail);

    leg->times = reactor_get_times(leg->reactor);
    m->fn = is_back;
    reactor_post(leg->trip->ctx->reactor, m);
}

static void framework_get_reactors(void *arg, struct rpc_request *req, const void *args)
{
    struct control_ctx *ctx = arg;
    struct trip *t = calloc(1, sizeof(*t) + ctx->nreactors * sizeof(t->legs[0]));

    if (!t) {
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    t->ctx = ctx;
    t->req = req;
    t->pending = t->nlegs = ctx->nreactors;
    for (unsigned i = 0; i < ctx->nreactors; i++) {
        t->legs[i] = (struct leg){.mail.fn = ask, .trip = t, .reactor = ctx->reactors[i]};
        reactor_post(ctx->reactors[i], &t->legs[i].mail);
    }
}

static const struct rpc_method methods[] = {
    {"framework_get_reactors", RPC_NO_PARAMS, 0, framework_get_reactors,
     "time that each I/O reactor has been busy and idle, in ticks", 0,
     "{tick_rate, reactors: [{lcore, tid, busy, idle, in_interrupt, lw_threads}]}"},
};
const struct rpc_method_table reactor_methods = RPC_TABLE(methods);
