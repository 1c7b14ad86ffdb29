/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/job.h"

#include "rpc/server.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* All three are stolen, exactly one of result and error is given. */
static json_t *envelope(json_t *id, json_t *result, json_t *error)
{
    json_t *e = json_object();

    json_object_set_new(e, "jsonrpc", json_string("2.0"));
    json_object_set_new(e, "id", id);
    if (error)
        json_object_set_new(e, "error", error);
    else
        json_object_set_new(e, "result", result);
    return e;
}

/* Clients that read lines get their end of line; the others skip it as white space. */
static char *to_text(json_t *v, size_t *ret_len)
{
    size_t len = json_dumpb(v, NULL, 0, JSON_COMPACT);
    char *text;

    if (len == 0)
        return NULL;
    text = malloc(len + 1);
    if (!text)
        return NULL;
    json_dumpb(v, text, len, JSON_COMPACT);
    text[len] = '\n';
    *ret_len = len + 1;
    return text;
}

char *rpc_job_error_text(int code, const char *message, size_t *ret_len)
{
    json_t *e = envelope(json_null(), NULL, rpc_error_object(code, message));
    char *text = to_text(e, ret_len);

    json_decref(e);
    return text;
}

static void answer_text(struct rpc_job *job, json_t *answer)
{
    job->text = to_text(answer, &job->len);
    if (job->text && job->len <= RPC_MAX_ANSWER_BYTES)
        return;
    free(job->text);
    job->text = rpc_job_error_text(RPC_ERR_INTERNAL, "the answer exceeds 32 MiB", &job->len);
}

static void add_answer(struct rpc_job *job, json_t *answer)
{
    if (job->answers)
        json_array_append(job->answers, answer);
    else
        answer_text(job, answer);
    json_decref(answer);
}

static void call_answered(void *arg, json_t *result, json_t *error)
{
    struct rpc_job *job = arg;

    if (job->id) /* else a notification: nothing is said, not even about its failure */
        add_answer(job, envelope(job->id, json_incref(result), json_incref(error)));
    job->id = NULL;
    job->waiting = false;
    if (!job->running)
        rpc_job_run(job);
}

static bool good_id(json_t *id)
{
    return json_is_null(id) || json_is_number(id) ||
           (json_is_string(id) && json_string_length(id) <= RPC_MAX_ID_BYTES);
}

static void bad_request(struct rpc_job *job, json_t *id, const char *why)
{
    char text[160];

    snprintf(text, sizeof(text), "Invalid request: %s", why);
    add_answer(job, envelope(id && good_id(id) ? json_incref(id) : json_null(), NULL,
                             rpc_error_object(RPC_ERR_REQUEST, text)));
}

static void start(struct rpc_job *job, json_t *request)
{
    json_t *id, *method, *params, *version;

    if (!json_is_object(request)) {
        bad_request(job, NULL, "not an object");
        return;
    }
    id = json_object_get(request, "id");
    version = json_object_get(request, "jsonrpc");
    method = json_object_get(request, "method");
    params = json_object_get(request, "params");
    if (id && !good_id(id))
        bad_request(job, id, "'id' must be a number, a string of up to 128 bytes, or null");
    else if (version &&
             (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0))
        bad_request(job, id, "'jsonrpc' must be \"2.0\"");
    else if (!json_is_string(method))
        bad_request(job, id, "'method' must be a string");
    else if (params && !json_is_object(params) && !json_is_array(params) && !json_is_null(params))
        bad_request(job, id, "'params' must be an object");
    else {
        job->id = id ? json_incref(id) : NULL;
        job->waiting = true;
        rpc_call_internal(job->env, json_string_value(method), json_is_null(params) ? NULL : params,
                          false, call_answered, job);
    }
}

static void end(struct rpc_job *job)
{
    if (job->answers && json_array_size(job->answers) > 0)
        answer_text(job, job->answers);
    if (job->answered)
        job->answered(job->arg, job, job->text, job->len);
    else
        free(job->text);
    json_decref(job->answers);
    json_decref(job->requests);
    free(job);
}

void rpc_job_run(struct rpc_job *job)
{
    size_t n = job->answers ? json_array_size(job->requests) : 1;

    job->running = true;
    while (!job->waiting && job->next < n) {
        json_t *request = job->answers ? json_array_get(job->requests, job->next) : job->requests;

        job->next++;
        start(job, request);
    }
    job->running = false;
    if (!job->waiting)
        end(job);
}

void rpc_job_orphan(struct rpc_job *job)
{
    job->answered = NULL;
}

struct rpc_job *rpc_job_create(const struct rpc_env *env, json_t *request, rpc_job_fn answered,
                               void *arg)
{
    struct rpc_job *job = calloc(1, sizeof(*job));

    if (!job)
        return NULL;
    *job = (struct rpc_job){.env = env, .answered = answered, .arg = arg};
    list_init(&job->node);
    /* An empty array is not a batch but one bad request (JSON-RPC 2.0, section 6). */
    if (json_is_array(request) && json_array_size(request) > 0) {
        job->answers = json_array();
        if (!job->answers) {
            free(job);
            return NULL;
        }
    }
    job->requests = json_incref(request);
    return job;
}
