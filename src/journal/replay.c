/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The saved calls, made again at start. */
#include "base/log.h"
#include "journal/journal.h"

#include <stdlib.h>

struct replay {
    const struct rpc_env *env;
    void (*done)(void *arg, unsigned ok, unsigned failed);
    void *arg;
    json_t *calls; /* of the records as they were at the beginning */
    size_t next;
    unsigned ok, failed;
    bool running, waiting;
};

static void replay_run(struct replay *r);

static void replay_answered(void *arg, json_t *result, json_t *error)
{
    struct replay *r = arg;

    if (error) {
        json_t *call = json_array_get(r->calls, r->next - 1);

        r->failed++;
        log_line(LOG_ERROR, "journal", "cannot restore '%s' (%s): %s",
                 json_string_value(json_object_get(call, "put")),
                 json_string_value(json_object_get(call, "method")),
                 json_string_value(json_object_get(error, "message")));
    } else {
        r->ok++;
    }
    r->waiting = false;
    if (!r->running)
        replay_run(r);
}

static void replay_run(struct replay *r)
{
    r->running = true;
    while (!r->waiting && r->next < json_array_size(r->calls)) {
        json_t *call = json_array_get(r->calls, r->next++);

        r->waiting = true;
        rpc_call_internal(r->env, json_string_value(json_object_get(call, "method")),
                          json_object_get(call, "params"), true, replay_answered, r);
    }
    r->running = false;
    if (r->waiting)
        return;
    r->done(r->arg, r->ok, r->failed);
    json_decref(r->calls);
    free(r);
}

void journal_replay(struct journal *j, const struct rpc_env *env,
                    void (*done)(void *arg, unsigned ok, unsigned failed), void *arg)
{
    struct replay *r = calloc(1, sizeof(*r));

    if (!r) {
        log_line(LOG_ERROR, "journal", "out of memory: nothing is restored");
        done(arg, 0, journal_count(j));
        return;
    }
    *r = (struct replay){.env = env, .done = done, .arg = arg, .calls = journal_calls(j)};
    replay_run(r);
}
