/* SPDX-License-Identifier: BSD-3-Clause
 *
 * emu/detach.h - being alone in a run directory, and in the background. */
#ifndef EMU_DETACH_H
#define EMU_DETACH_H

#include "base/err.h"

/* Locks <run_dir>/emu.lock for the life of the process. The fd or -errno: -EBUSY when another one
 * has it. */
int detach_lock(const char *run_dir, struct err *err);

/* Goes on in a child in the background. The parent waits and exits: 0 when the child closes
 * *ready_fd after writing a byte, else 1. */
int detach(const char *run_dir, int *ready_fd, struct err *err);

#endif
