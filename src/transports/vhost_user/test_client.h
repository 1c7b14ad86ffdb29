/* SPDX-License-Identifier: BSD-3-Clause
 *
 * transports/vhost_user/test_client.h - for the tests of this room: a client on a real socket, a
 * device made of stubs. */
#ifndef VHOST_USER_TEST_CLIENT_H
#define VHOST_USER_TEST_CLIENT_H

#include "base/fd.h"
#include "base/util.h"
#include "spec/vhost_user.h"
#include "spec/virtio.h"
#include "transports/vhost_user/vhost_user.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, QUEUES = 4, QUEUE_SIZE = 256 };
#define USER 0x7f0000000000ULL
#define GPA 0x40000000ULL
#define FEATURES                                                                                   \
    (VIRTIO_F_VERSION_1 | VIRTIO_F_RING_EVENT_IDX | VIRTIO_F_RING_PACKED | VIRTIO_BLK_F_FLUSH)
#define BIT(n) (1ULL << VHOST_USER_PROTOCOL_F_##n)

struct stub {
    char dir[64], path[96];
    struct reactor *reactor;
    struct vhost_user *vh;
    int client, mem_fd, event;
    _Atomic int connects, disconnects, added, removed, resets, expired, queue_calls, stops, calls;
    _Atomic int inflights;
    _Atomic uint32_t removed_id;
    _Atomic uint8_t status;
    _Atomic bool hold;   /* answer LATER */
    _Atomic bool nobody; /* drains rings */
    _Atomic bool kept;   /* by the last reset */
    struct vhost_user_queue q;
    uint8_t written[256];
    uint32_t written_at, written_len;
};

/* ---- the device ---- */

static inline struct vhost_user_limits limits(void *dev)
{
    return (struct vhost_user_limits){FEATURES | VHOST_F_LOG_ALL, QUEUES, QUEUE_SIZE,
                                      ((struct stub *)dev)->status};
}

static inline void connected(void *dev)
{
    ((struct stub *)dev)->connects++;
}

static inline enum vhost_user_answer later(struct stub *s)
{
    return s->hold ? VHOST_USER_LATER : VHOST_USER_DONE;
}

static inline enum vhost_user_answer disconnected(void *dev)
{
    ((struct stub *)dev)->disconnects++;
    return later(dev);
}

static inline void mem_added(void *dev, const struct vhost_user_mem *mem)
{
    ((struct stub *)dev)->added++;
}

static inline enum vhost_user_answer mem_removed(void *dev, const struct vhost_user_mem *mem)
{
    struct stub *s = dev;

    s->removed_id = mem->id;
    s->removed++;
    return later(s);
}

static inline void unmap_expired(void *dev)
{
    ((struct stub *)dev)->expired++;
}

static inline void queue_changed(void *dev, const struct vhost_user_queue *q)
{
    struct stub *s = dev;

    s->q = *q;
    s->queue_calls++;
}

static inline enum vhost_user_answer queue_stopping(void *dev, const struct vhost_user_queue *q)
{
    struct stub *s = dev;

    s->q = *q;
    s->stops++;
    return s->nobody ? VHOST_USER_DONE : VHOST_USER_LATER;
}

static inline enum vhost_user_answer queue_pausing(void *dev, const struct vhost_user_queue *q)
{
    struct stub *s = dev;

    s->q = *q;
    s->queue_calls++;
    return later(s);
}

static inline void calls_changed(void *dev, unsigned start, unsigned count)
{
    ((struct stub *)dev)->calls++;
}

static inline void inflight_set(void *dev)
{
    ((struct stub *)dev)->inflights++;
}

static inline enum vhost_user_answer reset(void *dev, bool keep)
{
    ((struct stub *)dev)->kept = keep;
    ((struct stub *)dev)->resets++;
    return later(dev);
}

static inline void config_read(void *dev, uint32_t offset, void *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(offset + i);
}

static inline void config_write(void *dev, uint32_t offset, const void *buf, size_t len)
{
    struct stub *s = dev;

    memcpy(s->written, buf, len);
    s->written_at = offset;
    s->written_len = (uint32_t)len;
}

static const struct vhost_user_ops ops = {
    .limits = limits,
    .connected = connected,
    .disconnected = disconnected,
    .mem_added = mem_added,
    .mem_removed = mem_removed,
    .unmap_expired = unmap_expired,
    .queue_changed = queue_changed,
    .queue_stopping = queue_stopping,
    .queue_pausing = queue_pausing,
    .calls_changed = calls_changed,
    .inflight_set = inflight_set,
    .reset = reset,
    .config_read = config_read,
    .config_write = config_write,
};

static inline int connect_client(struct stub *s)
{
    int fd = fd_unix_connect(s->path, SOCK_STREAM, NULL);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    return fd;
}

static inline int setup(void **state)
{
    struct stub *s = calloc(1, sizeof(*s));
    struct vhost_user_opts o = {.name = "test", .ops = &ops, .dev = s};
    struct err err = {0};

    strcpy(s->dir, "/tmp/vhost-user-test-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof(s->path), "%s/vhost.sock", s->dir);
    s->mem_fd = fd_memfd("mem", 2 * MIB);
    s->event = eventfd(0, EFD_CLOEXEC);
    o.path = s->path;
    o.reactor = s->reactor = reactor_create("test", &err);
    s->vh = vhost_user_create(&o, &err);
    assert_non_null(s->vh);
    assert_int_equal(fd_unix_connect(s->path, SOCK_STREAM, &err),
                     -ECONNREFUSED); /* bound, not listening */
    assert_int_equal(vhost_user_listen(s->vh, &err), 0);
    assert_int_equal(reactor_spawn(s->reactor, -1, &err), 0);
    s->client = connect_client(s);
    *state = s;
    return 0;
}

static inline int teardown(void **state)
{
    struct stub *s = *state;

    fd_close(&s->client);
    reactor_stop(s->reactor);
    reactor_join(s->reactor);
    vhost_user_destroy(s->vh);
    reactor_destroy(s->reactor);
    fd_close(&s->mem_fd);
    fd_close(&s->event);
    assert_int_equal(rmdir(s->dir), 0); /* the socket is gone */
    free(s);
    return 0;
}

/* What the owner tells comes from the reactor's thread. */
struct order {
    struct mail mail;
    struct stub *s;
    void (*fn)(struct order *o);
    uint32_t index, base;
    _Atomic bool done;
};

static inline void do_detach(struct order *o)
{
    vhost_user_mem_detached(o->s->vh, o->s->removed_id);
}

static inline void do_reset_done(struct order *o)
{
    vhost_user_reset_done(o->s->vh);
}

static inline void do_stopped(struct order *o)
{
    vhost_user_queue_stopped(o->s->vh, o->index, o->base);
}

static inline void do_config_changed(struct order *o)
{
    for (int i = 0; i < 1000; i++)
        vhost_user_config_changed(o->s->vh, true);
}

static inline void run_order(struct mail *m)
{
    struct order *o = container_of(m, struct order, mail);

    o->fn(o);
    o->done = true;
}

/* Returns when it has been done. */
static inline void post(struct order *o, void (*fn)(struct order *o))
{
    o->fn = fn;
    o->mail.fn = run_order;
    o->done = false;
    reactor_post(o->s->reactor, &o->mail);
    for (int i = 0; i < 5000 && !o->done; i++)
        usleep(1000);
    assert_true(o->done);
}

/* ---- the client ---- */

static inline void put(struct stub *s, const void *buf, size_t len, const int *fds, unsigned nfds)
{
    assert_int_equal(fd_send(s->client, buf, len, fds, nfds), len);
}

static inline size_t frame(uint8_t *out, uint32_t request, uint32_t flags, const void *payload,
                           size_t len)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | flags, (uint32_t)len};

    memcpy(out, &h, sizeof(h));
    if (len)
        memcpy(out + sizeof(h), payload, len);
    return sizeof(h) + len;
}

static inline void say(struct stub *s, uint32_t request, uint32_t flags, const void *payload,
                       size_t len, int fd)
{
    uint8_t buf[1024];

    put(s, buf, frame(buf, request, flags, payload, len), &fd, fd >= 0 ? 1 : 0);
}

/* Reads one reply of up to room bytes and returns its length. */
static inline size_t heard(struct stub *s, uint32_t request, void *payload, size_t room)
{
    struct vhost_user_header h;

    assert_int_equal(recv(s->client, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.request, request);
    assert_int_equal(h.flags, VHOST_USER_VERSION | VHOST_USER_F_REPLY);
    assert_true(h.size <= room);
    if (h.size)
        assert_int_equal(recv(s->client, payload, h.size, MSG_WAITALL), h.size);
    return h.size;
}

static inline uint64_t heard_u64(struct stub *s, uint32_t request)
{
    uint64_t v = 0;

    assert_int_equal(heard(s, request, &v, sizeof(v)), sizeof(v));
    return v;
}

static inline uint64_t get(struct stub *s, uint32_t request)
{
    say(s, request, 0, NULL, 0, -1);
    return heard_u64(s, request);
}

/* With NEED_REPLY: true when it was accepted. */
static inline bool ok(struct stub *s, uint32_t request, const void *payload, size_t len, int fd)
{
    uint64_t v;

    say(s, request, VHOST_USER_F_NEED_REPLY, payload, len, fd);
    v = heard_u64(s, request);
    assert_true(v <= 1);
    return v == 0;
}

static inline bool ok_u64(struct stub *s, uint32_t request, uint64_t v, int fd)
{
    return ok(s, request, &v, sizeof(v), fd);
}

static inline bool ok_ring(struct stub *s, uint32_t request, uint32_t index, uint32_t num)
{
    struct vhost_user_vring_state state = {index, num};

    return ok(s, request, &state, sizeof(state), -1);
}

static inline bool ok_addr(struct stub *s, uint32_t index, uint64_t desc, uint64_t avail,
                           uint64_t used)
{
    struct vhost_user_vring_addr a = {.index = index, .desc = desc, .avail = avail, .used = used};

    return ok(s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), -1);
}

static inline bool ok_mem(struct stub *s, uint32_t request, uint64_t gpa, uint64_t size,
                          uint64_t user, int fd)
{
    struct vhost_user_mem_one one = {.region = {gpa, size, user, 0}};

    return ok(s, request, &one, sizeof(one), fd);
}

static inline bool silent(struct stub *s)
{
    struct pollfd p = {.fd = s->client, .events = POLLIN};

    return poll(&p, 1, 100) == 0;
}

static inline bool closed(struct stub *s)
{
    char c;

    return recv(s->client, &c, 1, 0) <= 0;
}

static inline void agree(struct stub *s)
{
    uint64_t protocol = get(s, VHOST_USER_GET_PROTOCOL_FEATURES);

    say(s, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), -1);
    assert_true(ok(s, VHOST_USER_SET_OWNER, NULL, 0, -1));
}

static inline void set_up_ring(struct stub *s, uint64_t features)
{
    agree(s);
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES, features | VHOST_USER_F_PROTOCOL_FEATURES, -1));
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 128));
    assert_true(
        ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, features & VIRTIO_F_RING_PACKED ? 0x80008000 : 7));
    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000));
}

static inline void start_ring(struct stub *s)
{
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_CALL, 1, s->event));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 1));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
