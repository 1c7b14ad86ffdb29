/* SPDX-License-Identifier: BSD-3-Clause
 *
 * target/options.h - the command line of snap_target. */
#ifndef TARGET_OPTIONS_H
#define TARGET_OPTIONS_H

#include "program/options.h"

/* Fills opts, or prints help or an error and returns the exit code + 1 (so 0 means: go on). */
int options_parse(struct program_options *opts, int argc, char **argv);

#endif
