/* SPDX-License-Identifier: BSD-3-Clause */
#include "program/options.h"

#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

enum { EXIT_HELP = 1, EXIT_USAGE = 3 }; /* the exit codes 0 and 2, each + 1 */

static int parse_number(const struct program_usage *u, const char *what, const char *text, int base,
                        uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(text, &end, base);
    if (errno || text[0] == '-' || end == text || *end || v > max) {
        fprintf(stderr, "%s: %s '%s': a number up to %llu is needed\n", u->program, what, text,
                (unsigned long long)max);
        return EXIT_USAGE;
    }
    *ret = v;
    return 0;
}

int program_option(const struct program_usage *u, struct program_options *opts, int option,
                   const char *arg)
{
    uint64_t n = 0;
    int rc;

    switch (option) {
    case 'm':
        return parse_number(u, "cpu mask", arg, 16, UINT64_MAX, &opts->core_mask);
    case 'r':
        opts->rpc_socket = arg;
        return 0;
    case PROGRAM_OPT_STATE_DIR:
        opts->state_dir = arg;
        return 0;
    case PROGRAM_OPT_POLL_WINDOW:
        rc = parse_number(u, "poll window", arg, 10, 1000000, &n);
        if (rc == 0)
            opts->poll_window_us = (uint32_t)n;
        return rc;
    case 'L':
        rc = parse_number(u, "log level", arg, 10, LOG_TRACE, &n);
        if (rc == 0)
            log_set_level((enum log_level)n);
        return rc;
    case PROGRAM_OPT_VERSION:
        printf("%s %s\n", u->program, OPENSNAP_VERSION);
        return EXIT_HELP;
    case 'h':
        u->print(stdout);
        return EXIT_HELP;
    default: /* getopt_long() has named it */
        fprintf(stderr, "%s: see --help\n", u->program);
        return EXIT_USAGE;
    }
}

int program_options_end(const struct program_usage *u, int argc, char **argv)
{
    if (optind == argc)
        return 0;
    fprintf(stderr, "%s: '%s' is not an option: see --help\n", u->program, argv[optind]);
    return EXIT_USAGE;
}

const char *program_user_dir(const char *env, const char *fallback_env, const char *tail,
                             const char *name)
{
    const char *base = getenv(env);
    char *dir;
    int n;

    if (base && *base)
        n = asprintf(&dir, "%s/%s", base, name);
    else
        n = asprintf(&dir, "%s%s/%s", getenv(fallback_env) ?: "/tmp", tail, name);
    if (n < 0)
        abort();
    return dir;
}
