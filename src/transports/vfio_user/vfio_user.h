/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vfio_user/vfio_user.h - a PCI function on a vfio-user socket: one listener, at most
 * one client, the client's DMA table and interrupt eventfds. It maps no guest memory and knows no
 * device: what BAR accesses, resets and map changes mean is behind vfio_user_ops. Messages of a
 * client are handled strictly in order. An operation that must wait (VFIO_USER_LATER) stops this
 * socket only. Thread: the reactor's. Ops never call back into vfio_user_destroy(). */
#ifndef TRANSPORTS_VFIO_USER_H
#define TRANSPORTS_VFIO_USER_H

#include "base/err.h"
#include "pci/function.h"
#include "runtime/reactor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vfio_user;

enum vfio_user_answer { VFIO_USER_DONE, VFIO_USER_LATER };

/* One DMA_MAP. fd -1: known, but without memory behind it. The descriptor is the server's; one may
 * serve many ranges. */
struct vfio_user_dma {
    uint32_t id;   /* never used twice on one socket */
    uint32_t prot; /* GUEST_READ | GUEST_WRITE */
    uint64_t iova, size_bytes, fd_offset;
    int fd;
};

struct vfio_user_ops {
    /* VERSION is agreed. mapped: this client may map the doorbell area. */
    void (*connected)(void *dev, bool mapped);
    /* The client is gone; its eventfds are closed already. Reset the function: DONE, or LATER and
     * vfio_user_reset_done(). dma_removed() for all its ranges comes next. A new client is accepted
     * when all that is over. */
    enum vfio_user_answer (*disconnected)(void *dev);
    void (*dma_added)(void *dev, const struct vfio_user_dma *dma);
    /* DONE: nobody uses it; LATER: vfio_user_dma_detached() will be called. Only for ranges with
     * memory. */
    enum vfio_user_answer (*dma_removed)(void *dev, const struct vfio_user_dma *dma);
    /* DMA_UNMAP was answered with an error because nobody detached the memory in time. */
    void (*unmap_expired)(void *dev);
    void (*irqs_changed)(void *dev, unsigned start, unsigned count);
    /* DEVICE_RESET. LATER: vfio_user_reset_done(). */
    enum vfio_user_answer (*reset)(void *dev);
    /* A configuration write had these PCI_EVENT_*. LATER: its reply waits for
     * vfio_user_reset_done(). */
    enum vfio_user_answer (*config_written)(void *dev, unsigned events);
    /* BARs other than the MSI-X one; in range, len 1..4096. */
    void (*bar_read)(void *dev, unsigned bar, uint64_t offset, void *buf, size_t len);
    void (*bar_write)(void *dev, unsigned bar, uint64_t offset, const void *buf, size_t len);
};

enum vfio_user_mapping { VFIO_USER_MAP_AUTO, VFIO_USER_MAP_NEVER, VFIO_USER_MAP_ALWAYS };

struct vfio_user_opts {
    struct reactor *reactor;
    const char *name; /* for logs; copied */
    const char *path; /* of the socket; copied */
    const struct vfio_user_ops *ops;
    void *dev;
    struct pci_function *pci; /* stays the caller's */
    uint64_t bar_bytes[PCI_BARS];
    unsigned msix_bar;
    /* The part of a BAR a client may map; file offset = BAR offset. fd stays the caller's. */
    enum vfio_user_mapping mapping;
    unsigned map_bar;
    uint64_t map_offset, map_bytes;
    int map_fd;
};

/* Binds the socket but does not listen: clients get ECONNREFUSED. */
struct vfio_user *vfio_user_create(const struct vfio_user_opts *opts, struct err *err);
void vfio_user_destroy(struct vfio_user *vu); /* accepts NULL; removes the socket */
/* From now on clients are accepted. Calling it again is harmless. */
int vfio_user_listen(struct vfio_user *vu, struct err *err);

/* While hidden (a reset is running), reads give all-ones and writes are dropped. */
void vfio_user_hide(struct vfio_user *vu, bool hidden);

/* The end of what was answered with LATER. */
void vfio_user_reset_done(struct vfio_user *vu);
/* id 0: of all ranges, nobody is there any more who could use memory. */
void vfio_user_dma_detached(struct vfio_user *vu, uint32_t id);

/* All ranges with memory that are not being removed, in no order. */
void vfio_user_dma_for_each(struct vfio_user *vu,
                            void (*fn)(void *arg, const struct vfio_user_dma *dma), void *arg);
/* The eventfd of an MSI-X vector, or -1. */
int vfio_user_irq_fd(const struct vfio_user *vu, unsigned vector);
bool vfio_user_has_client(const struct vfio_user *vu);

#endif
