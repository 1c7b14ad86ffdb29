/* SPDX-License-Identifier: BSD-3-Clause
 *
 * perf_report.h - results of snap_perf, for people and as JSON. */
#ifndef PERF_REPORT_H
#define PERF_REPORT_H

#include "perf_options.h"

/* What became of one disk, or the sum of all. */
struct perf_outcome {
    const struct perf_disk *disk; /* NULL: the sum */
    struct disk_info info;
    struct load_result result;
    uint64_t errors[VERIFY_KINDS], nerrors, blocks_verified;
    bool ok;
    char message[300]; /* why it could not go on */
};

/* Counts add up, times are the longest. */
void perf_outcome_add(struct perf_outcome *sum, const struct perf_outcome *one);
/* One object on stdout: of the only disk, or the sum with "disks". */
void perf_print_json(const struct perf_options *o, const struct perf_outcome *disks,
                     const struct perf_outcome *sum);
void perf_print_text(const struct perf_options *o, const struct perf_outcome *disks,
                     const struct perf_outcome *sum);

#endif
