/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The messages of a client: rules are columns, handlers see only what has passed them. */
#include "base/checked.h"
#include "base/log.h"
#include "base/util.h"
#include "spec/virtio.h"
#include "transports/vhost_user/inside.h"

#include <errno.h>
#include <string.h>

#define BIT(n) (1ULL << VHOST_USER_PROTOCOL_F_##n)
#define PROTOCOL_FEATURES                                                                          \
    (BIT(MQ) | BIT(REPLY_ACK) | BIT(BACKEND_REQ) | BIT(CONFIG) | BIT(INFLIGHT_SHMFD) |             \
     BIT(RESET_DEVICE) | BIT(CONFIGURE_MEM_SLOTS) | BIT(STATUS))

/* What the device says is foreign too: a service wrote it. */
struct vhost_user_limits limits_now(const struct vhost_user *vh)
{
    struct vhost_user_limits l = vh->o.ops->limits(vh->o.dev);

    l.features &= ~(VHOST_F_LOG_ALL | VHOST_USER_F_PROTOCOL_FEATURES);
    l.queues = MIN(l.queues, (uint32_t)VHOST_USER_MAX_QUEUES);
    l.queue_size = MIN(l.queue_size, (uint32_t)VIRTQ_MAX_SIZE);
    l.status &= VIRTIO_STATUS_NEEDS_RESET;
    return l;
}

static uint64_t u64_of(const struct message *m)
{
    uint64_t v;

    memcpy(&v, m->payload, sizeof(v));
    return v;
}

static int reply_u64(struct reply *r, uint64_t v)
{
    memcpy(r->payload, &v, sizeof(v));
    r->len = sizeof(v);
    return 0;
}

/* ---- features, owner ---- */

static int get_features(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    (void)m;
    (void)err;
    return reply_u64(r, limits_now(vh).features | VHOST_USER_F_PROTOCOL_FEATURES);
}

static int set_features(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    uint64_t offered = limits_now(vh).features | VHOST_USER_F_PROTOCOL_FEATURES, v = u64_of(m);

    (void)r;
    if (vring_any_started(vh) && v != vh->features)
        return err_set(err, -EBUSY, "features 0x%llx: rings are started with 0x%llx",
                       (unsigned long long)v, (unsigned long long)vh->features);
    vh->features_refused = v & ~offered;
    if (vh->features_refused)
        return err_set(err, -EINVAL, "features 0x%llx are not offered",
                       (unsigned long long)(v & ~offered));
    vh->features = v;
    return 0;
}

static int get_protocol_features(struct vhost_user *vh, struct message *m, struct reply *r,
                                 struct err *err)
{
    (void)vh;
    (void)m;
    (void)err;
    return reply_u64(r, PROTOCOL_FEATURES);
}

static int set_protocol_features(struct vhost_user *vh, struct message *m, struct reply *r,
                                 struct err *err)
{
    uint64_t v = u64_of(m);

    (void)r;
    if (v & ~PROTOCOL_FEATURES)
        return err_set(err, -EINVAL, "protocol features 0x%llx are not offered",
                       (unsigned long long)(v & ~PROTOCOL_FEATURES));
    vh->protocol_features = v;
    return 0;
}

static int accept_it(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    (void)vh;
    (void)m;
    (void)r;
    (void)err;
    return 0;
}

static int get_queue_num(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    (void)m;
    (void)err;
    return reply_u64(r, limits_now(vh).queues);
}

/* ---- memory ---- */

static enum vhost_user_answer removed(void *arg, const struct vhost_user_mem *mem)
{
    struct vhost_user *vh = arg;

    return vh->o.ops->mem_removed(vh->o.dev, mem);
}

static int get_max_mem_slots(struct vhost_user *vh, struct message *m, struct reply *r,
                             struct err *err)
{
    (void)vh;
    (void)m;
    (void)err;
    return reply_u64(r, MEM_SLOTS);
}

static int add_region(struct vhost_user *vh, const struct vhost_user_mem_region *region, int *fd,
                      struct err *err)
{
    const struct vhost_user_mem *mem = mem_add(&vh->mem, region, fd, err);

    if (!mem)
        return err->code;
    vh->o.ops->mem_added(vh->o.dev, mem);
    return 0;
}

static int add_mem_reg(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_mem_one one;

    (void)r;
    memcpy(&one, m->payload, sizeof(one));
    if (vh->stream.nfds != 1)
        return err_set(err, -EINVAL, "memory at 0x%llx comes without a descriptor",
                       (unsigned long long)one.region.gpa);
    return add_region(vh, &one.region, &vh->stream.fds[0], err);
}

static int wait_for_memory(struct vhost_user *vh)
{
    vh->stream.wait = WAIT_MEM;
    return STREAM_LATER;
}

/* Some clients send the descriptor along: it is closed with the message. */
static int rem_mem_reg(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_mem_one one;
    int rc;

    (void)r;
    memcpy(&one, m->payload, sizeof(one));
    rc = mem_remove(&vh->mem, &one.region, removed, vh);
    if (rc < 0)
        return err_set(err, rc, "there is no memory of 0x%llx bytes at 0x%llx",
                       (unsigned long long)one.region.size_bytes,
                       (unsigned long long)one.region.gpa);
    return rc > 0 ? wait_for_memory(vh) : 0;
}

static int check_table(const struct vhost_user *vh, const struct vhost_user_mem_table *t,
                       struct err *err)
{
    uint32_t n = t->nregions, bytes = vh->msg.h.size;
    int rc = 0;

    if (n == 0 || n > VHOST_USER_MEM_TABLE_MAX || vh->stream.nfds != n ||
        bytes < offsetof(struct vhost_user_mem_table, region[n]))
        return err_set(err, -EINVAL, "memory table of %u regions in %u bytes with %u descriptors",
                       n, bytes, vh->stream.nfds);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        const struct vhost_user_mem_region *a = &t->region[i];

        rc = mem_check(a, vh->stream.fds[i], err);
        for (uint32_t k = 0; rc == 0 && k < i; k++) {
            const struct vhost_user_mem_region *b = &t->region[k];

            if (ranges_overlap(a->gpa, a->size_bytes, b->gpa, b->size_bytes) ||
                ranges_overlap(a->user_addr, a->size_bytes, b->user_addr, b->size_bytes))
                rc = err_set(err, -EINVAL, "memory table: regions %u and %u overlap", k, i);
        }
    }
    return rc;
}

static int fill_table(struct vhost_user *vh, struct message *m, struct err *err)
{
    struct vhost_user_mem_table t;
    int rc = 0;

    memcpy(&t, m->payload, sizeof(t));
    for (uint32_t i = 0; rc == 0 && i < t.nregions; i++)
        if (!mem_has(&vh->mem, &t.region[i], vh->stream.fds[i]))
            rc = add_region(vh, &t.region[i], &vh->stream.fds[i], err);
    return rc;
}

/* The whole table anew: what it was and still is stays as it is, so that I/O there goes on. */
static int set_mem_table(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_mem_table t;
    int rc;

    (void)r;
    memcpy(&t, m->payload, sizeof(t));
    rc = check_table(vh, &t, err);
    if (rc < 0)
        return rc;
    rc = mem_keep_only(&vh->mem, t.region, vh->stream.fds, t.nregions, removed, vh);
    return rc > 0 ? wait_for_memory(vh) : fill_table(vh, m, err);
}

/* ---- configuration ---- */

/* An answer without payload tells of the error. */
static int get_config(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_config c = {0};

    memcpy(&c, m->payload, offsetof(struct vhost_user_config, data));
    if (!checked_range(c.offset, c.size, VHOST_USER_CONFIG_MAX)) {
        err_set(err, -EINVAL, "configuration: %u bytes at %u, there are %d", c.size, c.offset,
                VHOST_USER_CONFIG_MAX);
        return 0;
    }
    vh->o.ops->config_read(vh->o.dev, c.offset, c.data, c.size);
    r->len = (uint32_t)offsetof(struct vhost_user_config, data) + c.size;
    memcpy(r->payload, &c, r->len);
    return 0;
}

static int set_config(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    struct vhost_user_config c = {0};

    (void)r;
    memcpy(&c, m->payload, MIN(m->h.size, sizeof(c)));
    if (!checked_range(c.offset, c.size, VHOST_USER_CONFIG_MAX) ||
        m->h.size < offsetof(struct vhost_user_config, data) + c.size)
        return err_set(err, -EINVAL, "configuration: %u bytes for %u in a message of %u", c.size,
                       c.offset, m->h.size);
    vh->o.ops->config_write(vh->o.dev, c.offset, c.data, c.size);
    return 0;
}

/* ---- reset, status ---- */

void vh_message_forget(struct vhost_user *vh)
{
    vring_clear_all(vh, false);
    inflight_clear(vh);
    vh->features = 0;
    vh->features_refused = false;
    vh->status = 0;
}

static int reset(struct vhost_user *vh)
{
    bool keep = vh->undrained && vh->inflight.fd >= 0;

    if (!keep)
        inflight_forget(vh);
    vh_message_forget(vh);
    vh->resetting = vh->o.ops->reset(vh->o.dev, keep) == VHOST_USER_LATER;
    if (!vh->resetting)
        return 0;
    vh->stream.wait = WAIT_RESET;
    return STREAM_LATER;
}

static int reset_device(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    (void)m;
    (void)r;
    (void)err;
    return reset(vh);
}

/* QEMU before 8.1 says status 0 first and asks where its rings have stopped afterwards, also when a
 * VM is only paused: they are drained one by one, and the reset leaves their bases alone. */
static int stop_and_reset(struct vhost_user *vh)
{
    if (vring_stop_all(vh))
        return reset(vh);
    vh->stream.wait = WAIT_STOP;
    return STREAM_LATER;
}

static int get_status(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    (void)m;
    (void)err;
    return reply_u64(r, vh->status | limits_now(vh).status);
}

static int set_status(struct vhost_user *vh, struct message *m, struct reply *r, struct err *err)
{
    uint64_t v = u64_of(m);

    (void)r;
    if (v > UINT8_MAX)
        return err_set(err, -EINVAL, "device status 0x%llx has more than 8 bits",
                       (unsigned long long)v);
    if (v == 0)
        return stop_and_reset(vh);
    if (vh->features_refused)
        v &= ~(uint64_t)VIRTIO_STATUS_FEATURES_OK; /* 3.1.1: so the driver learns of it */
    vh->status = (uint8_t)v;
    return 0;
}

/* ---- rules ---- */

enum answer { ANSWER_ACK, ANSWER_OWN }; /* ACK: only when it is asked for and agreed on */

struct message_rule {
    const char *name;
    uint32_t min, max; /* bytes of payload */
    unsigned max_fds;
    enum answer answer;
    bool needs_stopped; /* refused while any ring is started */
    message_fn handle;
};

enum {
    U64 = sizeof(uint64_t),
    RING_STATE = sizeof(struct vhost_user_vring_state),
    RING_ADDR = sizeof(struct vhost_user_vring_addr),
    ONE_REGION = sizeof(struct vhost_user_mem_one),
    CONFIG_HEAD = offsetof(struct vhost_user_config, data),
    INFLIGHT = VHOST_USER_INFLIGHT_BYTES,
};

#define RULE(n) [VHOST_USER_##n] = {#n

/* clang-format off */
static const struct message_rule rules[VHOST_USER_REQUESTS] = {
    RULE(GET_FEATURES), 0, U64, 0, ANSWER_OWN, false, get_features},
    RULE(SET_FEATURES), U64, U64, 0, ANSWER_ACK, false, set_features},
    RULE(SET_OWNER), 0, U64, 0, ANSWER_ACK, false, accept_it},
    RULE(RESET_OWNER), 0, U64, 0, ANSWER_ACK, false, accept_it},
    RULE(SET_MEM_TABLE), 8, sizeof(struct vhost_user_mem_table), VHOST_USER_MEM_TABLE_MAX,
         ANSWER_ACK, false, set_mem_table},
    RULE(SET_VRING_NUM), RING_STATE, RING_STATE, 0, ANSWER_ACK, false, vring_set_num},
    RULE(SET_VRING_ADDR), RING_ADDR, RING_ADDR, 0, ANSWER_ACK, false, vring_set_addr},
    RULE(SET_VRING_BASE), RING_STATE, RING_STATE, 0, ANSWER_ACK, false, vring_set_base},
    RULE(GET_VRING_BASE), RING_STATE, RING_STATE, 0, ANSWER_OWN, false, vring_get_base},
    RULE(SET_VRING_KICK), U64, U64, 1, ANSWER_ACK, false, vring_set_kick},
    RULE(SET_VRING_CALL), U64, U64, 1, ANSWER_ACK, false, vring_set_call},
    RULE(SET_VRING_ERR), U64, U64, 1, ANSWER_ACK, false, vring_set_err},
    RULE(GET_PROTOCOL_FEATURES), 0, U64, 0, ANSWER_OWN, false, get_protocol_features},
    RULE(SET_PROTOCOL_FEATURES), U64, U64, 0, ANSWER_ACK, true, set_protocol_features},
    RULE(GET_QUEUE_NUM), 0, U64, 0, ANSWER_OWN, false, get_queue_num},
    RULE(SET_VRING_ENABLE), RING_STATE, RING_STATE, 0, ANSWER_ACK, false, vring_set_enable},
    RULE(SET_BACKEND_REQ_FD), 0, U64, 1, ANSWER_ACK, false, channel_set},
    RULE(GET_CONFIG), CONFIG_HEAD, sizeof(struct vhost_user_config), 0, ANSWER_OWN, false,
         get_config},
    RULE(SET_CONFIG), CONFIG_HEAD, sizeof(struct vhost_user_config), 0, ANSWER_ACK, false,
         set_config},
    RULE(GET_INFLIGHT_FD), INFLIGHT, sizeof(struct vhost_user_inflight), 0, ANSWER_OWN, false,
         inflight_get},
    RULE(SET_INFLIGHT_FD), INFLIGHT, sizeof(struct vhost_user_inflight), 1, ANSWER_ACK, true,
         inflight_set},
    RULE(RESET_DEVICE), 0, U64, 0, ANSWER_ACK, false, reset_device},
    RULE(GET_MAX_MEM_SLOTS), 0, U64, 0, ANSWER_OWN, false, get_max_mem_slots},
    RULE(ADD_MEM_REG), ONE_REGION, ONE_REGION, 1, ANSWER_ACK, false, add_mem_reg},
    RULE(REM_MEM_REG), ONE_REGION, ONE_REGION, 1, ANSWER_ACK, false, rem_mem_reg},
    RULE(SET_STATUS), U64, U64, 0, ANSWER_ACK, false, set_status},
    RULE(GET_STATUS), 0, U64, 0, ANSWER_OWN, false, get_status},
};
/* clang-format on */

static const struct message_rule *rule_of(const struct message *m)
{
    const struct message_rule *rule =
        m->h.request < VHOST_USER_REQUESTS ? &rules[m->h.request] : NULL;

    return rule && rule->handle ? rule : NULL;
}

static void complain(const struct vhost_user *vh, const struct message *m, const struct err *err)
{
    static struct log_limit limit;
    const struct message_rule *rule = rule_of(m);

    if (err->msg[0])
        log_limited(&limit, LOG_WARNING, "vhost-user", "%s: %s (request %u) is refused: %s",
                    vh->stream.name, rule ? rule->name : "unknown", m->h.request, err->msg);
}

int vh_message_handle(struct vhost_user *vh)
{
    struct message *m = &vh->msg;
    const struct message_rule *rule = rule_of(m);
    unsigned nfds = vh->stream.nfds;
    struct err err = {0};
    int rc;

    if (!rule)
        rc = err_set(&err, -ENOTSUP, "it does not exist here, or was not offered");
    else if (m->h.size < rule->min || m->h.size > rule->max || nfds > rule->max_fds)
        rc = err_set(&err, -EINVAL, "%u bytes and %u descriptors, it has %u to %u and up to %u",
                     m->h.size, nfds, rule->min, rule->max, rule->max_fds);
    else if (rule->needs_stopped && vring_any_started(vh))
        rc = err_set(&err, -EBUSY, "rings are started");
    else
        rc = rule->handle(vh, m, &vh->reply, &err);
    complain(vh, m, &err);
    return rc;
}

int vh_message_resume(struct vhost_user *vh, enum session_wait waited, int rc)
{
    struct message *m = &vh->msg;
    struct err err = {0};

    if (rc == 0 && waited == WAIT_MEM && m->h.request == VHOST_USER_SET_MEM_TABLE)
        rc = fill_table(vh, m, &err);
    else if (rc == 0 && waited == WAIT_STOP)
        rc = stop_and_reset(vh);
    complain(vh, m, &err);
    return rc;
}

bool vh_message_reply(struct vhost_user *vh, int rc)
{
    struct stream *s = &vh->stream;
    const struct message_rule *rule = rule_of(&vh->msg);

    if (rule && rule->answer == ANSWER_OWN) {
        s->closing = s->closing || rc < 0; /* the client waits, and there is no form for a no */
        return rc == 0;
    }
    if (!(vh->msg.h.flags & VHOST_USER_F_NEED_REPLY) || !(vh->protocol_features & BIT(REPLY_ACK)))
        return false;
    reply_u64(&vh->reply, rc < 0);
    return true;
}
