/* SPDX-License-Identifier: BSD-3-Clause
 *
 * perf_options.h - the command line of snap_perf. */
#ifndef PERF_OPTIONS_H
#define PERF_OPTIONS_H

#include "client/load.h"

#include <stddef.h>

struct perf_options {
    const char *socket, *vuid, *run_dir;
    struct nvme_host_opts host;
    struct load_opts load;
    uint64_t bs_bytes, align_bytes;
    double status_s;
    bool json, quiet;
};

extern const char *const perf_rw_words[];       /* by enum load_rw */
extern const char *const perf_doorbell_words[]; /* by enum nvme_doorbells */

/* 0: go on; else the exit code + 1. */
int perf_parse(struct perf_options *o, int argc, char **argv);
/* The function's socket: given, or found by name in the run directory. 0 or -ENAMETOOLONG. */
int perf_socket_path(const struct perf_options *o, char *out, size_t size);
/* Prints what is wrong with the call (fmt has two %s); returns the exit code. */
int perf_wrong(const char *fmt, const char *a, const char *b);

#endif
