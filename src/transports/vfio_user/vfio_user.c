/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A PCI function on a socket: its life, and what its owner tells. */
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <stdlib.h>

int vfio_user_listen(struct vfio_user *vu, struct err *err)
{
    return stream_listen(&vu->stream, err);
}

void vfio_user_hide(struct vfio_user *vu, bool hidden)
{
    vu->hidden = hidden;
}

void vfio_user_reset_done(struct vfio_user *vu)
{
    if (vu->stream.draining) {
        vu->draining_reset = false;
        stream_drain(&vu->stream);
    } else if (vu->stream.wait == WAIT_RESET || vu->stream.wait == WAIT_CONFIG) {
        session_finish(vu, 0);
    }
}

void vfio_user_dma_detached(struct vfio_user *vu, uint32_t id)
{
    unsigned left = dma_detached(&vu->dma, id);

    if (vu->stream.draining)
        stream_drain(&vu->stream);
    else if (vu->stream.wait == WAIT_UNMAP && left == 0)
        session_finish(vu, 0);
}

void vfio_user_dma_for_each(struct vfio_user *vu,
                            void (*fn)(void *arg, const struct vfio_user_dma *dma), void *arg)
{
    for (unsigned i = 0; i < vu->dma.count; i++)
        if (vu->dma.ranges[i].file && !vu->dma.ranges[i].removing)
            fn(arg, &vu->dma.ranges[i].dma);
}

int vfio_user_irq_fd(const struct vfio_user *vu, unsigned vector)
{
    return vector < vu->irqs.vectors ? vu->irqs.fds[vector] : -1;
}

bool vfio_user_has_client(const struct vfio_user *vu)
{
    return vu->stream.agreed;
}

/* ---- life ---- */

struct vfio_user *vfio_user_create(const struct vfio_user_opts *opts, struct err *err)
{
    struct vfio_user *vu = calloc(1, sizeof(*vu));
    struct stream_opts stream = {
        .protocol = &session_protocol,
        .reactor = opts->reactor,
        .name = opts->name,
        .path = opts->path,
    };

    if (!vu) {
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
        return NULL;
    }
    vu->o = *opts;
    refusal_init(vu);
    dma_init(&vu->dma);
    irq_init(&vu->irqs, pci_msix_vectors(opts->pci));
    stream.in = &vu->msg;
    if (stream_create(&vu->stream, &stream, err) < 0) {
        vfio_user_destroy(vu);
        return NULL;
    }
    return vu;
}

void vfio_user_destroy(struct vfio_user *vu)
{
    if (!vu)
        return;
    stream_destroy(&vu->stream);
    refusal_end_all(vu);
    dma_clear(&vu->dma);
    irq_clear(&vu->irqs);
    free(vu);
}
