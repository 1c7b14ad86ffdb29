/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/service.h"

#include "base/fd.h"
#include "base/log.h"
#include "control/control.h"
#include "guest/memory.h"
#include "journal/journal.h"
#include "link/client.h"
#include "link/crash.h"
#include "link/holder.h"
#include "rpc/server.h"
#include "runtime/ring.h"
#include "service/emu_start.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    RING_ENTRIES = 256,
    STOP_DRAIN_MS =
        2000, /* an orderly stop waits so long for I/O in flight; the rest stays in its records */
};

struct service {
    const struct options *opts;
    char emu_socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
    struct reactor *control;
    struct reactor *reactors[WAKE_REACTORS];
    struct ring *rings[WAKE_REACTORS];
    unsigned nreactors;
    struct link_client *link;
    struct journal *journal;
    struct control_ctx ctx;
    struct rpc_env env;
    struct rpc_server *server;
    struct watch signals;
    struct timer start;
    int signal_fd;
    unsigned suspending;
    bool stopping, failed;
};

/* ---- stopping ---- */

static void suspended(void *arg, int rc, const struct err *err)
{
    struct service *s = arg;

    if (rc < 0)
        log_line(LOG_WARNING, "service",
                 "stop: %s; its commands in flight wait for the next service",
                 err ? err->msg : strerror(-rc));
    if (--s->suspending == 0)
        reactor_stop(s->control);
}

static void suspend_one(struct controller *c, void *arg)
{
    struct service *s = arg;

    s->suspending++;
    controller_suspend(c, CONTROLLER_ALL, STOP_DRAIN_MS, suspended, s);
}

/* The lease goes with the process: the functions stay as they are, parked, for the next service. */
static void stop_orderly(struct service *s)
{
    if (s->stopping) { /* asked twice: somebody is in a hurry */
        reactor_stop(s->control);
        return;
    }
    s->stopping = true;
    rpc_server_destroy(s->server);
    s->server = NULL;
    s->suspending = 1;
    controller_for_each(&s->ctx.controllers, suspend_one, s);
    if (--s->suspending == 0)
        reactor_stop(s->control);
}

static void signal_ready(struct watch *w, uint32_t events)
{
    struct service *s = container_of(w, struct service, signals);
    struct signalfd_siginfo info;

    (void)events;
    if (read(w->fd, &info, sizeof(info)) != sizeof(info))
        return;
    log_line(LOG_INFO, "service", "signal %u: stopping", info.ssi_signo);
    stop_orderly(s);
}

/* snap_emu is gone, and with it every host: nothing is left to serve. The supervisor starts us
 * again. */
static void link_lost(void *arg)
{
    struct service *s = arg;

    s->failed = true;
    reactor_stop(s->control);
}

/* ---- starting ---- */

static int watch_signals(struct service *s, struct err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread: all inherit it */
    signal(SIGPIPE, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signal_fd < 0)
        return err_set(err, -errno, "signalfd: %s", strerror(errno));
    return watch_add(s->control, &s->signals, s->signal_fd, EPOLLIN, signal_ready);
}

/* Reactors with their rings. Each ring holds the fence pipe's write end, which after this the
 * process itself does not, and the lock on our holder's file, which the process keeps as well. */
static int make_reactors(struct service *s, int *ret_fence_read, struct err *err)
{
    uint64_t mask = s->opts->core_mask;
    int fence[2], rc = 0, holder = holder_create(s->opts->run_dir, err);

    if (holder < 0)
        return holder;
    if (pipe2(fence, O_CLOEXEC) < 0)
        return err_set(err, -errno, "fence pipe: %s", strerror(errno));
    for (unsigned cpu = 0; rc == 0 && cpu < 64 && s->nreactors < WAKE_REACTORS; cpu++) {
        char name[16];
        struct reactor *r;

        if (mask ? !(mask >> cpu & 1) : cpu > 0)
            continue;
        snprintf(name, sizeof(name), "reactor_%u", s->nreactors);
        r = reactor_create(name, err);
        if (!r) {
            rc = -ENOMEM;
            break;
        }
        reactor_set_poll_window(r, s->opts->poll_window_us);
        s->rings[s->nreactors] = ring_create(r, RING_ENTRIES, (int[]){fence[1], holder}, 2, err);
        if (!s->rings[s->nreactors]) {
            rc = err->code;
            if (rc == -EPERM || rc == -ENOSYS) { /* files cannot be served; the rest can */
                log_line(LOG_WARNING, "service", "%s; file bdevs are not available", err->msg);
                rc = 0;
            }
        }
        s->reactors[s->nreactors++] = r;
    }
    close(fence[1]);
    *ret_fence_read = fence[0];
    return rc;
}

static int spawn_reactors(struct service *s, struct err *err)
{
    unsigned cpu = 0;

    for (unsigned i = 0; i < s->nreactors; i++, cpu++) {
        int rc;

        while (s->opts->core_mask && !(s->opts->core_mask >> cpu & 1))
            cpu++;
        rc = reactor_spawn(s->reactors[i], s->opts->core_mask ? (int)cpu : -1, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int connect_emu(struct service *s, int fence_read, struct err *err)
{
    struct link_client_opts opts = {.socket_path = s->emu_socket,
                                    .name = s->opts->rpc_socket,
                                    .control = s->control,
                                    .reactors = s->reactors,
                                    .nreactors = s->nreactors,
                                    .fence_read_fd = fence_read,
                                    .lost = link_lost,
                                    .arg = s};

    s->link = link_client_connect(&opts, err);
    return s->link ? 0 : err->code;
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
        rc = fd_mkdirs(o->state_dir, 0750, err);
    if (rc == 0)
        rc = emu_ensure(o, s->emu_socket, err); /* forks: before there are threads */
    if (rc < 0)
        return rc;
    s->control = reactor_create("control", err);
    if (!s->control)
        return -ENOMEM;
    rc = watch_signals(s, err);
    if (rc == 0)
        rc = journal_open(o->state_dir, &s->journal, err);
    if (rc == 0)
        rc = make_reactors(s, &fence_read, err);
    if (rc == 0)
        rc = connect_emu(s, fence_read, err);
    if (rc == 0)
        rc = spawn_reactors(s, err);
    return rc;
}

/* What the RPC methods act on. */
static int make_control(struct service *s, struct err *err)
{
    struct bdev_uuid hostid;
    int rc = nvme_of_hostid_load(s->opts->state_dir, &hostid, err);

    if (rc < 0)
        return rc;
    s->env = (struct rpc_env){&service_methods, &s->ctx, journal_save, s->journal};
    s->ctx = (struct control_ctx){.reactor = s->control,
                                  .reactors = s->reactors,
                                  .nreactors = s->nreactors,
                                  .bdevs = bdev_set_create(),
                                  .subsystems = nvme_subsystems_create(),
                                  .link = s->link,
                                  .env = &s->env};
    controllers_init(&s->ctx.controllers);
    if (s->ctx.bdevs)
        s->ctx.nvme_of = nvme_of_create(s->control, s->ctx.bdevs, &hostid);
    if (!s->ctx.nvme_of || !s->ctx.subsystems)
        return err_set(err, -ENOMEM, "no memory to start");
    return 0;
}

static void serve(void *arg, unsigned failed)
{
    struct service *s = arg;
    struct err err = {0};

    if (failed)
        log_line(LOG_ERROR, "service", "%u controllers could not be resumed", failed);
    if (s->stopping)
        return;
    if (rpc_server_create(s->control, s->opts->rpc_socket, &s->env, &s->server, &err) < 0) {
        log_line(LOG_CRITICAL, "service", "%s", err.msg);
        s->failed = true;
        reactor_stop(s->control);
        return;
    }
    log_line(LOG_INFO, "service", "ready: RPC on '%s', %u functions, %u objects in the journal",
             s->opts->rpc_socket, link_function_count(s->link), journal_count(s->journal));
}

static void replayed(void *arg, unsigned ok, unsigned failed)
{
    struct service *s = arg;

    if (failed)
        log_line(LOG_ERROR, "service", "saved configuration: %u calls failed, %u succeeded", failed,
                 ok);
    control_replay_finished(&s->ctx, serve, s);
}

/* Inside the loop: bdevs and controllers take the thread that makes them for their control thread.
 */
static void start_replay(struct timer *t)
{
    struct service *s = container_of(t, struct service, start);

    journal_replay(s->journal, &s->env, replayed, s);
}

int service_run(const struct options *opts)
{
    struct service *s = calloc(1, sizeof(*s));
    struct err err = {0};
    int rc;

    if (!s)
        return 1;
    s->opts = opts;
    rc = prepare(s, &err);
    if (rc == 0)
        rc = make_control(s, &err);
    if (rc < 0) {
        log_line(LOG_CRITICAL, "service", "%s", err.msg[0] ? err.msg : strerror(-rc));
        return 1;
    }
    timer_arm(s->control, &s->start, 0, start_replay);
    reactor_run(s->control);
    /* Threads, channels and mappings end with the process, which is also what the fence waits for.
     */
    rpc_server_destroy(s->server);
    journal_close(s->journal, s->stopping);
    return s->failed ? 1 : 0;
}
