/* SPDX-License-Identifier: BSD-3-Clause */
#include "target/options.h"

#include <unistd.h>

static const struct option longs[] = {PROGRAM_LONG_OPTIONS};

static void usage(FILE *out)
{
    fprintf(
        out,
        "snap_target - serves bdevs to hosts on the network\n"
        "\n"
        "  -r, --rpc-socket PATH   JSON-RPC socket (default "
        "/var/tmp/snap_target.sock)\n" PROGRAM_HELP_CPUMASK
        "      --state-dir DIR     saved configuration (default /var/lib/opensnap-target, "
        "or\n"
        "                          $XDG_STATE_HOME/opensnap-target when not root)\n" PROGRAM_HELP
        "      --version, --help\n");
}

static const struct program_usage program_usage = {"snap_target", usage};

int options_parse(struct program_options *opts, int argc, char **argv)
{
    int c, rc = 0;

    *opts = (struct program_options){.rpc_socket = "/var/tmp/snap_target.sock",
                                     .state_dir = "/var/lib/opensnap-target",
                                     .poll_window_us = 30};
    if (geteuid() != 0)
        opts->state_dir =
            program_user_dir("XDG_STATE_HOME", "HOME", "/.local/state", "opensnap-target");
    while (rc == 0 && (c = getopt_long(argc, argv, PROGRAM_SHORT_OPTIONS, longs, NULL)) != -1)
        rc = program_option(&program_usage, opts, c, optarg);
    return rc ? rc : program_options_end(&program_usage, argc, argv);
}
