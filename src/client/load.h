/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/load.h - keeps one disk busy: fills its queues, measures, and verifies while it runs. A
 * machine that is stepped, so that one thread loads many disks (client/run.h).
 * Phases: prefill (verify only: every block once), ready (waits for load_go()), main (measured),
 * drain, sweep (verify only: every block is read again), done. Thread: the disk's. */
#ifndef CLIENT_LOAD_H
#define CLIENT_LOAD_H

#include "client/disk.h"
#include "client/latency.h"
#include "client/verify.h"

enum load_rw { LOAD_RANDREAD, LOAD_RANDWRITE, LOAD_RANDRW, LOAD_READ, LOAD_WRITE };
enum load_phase { LOAD_PREFILL, LOAD_READY, LOAD_MAIN, LOAD_DRAIN, LOAD_SWEEP, LOAD_DONE };

struct load_opts {
    struct disk *disk; /* the caller's; outlives the load */
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
    uint32_t missing_ms;      /* a command without completion for so long is missing: it ends */
    uint32_t reset_every_ms;  /* resets the disk in the main phase, under load; 0: never */
    uint64_t seed;            /* not 0 */
    bool verify, prefill, stop_on_error, allow_torn;
    void (*report)(void *arg, const struct verify_error *e);
    void *arg;
};

struct load_result {
    enum load_phase phase;
    double seconds; /* of the main phase */
    uint64_t reads, writes, zeroes, deallocates, flushes, bytes_read, bytes_written;
    uint64_t completed, outstanding; /* all phases */
    uint64_t longest_gap_ns;         /* between two completions while commands were outstanding */
    uint64_t unfinished;             /* given up at the end */
    uint64_t resets, forgotten;      /* commands that a reset ended */
    struct latency read_latency, write_latency;
    struct disk_stats stats; /* of the main phase; reconnects and changes: since the beginning */
};

struct load;
struct load *load_create(const struct load_opts *opts, struct err *err);
void load_destroy(struct load *l); /* before its disk is closed; accepts NULL */

/* Submits and completes what can be now. Number of completions; 0: nothing to do at the moment;
 * -errno: it is over, it could not go on (the disk is gone, commands are missing). Errors found by
 * verification are in load_verify() only. */
int load_step(struct load *l, struct err *err);
bool load_over(const struct load *l); /* LOAD_DONE, or failed: not to be stepped any more */
enum load_phase load_get_phase(const struct load *l);
/* LOAD_READY: begins the main phase. */
void load_go(struct load *l);
/* Ends the main phase before its time (or at once, when it has not begun). */
void load_stop(struct load *l);
/* When it has something to do again if nothing completes; CLOCK_MONOTONIC. */
uint64_t load_next_ns(const struct load *l);

struct disk *load_disk(const struct load *l);
const struct load_result *load_get_result(struct load *l); /* also while it runs */
struct verify *load_verify(struct load *l);
/* Memory of the disk's that a load with these options takes. */
uint64_t load_data_bytes(unsigned queues, unsigned depth, uint32_t io_bytes);

#endif
