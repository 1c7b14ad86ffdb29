/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service/service.h - the running service: its threads, its link, its configuration, its life from
 * start to stop. */
#ifndef SERVICE_SERVICE_H
#define SERVICE_SERVICE_H

#include "service/options.h"

/* Runs until SIGTERM or SIGINT (orderly: controllers are suspended first) or until the link to
 * snap_emu is lost. Returns the exit code. */
int service_run(const struct options *opts);

#endif
