/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service/options.h - the command line of snap_service. */
#ifndef SERVICE_OPTIONS_H
#define SERVICE_OPTIONS_H

#include "program/options.h"

struct options {
    struct program_options common;
    const char *run_dir;
    const char *topology; /* for a snap_emu that must be started; NULL: its defaults */
    const char *emu_path; /* program to start; NULL: beside this one, then PATH */
    bool supervise, no_emu;
};

/* Fills opts, or prints help or an error and returns the exit code + 1 (so 0 means: go on). */
int options_parse(struct options *opts, int argc, char **argv);

#endif
