/* SPDX-License-Identifier: BSD-3-Clause
 *
 * emu/options.h - the command line of snap_emu. */
#ifndef EMU_OPTIONS_H
#define EMU_OPTIONS_H

#include "base/err.h"

#include <stdbool.h>

struct options {
    char run_dir[96];
    const char *topology; /* NULL: the defaults */
    bool detach;
    int ready_fd; /* -1: nobody waits */
};

/* 1: help or version was printed; 0; -errno with err filled. */
int options_parse(struct options *o, int argc, char **argv, struct err *err);

#endif
