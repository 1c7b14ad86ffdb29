/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/crash.h - places at which a test build can be made to die. Nothing in a product
 * build. */
#ifndef DEVICES_NVME_CRASH_H
#define DEVICES_NVME_CRASH_H

#ifdef SNAP_CRASH_POINTS
/* Raises SIGKILL on the count-th pass of the point named by the environment:
 * SNAP_CRASH_POINT=name:count */
void crash_point(const char *name);
#else
#define crash_point(name) ((void)0)
#endif

#endif
