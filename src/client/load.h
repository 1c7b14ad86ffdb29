/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/load.h - keeps a disk busy: fills the queues of a host driver, measures, and verifies
 * while it runs. Phases: prefill (verify only: every block once), main (measured), drain, sweep
 * (verify only: every block is read again). Thread: the host's. */
#ifndef CLIENT_LOAD_H
#define CLIENT_LOAD_H

#include "client/latency.h"
#include "client/nvme_host.h"
#include "client/verify.h"

enum load_rw { LOAD_RANDREAD, LOAD_RANDWRITE, LOAD_RANDRW, LOAD_READ, LOAD_WRITE };
enum load_phase { LOAD_PREFILL, LOAD_MAIN, LOAD_DRAIN, LOAD_SWEEP, LOAD_DONE };

struct load_opts {
    struct nvme_host *host;
    enum load_rw rw;
    unsigned read_percent;   /* LOAD_RANDRW */
    unsigned zeroes_percent; /* of the writes, as Write Zeroes */
    unsigned deallocate_percent;
    unsigned flush_percent; /* of all commands */
    uint32_t io_blocks;     /* per command */
    uint32_t align_blocks;  /* random positions are multiples of it */
    uint64_t first_lba, nblocks;
    uint64_t runtime_ms, ios; /* of the main phase: whichever is not 0 and reached first */
    uint64_t rate;            /* commands per second; 0: no limit */
    uint32_t spin_us;         /* polls this long before it sleeps */
    uint32_t missing_ms; /* a command without completion for so long is missing: the run ends */
    uint64_t seed;
    bool verify, prefill, stop_on_error, allow_torn;
    void (*report)(void *arg, const struct verify_error *e);
    /* About every 20 ms. False: end the main phase. */
    bool (*tick)(void *arg);
    void *arg;
};

struct load_result {
    enum load_phase phase;
    double seconds; /* of the main phase */
    uint64_t reads, writes, zeroes, deallocates, flushes, bytes_read, bytes_written;
    uint64_t completed, outstanding; /* all phases */
    uint64_t longest_gap_ns;         /* between two completions while commands were outstanding */
    uint64_t unfinished;             /* given up at the end */
    struct latency read_latency, write_latency;
    struct nvme_host_stats stats; /* of the main phase */
};

struct load;
struct load *load_create(const struct load_opts *opts, struct err *err);
/* Runs all phases. 0, or -errno when the run could not go on (the host is gone, commands are
 * missing); errors found by verification are in load_verify(). */
int load_run(struct load *l, struct err *err);
void load_destroy(struct load *l); /* before its host is closed; accepts NULL */

const struct load_result *load_get_result(struct load *l); /* also while it runs */
struct verify *load_verify(struct load *l);
/* Memory of the host's that a load with these options takes. */
uint64_t load_data_bytes(unsigned queues, unsigned depth, uint32_t io_bytes);

#endif
