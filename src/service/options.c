/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/options.h"

#include <unistd.h>

enum {
    OPT_RUN_DIR = PROGRAM_OPT_OWN,
    OPT_TOPOLOGY,
    OPT_EMU,
    OPT_NO_EMU,
    OPT_SUPERVISE,
    OPT_IGNORED,
};

static const struct option longs[] = {
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"topology", required_argument, NULL, OPT_TOPOLOGY},
    {"emu", required_argument, NULL, OPT_EMU},
    {"no-emu", no_argument, NULL, OPT_NO_EMU},
    {"supervise", no_argument, NULL, OPT_SUPERVISE},
    {"iova-mode", required_argument, NULL, OPT_IGNORED},
    {"mem-size", required_argument, NULL, 's'},
    PROGRAM_LONG_OPTIONS,
};

static void usage(FILE *out)
{
    fprintf(
        out,
        "snap_service - serves NVMe controllers on the functions of snap_emu\n"
        "\n"
        "  -r, --rpc-socket PATH   JSON-RPC socket (default "
        "/var/tmp/spdk.sock)\n" PROGRAM_HELP_CPUMASK
        "      --run-dir DIR       sockets of snap_emu (default /run/opensnap, or\n"
        "                          $XDG_RUNTIME_DIR/opensnap when not root)\n"
        "      --state-dir DIR     saved configuration (default /var/lib/opensnap, or\n"
        "                          $XDG_STATE_HOME/opensnap when not root)\n"
        "      --topology FILE     topology for a snap_emu that this service has to start\n"
        "      --emu PROGRAM       snap_emu to start (default: beside this program, then PATH)\n"
        "      --no-emu            do not start snap_emu: fail when none answers\n"
        "      --supervise         stay as a parent and start the service again after a "
        "crash\n" PROGRAM_HELP
        "  -s, --iova-mode, -u     taken and ignored: there are no huge pages to set up\n"
        "      --version, --help\n");
}

static const struct program_usage program_usage = {"snap_service", usage};

static void set_defaults(struct options *opts)
{
    *opts = (struct options){.common = {.rpc_socket = "/var/tmp/spdk.sock",
                                        .state_dir = "/var/lib/opensnap",
                                        .poll_window_us = 30},
                             .run_dir = "/run/opensnap"};
    if (geteuid() != 0) {
        opts->run_dir = program_user_dir("XDG_RUNTIME_DIR", "TMPDIR", "", "opensnap");
        opts->common.state_dir =
            program_user_dir("XDG_STATE_HOME", "HOME", "/.local/state", "opensnap");
    }
}

int options_parse(struct options *opts, int argc, char **argv)
{
    int c, rc;

    set_defaults(opts);
    while ((c = getopt_long(argc, argv, PROGRAM_SHORT_OPTIONS "s:u", longs, NULL)) != -1) {
        switch (c) {
        case OPT_RUN_DIR:
            opts->run_dir = optarg;
            break;
        case OPT_TOPOLOGY:
            opts->topology = optarg;
            break;
        case OPT_EMU:
            opts->emu_path = optarg;
            break;
        case OPT_NO_EMU:
            opts->no_emu = true;
            break;
        case OPT_SUPERVISE:
            opts->supervise = true;
            break;
        case 's':
        case 'u':
        case OPT_IGNORED:
            break;
        default:
            rc = program_option(&program_usage, &opts->common, c, optarg);
            if (rc != 0)
                return rc;
        }
    }
    return program_options_end(&program_usage, argc, argv);
}
