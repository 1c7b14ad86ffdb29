/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/service.h"

#include "base/fd.h"
#include "base/log.h"
#include "guest/memory.h"
#include "link/crash.h"
#include "link/holder.h"
#include "program/program.h"
#include "service/emu_start.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    STOP_DRAIN_MS =
        2000, /* an orderly stop waits so long for I/O in flight; the rest stays in its records */
};

struct service {
    struct program program;
    const struct options *opts;
    char emu_socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
    unsigned suspending;
};

static struct service *service_of(struct program *p)
{
    return container_of(p, struct service, program);
}

/* ---- stopping ---- */

static void suspended(void *arg, int rc, const struct err *err)
{
    struct service *s = arg;

    if (rc < 0)
        log_line(LOG_WARNING, "service",
                 "stop: %s; its commands in flight wait for the next service",
                 err ? err->msg : strerror(-rc));
    if (--s->suspending == 0)
        program_stopped(&s->program);
}

static void suspend_one(struct controller *c, void *arg)
{
    struct service *s = arg;

    s->suspending++;
    controller_suspend(c, CONTROLLER_ALL, STOP_DRAIN_MS, suspended, s);
}

/* The lease goes with the process: the functions stay as they are, parked, for the next service. */
static void stop_orderly(struct program *p)
{
    struct service *s = service_of(p);

    s->suspending = 1;
    controller_for_each(&p->ctx.controllers, suspend_one, s);
    if (--s->suspending == 0)
        program_stopped(p);
}

/* snap_emu is gone, and with it every host: nothing is left to serve. The supervisor starts us
 * again. */
static void link_lost(void *arg)
{
    struct service *s = arg;

    program_fail(&s->program);
}

/* ---- starting ---- */

/* Each ring holds the fence pipe's write end, which after this the process itself does not, and the
 * lock on our holder's file, which the process keeps as well. */
static int make_reactors(struct service *s, int *ret_fence_read, struct err *err)
{
    int fence[2], rc, holder = holder_create(s->opts->run_dir, err);

    if (holder < 0)
        return holder;
    if (pipe2(fence, O_CLOEXEC) < 0)
        return err_set(err, -errno, "fence pipe: %s", strerror(errno));
    rc = program_make_reactors(&s->program, (int[]){fence[1], holder}, 2, err);
    close(fence[1]);
    *ret_fence_read = fence[0];
    return rc;
}

static int connect_emu(struct service *s, int fence_read, struct err *err)
{
    struct program *p = &s->program;
    struct link_client_opts opts = {.socket_path = s->emu_socket,
                                    .name = p->opts->rpc_socket,
                                    .control = p->control,
                                    .reactors = p->reactors,
                                    .nreactors = p->nreactors,
                                    .fence_read_fd = fence_read,
                                    .lost = link_lost,
                                    .arg = s};

    p->ctx.link = link_client_connect(&opts, err);
    return p->ctx.link ? 0 : err->code;
}

static int prepare(struct service *s, struct err *err)
{
    const struct options *o = s->opts;
    int fence_read = -1, n, rc;

    n = snprintf(s->emu_socket, sizeof(s->emu_socket), "%s/emu.sock", o->run_dir);
    if (n >= (int)sizeof(s->emu_socket))
        return err_set(
            err, -ENAMETOOLONG,
            "run directory '%s': '%s/emu.sock' has more than %zu bytes: use a shorter one",
            o->run_dir, o->run_dir, sizeof(s->emu_socket) - 1);
    crash_guard();
    guest_memory_guard();
    rc = fd_mkdirs(o->run_dir, 0750, err);
    if (rc == 0)
        rc = fd_mkdirs(o->common.state_dir, 0750, err);
    if (rc == 0)
        rc = emu_ensure(o, s->emu_socket, err); /* forks: before there are threads */
    if (rc == 0)
        rc = program_open(&s->program, err);
    if (rc < 0)
        return rc;
    s->program.ctx.subsystems = nvme_subsystems_create();
    if (!s->program.ctx.subsystems)
        return err_set(err, -ENOMEM, "no memory to start");
    rc = make_reactors(s, &fence_read, err);
    if (rc == 0)
        rc = connect_emu(s, fence_read, err);
    if (rc == 0)
        rc = program_spawn_reactors(&s->program, err);
    return rc;
}

static void ready(struct program *p)
{
    log_line(LOG_INFO, "service", "ready: RPC on '%s', %u functions, %u objects in the journal",
             p->opts->rpc_socket, link_function_count(p->ctx.link), journal_count(p->journal));
}

int service_run(const struct options *opts)
{
    struct service *s = calloc(1, sizeof(*s));
    struct err err = {0};
    int rc;

    if (!s)
        return 1;
    s->opts = opts;
    s->program = (struct program){.room = "service",
                                  .opts = &opts->common,
                                  .methods = &service_methods,
                                  .ready = ready,
                                  .stop = stop_orderly};
    rc = prepare(s, &err);
    if (rc < 0) {
        log_line(LOG_CRITICAL, "service", "%s", err.msg[0] ? err.msg : strerror(-rc));
        return 1;
    }
    /* What then ends with the process is also what the fence waits for. */
    return program_run(&s->program);
}
