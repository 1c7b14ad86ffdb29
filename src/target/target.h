/* SPDX-License-Identifier: BSD-3-Clause
 *
 * target/target.h - the running target: its threads, its configuration, its life from start to
 * stop. */
#ifndef TARGET_TARGET_H
#define TARGET_TARGET_H

#include "program/options.h"

/* Runs until SIGTERM or SIGINT. Returns the exit code. */
int target_run(const struct program_options *opts);

#endif
