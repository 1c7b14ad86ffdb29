/* SPDX-License-Identifier: BSD-3-Clause */
#include "emu/options.h"

#include "base/log.h"
#include "base/util.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum {
    OPT_RUN_DIR = 256,
    OPT_STATE_DIR,
    OPT_TOPOLOGY,
    OPT_FOREGROUND,
    OPT_DETACH,
    OPT_READY_FD,
    OPT_VERSION
};

static const struct option longs[] = {
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"state-dir", required_argument, NULL, OPT_STATE_DIR},
    {"topology", required_argument, NULL, OPT_TOPOLOGY},
    {"foreground", no_argument, NULL, OPT_FOREGROUND},
    {"detach", no_argument, NULL, OPT_DETACH},
    {"ready-fd", required_argument, NULL, OPT_READY_FD},
    {"log-level", required_argument, NULL, 'L'},
    {"version", no_argument, NULL, OPT_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void usage(void)
{
    printf(
        "snap_emu - owns the emulated PCI functions: their sockets, registers and memory tables\n"
        "\n"
        "      --run-dir DIR    sockets (default /run/opensnap, or $XDG_RUNTIME_DIR/opensnap when "
        "not\n"
        "                       root): emu.sock for services, functions/<vuid>/cntrl (NVMe) and "
        "vhost.sock\n"
        "                       (virtio-blk) for hosts\n"
        "      --topology FILE  which functions there are: KEY = VALUE lines with the firmware's "
        "parameter\n"
        "                       names (default: 1 NVMe and 1 virtio-blk PF with 4 VFs each)\n"
        "      --foreground     stay in the foreground (the default)\n"
        "      --detach         go to the background once services can connect; log to "
        "<run-dir>/snap_emu.log\n"
        "      --ready-fd N     write one byte to descriptor N when services can connect\n"
        "  -L, --log-level N    0 critical .. 5 trace, or the word (default info)\n"
        "      --state-dir DIR  taken for the sake of those who start services and snap_emu alike; "
        "nothing is\n"
        "                       kept there yet\n"
        "      --version, --help\n"
        "\n"
        "It should never be restarted while hosts are connected: they lose their disks. Services "
        "may come and\n"
        "go.\n");
}

static int parse_level(const char *text, struct err *err)
{
    static const char *const words[] = {"critical", "error", "warning", "info", "debug", "trace"};

    for (unsigned i = 0; i < ARRAY_SIZE(words); i++) {
        if (strcasecmp(text, words[i]) != 0 && !(text[0] == (char)('0' + i) && !text[1]))
            continue;
        log_set_level((enum log_level)i);
        return 0;
    }
    return err_set(err, -EINVAL,
                   "--log-level '%s': 0 to 5, or critical, error, warning, info, debug, trace",
                   text);
}

static int parse_fd(const char *text, int *ret, struct err *err)
{
    char *end;
    long v = strtol(text, &end, 10);

    if (end == text || *end || v < 0 || v > 1 << 20 || fcntl((int)v, F_GETFD) < 0)
        return err_set(err, -EINVAL, "--ready-fd '%s' is not an open descriptor", text);
    *ret = (int)v;
    return 0;
}

static int set_run_dir(struct options *o, const char *dir, const char *below, struct err *err)
{
    int n = snprintf(o->run_dir, sizeof(o->run_dir), "%s%s", dir, below);

    /* What stands below it: /functions/<vuid>/vhost.sock, with a vuid of up to 32 characters. */
    if (n >= 107 - 53)
        return err_set(
            err, -ENAMETOOLONG,
            "run directory '%s%s' has %d bytes; with more than %d its sockets have no legal names",
            dir, below, n, 107 - 54);
    return 0;
}

static int default_run_dir(struct options *o, struct err *err)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");

    if (geteuid() == 0)
        return set_run_dir(o, "/run", "/opensnap", err);
    if (!xdg || !*xdg)
        return err_set(err, -EINVAL, "XDG_RUNTIME_DIR is not set: give --run-dir");
    return set_run_dir(o, xdg, "/opensnap", err);
}

int options_parse(struct options *o, int argc, char **argv, struct err *err)
{
    int c, rc = 0;

    *o = (struct options){.ready_fd = -1};
    opterr = 0;
    while (rc == 0 && (c = getopt_long(argc, argv, "L:h", longs, NULL)) != -1) {
        switch (c) {
        case OPT_RUN_DIR:
            rc = set_run_dir(o, optarg, "", err);
            break;
        case OPT_STATE_DIR:
            break;
        case OPT_TOPOLOGY:
            o->topology = optarg;
            break;
        case OPT_FOREGROUND:
            o->detach = false;
            break;
        case OPT_DETACH:
            o->detach = true;
            break;
        case OPT_READY_FD:
            rc = parse_fd(optarg, &o->ready_fd, err);
            break;
        case 'L':
            rc = parse_level(optarg, err);
            break;
        case OPT_VERSION:
            printf("snap_emu %s\n", OPENSNAP_VERSION);
            return 1;
        case 'h':
            usage();
            return 1;
        default:
            return err_set(err, -EINVAL, "option '%s' is unknown or lacks its value; see --help",
                           argv[optind - 1]);
        }
    }
    if (rc == 0 && optind < argc)
        return err_set(err, -EINVAL, "argument '%s' is not understood; see --help", argv[optind]);
    if (rc == 0 && !o->run_dir[0])
        rc = default_run_dir(o, err);
    return rc;
}
