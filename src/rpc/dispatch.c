/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/dispatch.h"

#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct change {
    char *key;
    bool drop;
};

struct rpc_request {
    const struct rpc_env *env;
    const struct rpc_method *method;
    json_t *params; /* as received: args borrow from it */
    json_t *saved;  /* a copy with amendments; NULL: none yet */
    struct change *changes;
    unsigned nchanges;
    bool replaying;
    rpc_answer_fn answer;
    void *arg;
    _Alignas(max_align_t) char args[];
};

const struct rpc_method *rpc_method_find(const struct rpc_method_set *set, const char *name)
{
    for (unsigned t = 0; t < set->ntables; t++)
        for (unsigned m = 0; m < set->tables[t]->nmethods; m++)
            if (strcmp(set->tables[t]->methods[m].name, name) == 0)
                return &set->tables[t]->methods[m];
    return NULL;
}

void rpc_method_for_each(const struct rpc_method_set *set,
                         void (*fn)(const struct rpc_method *method, void *arg), void *arg)
{
    for (unsigned t = 0; t < set->ntables; t++)
        for (unsigned m = 0; m < set->tables[t]->nmethods; m++)
            fn(&set->tables[t]->methods[m], arg);
}

json_t *rpc_error_object(int code, const char *message)
{
    json_t *text = json_string(message);

    /* A message may quote foreign bytes that are not UTF-8. */
    return json_pack("{s:i,s:o}", "code", code, "message",
                     text ? text : json_string("error (text is not UTF-8)"));
}

static void forget_changes(struct rpc_request *req)
{
    for (unsigned i = 0; i < req->nchanges; i++)
        free(req->changes[i].key);
    free(req->changes);
    req->changes = NULL;
    req->nchanges = 0;
}

static void request_free(struct rpc_request *req)
{
    forget_changes(req);
    json_decref(req->params);
    json_decref(req->saved);
    free(req);
}

/* The call under its members' first names: an amendment must meet the member it replaces. */
static json_t *saved_params(struct rpc_request *req)
{
    const struct rpc_method *m = req->method;
    const char *name;
    json_t *v;

    if (req->saved)
        return req->saved;
    req->saved = json_object();
    json_object_foreach(req->params, name, v)
    {
        const char *first = name;

        for (unsigned i = 0; i < m->nparams; i++)
            if (m->params[i].alias && strcmp(m->params[i].alias, name) == 0)
                first = m->params[i].name;
        /* Nested objects are amended too. */
        json_object_set_new(req->saved, first, json_deep_copy(v));
    }
    return req->saved;
}

json_t *rpc_saved_params(struct rpc_request *req)
{
    return saved_params(req);
}

static int save_changes(struct rpc_request *req, struct err *err)
{
    struct rpc_change *list;
    int rc;

    if (req->nchanges == 0 || req->replaying || !req->env->save)
        return 0;
    list = calloc(req->nchanges, sizeof(*list));
    if (!list)
        return err_set(err, -ENOMEM, "out of memory");
    for (unsigned i = 0; i < req->nchanges; i++)
        list[i] = (struct rpc_change){req->changes[i].key, req->method->name,
                                      req->changes[i].drop ? NULL : saved_params(req)};
    rc = req->env->save(req->env->save_arg, list, req->nchanges, err);
    free(list);
    return rc;
}

/* The one way out of a request. Steals both. */
static void finish(struct rpc_request *req, json_t *result, json_t *error)
{
    struct err err = {0};
    int rc = save_changes(req, &err);

    if (rc < 0) {
        char text[512];

        /* The change itself cannot be undone in general: the operator must know that it will not
         * outlive the service. */
        snprintf(text, sizeof(text), "%s was %s but could not be saved: %s", req->method->name,
                 error ? "taken back" : "carried out", err.msg);
        log_line(LOG_ERROR, "rpc", "%s", text);
        if (!error)
            error = rpc_error_object(rc, text);
    }
    if (error) {
        json_decref(result);
        result = NULL;
    } else if (!result) {
        error = rpc_error_object(RPC_ERR_INTERNAL, "out of memory while building the result");
    }
    log_line(LOG_DEBUG, "rpc", "%s: %s", req->method->name,
             error ? json_string_value(json_object_get(error, "message")) : "done");
    req->answer(req->arg, result, error);
    json_decref(result);
    json_decref(error);
    request_free(req);
}

void rpc_result(struct rpc_request *req, json_t *result)
{
    finish(req, result, NULL);
}

void rpc_true(struct rpc_request *req)
{
    finish(req, json_true(), NULL);
}

/* Clients know errors by number and by the system's words for it, so the sentence ends with them.
 */
static void answer_error(struct rpc_request *req, int code, const char *message)
{
    char text[1024];
    const char *words = code < 0 && code > -4096 ? strerror(-code) : NULL;

    if (words && !strstr(message, words))
        snprintf(text, sizeof(text), "%s%s%s", message, message[0] ? ": " : "", words);
    else
        snprintf(text, sizeof(text), "%s", message);
    finish(req, NULL, rpc_error_object(code, text));
}

void rpc_error(struct rpc_request *req, int code, const char *fmt, ...)
{
    char text[768];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    answer_error(req, code, text);
}

void rpc_error_from(struct rpc_request *req, const struct err *err)
{
    answer_error(req, err->code ? err->code : RPC_ERR_INTERNAL, err->msg);
}

void rpc_journal_amend(struct rpc_request *req, const char *member, json_t *value)
{
    rpc_member_set(saved_params(req), member, value);
}

static void add_change(struct rpc_request *req, const char *key, bool drop)
{
    struct change *more = realloc(req->changes, (req->nchanges + 1) * sizeof(*more));
    char *copy = strdup(key);

    if (more)
        req->changes = more;
    if (!more || !copy) {
        log_line(LOG_ERROR, "rpc", "%s: out of memory, the change of '%s' is not saved",
                 req->method->name, key);
        free(copy);
        return;
    }
    req->changes[req->nchanges++] = (struct change){copy, drop};
}

void rpc_journal_put(struct rpc_request *req, const char *key)
{
    add_change(req, key, false);
}

void rpc_journal_drop(struct rpc_request *req, const char *key)
{
    add_change(req, key, true);
}

int rpc_journal_flush(struct rpc_request *req, struct err *err)
{
    int rc = save_changes(req, err);

    forget_changes(req);
    return rc;
}

bool rpc_replaying(const struct rpc_request *req)
{
    return req->replaying;
}

static void refuse(rpc_answer_fn answer, void *arg, int code, const char *text)
{
    json_t *error = rpc_error_object(code, text);

    answer(arg, NULL, error);
    json_decref(error);
}

void rpc_call_internal(const struct rpc_env *env, const char *name, json_t *params, bool replaying,
                       rpc_answer_fn answer, void *arg)
{
    const struct rpc_method *method = rpc_method_find(env->methods, name);
    struct rpc_request *req;
    struct err err = {0};
    int rc;

    if (!method) {
        refuse(answer, arg, RPC_ERR_METHOD, "Method not found");
        return;
    }
    req = calloc(1, sizeof(*req) + method->args_bytes);
    if (!req) {
        refuse(answer, arg, RPC_ERR_INTERNAL, "out of memory");
        return;
    }
    req->env = env;
    req->method = method;
    req->params = params ? json_incref(params) : NULL;
    req->replaying = replaying;
    req->answer = answer;
    req->arg = arg;
    rc = rpc_params_decode(method->params, method->nparams, params, replaying, req->args,
                           method->args_bytes, &err);
    if (rc < 0) {
        answer_error(req, rc, err.msg);
        return;
    }
    method->handler(env->ctx, req, req->args);
}
