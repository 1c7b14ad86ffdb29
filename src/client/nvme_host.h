/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/nvme_host.h - a small NVMe driver in user space, over vfio-user: for tools and tests.
 * All memory the device sees is one memfd, mapped at one I/O virtual address. Admin commands wait
 * for their completion; I/O queues are filled, rung and polled by the caller. The device is not
 * trusted: a completion for a command that is not outstanding is handed up as such. Thread: one per
 * host. */
#ifndef CLIENT_NVME_HOST_H
#define CLIENT_NVME_HOST_H

#include "base/err.h"
#include "spec/nvme.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

enum nvme_doorbells { NVME_DOORBELLS_TRAPPED, NVME_DOORBELLS_SHADOW, NVME_DOORBELLS_MAPPED };

struct nvme_host_opts {
    const char *path; /* the function's cntrl socket */
    enum nvme_doorbells doorbells;
    unsigned queues;     /* I/O queue pairs wanted: 1.. */
    unsigned depth;      /* commands in flight per queue */
    uint32_t nsid;       /* 0: the first active one */
    uint64_t data_bytes; /* memory for nvme_host_alloc() */
    uint32_t timeout_ms; /* of admin commands and messages; 0: 10 s */
};

struct nvme_host_info {
    char sn[21], mn[41], subnqn[257];
    uint16_t cntlid;
    uint32_t nsid, block_bytes, max_transfer_bytes, queues, depth, vectors;
    uint64_t nblocks;
    bool can_write_zeroes, can_deallocate, volatile_cache;
};

struct nvme_host;
struct nvme_host *nvme_host_open(const struct nvme_host_opts *opts, struct err *err);
void nvme_host_close(
    struct nvme_host *h); /* shuts the controller down if the socket still answers; accepts NULL */
struct nvme_host_info nvme_host_get_info(const struct nvme_host *h);

/* Page-aligned memory the device can reach, never given back. NULL: data_bytes are used up. */
void *nvme_host_alloc(struct nvme_host *h, uint64_t bytes, uint64_t *ret_iova);

/* Waits for the completion: 0 and *ret, or -errno (-ETIMEDOUT). data is copied in and out (at most
 * 4096 bytes): to the device or from it, by the opcode. */
int nvme_host_admin(struct nvme_host *h, struct nvme_sqe *sqe, void *data, uint32_t len,
                    struct nvme_cqe *ret);

/* Controller reset (CC.EN 1 -> 0 -> 1) and the same queues again. What was outstanding is
 * forgotten. */
int nvme_host_reset(struct nvme_host *h, struct err *err);
/* False once the socket is closed by the other side. */
bool nvme_host_alive(struct nvme_host *h);
/* What to sleep on: the I/O queues' vectors and the socket. Returns how many. */
unsigned nvme_host_fds(const struct nvme_host *h, struct pollfd *fds, unsigned max);
/* After a sleep: takes the vectors' counts. */
void nvme_host_woken(struct nvme_host *h);

/* ---- I/O queues: 0 .. info.queues - 1 ---- */
struct nvme_completion {
    struct nvme_cqe cqe;
    uint16_t status; /* without the phase tag; 0: success */
    void *tag;       /* given at submission; NULL: the CID was not outstanding */
    bool bad_sqhd;   /* the SQ head lies outside of what was submitted */
};
typedef void (*nvme_completed_fn)(void *arg, const struct nvme_completion *c);

/* Puts a command into the queue; cid is set here. slot-sized PRP lists are the queue's: data is
 * [iova, +len). False: depth commands are outstanding. tag must not be NULL. */
bool nvme_host_submit(struct nvme_host *h, unsigned queue, struct nvme_sqe *sqe, uint64_t iova,
                      uint32_t len, void *tag);
/* Tells the device about all submitted since the last time. */
void nvme_host_ring(struct nvme_host *h, unsigned queue);
unsigned nvme_host_poll(struct nvme_host *h, unsigned queue, nvme_completed_fn fn, void *arg);

/* Commands of the I/O command set. nblocks is 1-based. */
struct nvme_sqe nvme_host_rw(const struct nvme_host *h, uint8_t opc, uint64_t lba,
                             uint32_t nblocks);

struct nvme_host_stats {
    uint64_t kicks;      /* doorbell messages sent */
    uint64_t interrupts; /* counted in the eventfds of I/O vectors */
    uint64_t messages;   /* all vfio-user messages sent */
};
struct nvme_host_stats nvme_host_get_stats(struct nvme_host *h);

#endif
