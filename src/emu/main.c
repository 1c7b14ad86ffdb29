/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_emu: what firmware is on a DPU. Functions with their sockets towards hosts, leases towards
 * services. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "emu/detach.h"
#include "emu/emu.h"
#include "emu/options.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

struct signals {
    struct watch watch;
    struct reactor *reactor;
    int fd;
};

static void signalled(struct watch *w, uint32_t events)
{
    struct signals *s = container_of(w, struct signals, watch);
    struct signalfd_siginfo info;

    (void)events;
    if (read(s->fd, &info, sizeof(info)) != sizeof(info))
        return;
    log_line(LOG_INFO, "emu", "signal %u: stopping", info.ssi_signo);
    reactor_stop(s->reactor);
}

static int watch_signals(struct signals *s, struct reactor *r, struct err *err)
{
    sigset_t set;
    int rc;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    s->reactor = r;
    s->fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    rc = s->fd < 0 ? -errno : watch_add(r, &s->watch, s->fd, EPOLLIN, signalled);
    return rc < 0 ? err_set(err, rc, "signalfd: %s", strerror(-rc)) : 0;
}

static int serve(struct emu *emu, const struct options *o, struct err *err)
{
    struct signals signals = {.fd = -1};
    int rc;

    emu->reactor = reactor_create("emu", err);
    if (!emu->reactor)
        return err->code;
    list_init(&emu->services);
    emu->keepsakes = keepsakes_create();
    if (!emu->keepsakes)
        return err_set(err, -ENOMEM, "no memory");
    rc = watch_signals(&signals, emu->reactor, err);
    if (rc == 0)
        rc = functions_create(emu, err);
    if (rc == 0 && !(emu->holders = holders_create(emu, err)))
        rc = err->code;
    if (rc == 0 && !(emu->server = link_server_create(emu, err)))
        rc = err->code;
    if (rc < 0)
        return rc;
    log_line(LOG_INFO, "emu", "%u functions in '%s'", emu->nfunctions, emu->run_dir);
    if (o->ready_fd >= 0) {
        (void)!write(o->ready_fd, "", 1);
        close(o->ready_fd);
    }
    reactor_run(emu->reactor);
    watch_remove(emu->reactor, &signals.watch);
    fd_close(&signals.fd);
    return 0;
}

static void clean_up(struct emu *emu)
{
    link_server_destroy(emu->server);
    emu->server = NULL;
    functions_destroy(emu);
    while (emu->services.next && !list_empty(&emu->services))
        service_free(list_entry(emu->services.next, struct service, node));
    holders_destroy(emu->holders);
    keepsakes_destroy(emu->keepsakes);
    reactor_destroy(emu->reactor);
}

int main(int argc, char **argv)
{
    struct emu emu = {0};
    struct err err = {0};
    struct options o;
    int rc;

    log_set_program("snap_emu");
#ifdef SNAP_CRASH_POINTS
    if (crash_point_program_ends(argc, argv, &rc))
        return rc;
#endif
    rc = options_parse(&o, argc, argv, &err);
    if (rc > 0)
        return 0;
    memcpy(emu.run_dir, o.run_dir, sizeof(emu.run_dir));
    topology_default(&emu.topology);
    if (rc == 0 && o.topology)
        rc = topology_read(&emu.topology, o.topology, &err);
    if (rc == 0)
        rc = fd_mkdirs(o.run_dir, 0755, &err);
    if (rc == 0 && o.detach)
        rc = detach(o.run_dir, &o.ready_fd, &err);
    if (rc == 0)
        rc = detach_lock(o.run_dir, &err);
    if (rc >= 0) {
        fd_raise_limit(); /* sockets, eventfds and guest memory files of many functions */
        rc = serve(&emu, &o, &err);
        clean_up(&emu);
    }
    if (rc < 0)
        fprintf(stderr, "snap_emu: %s\n", err.msg);
    return rc < 0 ? 1 : 0;
}
