/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/rpc.h - methods as tables, requests that are answered exactly once (at once or later).
 * Thread: control. */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include "base/err.h"
#include "base/util.h"
#include "runtime/reactor.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    RPC_ERR_PARSE = -32700,
    RPC_ERR_REQUEST = -32600,
    RPC_ERR_METHOD = -32601,
    RPC_ERR_PARAMS = -32602,
    RPC_ERR_INTERNAL = -32603,
};

enum rpc_type {
    RPC_STR,  /* const char *: borrowed from the request, NULL when absent */
    RPC_BOOL, /* bool; 0/1 are taken too */
    RPC_U16,
    RPC_U32,
    RPC_U64,
    RPC_I32,
    RPC_JSON, /* json_t *: borrowed, any type */
};
enum {
    RPC_REQUIRED = 1,
    RPC_POSITIONAL = 2, /* the CLI takes it without a flag, in table order */
    RPC_NAME = 4,       /* an object's name: 1..63 characters of [A-Za-z0-9._:-], no '/', no ".." */
    RPC_PATH = 8,       /* a file or socket path */
    RPC_NQN = 16,       /* 1..223 bytes, no control characters */
    RPC_SECRET = 32,    /* never logged, never listed */
    RPC_MIB = 64, /* CLI only: the user gives MiB, the wire carries num_blocks (needs block_size) */
    /* Documented but not built: false, 0, -1, "" and empty values are accepted, and the number
     * "max" when there is one (the documented default); anything else is answered -ENOTSUP with the
     * member's name. */
    RPC_UNSUPPORTED = 128,
    RPC_CLI_OFF = 256, /* CLI only: the flag without a value means false */
};

struct rpc_param {
    /* Wire name; the CLI's long flag is "--name". "_name": taken from the journal only.
     * "object.name": a member of a nested object, the flag is "--name" all the same. */
    const char *name;
    enum rpc_type type;
    size_t offset; /* in the method's args struct */
    unsigned flags;
    const char *help;
    const char *cli_short; /* "-b", "-sn", or NULL */
    const char *alias;     /* another accepted wire name and long flag ("ctrl"), or NULL; none of a
                              nested member */
    size_t
        set_offset; /* offset + 1 of a bool that becomes true when the member was given; 0: none */
    uint64_t min, max; /* numbers: inclusive limits; both 0: the type's own */
};

struct rpc_request;

enum { RPC_JOURNAL = 1 }; /* method flags: a success changes the saved configuration */

struct rpc_method {
    const char *name;
    const struct rpc_param *params;
    unsigned nparams;
    size_t args_bytes;
    /* Answers by rpc_result()/rpc_error() on req, now or later, exactly once. args is valid until
     * the answer. */
    void (*handler)(void *ctx, struct rpc_request *req, const void *args);
    const char *help;
    unsigned flags;
    const char *result_help; /* one line: shape of the result */
};
#define RPC_PARAMS(table) table, ARRAY_SIZE(table)
#define RPC_NO_PARAMS NULL, 0

/* Answers. result is stolen. rpc_error: code is a negative errno or RPC_ERR_*; text is the whole
 * message. */
void rpc_result(struct rpc_request *req, json_t *result);
void rpc_true(struct rpc_request *req);
void rpc_error(struct rpc_request *req, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void rpc_error_from(struct rpc_request *req, const struct err *err);

/* Saved configuration, before the answer. put: this call, as resolved, recreates the object "key"
 * ("bdev/Null0", "nvme/ctrl/NVMeCtrl1"); drop: forget key and all keys below it ("key/..."). amend:
 * the saved call carries value for this member (a generated UUID, a resolved vuid; "object.name" is
 * a nested one); value is stolen, NULL takes the member out. What was recorded is saved with any
 * answer, also an error: a half-done call records what it did. */
void rpc_journal_amend(struct rpc_request *req, const char *member, json_t *value);
/* The call as it would be saved now: members by their first names, amended. Borrowed. */
json_t *rpc_saved_params(struct rpc_request *req);
void rpc_journal_put(struct rpc_request *req, const char *key);
void rpc_journal_drop(struct rpc_request *req, const char *key);
/* Saves at once what was recorded, for an effect that outlives the service and may not be ahead of
 * the saved configuration. After an error nothing counts as saved: drop it and answer. */
int rpc_journal_flush(struct rpc_request *req, struct err *err);
/* True while the call comes from the journal at start: nothing is saved again, controllers wait for
 * the end of replay. */
bool rpc_replaying(const struct rpc_request *req);

#endif
