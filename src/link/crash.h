/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/crash.h - tells the next service whether this one died of a fault of its own. A command that
 * was in flight in two services that crashed is suspected of being the cause; one that was in
 * flight when an operator, a supervisor or the kernel's OOM killer sent SIGKILL is not, however
 * often that happens, and so is none of a function that the faulting thread did not work for. Where
 * that is not known, in a backend between two visits, all are suspected. Thread: any; the handler
 * itself only stores into the table's state memories.
 */
#ifndef LINK_CRASH_H
#define LINK_CRASH_H

#include "link/state_memory.h"

#include <stdbool.h>

/* Installs handlers for SIGSEGV, SIGABRT, SIGILL, SIGFPE and SIGBUS that mark all leased functions
 * and then die as before. Once, at start, before guest_memory_guard(). 0 or -errno. */
int crash_guard(void);

/* A function's state memory while this process holds the lease. */
void crash_mark_add(struct state_memory *st);
void crash_mark_remove(struct state_memory *st); /* before munmap */

/* The calling thread works for this function from now on (NULL: for none in particular), and a
 * fault in it says nothing about the commands of others. Returns what it worked for before. */
struct state_memory *crash_suspect(struct state_memory *st);

/* Did the last holder crash? Clears the mark. */
bool crash_mark_take(struct state_memory *st);

#endif
