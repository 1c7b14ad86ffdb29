/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/dispatch.h - from a method's name and parameters to its handler and its one answer.
 * Thread: control. */
#ifndef RPC_DISPATCH_H
#define RPC_DISPATCH_H

#include "rpc/rpc.h"

struct rpc_method_table { /* one object's methods */
    const struct rpc_method *methods;
    unsigned nmethods;
};
#define RPC_TABLE(array)                                                                           \
    {                                                                                              \
        array, ARRAY_SIZE(array)                                                                   \
    }

struct rpc_method_set { /* all that a program serves */
    const struct rpc_method_table *const *tables;
    unsigned ntables;
};
const struct rpc_method *rpc_method_find(const struct rpc_method_set *set, const char *name);
void rpc_method_for_each(const struct rpc_method_set *set,
                         void (*fn)(const struct rpc_method *method, void *arg), void *arg);

/* One change of the saved configuration: a put carries the call that recreates the object, a drop
 * has no params. */
struct rpc_change {
    const char *key, *method;
    json_t *params; /* NULL: drop */
};

/* Where calls are served; lives as long as any request. */
struct rpc_env {
    const struct rpc_method_set *methods;
    void *ctx; /* first argument of every handler */
    /* Saves the changes of one call, all or none; NULL: nothing is saved. Runs before the answer.
     */
    int (*save)(void *arg, const struct rpc_change *changes, unsigned n, struct err *err);
    void *save_arg;
};

/* result or error (an object with code and message), never both; borrowed. */
typedef void (*rpc_answer_fn)(void *arg, json_t *result, json_t *error);

/* Decodes, calls, and answers exactly once, maybe inside this call. params is borrowed; NULL: none.
 * replaying: the call comes from the saved configuration: it may use private members and is not
 * saved again. */
void rpc_call_internal(const struct rpc_env *env, const char *method, json_t *params,
                       bool replaying, rpc_answer_fn answer, void *arg);

/* {"code":..,"message":..}; new reference. */
json_t *rpc_error_object(int code, const char *message);

/* params.c: strict decoding. args is zeroed and then filled with values borrowed from params. 0;
 * RPC_ERR_PARAMS or -ENOTSUP with a sentence that names the member, the value and the limit. */
int rpc_params_decode(const struct rpc_param *params, unsigned nparams, json_t *object,
                      bool replaying, void *args, size_t args_bytes, struct err *err);
bool rpc_param_private(const struct rpc_param *p);
/* What the CLI calls it: of "object.name" the name. */
const char *rpc_param_word(const struct rpc_param *p);
/* A member of params by such a name. get: borrowed, NULL when it is not there. set: value is
 * stolen, NULL takes the member out; a nested object is made when there is none. */
json_t *rpc_member_get(json_t *params, const char *name);
void rpc_member_set(json_t *params, const char *name, json_t *value);

#endif
