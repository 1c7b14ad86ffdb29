/* SPDX-License-Identifier: BSD-3-Clause
 *
 * link/holder.h - how a snap_emu that starts anew learns of services from before its time, which
 * may still touch guest memory: the file <run-dir>/holders/<pid>-<start time>, locked with flock()
 * by an open file description that the process and every io_uring ring of it hold. The lock ends
 * with the last of these, also with the kernel's own requests that outlive the process. Thread:
 * any, before there are others. */
#ifndef LINK_HOLDER_H
#define LINK_HOLDER_H

#include "base/err.h"

#include <stdint.h>

#define LINK_HOLDERS_DIR "holders"

/* Makes and locks this process's file. The descriptor, to be kept for the life of the process and
 * registered with all its rings, or -errno. */
int holder_create(const char *run_dir, struct err *err);

/* Field 22 of /proc/self/stat. */
uint64_t holder_start_time(void);

#endif
