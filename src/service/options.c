/* SPDX-License-Identifier: BSD-3-Clause */
#include "service/options.h"

#include "base/log.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    OPT_RUN_DIR = 256,
    OPT_STATE_DIR,
    OPT_TOPOLOGY,
    OPT_EMU,
    OPT_NO_EMU,
    OPT_SUPERVISE,
    OPT_POLL_WINDOW,
    OPT_IGNORED,
    OPT_VERSION,
};

static const struct option longs[] = {
    {"cpumask", required_argument, NULL, 'm'},
    {"rpc-socket", required_argument, NULL, 'r'},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"topology", required_argument, NULL, OPT_TOPOLOGY},
    {"emu", required_argument, NULL, OPT_EMU},
    {"no-emu", no_argument, NULL, OPT_NO_EMU},
    {"supervise", no_argument, NULL, OPT_SUPERVISE},
    {"poll-window-us", required_argument, NULL, OPT_POLL_WINDOW},
    {"log-level", required_argument, NULL, 'L'},
    {"iova-mode", required_argument, NULL, OPT_IGNORED},
    {"mem-size", required_argument, NULL, 's'},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void usage(FILE *out)
{
    fprintf(
        out,
        "snap_service - serves NVMe controllers on the functions of snap_emu\n"
        "\n"
        "  -r, --rpc-socket PATH   JSON-RPC socket (default /var/tmp/spdk.sock)\n"
        "  -m, --cpumask MASK      CPUs with an I/O reactor, hexadecimal (default: one, not "
        "pinned)\n"
        "      --run-dir DIR       sockets of snap_emu (default /run/opensnap, or\n"
        "                          $XDG_RUNTIME_DIR/opensnap when not root)\n"
        "      --state-dir DIR     saved configuration (default /var/lib/opensnap, or\n"
        "                          $XDG_STATE_HOME/opensnap when not root)\n"
        "      --topology FILE     topology for a snap_emu that this service has to start\n"
        "      --emu PROGRAM       snap_emu to start (default: beside this program, then PATH)\n"
        "      --no-emu            do not start snap_emu: fail when none answers\n"
        "      --config FILE       commands to run at start, one CLI command per line, when the "
        "last stop\n"
        "                          was orderly; after a crash the saved configuration alone "
        "counts\n"
        "      --supervise         stay as a parent and start the service again after a crash\n"
        "      --poll-window-us N  how long a reactor polls before it sleeps (default 30)\n"
        "  -L, --log-level N       0 critical .. 5 trace (default 3, info)\n"
        "  -s, --iova-mode, -u     taken and ignored: there are no huge pages to set up\n"
        "      --version, --help\n");
}

static int parse_number(const char *what, const char *text, int base, uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(text, &end, base);
    if (errno || end == text || *end || v > max) {
        fprintf(stderr, "snap_service: %s '%s': a number up to %llu is needed\n", what, text,
                (unsigned long long)max);
        return -EINVAL;
    }
    *ret = v;
    return 0;
}

static const char *user_dir(const char *env, const char *fallback_env, const char *fallback_tail)
{
    static char dirs[2][400];
    static unsigned used;
    char *out = dirs[used++ % 2];
    const char *base = getenv(env);

    if (base && *base)
        snprintf(out, sizeof(dirs[0]), "%s/opensnap", base);
    else
        snprintf(out, sizeof(dirs[0]), "%s%s/opensnap", getenv(fallback_env) ?: "/tmp",
                 fallback_tail);
    return out;
}

static void set_defaults(struct options *opts)
{
    *opts = (struct options){.rpc_socket = "/var/tmp/spdk.sock",
                             .run_dir = "/run/opensnap",
                             .state_dir = "/var/lib/opensnap",
                             .poll_window_us = 30};
    if (geteuid() != 0) {
        opts->run_dir = user_dir("XDG_RUNTIME_DIR", "TMPDIR", "");
        opts->state_dir = user_dir("XDG_STATE_HOME", "HOME", "/.local/state");
    }
}

int options_parse(struct options *opts, int argc, char **argv)
{
    uint64_t n;
    int c;

    set_defaults(opts);
    while ((c = getopt_long(argc, argv, "m:r:L:s:uh", longs, NULL)) != -1) {
        switch (c) {
        case 'm':
            if (parse_number("cpu mask", optarg, 16, UINT64_MAX, &opts->core_mask) < 0)
                return 3;
            break;
        case 'r':
            opts->rpc_socket = optarg;
            break;
        case OPT_RUN_DIR:
            opts->run_dir = optarg;
            break;
        case OPT_STATE_DIR:
            opts->state_dir = optarg;
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
        case OPT_POLL_WINDOW:
            if (parse_number("poll window", optarg, 10, 1000000, &n) < 0)
                return 3;
            opts->poll_window_us = (uint32_t)n;
            break;
        case 'L':
            if (parse_number("log level", optarg, 10, LOG_TRACE, &n) < 0)
                return 3;
            log_set_level((enum log_level)n);
            break;
        case 's':
        case 'u':
        case OPT_IGNORED:
            break;
        case OPT_VERSION:
            puts("snap_service " OPENSNAP_VERSION);
            return 1;
        case 'h':
            usage(stdout);
            return 1;
        default:
            fprintf(stderr, "snap_service: see --help\n");
            return 3;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "snap_service: '%s' is not an option: see --help\n", argv[optind]);
        return 3;
    }
    return 0;
}
