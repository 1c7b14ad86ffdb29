/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Methods about the program itself. */
#include "control/inside.h"

#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void add_name(const struct rpc_method *method, void *arg)
{
    json_array_append_new(arg, json_string(method->name));
}

struct methods_args {
    bool current, include_aliases;
};
static const struct rpc_param methods_params[] = {
    {"current", RPC_BOOL, offsetof(struct methods_args, current), 0,
     "only methods that may be called now (all may)", "-c", NULL, 0, 0, 0},
    {"include_aliases", RPC_BOOL, offsetof(struct methods_args, include_aliases), 0,
     "also other names of methods (there are none)", "-i", NULL, 0, 0, 0},
};

static void rpc_get_methods(void *arg, struct rpc_request *req, const void *args)
{
    struct control_ctx *ctx = arg;
    json_t *list = json_array();

    rpc_method_for_each(ctx->env->methods, add_name, list);
    rpc_result(req, list);
}

static void spdk_get_version(void *ctx, struct rpc_request *req, const void *args)
{
    int major = 0, minor = 0, patch = 0;

    sscanf(OPENSNAP_VERSION, "%d.%d.%d", &major, &minor, &patch);
    rpc_result(req,
               json_pack("{s:s,s:{s:i,s:i,s:i,s:s}}", "version", "OpenSNAP v" OPENSNAP_VERSION,
                         "fields", "major", major, "minor", minor, "patch", patch, "suffix", ""));
}

struct level_args {
    int32_t level;
};
static const struct rpc_param level_params[] = {
    {"level", RPC_I32, offsetof(struct level_args, level), RPC_REQUIRED,
     "0 critical, 1 error, 2 warning, 3 info, 4 debug, 5 trace", "-l", NULL, 0, LOG_CRITICAL,
     LOG_TRACE},
};

static void snap_log_level_set(void *ctx, struct rpc_request *req, const void *args)
{
    const struct level_args *a = args;

    log_set_level((enum log_level)a->level);
    rpc_true(req);
}

static const struct {
    const char *name;
    int number;
} signals[] = {
    {"SIGINT", SIGINT}, {"SIGTERM", SIGTERM}, {"SIGQUIT", SIGQUIT},
    {"SIGHUP", SIGHUP}, {"SIGKILL", SIGKILL}, {"SIGUSR1", SIGUSR1},
};

struct kill_args {
    const char *sig_name;
};
static const struct rpc_param kill_params[] = {
    {"sig_name", RPC_STR, offsetof(struct kill_args, sig_name), RPC_REQUIRED | RPC_POSITIONAL,
     "SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL or SIGUSR1", NULL, NULL, 0, 0, 0},
};

struct pending_kill {
    struct timer timer;
    int number;
};

static void kill_now(struct timer *t)
{
    struct pending_kill *k = container_of(t, struct pending_kill, timer);

    kill(getpid(), k->number);
    free(k);
}

/* The answer leaves first. */
static void spdk_kill_instance(void *ctx, struct rpc_request *req, const void *args)
{
    const struct kill_args *a = args;
    struct control_ctx *c = ctx;
    const char *name = a->sig_name;
    struct pending_kill *k;

    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++) {
        if (strcmp(name, signals[i].name) != 0 && strcmp(name, signals[i].name + 3) != 0)
            continue;
        k = calloc(1, sizeof(*k));
        if (!k) {
            rpc_error(req, -ENOMEM, "out of memory");
            return;
        }
        k->number = signals[i].number;
        timer_arm(c->reactor, &k->timer, 20, kill_now);
        rpc_true(req);
        return;
    }
    rpc_error(
        req, RPC_ERR_PARAMS,
        "Invalid parameters: 'sig_name' is '%.30s', not one of SIGINT, SIGTERM, SIGQUIT, SIGHUP, "
        "SIGKILL, SIGUSR1",
        name);
}

static void framework_wait_init(void *ctx, struct rpc_request *req, const void *args);

static const struct rpc_method methods[] = {
    {"rpc_get_methods", RPC_PARAMS(methods_params), sizeof(struct methods_args), rpc_get_methods,
     "list the methods of this service", 0, "array of names"},
    {"spdk_get_version", RPC_NO_PARAMS, 0, spdk_get_version, "version of this service", 0,
     "{version, fields: {major, minor, patch, suffix}}"},
    {"framework_wait_init", RPC_NO_PARAMS, 0, framework_wait_init,
     "answer when the saved configuration is restored and controllers run", 0, "true"},
    {"snap_log_level_set", RPC_PARAMS(level_params), sizeof(struct level_args), snap_log_level_set,
     "set which log lines are written", 0, "true"},
    {"spdk_kill_instance", RPC_PARAMS(kill_params), sizeof(struct kill_args), spdk_kill_instance,
     "send the service a signal", 0, "true"},
};
const struct rpc_method_table general_methods = RPC_TABLE(methods);

/* ---- start: who waits for it, and what happens at its end ---- */

struct waiter {
    struct list node;
    struct rpc_request *req;
};

static void framework_wait_init(void *ctx, struct rpc_request *req, const void *args)
{
    struct control_ctx *c = ctx;
    struct waiter *w;

    if (c->running) {
        rpc_true(req);
        return;
    }
    w = malloc(sizeof(*w));
    if (!c->waiting) {
        c->waiting = malloc(sizeof(*c->waiting));
        if (c->waiting)
            list_init(c->waiting);
    }
    if (!w || !c->waiting) {
        free(w);
        rpc_error(req, -ENOMEM, "out of memory");
        return;
    }
    w->req = req;
    list_append(c->waiting, &w->node);
}

static void answer_waiters(struct control_ctx *c)
{
    struct list *n;

    while (c->waiting && (n = list_pop(c->waiting))) {
        struct waiter *w = list_entry(n, struct waiter, node);

        rpc_true(w->req);
        free(w);
    }
    free(c->waiting);
    c->waiting = NULL;
}

struct starting {
    struct control_ctx *ctx;
    unsigned pending, failed;
    void (*done)(void *arg, unsigned failed);
    void *arg;
};

struct resuming {
    struct starting *all;
    char ctrl_id[64];
};

static void one_less(struct starting *s)
{
    struct control_ctx *c = s->ctx;

    if (--s->pending > 0)
        return;
    c->running = true;
    if (s->done)
        s->done(s->arg, s->failed);
    free(s);
    answer_waiters(c);
}

static void resumed(void *arg, int rc, const struct err *err)
{
    struct resuming *r = arg;
    struct starting *s = r->all;

    if (rc < 0) {
        s->failed++;
        log_line(LOG_ERROR, "control", "ctrl %s: cannot resume: %s", r->ctrl_id,
                 err ? err->msg : strerror(-rc));
    }
    free(r);
    one_less(s);
}

void control_replay_finished(struct control_ctx *c, void (*done)(void *arg, unsigned failed),
                             void *arg)
{
    struct starting *s = calloc(1, sizeof(*s));
    const char *ctrl_id;
    json_t *run;

    if (!s)
        abort(); /* our own start-up, before anything is served */
    *s = (struct starting){.ctx = c, .pending = 1, .done = done, .arg = arg};
    if (c->nvme_of)
        nvme_of_discoveries_begin(c->nvme_of);
    json_object_foreach(c->run_after_replay, ctrl_id, run)
    {
        struct controller *ctrl = controller_find(&c->controllers, ctrl_id);
        struct resuming *r = json_is_true(run) && ctrl ? calloc(1, sizeof(*r)) : NULL;

        if (!r)
            continue;
        r->all = s;
        snprintf(r->ctrl_id, sizeof(r->ctrl_id), "%s", ctrl_id);
        s->pending++;
        controller_resume(ctrl, resumed, r);
    }
    json_decref(c->run_after_replay);
    c->run_after_replay = NULL;
    one_less(s);
}

void control_ctx_clear(struct control_ctx *c)
{
    answer_waiters(c);
    json_decref(c->run_after_replay);
    json_decref(c->attached);
    json_decref(c->placement);
    c->run_after_replay = c->attached = c->placement = NULL;
}
