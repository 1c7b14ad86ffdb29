/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/emu_start.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum { START_MS = 10000 };

static int answers(const char *socket_path)
{
    int fd = fd_unix_connect(socket_path, SOCK_SEQPACKET, NULL);

    if (fd < 0)
        return fd;
    close(fd);
    return 0;
}

/* The program: as told, beside this one, or by PATH. */
static void find_program(const struct options *opts, char *out, size_t size)
{
    ssize_t n;
    char *slash;

    if (opts->emu_path) {
        snprintf(out, size, "%s", opts->emu_path);
        return;
    }
    n = readlink("/proc/self/exe", out, size - 16);
    if (n > 0) {
        out[n] = '\0';
        slash = strrchr(out, '/');
        if (slash) {
            memcpy(slash + 1, "snap_emu", sizeof("snap_emu"));
            if (access(out, X_OK) == 0)
                return;
        }
    }
    snprintf(out, size, "snap_emu");
}

/* In the grandchild: becomes snap_emu, out of our session, with its own log file. */
static void become_emu(const struct options *opts, const char *program, int ready_fd)
{
    char log_path[512], ready[16];
    const char *argv[16];
    int n = 0, log_fd, null_fd;
    sigset_t none;

    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    snprintf(log_path, sizeof(log_path), "%s/snap_emu.log", opts->run_dir);
    log_fd = open(log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
    null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    dup2(null_fd, 0);
    dup2(log_fd >= 0 ? log_fd : null_fd, 1);
    dup2(log_fd >= 0 ? log_fd : null_fd, 2);
    fcntl(ready_fd, F_SETFD, 0);
    snprintf(ready, sizeof(ready), "%d", ready_fd);
    argv[n++] = program;
    argv[n++] = "--run-dir";
    argv[n++] = opts->run_dir;
    argv[n++] = "--state-dir";
    argv[n++] = opts->common.state_dir;
    if (opts->topology) {
        argv[n++] = "--topology";
        argv[n++] = opts->topology;
    }
    argv[n++] = "--ready-fd";
    argv[n++] = ready;
    argv[n] = NULL;
    execvp(program, (char *const *)argv);
    dprintf(2, "snap_service: cannot start '%s': %s\n", program, strerror(errno));
    _exit(127);
}

int emu_ensure(const struct options *opts, const char *socket_path, struct err *err)
{
    char program[512], byte = 0;
    struct pollfd pfd;
    int ready[2], status;
    ssize_t got = 0;
    pid_t pid;
    int rc = answers(socket_path);

    if (rc == 0)
        return 0;
    if (opts->no_emu)
        return err_set(err, rc, "no snap_emu answers at '%s' (%s) and --no-emu was given",
                       socket_path, strerror(-rc));
    rc = fd_mkdirs(opts->run_dir, 0750, err);
    if (rc < 0)
        return rc;
    find_program(opts, program, sizeof(program));
    if (pipe2(ready, O_CLOEXEC) < 0)
        return err_set(err, -errno, "pipe: %s", strerror(errno));
    pid = fork();
    if (pid == 0) {
        if (fork() == 0) /* twice: it must not be our child, nor a zombie of ours */
            become_emu(opts, program, ready[1]);
        _exit(0);
    }
    close(ready[1]);
    if (pid > 0)
        waitpid(pid, &status, 0);
    pfd = (struct pollfd){ready[0], POLLIN, 0};
    if (pid > 0 && poll(&pfd, 1, START_MS) > 0)
        got = read(ready[0], &byte, 1);
    close(ready[0]);
    /* Another service may have started one at the same moment: what counts is that one answers. */
    rc = answers(socket_path);
    if (got == 1 || rc == 0) {
        log_line(LOG_INFO, "service", "started %s for '%s'", program, opts->run_dir);
        return 0;
    }
    return err_set(err, rc, "'%s' did not come up; see %s/snap_emu.log", program, opts->run_dir);
}
