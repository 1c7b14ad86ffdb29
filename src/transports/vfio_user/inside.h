/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vfio_user/inside.h - shared by the files of this room. */
#ifndef VFIO_USER_INSIDE_H
#define VFIO_USER_INSIDE_H

#include "base/list.h"
#include "spec/vfio_user.h"
#include "transports/vfio_user/vfio_user.h"

enum {
    MESSAGES_PER_TURN = 64,
    MESSAGE_BYTES = 16384, /* longer ones are skipped and refused: nothing we serve needs them */
    REPLY_BYTES = 16384,
    FDS_RECEIVED = 253, /* what one sendmsg can carry; all are taken so that all can be closed */
    STALL_MS = 5000,    /* half a message, no VERSION, a reply the client does not fetch */
    WAIT_MS = 3000,     /* unmap and reset */
    REFUSALS = 4,       /* surplus clients being told so */
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
    uint32_t len; /* of the payload */
    int fds[FDS_RECEIVED];
    unsigned nfds;
};

struct reply {
    uint8_t payload[REPLY_BYTES];
    uint32_t len;
    int fd; /* not closed; -1: none */
};

enum session_wait { WAIT_NOTHING, WAIT_UNMAP, WAIT_RESET, WAIT_CONFIG };

struct session {
    struct vfio_user *vu;
    int fd; /* -1: no client */
    struct watch watch;
    bool agreed;  /* VERSION is done */
    bool closing; /* close when the replies are out */
    /* input */
    struct message msg;
    uint32_t have; /* bytes of header and payload read */
    uint32_t skip; /* bytes of a too long message still to drop */
    bool too_long;
    struct timer stall;
    /* a message whose reply waits; msg holds it */
    enum session_wait wait;
    struct timer wait_timer;
    struct reply reply;
    /* output: at most one reply that did not fit the socket; reading stops until it is out */
    uint8_t out[sizeof(struct vfio_user_header) + REPLY_BYTES];
    uint32_t out_from, out_to;
    int out_fd; /* rides with the first byte; -1: none, or sent */
    struct timer out_timer;
};

struct refusal {
    struct vfio_user *vu;
    int fd;
    struct watch watch;
    struct timer timer;
};

struct vfio_user {
    struct vfio_user_opts o;
    char *name, *path;
    int listen_fd;
    struct watch listen_watch;
    bool listening;
    bool hidden, mapped;
    bool draining, draining_reset; /* the last client's memory and state are being taken away */
    struct dma_table dma;
    struct irq_table irqs;
    struct session *session; /* one, for ever; fd -1 when there is no client */
    struct refusal refusals[REFUSALS];
};

void session_open(struct vfio_user *vu, int fd);
void session_close(struct vfio_user *vu, const char *why);
void session_free(struct vfio_user *vu);
/* Finishes the waiting message. rc: 0 or -errno. */
void session_finish(struct vfio_user *vu, int rc);

/* ---- message.c ---- */

enum { MESSAGE_LATER = 1 };
/* Handles vu->session->msg, fills vu->session->reply. 0, MESSAGE_LATER, or -errno for an error
 * reply. */
int message_handle(struct vfio_user *vu);

/* ---- version.c ---- */
int version_handle(struct vfio_user *vu, const struct message *m, struct reply *r);

/* ---- region.c ---- */
int region_info(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_read(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_write(struct vfio_user *vu, const struct message *m, struct reply *r);
int region_write_multi(struct vfio_user *vu, const struct message *m, struct reply *r);

/* ---- listener.c ---- */
/* Goes on with taking the last client's things away; when all is over, the next one may come. */
void listener_drain(struct vfio_user *vu);

#endif
