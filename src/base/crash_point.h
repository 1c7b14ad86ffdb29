/* SPDX-License-Identifier: BSD-3-Clause
 *
 * base/crash_point.h - places at which a test build can be made to die. Nothing in a product
 * build, but for the check that a name is on the list. */
#ifndef BASE_CRASH_POINT_H
#define BASE_CRASH_POINT_H

#include "base/crash_points.h"

#include <stdbool.h>
#include <stdint.h>

/* Raises SIGKILL on the count-th pass of the point named by the environment:
 * SNAP_CRASH_POINT=name:count, or SNAP_CRASH_POINT=@file, where the file of 128 bytes holds such a
 * text, now or later, and zeroes behind it. */
void crash_point_passed(enum crash_point point);

/* A test build's main asks this first: with --list-crash-points, which prints name, kind, between
 * and situation, or with an environment that names no point, the program is over. */
bool crash_point_program_ends(int argc, char **argv, int *ret_code);

/* A segmentation fault when a command begins at the block named by SNAP_POISON_LBA: a command that
 * kills every service which executes it. */
void poison_passed(uint64_t lba);

#ifdef SNAP_CRASH_POINTS
#define crash_point(name) crash_point_passed(CRASH_POINT_##name)
#define poison(lba) poison_passed(lba)
#else
#define crash_point(name) ((void)CRASH_POINT_##name)
#define poison(lba) ((void)0)
#endif

#endif
