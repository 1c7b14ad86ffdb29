/* SPDX-License-Identifier: BSD-3-Clause */
#include "program/program.h"

#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* ---- stopping ---- */

void program_stopped(struct program *p)
{
    reactor_stop(p->control);
}

void program_fail(struct program *p)
{
    p->failed = true;
    reactor_stop(p->control);
}

static void stop_orderly(struct program *p)
{
    if (p->stopping) { /* asked twice: somebody is in a hurry */
        reactor_stop(p->control);
        return;
    }
    p->stopping = true;
    rpc_server_destroy(p->server);
    p->server = NULL;
    p->stop(p);
}

static void signal_ready(struct watch *w, uint32_t events)
{
    struct program *p = container_of(w, struct program, signals);
    struct signalfd_siginfo info;

    (void)events;
    if (read(w->fd, &info, sizeof(info)) != sizeof(info))
        return;
    log_line(LOG_INFO, p->room, "signal %u: stopping", info.ssi_signo);
    stop_orderly(p);
}

/* ---- starting ---- */

static int watch_signals(struct program *p, struct err *err)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL); /* before any thread: all inherit it */
    signal(SIGPIPE, SIG_IGN);
    p->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (p->signal_fd < 0)
        return err_set(err, -errno, "signalfd: %s", strerror(errno));
    return watch_add(p->control, &p->signals, p->signal_fd, EPOLLIN, signal_ready);
}

/* What the RPC methods act on. */
static int make_control(struct program *p, struct err *err)
{
    struct bdev_uuid hostid;
    int rc = nvme_of_hostid_load(p->opts->state_dir, &hostid, err);

    if (rc < 0)
        return rc;
    p->env = (struct rpc_env){p->methods, &p->ctx, journal_save, p->journal};
    p->ctx = (struct control_ctx){
        .reactor = p->control, .reactors = p->reactors, .bdevs = bdev_set_create(), .env = &p->env};
    controllers_init(&p->ctx.controllers);
    if (p->ctx.bdevs)
        p->ctx.nvme_of = nvme_of_create(p->control, p->ctx.bdevs, &hostid);
    return p->ctx.nvme_of ? 0 : err_set(err, -ENOMEM, "no memory to start");
}

int program_open(struct program *p, struct err *err)
{
    int rc;

    p->control = reactor_create("control", err);
    if (!p->control)
        return -ENOMEM;
    rc = watch_signals(p, err);
    if (rc == 0)
        rc = journal_open(p->opts->state_dir, &p->journal, err);
    if (rc == 0)
        rc = make_control(p, err);
    return rc;
}

/* ---- running ---- */

static void serve(void *arg, unsigned failed)
{
    struct program *p = arg;
    struct err err = {0};

    if (failed)
        log_line(LOG_ERROR, p->room, "%u controllers could not be resumed", failed);
    if (p->stopping)
        return;
    if (rpc_server_create(p->control, p->opts->rpc_socket, &p->env, &p->server, &err) < 0) {
        log_line(LOG_CRITICAL, p->room, "%s", err.msg);
        program_fail(p);
        return;
    }
    p->ready(p);
}

static void replayed(void *arg, unsigned ok, unsigned failed)
{
    struct program *p = arg;

    if (failed)
        log_line(LOG_ERROR, p->room, "saved configuration: %u calls failed, %u succeeded", failed,
                 ok);
    control_replay_finished(&p->ctx, serve, p);
}

/* Inside the loop: bdevs and controllers take the thread that makes them for their control thread.
 */
static void start_replay(struct timer *t)
{
    struct program *p = container_of(t, struct program, start);

    journal_replay(p->journal, &p->env, replayed, p);
}

int program_run(struct program *p)
{
    timer_arm(p->control, &p->start, 0, start_replay);
    reactor_run(p->control);
    rpc_server_destroy(p->server);
    journal_close(p->journal, p->stopping);
    return p->failed ? 1 : 0;
}
