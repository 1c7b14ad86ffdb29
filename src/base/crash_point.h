/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/crash_point.h - places at which a test build can be made to die. Nothing in a product
 * build. */
#ifndef BASE_CRASH_POINT_H
#define BASE_CRASH_POINT_H

#include <stdint.h>

/* Raises SIGKILL on the count-th pass of the point named by the environment:
 * SNAP_CRASH_POINT=name:count */
void crash_point_passed(const char *name);

/* A segmentation fault when a command begins at the block named by SNAP_POISON_LBA: a command that
 * kills every service which executes it. */
void poison_passed(uint64_t lba);

#ifdef SNAP_CRASH_POINTS
#define crash_point(name) crash_point_passed(name)
#define poison(lba) poison_passed(lba)
#else
#define crash_point(name) ((void)0)
#define poison(lba) ((void)0)
#endif

#endif
