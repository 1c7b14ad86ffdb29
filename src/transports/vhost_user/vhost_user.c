/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A device on a socket: its life, and what its owner tells. */
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <stdlib.h>

int vhost_user_listen(struct vhost_user *vh, struct err *err)
{
    return stream_listen(&vh->stream, err);
}

void vhost_user_reset_done(struct vhost_user *vh)
{
    vh->resetting = false;
    if (vh->stream.draining)
        stream_drain(&vh->stream);
    else if (vh->stream.wait == WAIT_RESET)
        vh_session_finish(vh, 0);
}

void vhost_user_mem_detached(struct vhost_user *vh, uint32_t id)
{
    unsigned left = mem_detached(&vh->mem, id);

    if (vh->stream.draining)
        stream_drain(&vh->stream);
    else if (vh->stream.wait == WAIT_MEM && left == 0)
        vh_session_finish(vh, 0);
}

void vhost_user_config_changed(struct vhost_user *vh, bool broken)
{
    channel_config_changed(vh);
    if (broken)
        vring_signal_errors(vh);
}

void vhost_user_mem_for_each(struct vhost_user *vh,
                             void (*fn)(void *arg, const struct vhost_user_mem *mem), void *arg)
{
    for (unsigned i = 0; i < vh->mem.count; i++)
        if (!vh->mem.region[i].removing)
            fn(arg, &vh->mem.region[i].mem);
}

bool vhost_user_has_client(const struct vhost_user *vh)
{
    return vh->stream.agreed;
}

/* ---- life ---- */

struct vhost_user *vhost_user_create(const struct vhost_user_opts *opts, struct err *err)
{
    struct vhost_user *vh = calloc(1, sizeof(*vh));
    struct stream_opts stream = {
        .protocol = &vh_session_protocol,
        .reactor = opts->reactor,
        .name = opts->name,
        .path = opts->path,
    };

    if (!vh) {
        err_set(err, -ENOMEM, "no memory for function %s", opts->name);
        return NULL;
    }
    vh->o = *opts;
    vh->inflight.fd = vh->channel.fd = -1;
    mem_init(&vh->mem);
    vring_init_all(vh);
    stream.in = &vh->msg;
    if (stream_create(&vh->stream, &stream, err) < 0) {
        vhost_user_destroy(vh);
        return NULL;
    }
    return vh;
}

void vhost_user_destroy(struct vhost_user *vh)
{
    if (!vh)
        return;
    stream_destroy(&vh->stream);
    channel_close(vh);
    vring_clear_all(vh, true);
    inflight_clear(vh);
    mem_clear(&vh->mem);
    free(vh);
}
