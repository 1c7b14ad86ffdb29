/* SPDX-License-Identifier: BSD-3-Clause
 *
 * service/options.h - the command line of snap_service. */
#ifndef SERVICE_OPTIONS_H
#define SERVICE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

struct options {
    const char *rpc_socket; /* -r */
    const char *run_dir, *state_dir;
    const char *topology; /* for a snap_emu that must be started; NULL: its defaults */
    const char *emu_path; /* program to start; NULL: beside this one, then PATH */
    uint64_t core_mask;   /* -m; 0: one reactor that is not pinned */
    uint32_t poll_window_us;
    bool supervise, no_emu;
};

/* Fills opts, or prints help or an error and returns the exit code + 1 (so 0 means: go on). */
int options_parse(struct options *opts, int argc, char **argv);

#endif
