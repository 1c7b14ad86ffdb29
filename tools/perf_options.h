/* SPDX-License-Identifier: BSD-3-Clause
 *
 * perf_options.h - the command line of snap_perf. */
#ifndef PERF_OPTIONS_H
#define PERF_OPTIONS_H

#include "client/load.h"
#include "client/nvme_host.h"
#include "client/virtio_blk_host.h"

#include <limits.h>
#include <stddef.h>

enum { PERF_MAX_DISKS = 64 };
enum perf_kind { PERF_KIND_AUTO, PERF_KIND_NVME, PERF_KIND_VIRTIO_BLK };

/* One disk and what is done with it. queues, depth, path and sizes of nvme and blk are filled in
 * when it is opened. */
struct perf_disk {
    char path[PATH_MAX];
    enum perf_kind kind; /* after perf_parse(): one of the two */
    unsigned queues, depth;
    struct nvme_host_opts nvme;
    struct virtio_blk_opts blk;
    struct load_opts load;
    uint64_t bs_bytes, align_bytes;
};

struct perf_options {
    struct perf_disk base; /* what holds for all disks */
    struct perf_disk *disk;
    unsigned ndisks;
    const char *run_dir;
    uint32_t spin_us;
    bool yield;
    double status_s;
    bool json, quiet;
};

extern const char *const perf_rw_words[];       /* by enum load_rw */
extern const char *const perf_doorbell_words[]; /* by enum nvme_doorbells */
extern const char *const perf_kind_words[];     /* by enum perf_kind */

/* 0: go on; else the exit code + 1. Nothing of o is freed: it lives as long as the program. */
int perf_parse(struct perf_options *o, int argc, char **argv);
/* Prints what is wrong with the call; returns the exit code. */
int perf_wrong(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
