/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service/emu_start.h - starts snap_emu when none answers. Before the service has threads or
 * leases. */
#ifndef SERVICE_EMU_START_H
#define SERVICE_EMU_START_H

#include "base/err.h"
#include "service/options.h"

/* Makes sure that a snap_emu listens at socket_path; starts a detached one if needed and allowed. 0
 * or -errno. */
int emu_ensure(const struct options *opts, const char *socket_path, struct err *err);

#endif
