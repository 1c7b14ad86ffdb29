/* SPDX-License-Identifier: BSD-3-Clause
 *
 * client/vfio_client.h - the host's end of a vfio-user socket: what a VMM does, for tools and
 * tests. Calls wait for their reply, at most timeout_ms. Errors: a negative errno, the server's own
 * or that of the socket
 * (-ECONNRESET: the server closed; -ETIMEDOUT: it did not answer; -EBADMSG: it answered nonsense;
 * the last three end the connection). Thread: one per connection. */
#ifndef CLIENT_VFIO_CLIENT_H
#define CLIENT_VFIO_CLIENT_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct vfio_client;

struct vfio_client_opts {
    const char *path;
    bool no_json;        /* VERSION without a JSON text: asks for mapped doorbells */
    uint16_t minor;      /* offered */
    uint32_t timeout_ms; /* 0: 10 s */
};

struct vfio_client_region {
    uint64_t size;
    uint32_t flags;                    /* VFIO_REGION_F_* */
    uint64_t mmap_offset, mmap_length; /* the sparse area; length 0: none */
    int fd;                            /* of the area, the caller's to close; -1: none */
    uint64_t fd_offset;
};

struct vfio_client *vfio_client_connect(const struct vfio_client_opts *opts, struct err *err);
void vfio_client_close(struct vfio_client *vc); /* accepts NULL */

int vfio_client_region(struct vfio_client *vc, uint32_t index, struct vfio_client_region *ret);
int vfio_client_irq_count(struct vfio_client *vc, uint32_t index, uint32_t *ret);

/* prot: VFIO_USER_DMA_F_*. fd -1: a range without memory. */
int vfio_client_dma_map(struct vfio_client *vc, uint64_t iova, uint64_t size, int fd,
                        uint64_t fd_offset, uint32_t prot);
int vfio_client_dma_unmap(struct vfio_client *vc, uint64_t iova, uint64_t size);

/* Gives vectors start.. their eventfds; fds NULL takes them away. */
int vfio_client_set_irqs(struct vfio_client *vc, uint32_t index, uint32_t start, uint32_t count,
                         const int *fds);
int vfio_client_disable_irqs(struct vfio_client *vc, uint32_t index);

int vfio_client_read(struct vfio_client *vc, uint32_t region, uint64_t offset, void *buf,
                     uint32_t len);
int vfio_client_write(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                      uint32_t len);
/* Without a reply. */
int vfio_client_post(struct vfio_client *vc, uint32_t region, uint64_t offset, const void *buf,
                     uint32_t len);
int vfio_client_reset(struct vfio_client *vc);

/* Little-endian register access in the shapes a driver uses. */
int vfio_client_read32(struct vfio_client *vc, uint32_t region, uint64_t offset, uint32_t *ret);
int vfio_client_write32(struct vfio_client *vc, uint32_t region, uint64_t offset, uint32_t value);
int vfio_client_write16(struct vfio_client *vc, uint32_t region, uint64_t offset, uint16_t value);

/* Readable when the server has something to say or is gone. */
int vfio_client_fd(const struct vfio_client *vc);
/* False once the server has closed; only peeks. */
bool vfio_client_alive(struct vfio_client *vc);
uint64_t vfio_client_messages(const struct vfio_client *vc); /* sent so far */

#endif
