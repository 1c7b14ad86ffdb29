/* SPDX-License-Identifier: BSD-3-Clause
 *
 * guest/guard.h - the SIGBUS guard: a host that truncates its memory file gets zeroes of ours, and
 * its function is stopped; the process lives. Thread: any; the handler itself only reads the table.
 */
#ifndef GUEST_GUARD_H
#define GUEST_GUARD_H

#include <stdbool.h>
#include <stddef.h>

void guard_add(void *start, size_t len);
void guard_remove(void *start); /* before munmap */
bool guard_poisoned(const void *start);

#endif
