/* SPDX-License-Identifier: BSD-3-Clause */
#include "emu/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

int detach_lock(const char *run_dir, struct err *err)
{
    char path[160], pid[32] = "?";
    ssize_t n;
    int fd, rc;

    snprintf(path, sizeof(path), "%s/emu.lock", run_dir);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return err_set(err, -errno, "cannot open '%s': %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        rc = errno == EWOULDBLOCK ? -EBUSY : -errno;
        n = read(fd, pid, sizeof(pid) - 1);
        pid[n > 0 ? n : 0] = '\0';
        pid[strcspn(pid, "\n")] = '\0';
        close(fd);
        return err_set(err, rc,
                       "run directory '%s' belongs to another snap_emu (pid %s): stop it, or use "
                       "another --run-dir",
                       run_dir, pid);
    }
    if (ftruncate(fd, 0) < 0 || dprintf(fd, "%d\n", (int)getpid()) < 0) {
        rc = err_set(err, -errno, "cannot write '%s': %s", path, strerror(errno));
        close(fd);
        return rc;
    }
    return fd;
}

static int redirect(const char *run_dir, struct err *err)
{
    char path[160];
    int log, null = open("/dev/null", O_RDWR | O_CLOEXEC);

    snprintf(path, sizeof(path), "%s/snap_emu.log", run_dir);
    log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    if (null < 0 || log < 0 || dup2(null, 0) < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0)
        return err_set(err, -errno, "cannot write '%s': %s", path, strerror(errno));
    close(null);
    close(log);
    return 0;
}

int detach(const char *run_dir, int *ready_fd, struct err *err)
{
    int ready[2];
    char byte;
    pid_t pid;

    if (pipe2(ready, O_CLOEXEC) < 0)
        return err_set(err, -errno, "pipe: %s", strerror(errno));
    fflush(NULL);
    pid = fork();
    if (pid < 0)
        return err_set(err, -errno, "fork: %s", strerror(errno));
    if (pid > 0) {
        close(ready[1]);
        if (read(ready[0], &byte, 1) == 1)
            _exit(0);
        fprintf(stderr, "snap_emu: did not come up; see %s/snap_emu.log\n", run_dir);
        _exit(1);
    }
    close(ready[0]);
    *ready_fd = ready[1];
    setsid();
    return redirect(run_dir, err);
}
