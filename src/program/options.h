/* SPDX-License-Identifier: BSD-3-Clause
 *
 * program/options.h - the part of the command line that all programs with reactors have. */
#ifndef PROGRAM_OPTIONS_H
#define PROGRAM_OPTIONS_H

#include <getopt.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct program_options {
    const char *rpc_socket; /* -r */
    const char *state_dir;
    uint64_t core_mask; /* -m; 0: one reactor that is not pinned */
    uint32_t poll_window_us;
};

/* For getopt_long(); a program's own values begin at PROGRAM_OPT_OWN. */
enum { PROGRAM_OPT_STATE_DIR = 256, PROGRAM_OPT_POLL_WINDOW, PROGRAM_OPT_VERSION, PROGRAM_OPT_OWN };
#define PROGRAM_SHORT_OPTIONS "m:r:L:h"
#define PROGRAM_LONG_OPTIONS                                                                       \
    {"cpumask", required_argument, NULL, 'm'}, {"rpc-socket", required_argument, NULL, 'r'},       \
        {"state-dir", required_argument, NULL, PROGRAM_OPT_STATE_DIR},                             \
        {"poll-window-us", required_argument, NULL, PROGRAM_OPT_POLL_WINDOW},                      \
        {"log-level", required_argument, NULL, 'L'},                                               \
        {"version", no_argument, NULL, PROGRAM_OPT_VERSION}, {"help", no_argument, NULL, 'h'},     \
    {                                                                                              \
        NULL, 0, NULL, 0                                                                           \
    }
/* Their lines of --help, but for -r and --state-dir, which have defaults of the program's own. */
#define PROGRAM_HELP_CPUMASK                                                                       \
    "  -m, --cpumask MASK      CPUs with an I/O reactor, hexadecimal (default: one, not pinned)\n"
#define PROGRAM_HELP                                                                               \
    "      --poll-window-us N  how long a reactor polls before it sleeps (default 30)\n"           \
    "  -L, --log-level N       0 critical .. 5 trace (default 3, info)\n"

/* What the user is told comes in the program's name (program). */
struct program_usage {
    const char *program;
    void (*print)(FILE *out);
};

/* An option the program does not know by itself: 0, or the exit code + 1 (help was printed, or an
 * error). arg: optarg. */
int program_option(const struct program_usage *u, struct program_options *opts, int option,
                   const char *arg);
/* After the options: nothing may be left. The same results. */
int program_options_end(const struct program_usage *u, int argc, char **argv);

/* "<$env>/<name>", or "<$fallback_env><tail>/<name>". From malloc, never NULL
 * (the process ends when there is no memory for it). */
const char *program_user_dir(const char *env, const char *fallback_env, const char *tail,
                             const char *name);

#endif
