/* SPDX-License-Identifier: BSD-3-Clause
 *
 * One client: what a message looks like, its answer, the client's end. */
#include "base/fd.h"
#include "base/util.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <unistd.h>

enum { HEADER = sizeof(struct vhost_user_header) };
static_assert(offsetof(struct message, payload) == HEADER, "read in one piece");
static_assert(offsetof(struct reply, payload) == HEADER, "sent in one piece");

static struct vhost_user *owner(const struct stream *s)
{
    return container_of(s, struct vhost_user, stream);
}

static int payload(struct stream *s)
{
    const struct vhost_user_header *h = &owner(s)->msg.h;

    if ((h->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION ||
        (h->flags & VHOST_USER_F_REPLY))
        return -EPROTO; /* we ask nothing here, so there is nothing to be answered */
    return h->size > PAYLOAD_BYTES ? -EMSGSIZE : (int)h->size;
}

static int answer(struct vhost_user *vh, int rc)
{
    struct reply *r = &vh->reply;
    int fd = r->fd;

    if (!vh_message_reply(vh, rc)) {
        fd_close(&r->fd);
        return 0;
    }
    r->fd = -1;
    r->h = (struct vhost_user_header){
        .request = vh->msg.h.request,
        .flags = VHOST_USER_VERSION | VHOST_USER_F_REPLY,
        .size = r->len,
    };
    return stream_reply(&vh->stream, r, HEADER + r->len, fd);
}

static int handle(struct stream *s)
{
    struct vhost_user *vh = owner(s);
    int rc;

    if (!s->agreed) {
        s->agreed = true;
        vh->o.ops->connected(vh->o.dev);
    }
    vh->reply.len = 0;
    vh->reply.fd = -1;
    rc = vh_message_handle(vh);
    return rc == STREAM_LATER ? rc : answer(vh, rc);
}

void vh_session_finish(struct vhost_user *vh, int rc)
{
    enum session_wait waited = vh->stream.wait;

    vh->stream.wait = WAIT_NOTHING;
    rc = vh_message_resume(vh, waited, rc);
    if (rc != STREAM_LATER)
        stream_finish(&vh->stream, answer(vh, rc));
}

static void expired(struct stream *s)
{
    struct vhost_user *vh = owner(s);
    enum session_wait wait = s->wait;

    if (wait == WAIT_STOP) { /* a QEMU that says status 0 first never gets over a loss here */
        stream_wait_on(s);
        return;
    }
    if (wait == WAIT_BASE) { /* no honest answer exists; what is in flight stays recorded */
        stream_close(s, "its ring could not be stopped");
        return;
    }
    vh_session_finish(vh, -ETIMEDOUT);
    if (wait == WAIT_MEM)
        vh->o.ops->unmap_expired(vh->o.dev);
}

static enum vhost_user_answer removed(void *arg, const struct vhost_user_mem *mem)
{
    struct vhost_user *vh = arg;

    return vh->o.ops->mem_removed(vh->o.dev, mem);
}

static void closed(struct stream *s)
{
    struct vhost_user *vh = owner(s);

    vh_message_forget(vh);
    vring_clear_all(vh, true);
    vh->protocol_features = 0;
    channel_close(vh);
    vh->resetting = vh->o.ops->disconnected(vh->o.dev) == VHOST_USER_LATER;
    mem_keep_only(&vh->mem, NULL, NULL, 0, removed, vh);
}

static bool draining(const struct stream *s)
{
    const struct vhost_user *vh = owner(s);

    return vh->resetting || mem_removing(&vh->mem) > 0;
}

static void surplus(struct stream *s, int fd)
{
    (void)s;
    close(fd); /* the protocol has no words for that */
}

static struct stream_log logs = {.room = "vhost-user"};

static const char *const waits[] = {
    [WAIT_MEM] = "removal of memory", [WAIT_BASE] = "stop of a ring",
    [WAIT_PAUSE] = "pause of a ring", [WAIT_STOP] = "stop of a ring",
    [WAIT_RESET] = "reset",
};

const struct stream_protocol vh_session_protocol = {
    .log = &logs,
    .header_bytes = HEADER,
    .payload_bytes = PAYLOAD_BYTES,
    .closes_fd = true,
    .silent = "it never said anything",
    .closing = "its request has no answer",
    .waits = waits,
    .payload = payload,
    .handle = handle,
    .expired = expired,
    .closed = closed,
    .draining = draining,
    .surplus = surplus,
};
