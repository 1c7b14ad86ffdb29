/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"
#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static _Atomic int threshold = LOG_INFO;
static const char *program = "opensnap";

static const char *const level_names[] = {"CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG", "TRACE"};

enum { LINES_PER_SECOND = 10 };

void log_set_level(enum log_level level)
{
    threshold = level;
}

enum log_level log_get_level(void)
{
    return threshold;
}

void log_set_program(const char *name)
{
    program = name;
}

void log_line(enum log_level level, const char *room, const char *fmt, ...)
{
    char line[600];
    struct timespec ts;
    struct tm tm;
    size_t n;
    va_list ap;

    if ((int)level > threshold)
        return;
    clock_gettime(CLOCK_REALTIME, &ts);
    localtime_r(&ts.tv_sec, &tm);
    n = strftime(line, sizeof(line), "%H:%M:%S", &tm);
    n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ld %s[%d] %s %s: ", ts.tv_nsec / 1000000,
                          program, (int)getpid(), level_names[level], room);
    va_start(ap, fmt);
    n += (size_t)vsnprintf(line + n, sizeof(line) - n, fmt, ap);
    va_end(ap);
    if (n > sizeof(line) - 2)
        n = sizeof(line) - 2;
    line[n++] = '\n';
    (void)!write(STDERR_FILENO, line, n);
}

bool log_limit_pass(struct log_limit *limit)
{
    uint64_t now_ms = clock_coarse_ms();

    if (now_ms - atomic_load_explicit(&limit->window_start_ms, memory_order_relaxed) >= 1000) {
        atomic_store_explicit(&limit->window_start_ms, now_ms, memory_order_relaxed);
        atomic_store_explicit(&limit->lines, 0, memory_order_relaxed);
    }
    if (atomic_fetch_add_explicit(&limit->lines, 1, memory_order_relaxed) < LINES_PER_SECOND)
        return true;
    atomic_fetch_add_explicit(&limit->dropped, 1, memory_order_relaxed);
    return false;
}
