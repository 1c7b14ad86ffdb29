/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vfio_user/inside.h - shared by the files of this room. */
#ifndef VFIO_USER_INSIDE_H
#define VFIO_USER_INSIDE_H

#include "base/list.h"
#include "spec/vfio_user.h"
#include "transports/stream/stream.h"
#include "transports/vfio_user/vfio_user.h"

enum {
    MESSAGE_BYTES = 16384, /* longer ones are skipped and refused: nothing we serve needs them */
    REPLY_BYTES = 16384,
    REFUSALS = 4, /* surplus clients being told so */
    REFUSAL_MS = 1000,
    DMA_MAX = 4096,      /* ranges per client */
    DMA_MAX_FILES = 256, /* different files behind them */
};

/* ---- dma.c ---- */

struct dma_file; /* a descriptor shared by the ranges of one file */

struct dma_range {
    struct vfio_user_dma dma;
    struct dma_file *file; /* NULL: no memory */
    bool removing;
};

struct dma_table {
    struct dma_range *ranges; /* by iova */
    unsigned count, room, files;
    uint32_t next_id;
    struct list file_list;
};

void dma_init(struct dma_table *t);
void dma_clear(struct dma_table *t);
/* *fd is taken over on success when there is one (>= 0). Returns the range, or NULL and *rc. */
const struct dma_range *dma_add(struct dma_table *t, const struct vfio_user_dma_map *m, int *fd,
                                int *rc);
/* Marks the ranges that lie in [iova, iova + size) as being removed; all: all of them. Returns how
 * many need the owner's detaching, or -EINVAL when a range lies half inside. Ranges without memory,
 * and those for which removed() says DONE, are gone when this returns. */
int dma_remove(struct dma_table *t, uint64_t iova, uint64_t size, bool all,
               enum vfio_user_answer (*removed)(void *arg, const struct vfio_user_dma *dma),
               void *arg);
/* Ends the removal of one range (id 0: of all). Returns how many are still being removed. */
unsigned dma_detached(struct dma_table *t, uint32_t id);
unsigned dma_removing(const struct dma_table *t);

/* ---- irq.c ---- */

struct irq_table {
    int fds[PCI_MSIX_MAX_VECTORS];
    unsigned vectors;
};

void irq_init(struct irq_table *t, unsigned vectors);
void irq_clear(struct irq_table *t);
uint32_t irq_count(const struct irq_table *t, uint32_t index);
/* fds that are kept are set to -1. changed (start, count) is written when eventfds have changed
 * (count 0: none). */
int irq_set(struct irq_table *t, struct pci_function *pci, const struct vfio_user_irq_set *set,
            const uint8_t *bools, size_t nbools, int *fds, unsigned nfds, unsigned *start,
            unsigned *count);

/* ---- session.c ---- */

struct message {
    struct vfio_user_header h;
    uint8_t payload[MESSAGE_BYTES];
    uint32_t len; /* of the payload; one that was skipped is longer than any rule allows */
};

struct reply {
    struct vfio_user_header h;
    uint8_t payload[REPLY_BYTES];
    uint32_t len;
    int fd; /* not closed; -1: none */
};

enum session_wait { WAIT_NOTHING, WAIT_UNMAP, WAIT_RESET, WAIT_CONFIG };

struct refusal {
    struct vfio_user *vu;
    int fd;
    struct watch watch;
    struct timer timer;
};

struct vfio_user {
    struct vfio_user_opts o;
    struct stream stream; /* agreed: VERSION is done; wait: enum session_wait */
    struct message msg;
    struct reply reply;
    bool hidden, mapped;
    bool draining_reset; /* the last client's state is being taken away */
    struct dma_table dma;
    struct irq_table irqs;
    struct refusal refusals[REFUSALS];
};

extern const struct stream_protocol session_protocol;
/* Finishes the waiting message. rc: 0 or -errno. */
void session_finish(struct vfio_user *vu, int rc);

/* ---- message.c ---- */

/* Handles vu->msg, fills vu->reply. 0, STREAM_LATER, or -errno for an error reply. */
int message_handle(struct vfio_user *vu);

/* ---- version.c ---- */
int version_handle(struct vfio_user *vu, const struct message *m, struct reply *r);

/* ---- region.c ---- */
int region_info(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_read(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_write(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_write_multi(struct vfio_user *vu, const struct message *m, struct reply *r);

/* ---- refusal.c ---- */
void refusal_init(struct vfio_user *vu);
/* A second client is told, and sent away, while the first one goes on. fd is taken over. */
void refusal_begin(struct vfio_user *vu, int fd);
void refusal_end_all(struct vfio_user *vu);

#endif
