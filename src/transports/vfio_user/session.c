/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One client: what a message looks like, its answer, the client's end. */
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>

enum { HEADER = sizeof(struct vfio_user_header) };
static_assert(offsetof(struct message, payload) == HEADER, "read in one piece");
static_assert(offsetof(struct reply, payload) == HEADER, "sent in one piece");

static struct vfio_user *owner(const struct stream *s)
{
    return container_of(s, struct vfio_user, stream);
}

static int payload(struct stream *s)
{
    struct message *m = &owner(s)->msg;

    m->len = 0;
    if ((m->h.flags & VFIO_USER_F_TYPE_MASK) != VFIO_USER_F_COMMAND)
        return -EBADMSG; /* we ask nothing, so there is nothing to be answered */
    if (m->h.size < HEADER || m->h.size > HEADER + VFIO_USER_MAX_DATA_XFER + 64)
        s->closing = true; /* where the next message begins is anybody's guess */
    else
        m->len = m->h.size - HEADER;
    return (int)m->len;
}

static int answer(struct vfio_user *vu, int rc)
{
    const struct vfio_user_header *h = &vu->msg.h;
    struct reply *r = &vu->reply;

    if (h->flags & VFIO_USER_F_NO_REPLY)
        return 0;
    r->h = (struct vfio_user_header){
        .id = h->id,
        .command = h->command,
        .flags = VFIO_USER_F_REPLY | (rc < 0 ? VFIO_USER_F_ERROR : 0),
        .error = rc < 0 ? (uint32_t)-rc : 0,
        .size = HEADER + (rc < 0 ? 0 : r->len),
    };
    return stream_reply(&vu->stream, r, r->h.size, rc < 0 ? -1 : r->fd);
}

static int handle(struct stream *s)
{
    struct vfio_user *vu = owner(s);
    int rc;

    vu->reply.len = 0;
    vu->reply.fd = -1;
    rc = s->closing ? -EINVAL : message_handle(vu);
    return rc == STREAM_LATER ? rc : answer(vu, rc);
}

void session_finish(struct vfio_user *vu, int rc)
{
    stream_finish(&vu->stream, answer(vu, rc));
}

static void expired(struct stream *s)
{
    struct vfio_user *vu = owner(s);
    enum session_wait wait = s->wait;

    /* A configuration write has been done all the same. */
    session_finish(vu, wait == WAIT_CONFIG ? 0 : -ETIMEDOUT);
    if (wait == WAIT_UNMAP)
        vu->o.ops->unmap_expired(vu->o.dev);
}

static enum vfio_user_answer removed(void *arg, const struct vfio_user_dma *dma)
{
    struct vfio_user *vu = arg;

    return vu->o.ops->dma_removed(vu->o.dev, dma);
}

static void closed(struct stream *s)
{
    struct vfio_user *vu = owner(s);

    vu->mapped = false;
    irq_clear(&vu->irqs);
    vu->draining_reset = vu->o.ops->disconnected(vu->o.dev) == VFIO_USER_LATER;
    dma_remove(&vu->dma, 0, 0, true, removed, vu);
}

static bool draining(const struct stream *s)
{
    struct vfio_user *vu = owner(s);

    return vu->draining_reset || dma_removing(&vu->dma) > 0;
}

static void surplus(struct stream *s, int fd)
{
    refusal_begin(owner(s), fd);
}

static struct stream_log logs = {.room = "vfio-user"};

static const char *const waits[] = {
    [WAIT_UNMAP] = "DMA_UNMAP",
    [WAIT_RESET] = "reset",
    [WAIT_CONFIG] = "reset",
};

const struct stream_protocol session_protocol = {
    .log = &logs,
    .header_bytes = HEADER,
    .payload_bytes = MESSAGE_BYTES,
    .closes_fd = false,
    .silent = "it never sent VERSION",
    .closing = "it does not speak our language",
    .waits = waits,
    .payload = payload,
    .handle = handle,
    .expired = expired,
    .closed = closed,
    .draining = draining,
    .surplus = surplus,
};
