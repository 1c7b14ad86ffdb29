/* SPDX-License-Identifier: BSD-3-Clause */
#include "target/target.h"

#include "base/fd.h"
#include "base/log.h"
#include "nvmf/nvmf.h"
#include "program/program.h"

#include <errno.h>
#include <string.h>

/* Hosts are served from here to stop(). The reactors are made but do not run yet, so that anything
 * may be added to them; the saved configuration comes later, as RPCs. */
static int make_target(struct program *p, struct err *err)
{
    struct nvmf_opts opts = {.control = p->control,
                             .reactors = p->reactors,
                             .nreactors = p->nreactors,
                             .bdevs = p->ctx.bdevs,
                             .held = true};

    p->ctx.nvmf = nvmf_create(&opts);
    return p->ctx.nvmf ? 0 : err_set(err, -ENOMEM, "no memory for the target");
}

static void stop(struct program *p)
{
    program_stopped(p);
}

/* Every ring holds the lock on the state directory: the next snap_target opens it, and writes, only
 * when the kernel has finished or dropped the local I/O of this one, however it ended. */
static int make_reactors(struct program *p, struct err *err)
{
    return program_make_reactors(p, (int[]){journal_lock_fd(p->journal)}, 1, err);
}

static int prepare(struct program *p, struct err *err)
{
    int rc = fd_mkdirs(p->opts->state_dir, 0750, err);

    if (rc == 0)
        rc = program_open(p, err);
    if (rc == 0)
        rc = make_reactors(p, err);
    if (rc == 0)
        rc = make_target(p, err);
    if (rc == 0)
        rc = program_spawn_reactors(p, err);
    return rc;
}

static void ready(struct program *p)
{
    nvmf_accept(p->ctx.nvmf);
    log_line(LOG_INFO, "target", "ready: RPC on '%s', %u objects in the journal",
             p->opts->rpc_socket, journal_count(p->journal));
}

int target_run(const struct program_options *opts)
{
    struct program p = {
        .room = "target", .opts = opts, .methods = &target_methods, .ready = ready, .stop = stop};
    struct err err = {0};
    int rc = prepare(&p, &err);

    if (rc < 0) {
        log_line(LOG_CRITICAL, "target", "%s", err.msg[0] ? err.msg : strerror(-rc));
        return 1;
    }
    return program_run(&p);
}
