/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The end of a process is not the end of its I/O: the kernel may still write to guest memory and to
 * the medium for requests of its io_uring rings. Every ring holds the write end of the service's
 * fence pipe as a registered file, so the pipe hangs up only when the last ring and all its
 * requests are gone. Fenced is: pidfd readable and pipe hung up. */
#include "emu/emu.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static void pid_ready(struct watch *w, uint32_t events)
{
    struct service *s = container_of(w, struct service, pid_watch);

    (void)events;
    watch_remove(s->emu->reactor, w);
    s->dead = true;
    service_fence_moved(s);
}

static void fence_ready(struct watch *w, uint32_t events)
{
    struct service *s = container_of(w, struct service, fence_watch);

    if (!(events & (EPOLLHUP | EPOLLERR)))
        return;
    watch_remove(s->emu->reactor, w);
    s->hung_up = true;
    service_fence_moved(s);
}

int fence_watch(struct service *s, struct err *err)
{
    struct stat st;
    int rc;

    if (fstat(s->fence_fd, &st) < 0 || !S_ISFIFO(st.st_mode))
        return err_set(err, -EBADF, "the fence descriptor is not a pipe");
    rc = watch_add(s->emu->reactor, &s->pid_watch, s->pidfd, EPOLLIN, pid_ready);
    if (rc == 0) /* no events asked for: only the hang-up counts */
        rc = watch_add(s->emu->reactor, &s->fence_watch, s->fence_fd, 0, fence_ready);
    if (rc < 0)
        return err_set(err, rc, "cannot watch the service's process: %s", strerror(-rc));
    return 0;
}

void fence_unwatch(struct service *s)
{
    watch_remove(s->emu->reactor, &s->pid_watch);
    watch_remove(s->emu->reactor, &s->fence_watch);
}

static bool says(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1 && (p.revents & events);
}

bool fence_passed(const struct service *s)
{
    if (!s->dead && !says(s->pidfd, POLLIN | POLLHUP))
        return false;
#ifdef SNAP_LEAVE_OUT_FENCE
    return true; /* a test build: it must make the recovery tests fail */
#else
    return s->hung_up || says(s->fence_fd, POLLHUP);
#endif
}
