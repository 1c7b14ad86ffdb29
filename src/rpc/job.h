/* SPDX-License-Identifier: BSD-3-Clause
 *
 * rpc/job.h - one JSON text of a client: a request, or an array of them carried out one after the
 * other and answered together. Thread: control. */
#ifndef RPC_JOB_H
#define RPC_JOB_H

#include "base/list.h"
#include "rpc/dispatch.h"

struct rpc_job;
/* The job has ended and frees itself after this. text (stolen, from malloc) is NULL when nothing is
 * to be said. */
typedef void (*rpc_job_fn)(void *arg, struct rpc_job *job, char *text, size_t len);

struct rpc_job {
    struct list node; /* the owner's */
    const struct rpc_env *env;
    rpc_job_fn answered;
    void *arg;
    json_t *requests; /* one object, or the array */
    json_t *answers;  /* of an array */
    json_t *id;       /* of the request that runs; NULL: a notification */
    size_t next;
    char *text; /* the answer */
    size_t len;
    bool running, waiting;
};

/* request is borrowed. NULL: out of memory. */
struct rpc_job *rpc_job_create(const struct rpc_env *env, json_t *request, rpc_job_fn answered,
                               void *arg);
/* Runs it; answered may be called inside. */
void rpc_job_run(struct rpc_job *job);
/* Nobody waits for the answer any more; the job goes on to its end. */
void rpc_job_orphan(struct rpc_job *job);

/* An answer without a request: id null. From malloc; NULL: out of memory. */
char *rpc_job_error_text(int code, const char *message, size_t *ret_len);

#endif
