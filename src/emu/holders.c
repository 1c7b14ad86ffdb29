/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Services from before our start. What they had leased we do not know; pidfds and fence pipes went
 * with the snap_emu that had them. Each has locked a file (link/holder.h) with a lock that ends
 * when neither the process nor the kernel for it can touch anything any more: a file that can be
 * locked is over. Until all are, or have said hello again, nothing is leased. */
#include "base/crash_point.h"
#include "base/fd.h"
#include "base/log.h"
#include "emu/emu.h"
#include "link/holder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

enum { RETRY_MS = 20, OVERDUE_MS = 10000, FILES_MAX = 4096 };

struct holder {
    struct list node;
    uint32_t pid;
    uint64_t start_time;
};

struct holders {
    struct emu *emu;
    struct list waiting;
    struct timer retry, overdue;
    char dir[128];
};

static void path_of(const struct holders *h, uint32_t pid, uint64_t start_time, char *out,
                    size_t size)
{
    snprintf(out, size, "%s/%u-%llu", h->dir, pid, (unsigned long long)start_time);
}

/* True: nobody holds it any more; the file is gone. One that cannot be looked at counts as held. */
static bool is_over(const struct holders *h, uint32_t pid, uint64_t start_time)
{
    char path[192];
    bool over;
    int fd;

    path_of(h, pid, start_time, path, sizeof(path));
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    over = flock(fd, LOCK_EX | LOCK_NB) == 0;
    if (over) {
        crash_point(emu_holder_over);
        unlink(path); /* with the lock held: who makes it at this moment looks again */
    }
    close(fd);
    return over;
}

static bool parse(const char *name, uint32_t *pid, uint64_t *start_time)
{
    unsigned long long start;
    int end = 0;

    if (sscanf(name, "%u-%llu%n", pid, &start, &end) != 2 || name[end])
        return false;
    *start_time = start;
    return true;
}

/* Removes what is over. remember: the others are waited for. */
static int sweep(struct holders *h, bool remember)
{
    DIR *dir = opendir(h->dir);
    struct dirent *e;
    int rc = 0;

    if (!dir)
        return -errno;
    for (unsigned n = 0; rc == 0 && n < FILES_MAX && (e = readdir(dir)); n++) {
        struct holder *one;
        uint64_t start_time;
        uint32_t pid;

        if (!parse(e->d_name, &pid, &start_time) || is_over(h, pid, start_time) || !remember)
            continue;
        one = calloc(1, sizeof(*one));
        if (!one) {
            rc = -ENOMEM;
            break;
        }
        one->pid = pid;
        one->start_time = start_time;
        list_append(&h->waiting, &one->node);
        log_line(LOG_INFO, "emu",
                 "process %u held functions of an earlier snap_emu: nothing is leased before it "
                 "is here again or gone",
                 pid);
    }
    closedir(dir);
    return rc;
}

static void forget(struct holder *one)
{
    list_remove(&one->node);
    free(one);
}

static void retry(struct timer *t);

static void go_on(struct holders *h)
{
    if (!list_empty(&h->waiting)) {
        timer_arm(h->emu->reactor, &h->retry, RETRY_MS, retry);
        return;
    }
    timer_cancel(&h->retry);
    timer_cancel(&h->overdue);
    log_line(LOG_INFO, "emu", "no process holds anything of an earlier snap_emu any more");
    lease_retry(h->emu);
}

static void retry(struct timer *t)
{
    struct holders *h = container_of(t, struct holders, retry);

    list_for_each_safe(it, &h->waiting)
    {
        struct holder *one = list_entry(it, struct holder, node);

        if (is_over(h, one->pid, one->start_time))
            forget(one);
    }
    go_on(h);
}

static void overdue(struct timer *t)
{
    struct holders *h = container_of(t, struct holders, overdue);

    list_for_each(it, &h->waiting)
        log_line(LOG_WARNING, "emu",
                 "process %u of an earlier snap_emu is neither here again nor gone after %d s, or "
                 "the kernel has not finished its I/O: all functions wait; end that process",
                 list_entry(it, struct holder, node)->pid, OVERDUE_MS / 1000);
}

bool holders_wait(const struct holders *h, uint32_t *pid)
{
    if (list_empty(&h->waiting))
        return false;
    if (pid)
        *pid = list_entry(h->waiting.next, struct holder, node)->pid;
    return true;
}

void holders_hello(struct holders *h, uint32_t pid, uint64_t start_time)
{
    bool waited = holders_wait(h, NULL);

    list_for_each_safe(it, &h->waiting)
    {
        struct holder *one = list_entry(it, struct holder, node);

        if (one->pid == pid && one->start_time == start_time)
            forget(one);
    }
    sweep(h, false); /* what services that left since then have left */
    if (waited)
        go_on(h);
}

struct holders *holders_create(struct emu *emu, struct err *err)
{
    struct holders *h = calloc(1, sizeof(*h));
    int rc;

    if (!h) {
        err_set(err, -ENOMEM, "no memory");
        return NULL;
    }
    h->emu = emu;
    list_init(&h->waiting);
    snprintf(h->dir, sizeof(h->dir), "%s/" LINK_HOLDERS_DIR, emu->run_dir);
    rc = fd_mkdirs(h->dir, 0700, err);
    if (rc == 0 && (rc = sweep(h, true)) < 0)
        err_set(err, rc, "cannot read '%s': %s", h->dir, strerror(-rc));
    if (rc < 0) {
        holders_destroy(h);
        return NULL;
    }
    if (holders_wait(h, NULL)) {
        timer_arm(emu->reactor, &h->retry, RETRY_MS, retry);
        timer_arm(emu->reactor, &h->overdue, OVERDUE_MS, overdue);
    }
    return h;
}

void holders_destroy(struct holders *h)
{
    if (!h)
        return;
    timer_cancel(&h->retry);
    timer_cancel(&h->overdue);
    while (!list_empty(&h->waiting))
        forget(list_entry(h->waiting.next, struct holder, node));
    free(h);
}
