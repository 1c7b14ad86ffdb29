/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Service processes. One outlives its link connection here for as long as it may still touch what
 * it had leased. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "emu/emu.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FENCE_OVERDUE_MS = 10000 };
enum { HELLO_FDS = 3 }; /* pidfd, fence pipe, wake page; then the eventfds */

/* ---- what a service hands over ---- */

/* The pidfd must be of the very process at the other end: a wrong one would make the fence pass too
 * early. */
static int check_pidfd(int fd, pid_t peer, struct err *err)
{
    char path[48], line[128];
    long pid = -1;
    FILE *f;

    snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
    f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "Pid: %ld", &pid) == 1)
            break;
    if (f)
        fclose(f);
    if (pid == -1)
        return err_set(err, -EBADF, "the first descriptor is not a pidfd of a living process");
    if (peer > 0 && pid > 0 && pid != peer)
        return err_set(err, -EPERM, "the pidfd is of process %ld, the peer is process %d", pid,
                       (int)peer);
    return 0;
}

/* Sealed against shrinking, or a truncation would be our SIGBUS. */
static struct wake_page *map_wake_page(int fd, struct err *err)
{
    int seals = fcntl(fd, F_GET_SEALS);
    struct stat st;
    void *at;

    if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(struct wake_page) || seals < 0 ||
        !(seals & F_SEAL_SHRINK)) {
        err_set(err, -EINVAL, "the wake page is not a sealed memfd of %zu bytes",
                sizeof(struct wake_page));
        return NULL;
    }
    at = mmap(NULL, sizeof(struct wake_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        err_set(err, -errno, "cannot map the wake page: %s", strerror(errno));
        return NULL;
    }
    return at;
}

static int take_descriptors(struct service *s, pid_t peer, int *fds, unsigned nfds, struct err *err)
{
    int rc;

    if (s->reactors < 1 || s->reactors > WAKE_REACTORS || nfds != HELLO_FDS + s->reactors)
        return err_set(err, -EINVAL, "hello with %u reactors and %u descriptors", s->reactors,
                       nfds);
    rc = check_pidfd(fds[0], peer, err);
    if (rc < 0)
        return rc;
    for (unsigned i = 0; i < s->reactors; i++)
        if (fd_check_eventfd(fds[HELLO_FDS + i]) < 0)
            return err_set(err, -EBADF, "descriptor %u of the hello is not an eventfd",
                           HELLO_FDS + i);
    s->wake = map_wake_page(fds[2], err);
    if (!s->wake)
        return err->code;
    s->pidfd = fds[0];
    s->fence_fd = fds[1];
    for (unsigned i = 0; i < s->reactors; i++) {
        s->eventfds[i] = fds[HELLO_FDS + i];
        fds[HELLO_FDS + i] = -1;
    }
    fds[0] = fds[1] = -1;
    return fence_watch(s, err);
}

/* ---- life ---- */

void service_free(struct service *s)
{
    timer_cancel(&s->overdue);
    fence_unwatch(s);
    list_remove(&s->node);
    fd_close(&s->pidfd);
    fd_close(&s->fence_fd);
    for (unsigned i = 0; i < WAKE_REACTORS; i++)
        fd_close(&s->eventfds[i]);
    if (s->wake)
        munmap(s->wake, sizeof(*s->wake));
    free(s);
}

static void end_leases(struct service *s)
{
    struct emu *emu = s->emu;

    for (unsigned i = 0; i < emu->nfunctions && s->nleases > 0; i++)
        if (emu->functions[i]->holder == s)
            lease_end(emu->functions[i]);
}

/* A process says hello again only after it has stopped and unmapped everything of its lost
 * connection. */
static void end_former(struct emu *emu, uint32_t pid, uint64_t start_time)
{
    list_for_each_safe(it, &emu->services)
    {
        struct service *s = list_entry(it, struct service, node);

        if (s->conn || s->pid != pid || s->start_time != start_time)
            continue;
        end_leases(s);
        service_free(s);
    }
}

int service_hello(struct link_conn *conn, const struct link_msg *msg, int *fds, unsigned nfds,
                  struct service **ret, struct err *err)
{
    struct emu *emu = link_emu(conn);
    struct service *s = calloc(1, sizeof(*s));
    pid_t peer = link_peer_pid(conn);
    int rc;

    if (!s)
        return err_set(err, -ENOMEM, "no memory");
    list_init(&s->node);
    s->emu = emu;
    s->pidfd = s->fence_fd = -1;
    for (unsigned i = 0; i < WAKE_REACTORS; i++)
        s->eventfds[i] = -1;
    s->pid = peer > 0 ? (uint32_t)peer : msg->hello.pid;
    s->start_time = msg->hello.start_time;
    s->reactors = msg->hello.reactors;
    snprintf(s->name, sizeof(s->name), "%.*s", (int)sizeof(s->name) - 1, msg->hello.name);
    rc = take_descriptors(s, peer, fds, nfds, err);
    if (rc < 0) {
        service_free(s);
        return rc;
    }
    end_former(emu, s->pid, s->start_time);
    holders_hello(emu->holders, msg->hello.pid, s->start_time);
    s->conn = conn;
    list_append(&emu->services, &s->node);
    crash_point(emu_hello);
    log_line(LOG_INFO, "emu", "service %s (pid %u, %u reactors) is here", s->name, s->pid,
             s->reactors);
    *ret = s;
    return 0;
}

/* ---- the end ---- */

static void show_leases(struct service *s)
{
    for (unsigned i = 0; i < s->emu->nfunctions; i++)
        if (s->emu->functions[i]->holder == s)
            function_changed(s->emu->functions[i]);
}

void service_conn_lost(struct service *s)
{
    s->conn = NULL;
    if (s->ending)
        return;
    if (s->nleases == 0) {
        log_line(LOG_INFO, "emu", "service %s (pid %u) has left", s->name, s->pid);
        service_free(s);
        return;
    }
    log_line(LOG_WARNING, "emu",
             "service %s (pid %u) is lost with %u leases; they wait for its fence", s->name, s->pid,
             s->nleases);
    show_leases(s);
    service_fence_moved(s);
}

static void fence_overdue(struct timer *t)
{
    struct service *s = container_of(t, struct service, overdue);

    log_line(LOG_WARNING, "emu",
             "service %s (pid %u) is dead, but its fence has not passed for more than %d s: the "
             "kernel has not "
             "finished its I/O, or another process holds its fence pipe; %u functions wait",
             s->name, s->pid, FENCE_OVERDUE_MS / 1000, s->nleases);
}

void service_fence_moved(struct service *s)
{
    if (s->ending || !s->dead)
        return;
    s->ending = true;
    if (s->conn)
        link_close(s->conn); /* a child may have inherited it; the process is dead all the same */
    s->ending = false;
    if (s->nleases > 0 && !fence_passed(s)) {
        show_leases(s);
        if (!s->overdue.armed)
            timer_arm(s->emu->reactor, &s->overdue, FENCE_OVERDUE_MS, fence_overdue);
        return;
    }
    if (s->nleases > 0)
        log_line(LOG_INFO, "emu", "service %s (pid %u) is dead and fenced", s->name, s->pid);
    crash_point(emu_fenced);
    end_leases(s);
    service_free(s);
}

bool service_check_dead(struct service *s)
{
    struct pollfd p = {.fd = s->pidfd, .events = POLLIN};

    if (!s->dead && (poll(&p, 1, 0) != 1 || !p.revents))
        return false;
    s->dead = true;
    service_fence_moved(s);
    return true;
}

/* ---- waking ---- */

void service_wake(struct service *s, uint32_t reactor, uint32_t slot)
{
    struct wake_reactor *r = &s->wake->reactor[reactor];
    uint64_t one = 1;

    atomic_fetch_or(&r->active[slot / 64], 1ULL << slot % 64);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&r->sleeping))
        (void)!write(s->eventfds[reactor], &one, sizeof(one));
}
