/* SPDX-License-Identifier: BSD-3-Clause
 *
 * VERSION: major 0; the minor is the smaller of both sides'. QEMU offers 0.0 and refuses a higher
 * answer; some clients send no JSON text at all, others insist on one in the answer. */
#include "base/util.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { OUR_MINOR = 1 };

/* Absent is fine; present must be an integer of at least min. */
static bool integer_ok(json_t *caps, const char *name, json_int_t min)
{
    json_t *v = json_object_get(caps, name);

    return !v || (json_is_integer(v) && json_integer_value(v) >= min &&
                  json_integer_value(v) <= UINT32_MAX);
}

/* The text holds what the client can do: only what we depend on is looked at. */
static int read_capabilities(const char *text, size_t len, bool *wants_mapping)
{
    json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *caps;
    int rc = 0;

    if (!root)
        return -EINVAL;
    caps = json_object_get(root, "capabilities");
    if (!json_is_object(root) || (caps && !json_is_object(caps)) ||
        !integer_ok(caps, "max_msg_fds", 1) || !integer_ok(caps, "max_data_xfer_size", 1))
        rc = -EINVAL;
    else
        *wants_mapping = json_is_true(json_object_get(caps, VFIO_USER_CAP_MAPPED_DOORBELLS));
    json_decref(root);
    return rc;
}

int version_handle(struct vfio_user *vu, const struct message *m, struct reply *r)
{
    const char *text = (const char *)m->payload + sizeof(struct vfio_user_version);
    size_t room = m->len - sizeof(struct vfio_user_version);
    bool json = room > 0 && text[0] != '\0', wants_mapping = !json;
    struct vfio_user_version v;
    int n;

    if (vu->stream.agreed)
        return -EINVAL;
    vu->stream.closing = true; /* unless all is well */
    memcpy(&v, m->payload, sizeof(v));
    if (v.major != 0)
        return -EINVAL;
    if (room > 0 && text[room - 1] != '\0')
        return -EINVAL;
    if (json && read_capabilities(text, strlen(text), &wants_mapping) < 0)
        return -EINVAL;
    vu->stream.closing = false;
    vu->stream.agreed = true;
    vu->mapped = vu->o.mapping == VFIO_USER_MAP_ALWAYS ||
                 (vu->o.mapping == VFIO_USER_MAP_AUTO && wants_mapping);
    v.minor = MIN(v.minor, OUR_MINOR);
    memcpy(r->payload, &v, sizeof(v));
    n = snprintf((char *)r->payload + sizeof(v), sizeof(r->payload) - sizeof(v),
                 "{\"capabilities\":{\"max_msg_fds\":%d,\"max_data_xfer_size\":%d,"
                 "\"max_dma_maps\":%d,\"pgsizes\":4096,\"write_multiple\":true}}",
                 VFIO_USER_MAX_MSG_FDS, VFIO_USER_MAX_DATA_XFER, DMA_MAX);
    r->len = (uint32_t)(sizeof(v) + (size_t)n + 1);
    vu->o.ops->connected(vu->o.dev, vu->mapped);
    return 0;
}
