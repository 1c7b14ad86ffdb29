/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/log.h - lines for operators, on stderr. Thread: any. Never called on the data path. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* The product's levels, see snap_log_level_set. */
enum log_level { LOG_CRITICAL, LOG_ERROR, LOG_WARNING, LOG_INFO, LOG_DEBUG, LOG_TRACE };

void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* Program name shown in front of each line. The string must live for ever. */
void log_set_program(const char *name);

/* room: "nvme", "link" ...; the text begins with the object: "ctrl NVMeCtrl1: ...". */
void log_line(enum log_level level, const char *room, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* What a guest or a peer can cause is limited to a few lines per second and place:
 *     static struct log_limit limit;
 *     log_limited(&limit, LOG_WARNING, "nvme", "..."); */
struct log_limit {
    _Atomic uint64_t window_start_ms; /* threads that share one may let a line more or less pass */
    _Atomic unsigned lines, dropped;
};
bool log_limit_pass(struct log_limit *limit);

#define log_limited(limit, level, room, ...)                                                       \
    do {                                                                                           \
        if (log_limit_pass(limit))                                                                 \
            log_line(level, room, __VA_ARGS__);                                                    \
    } while (0)

#endif
