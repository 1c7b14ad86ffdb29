/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/supervise.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { BACKOFF_MS = 100, BACKOFF_MAX_MS = 2000, HEALTHY_MS = 1000 };

static volatile sig_atomic_t stop_signal;

static void on_stop(int sig)
{
    stop_signal = sig;
}

static void pause_ms(unsigned ms)
{
    struct timespec ts = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&ts, NULL);
}

/* Returns 0 in the child, its pid in the parent. */
static pid_t start(const sigset_t *normal)
{
    pid_t parent = getpid(), pid = fork();

    if (pid != 0)
        return pid;
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    sigprocmask(SIG_SETMASK, normal, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM); /* no service without its supervisor */
    if (getppid() != parent)
        _exit(0);
    return 0;
}

/* Waits for the child, passing signals on. */
static int wait_for(pid_t pid, const sigset_t *normal)
{
    int status;

    for (;;) {
        sigset_t none = *normal;

        if (waitpid(pid, &status, WNOHANG) == pid)
            return status;
        sigdelset(&none, SIGCHLD);
        sigsuspend(&none);
        if (stop_signal)
            kill(pid, stop_signal);
    }
}

static void on_child(int sig)
{
    (void)sig;
}

void supervise(void)
{
    struct sigaction stop = {.sa_handler = on_stop}, child = {.sa_handler = on_child};
    unsigned backoff_ms = BACKOFF_MS;
    sigset_t block, normal;

    sigemptyset(&block);
    sigaddset(&block, SIGTERM);
    sigaddset(&block, SIGINT);
    sigaddset(&block, SIGCHLD);
    sigprocmask(SIG_BLOCK, &block, &normal);
    sigaction(SIGTERM, &stop, NULL);
    sigaction(SIGINT, &stop, NULL);
    sigaction(SIGCHLD, &child, NULL);
    for (;;) {
        uint64_t started = clock_ms();
        pid_t pid = start(&normal);
        int status;

        if (pid == 0)
            return;
        if (pid < 0) {
            log_line(LOG_CRITICAL, "service", "supervisor: fork: %s", strerror(errno));
            exit(1);
        }
        status = wait_for(pid, &normal);
        if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || clock_ms() - started < HEALTHY_MS))
            exit(WEXITSTATUS(status)); /* orderly, or it could not even start */
        if (stop_signal)
            exit(0);
        if (WIFSIGNALED(status))
            log_line(LOG_ERROR, "service",
                     "supervisor: process %d died of signal %d (%s): starting again", (int)pid,
                     WTERMSIG(status), strsignal(WTERMSIG(status)));
        else
            log_line(LOG_ERROR, "service",
                     "supervisor: process %d ended with code %d: starting again", (int)pid,
                     WEXITSTATUS(status));
        /* At once the first time; a service that dies again and again gets some rest in between. */
        if (clock_ms() - started < HEALTHY_MS) {
            pause_ms(backoff_ms);
            backoff_ms = backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff_ms * 2;
        } else {
            backoff_ms = BACKOFF_MS;
        }
    }
}
