/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Sequences and refusals: a client on a real socket, a device made of stubs. */
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
    _Atomic bool hold; /* answer LATER */
    struct vhost_user_queue q;
    uint8_t written[256];
    uint32_t written_at, written_len;
};

/* ---- the device ---- */

static struct vhost_user_limits limits(void *dev)
{
    return (struct vhost_user_limits){FEATURES | VHOST_F_LOG_ALL, QUEUES, QUEUE_SIZE,
                                      ((struct stub *)dev)->status};
}

static void connected(void *dev)
{
    ((struct stub *)dev)->connects++;
}

static enum vhost_user_answer later(struct stub *s)
{
    return s->hold ? VHOST_USER_LATER : VHOST_USER_DONE;
}

static enum vhost_user_answer disconnected(void *dev)
{
    ((struct stub *)dev)->disconnects++;
    return later(dev);
}

static void mem_added(void *dev, const struct vhost_user_mem *mem)
{
    ((struct stub *)dev)->added++;
}

static enum vhost_user_answer mem_removed(void *dev, const struct vhost_user_mem *mem)
{
    struct stub *s = dev;

    s->removed_id = mem->id;
    s->removed++;
    return later(s);
}

static void unmap_expired(void *dev)
{
    ((struct stub *)dev)->expired++;
}

static void queue_changed(void *dev, const struct vhost_user_queue *q)
{
    struct stub *s = dev;

    s->q = *q;
    s->queue_calls++;
}

static void queue_stopping(void *dev, const struct vhost_user_queue *q)
{
    struct stub *s = dev;

    s->q = *q;
    s->stops++;
}

static void calls_changed(void *dev, unsigned start, unsigned count)
{
    ((struct stub *)dev)->calls++;
}

static void inflight_set(void *dev)
{
    ((struct stub *)dev)->inflights++;
}

static enum vhost_user_answer reset(void *dev)
{
    ((struct stub *)dev)->resets++;
    return later(dev);
}

static void config_read(void *dev, uint32_t offset, void *buf, size_t len)
{
    for (size_t i = 0; i < len; i++)
        ((uint8_t *)buf)[i] = (uint8_t)(offset + i);
}

static void config_write(void *dev, uint32_t offset, const void *buf, size_t len)
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
    .calls_changed = calls_changed,
    .inflight_set = inflight_set,
    .reset = reset,
    .config_read = config_read,
    .config_write = config_write,
};

static int connect_client(struct stub *s)
{
    int fd = fd_unix_connect(s->path, SOCK_STREAM, NULL);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    return fd;
}

static int setup(void **state)
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

static int teardown(void **state)
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

static void do_detach(struct order *o)
{
    vhost_user_mem_detached(o->s->vh, o->s->removed_id);
}

static void do_reset_done(struct order *o)
{
    vhost_user_reset_done(o->s->vh);
}

static void do_stopped(struct order *o)
{
    vhost_user_queue_stopped(o->s->vh, o->index, o->base);
}

static void do_config_changed(struct order *o)
{
    for (int i = 0; i < 1000; i++)
        vhost_user_config_changed(o->s->vh, true);
}

static void run_order(struct mail *m)
{
    struct order *o = container_of(m, struct order, mail);

    o->fn(o);
    o->done = true;
}

/* Returns when it has been done. */
static void post(struct order *o, void (*fn)(struct order *o))
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

static void put(struct stub *s, const void *buf, size_t len, const int *fds, unsigned nfds)
{
    assert_int_equal(fd_send(s->client, buf, len, fds, nfds), len);
}

static size_t frame(uint8_t *out, uint32_t request, uint32_t flags, const void *payload, size_t len)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | flags, (uint32_t)len};

    memcpy(out, &h, sizeof(h));
    if (len)
        memcpy(out + sizeof(h), payload, len);
    return sizeof(h) + len;
}

static void say(struct stub *s, uint32_t request, uint32_t flags, const void *payload, size_t len,
                int fd)
{
    uint8_t buf[1024];

    put(s, buf, frame(buf, request, flags, payload, len), &fd, fd >= 0 ? 1 : 0);
}

/* Reads one reply of up to room bytes and returns its length. */
static size_t heard(struct stub *s, uint32_t request, void *payload, size_t room)
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

static uint64_t heard_u64(struct stub *s, uint32_t request)
{
    uint64_t v = 0;

    assert_int_equal(heard(s, request, &v, sizeof(v)), sizeof(v));
    return v;
}

static uint64_t get(struct stub *s, uint32_t request)
{
    say(s, request, 0, NULL, 0, -1);
    return heard_u64(s, request);
}

/* With NEED_REPLY: true when it was accepted. */
static bool ok(struct stub *s, uint32_t request, const void *payload, size_t len, int fd)
{
    uint64_t v;

    say(s, request, VHOST_USER_F_NEED_REPLY, payload, len, fd);
    v = heard_u64(s, request);
    assert_true(v <= 1);
    return v == 0;
}

static bool ok_u64(struct stub *s, uint32_t request, uint64_t v, int fd)
{
    return ok(s, request, &v, sizeof(v), fd);
}

static bool ok_ring(struct stub *s, uint32_t request, uint32_t index, uint32_t num)
{
    struct vhost_user_vring_state state = {index, num};

    return ok(s, request, &state, sizeof(state), -1);
}

static bool ok_addr(struct stub *s, uint32_t index, uint64_t desc, uint64_t avail, uint64_t used)
{
    struct vhost_user_vring_addr a = {.index = index, .desc = desc, .avail = avail, .used = used};

    return ok(s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), -1);
}

static bool ok_mem(struct stub *s, uint32_t request, uint64_t gpa, uint64_t size, uint64_t user,
                   int fd)
{
    struct vhost_user_mem_one one = {.region = {gpa, size, user, 0}};

    return ok(s, request, &one, sizeof(one), fd);
}

static bool silent(struct stub *s)
{
    struct pollfd p = {.fd = s->client, .events = POLLIN};

    return poll(&p, 1, 100) == 0;
}

static bool closed(struct stub *s)
{
    char c;

    return recv(s->client, &c, 1, 0) <= 0;
}

static void agree(struct stub *s)
{
    uint64_t protocol = get(s, VHOST_USER_GET_PROTOCOL_FEATURES);

    say(s, VHOST_USER_SET_PROTOCOL_FEATURES, 0, &protocol, sizeof(protocol), -1);
    assert_true(ok(s, VHOST_USER_SET_OWNER, NULL, 0, -1));
}

static void set_up_ring(struct stub *s, uint64_t features)
{
    agree(s);
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES, features | VHOST_USER_F_PROTOCOL_FEATURES, -1));
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 128));
    assert_true(
        ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, features & VIRTIO_F_RING_PACKED ? 0x80008000 : 7));
    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000));
}

static void start_ring(struct stub *s)
{
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_CALL, 1, s->event));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 1));
}

/* ---- tests ---- */

static void what_is_offered(void **state)
{
    struct stub *s = *state;

    assert_true(get(s, VHOST_USER_GET_FEATURES) == (FEATURES | VHOST_USER_F_PROTOCOL_FEATURES));
    assert_int_equal(s->connects, 1);
    assert_true(get(s, VHOST_USER_GET_PROTOCOL_FEATURES) ==
                (BIT(MQ) | BIT(REPLY_ACK) | BIT(BACKEND_REQ) | BIT(CONFIG) | BIT(INFLIGHT_SHMFD) |
                 BIT(RESET_DEVICE) | BIT(CONFIGURE_MEM_SLOTS) | BIT(STATUS)));
    assert_int_equal(get(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(get(s, VHOST_USER_GET_MAX_MEM_SLOTS), 128);
    agree(s);
    assert_true(ok(s, VHOST_USER_SET_OWNER, NULL, 0, -1)); /* twice */
    assert_true(ok(s, VHOST_USER_RESET_OWNER, NULL, 0, -1));
    assert_false(ok_u64(s, VHOST_USER_SET_PROTOCOL_FEATURES, BIT(LOG_SHMFD), -1));
}

static void replies_are_for_those_who_asked_and_agreed(void **state)
{
    struct stub *s = *state;
    uint64_t none = 0;

    say(s, VHOST_USER_SET_OWNER, VHOST_USER_F_NEED_REPLY, NULL, 0, -1); /* not agreed on yet */
    say(s, 47, VHOST_USER_F_NEED_REPLY, &none, sizeof(none), -1);
    assert_true(silent(s));
    agree(s);
    say(s, VHOST_USER_SET_OWNER, 0, NULL, 0, -1);
    say(s, 47, 0, &none, sizeof(none), s->event);
    say(s, 4711, 0, &none, sizeof(none), -1);
    say(s, VHOST_USER_SET_LOG_BASE, 0, &none, sizeof(none), -1);
    assert_true(silent(s));
    assert_false(ok(s, 47, &none, sizeof(none), -1));
    assert_false(ok(s, 4711, &none, sizeof(none), -1));
    assert_false(ok(s, VHOST_USER_SET_VRING_NUM, &none, 4, -1)); /* half a payload */
    assert_false(ok(s, VHOST_USER_SET_FEATURES, &none, sizeof(none), s->event));
    /* An answer of its own is never followed by another one. */
    say(s, VHOST_USER_GET_QUEUE_NUM, VHOST_USER_F_NEED_REPLY, NULL, 0, -1);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_true(silent(s));
}

static void a_message_may_come_in_pieces_and_several_in_one(void **state)
{
    struct stub *s = *state;
    struct vhost_user_mem_one one = {.region = {GPA, MIB, USER, 0}};
    uint8_t buf[4096];
    size_t n, total = 0;

    agree(s);
    n = frame(buf, VHOST_USER_ADD_MEM_REG, VHOST_USER_F_NEED_REPLY, &one, sizeof(one));
    put(s, buf, 1, &s->mem_fd, 1);
    for (size_t i = 1; i < n; i++) {
        usleep(200);
        put(s, buf + i, 1, NULL, 0);
    }
    assert_int_equal(heard_u64(s, VHOST_USER_ADD_MEM_REG), 0);
    assert_int_equal(s->added, 1);
    for (int i = 0; i < 150; i++)
        total += frame(buf + total, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0);
    put(s, buf, total, NULL, 0);
    for (int i = 0; i < 150; i++)
        assert_int_equal(heard_u64(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
}

static void what_is_no_message_ends_the_connection(void **state)
{
    static const struct vhost_user_header bad[] = {
        {VHOST_USER_GET_FEATURES, 0, 0},
        {VHOST_USER_GET_FEATURES, 2, 0},
        {VHOST_USER_GET_FEATURES, VHOST_USER_VERSION | VHOST_USER_F_REPLY, 0},
        {VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, 4097},
        {VHOST_USER_SET_FEATURES, VHOST_USER_VERSION, UINT32_MAX},
    };
    struct stub *s = *state;

    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        put(s, &bad[i], sizeof(bad[i]), NULL, 0);
        assert_true(closed(s));
        fd_close(&s->client);
        s->client = connect_client(s);
    }
    assert_int_equal(s->connects, 0);
    assert_int_equal(s->disconnects, 0);
}

static void a_ring_is_told_by_guest_addresses_and_stops_when_it_is_drained(void **state)
{
    struct stub *s = *state;
    struct order o = {.s = s, .index = 1, .base = 99};
    struct vhost_user_vring_state st = {1, 0};
    uint32_t first;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    assert_int_equal(s->queue_calls, 0);
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_int_equal(s->queue_calls, 1);
    assert_int_equal(s->q.index, 1);
    assert_int_equal(s->q.size, 128);
    assert_int_equal(s->q.base, 7);
    assert_true(s->q.desc_gpa == GPA && s->q.driver_gpa == GPA + 0x1000 &&
                s->q.device_gpa == GPA + 0x2000);
    assert_true(s->q.features == (FEATURES & ~VIRTIO_F_RING_PACKED));
    assert_true(s->q.kick_fd >= 0);
    assert_false(s->q.run);
    first = s->q.start;
    assert_true(first != 0);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 1));
    assert_true(s->q.run);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 0));
    assert_false(s->q.run);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 1));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1 | VHOST_USER_VRING_NOFD, -1));
    assert_int_equal(s->q.kick_fd, -1); /* another kick is not another start */
    assert_int_equal(s->q.start, first);
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_CALL, 1, s->event));
    assert_int_equal(s->calls, 1);

    say(s, VHOST_USER_GET_VRING_BASE, 0, &st, sizeof(st), -1);
    say(s, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0, -1);
    assert_true(silent(s));
    assert_int_equal(s->stops, 1);
    assert_true(s->q.stopping && !s->q.run);
    o.index = 2; /* not the one that was asked about */
    post(&o, do_stopped);
    assert_true(silent(s));
    o.index = 1;
    post(&o, do_stopped);
    assert_int_equal(heard(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st)), sizeof(st));
    assert_int_equal(st.index, 1);
    assert_int_equal(st.num, 99);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(s->calls, 2); /* the eventfds went with it */
    say(s, VHOST_USER_GET_VRING_BASE, 0, &st, sizeof(st), -1);
    assert_int_equal(heard(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st)), sizeof(st));
    assert_int_equal(st.num, 99);
    assert_int_equal(s->stops, 1);

    assert_true(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 99));
    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_true(s->q.start != first && s->q.start != 0);
    assert_int_equal(s->q.base, 99);
    assert_true(s->q.run); /* enabling outlives a stop */
}

static void rings_run_at_once_for_a_client_without_protocol_features(void **state)
{
    struct stub *s = *state;

    agree(s);
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1, -1));
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 0, 8));
    assert_true(ok_addr(s, 0, USER, USER + 0x1000, USER + 0x2000));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, VHOST_USER_VRING_NOFD, -1));
    assert_true(s->q.run);
    assert_int_equal(s->q.kick_fd, -1);
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 0, 0));
}

static void what_is_wrong_with_a_ring_keeps_it_stopped(void **state)
{
    struct stub *s = *state;
    int file = fd_memfd("no-event", 4096);

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, QUEUES, 128));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, UINT32_MAX, 128));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 0));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 100));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 512));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 0x10000));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 2));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, -1));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1 | VHOST_USER_VRING_NOFD, s->event));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, file));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 0xff, s->event));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_CALL, 1, file));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_ERR, QUEUES, s->event));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 2, s->event)); /* never set up */

    assert_false(ok_addr(s, 1, USER + 8, USER + 0x1000, USER + 0x2000));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event)); /* with the good ones gone */
    assert_false(ok_addr(s, 1, USER, USER + 0x1001, USER + 0x2000));
    assert_false(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2002));
    assert_false(ok_addr(s, 1, GPA, USER + 0x1000, USER + 0x2000));
    assert_false(ok_addr(s, 1, USER + MIB - 1024, USER + 0x1000, USER + 0x2000));
    assert_false(ok_addr(s, 1, USER, USER + MIB, USER + 0x2000));
    assert_false(ok_addr(s, 1, USER, USER + 0x1000, UINT64_MAX - 3));
    assert_int_equal(s->queue_calls, 0);

    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000));
    start_ring(s);
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 64));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 8));
    assert_false(ok_addr(s, 1, USER + 0x4000, USER + 0x1000, USER + 0x2000));
    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000)); /* the same again */
    assert_false(ok_u64(s, VHOST_USER_SET_FEATURES, FEATURES, -1));
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES,
                       (FEATURES & ~VIRTIO_F_RING_PACKED) | VHOST_USER_F_PROTOCOL_FEATURES,
                       -1)); /* as it is */
    assert_false(ok_u64(s, VHOST_USER_SET_PROTOCOL_FEATURES, 0, -1));
    close(file);
}

static void packed_rings_have_sizes_and_positions_of_their_own(void **state)
{
    struct stub *s = *state;

    set_up_ring(s, FEATURES);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 100));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 257));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 0x80638063));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 0x80008064));
    assert_false(ok_ring(s, VHOST_USER_SET_VRING_BASE, 1, 0x00648000));
    assert_false(ok_addr(s, 1, USER, USER + 0x1002, USER + 0x2000)); /* 4, not 2 */
    assert_true(ok_addr(s, 1, USER, USER + MIB - 4, USER + 0x2000)); /* 4 bytes suffice */
    start_ring(s);
    assert_int_equal(s->q.size, 100);
    assert_int_equal(s->q.base, 0x80638063);
}

static void features_that_are_not_offered_start_nothing(void **state)
{
    struct stub *s = *state;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    assert_false(ok_u64(s, VHOST_USER_SET_FEATURES, FEATURES | VHOST_F_LOG_ALL, -1));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_true(ok_u64(s, VHOST_USER_SET_STATUS,
                       VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_FEATURES_OK, -1));
    assert_int_equal(get(s, VHOST_USER_GET_STATUS), VIRTIO_STATUS_ACKNOWLEDGE);
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1, -1));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
}

static void memory_that_is_taken_away_is_waited_for(void **state)
{
    struct stub *s = *state;
    struct vhost_user_mem_one one = {.region = {GPA, MIB, USER, 0}};
    struct order o = {.s = s};

    agree(s);
    assert_false(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, -1));
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_false(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_false(ok_mem(s, VHOST_USER_REM_MEM_REG, GPA, MIB, USER + 4096, -1));
    assert_true(ok_mem(s, VHOST_USER_REM_MEM_REG, GPA, MIB, USER, s->mem_fd)); /* with its fd */
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    s->hold = true;
    say(s, VHOST_USER_REM_MEM_REG, VHOST_USER_F_NEED_REPLY, &one, sizeof(one), -1);
    say(s, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0, -1);
    assert_true(silent(s));
    post(&o, do_detach);
    assert_int_equal(heard_u64(s, VHOST_USER_REM_MEM_REG), 0);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(s->expired, 0);
    assert_true(ok_mem(s, VHOST_USER_ADD_MEM_REG, GPA, MIB, USER, s->mem_fd));
    assert_false(ok_mem(s, VHOST_USER_REM_MEM_REG, GPA, MIB, USER, -1)); /* nobody lets go: 3 s */
    assert_int_equal(get(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(s->expired, 1);
    s->hold = false;
}

static void put_table(struct stub *s, struct vhost_user_mem_table *t, unsigned nfds)
{
    int fds[] = {s->mem_fd, s->mem_fd, s->mem_fd};
    uint8_t buf[512];

    put(s, buf,
        frame(buf, VHOST_USER_SET_MEM_TABLE, VHOST_USER_F_NEED_REPLY, t,
              offsetof(struct vhost_user_mem_table, region[t->nregions < 3 ? t->nregions : 3])),
        fds, nfds);
}

static bool ok_table(struct stub *s, struct vhost_user_mem_table *t, unsigned nfds)
{
    put_table(s, t, nfds);
    return heard_u64(s, VHOST_USER_SET_MEM_TABLE) == 0;
}

static void a_memory_table_is_the_difference_to_the_last_one(void **state)
{
    struct stub *s = *state;
    struct vhost_user_mem_table t = {
        .nregions = 2, .region = {{GPA, MIB, USER, 0}, {GPA + MIB, MIB, USER + MIB, MIB}}};
    struct order o = {.s = s};

    agree(s);
    assert_true(ok_table(s, &t, 2));
    assert_int_equal(s->added, 2);
    assert_true(ok_table(s, &t, 2));
    t.nregions = 1;
    assert_true(ok_table(s, &t, 1));
    assert_int_equal(s->added, 2);
    assert_int_equal(s->removed, 1);
    assert_false(ok_table(s, &t, 2));
    t.nregions = 0;
    assert_false(ok_table(s, &t, 0));
    t.nregions = 9;
    assert_false(ok_table(s, &t, 3));
    t.nregions = 2;
    t.region[1].gpa = GPA + 4096; /* overlaps the other: nothing changes */
    assert_false(ok_table(s, &t, 2));
    assert_int_equal(s->removed, 1);
    t.region[0] = (struct vhost_user_mem_region){GPA, 2 * MIB, USER, 0};
    t.nregions = 1; /* grown: the old one has to go first */
    s->hold = true;
    put_table(s, &t, 1);
    assert_true(silent(s));
    assert_int_equal(s->added, 2);
    post(&o, do_detach);
    assert_int_equal(heard_u64(s, VHOST_USER_SET_MEM_TABLE), 0);
    assert_int_equal(s->added, 3);
    s->hold = false;
}

static void a_ring_nobody_stops_ends_the_connection(void **state)
{
    struct stub *s = *state;
    struct vhost_user_vring_state st = {1, 0};

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    start_ring(s);
    say(s, VHOST_USER_GET_VRING_BASE, 0, &st, sizeof(st), -1);
    assert_true(closed(s));
    for (int i = 0; i < 200 && s->disconnects == 0; i++)
        usleep(10000);
    assert_int_equal(s->disconnects, 1);
}

static void a_reset_stops_all_and_is_waited_for(void **state)
{
    struct stub *s = *state;
    struct order o = {.s = s};
    uint64_t zero = 0;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    start_ring(s);
    assert_true(ok_u64(s, VHOST_USER_SET_STATUS, 0xf, -1));
    s->status = VIRTIO_STATUS_NEEDS_RESET;
    assert_int_equal(get(s, VHOST_USER_GET_STATUS), 0xf | VIRTIO_STATUS_NEEDS_RESET);
    assert_false(ok_u64(s, VHOST_USER_SET_STATUS, 0x100, -1));
    s->status = 0;
    s->hold = true;
    say(s, VHOST_USER_SET_STATUS, VHOST_USER_F_NEED_REPLY, &zero, sizeof(zero), -1);
    say(s, VHOST_USER_GET_STATUS, 0, NULL, 0, -1);
    assert_true(silent(s));
    assert_int_equal(s->resets, 1);
    post(&o, do_reset_done);
    assert_int_equal(heard_u64(s, VHOST_USER_SET_STATUS), 0);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_STATUS), 0);
    assert_int_equal(s->stops, 0);
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event)); /* all is forgotten */

    /* Nobody does it: the client is told, and no ring starts before it is over. */
    assert_false(ok(s, VHOST_USER_RESET_DEVICE, NULL, 0, -1));
    assert_int_equal(s->resets, 2);
    assert_true(ok_u64(s, VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1, -1));
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 1, 128));
    assert_true(ok_addr(s, 1, USER, USER + 0x1000, USER + 0x2000));
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    post(&o, do_reset_done);
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    s->hold = false;
}

static void configuration_is_answered_in_the_size_asked_for(void **state)
{
    struct stub *s = *state;
    struct vhost_user_config c = {.offset = 8, .size = 60}, got;
    size_t head = offsetof(struct vhost_user_config, data);

    agree(s);
    say(s, VHOST_USER_GET_CONFIG, 0, &c, head + 60, -1);
    assert_int_equal(heard(s, VHOST_USER_GET_CONFIG, &got, sizeof(got)), head + 60);
    assert_int_equal(got.offset, 8);
    assert_int_equal(got.size, 60);
    for (int i = 0; i < 60; i++)
        assert_int_equal(got.data[i], 8 + i);
    c.offset = 0;
    c.size = 256;
    say(s, VHOST_USER_GET_CONFIG, 0, &c, sizeof(c), -1);
    assert_int_equal(heard(s, VHOST_USER_GET_CONFIG, &got, sizeof(got)), sizeof(c));
    c.offset = 1; /* beyond the end: a reply without payload is the error */
    say(s, VHOST_USER_GET_CONFIG, 0, &c, sizeof(c), -1);
    assert_int_equal(heard(s, VHOST_USER_GET_CONFIG, &got, sizeof(got)), 0);
    c.offset = UINT32_MAX;
    say(s, VHOST_USER_GET_CONFIG, 0, &c, sizeof(c), -1);
    assert_int_equal(heard(s, VHOST_USER_GET_CONFIG, &got, sizeof(got)), 0);
    c = (struct vhost_user_config){.offset = 32, .size = 1, .data = {1}};
    assert_true(ok(s, VHOST_USER_SET_CONFIG, &c, head + 1, -1));
    assert_int_equal(s->written_at, 32);
    assert_int_equal(s->written_len, 1);
    assert_int_equal(s->written[0], 1);
    c.size = 2;
    assert_false(ok(s, VHOST_USER_SET_CONFIG, &c, head + 1, -1)); /* says 2, has 1 */
    c.offset = 255;
    assert_false(ok(s, VHOST_USER_SET_CONFIG, &c, head + 2, -1));
    assert_int_equal(s->written_at, 32);
}

/* The reply to GET_INFLIGHT_FD, with its descriptor. */
static int heard_inflight(struct stub *s, struct vhost_user_inflight *a, size_t len)
{
    uint8_t buf[64];
    unsigned nfds;
    int fd = -1;

    assert_int_equal(fd_recv(s->client, buf, sizeof(struct vhost_user_header) + len, &fd, 1, &nfds),
                     sizeof(struct vhost_user_header) + len);
    memcpy(a, buf + sizeof(struct vhost_user_header), len);
    return nfds ? fd : -1;
}

static void an_inflight_area_goes_to_the_client_and_comes_back(void **state)
{
    struct stub *s = *state;
    struct vhost_user_inflight a = {.num_queues = QUEUES, .queue_size = 128}, none = {0};
    int fd;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    say(s, VHOST_USER_GET_INFLIGHT_FD, 0, &none, VHOST_USER_INFLIGHT_BYTES, -1);
    assert_int_equal(heard_inflight(s, &none, VHOST_USER_INFLIGHT_BYTES), -1);
    say(s, VHOST_USER_GET_INFLIGHT_FD, 0, &a, sizeof(a), -1); /* the whole struct is fine as well */
    fd = heard_inflight(s, &a, sizeof(a));
    assert_true(fd >= 0);
    assert_true(ok(s, VHOST_USER_SET_INFLIGHT_FD, &a, VHOST_USER_INFLIGHT_BYTES, fd));
    assert_int_equal(s->inflights, 1);
    start_ring(s);
    assert_false(ok(s, VHOST_USER_SET_INFLIGHT_FD, &a, sizeof(a), fd));
    assert_int_equal(s->inflights, 1);
    close(fd);
}

static void a_client_is_told_of_changes_and_never_waited_for(void **state)
{
    struct stub *s = *state;
    struct order o = {.s = s};
    static const struct vhost_user_header want = {VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
                                                  VHOST_USER_VERSION, 0};
    struct vhost_user_header h;
    int pair[2], small = 1, error = eventfd(0, EFD_CLOEXEC), many = 0;
    uint64_t errors = 0;
    struct pollfd p;

    agree(s);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    assert_false(ok(s, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, s->event));
    assert_true(ok(s, VHOST_USER_SET_BACKEND_REQ_FD, NULL, 0, pair[1]));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_ERR, 0, error));
    close(pair[1]);
    post(&o, do_config_changed); /* a thousand times, and nobody reads */
    assert_int_equal(get(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_int_equal(read(error, &errors, sizeof(errors)), sizeof(errors));
    assert_true(errors >= 1);
    assert_int_equal(send(pair[0], "nonsense nobody asked for", 25, 0), 25);
    p = (struct pollfd){.fd = pair[0], .events = POLLIN};
    while (poll(&p, 1, 200) == 1) {
        assert_int_equal(recv(pair[0], &h, sizeof(h), MSG_WAITALL), sizeof(h));
        assert_memory_equal(&h, &want, sizeof(h));
        many++;
    }
    assert_true(many >= 1 && many < 1000);
    close(pair[0]); /* its end is no reason to end the main connection */
    usleep(20000);
    post(&o, do_config_changed);
    assert_int_equal(get(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    close(error);
}

static void the_next_client_comes_when_all_of_the_last_one_is_gone(void **state)
{
    struct stub *s = *state;
    struct order o = {.s = s};
    struct vhost_user_queue q;
    int second;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    start_ring(s);
    second = s->client;
    s->client = connect_client(s);
    assert_true(closed(s)); /* one at a time */
    fd_close(&s->client);
    s->client = second;
    s->hold = true;
    fd_close(&s->client);
    s->client = connect_client(s);
    say(s, VHOST_USER_GET_QUEUE_NUM, 0, NULL, 0, -1);
    assert_true(silent(s));
    assert_int_equal(s->disconnects, 1);
    assert_int_equal(s->removed, 1);
    post(&o, do_detach);
    assert_true(silent(s)); /* the reset is not over */
    post(&o, do_reset_done);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_QUEUE_NUM), QUEUES);
    assert_false(vhost_user_queue_get(s->vh, 1, &q));
    assert_int_equal(vhost_user_call_fd(s->vh, 1), -1);
    agree(s);
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event));
    assert_int_equal(s->connects, 2);
    s->hold = false;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_offered),
        TEST(replies_are_for_those_who_asked_and_agreed),
        TEST(a_message_may_come_in_pieces_and_several_in_one),
        TEST(what_is_no_message_ends_the_connection),
        TEST(a_ring_is_told_by_guest_addresses_and_stops_when_it_is_drained),
        TEST(rings_run_at_once_for_a_client_without_protocol_features),
        TEST(what_is_wrong_with_a_ring_keeps_it_stopped),
        TEST(packed_rings_have_sizes_and_positions_of_their_own),
        TEST(features_that_are_not_offered_start_nothing),
        TEST(memory_that_is_taken_away_is_waited_for),
        TEST(a_memory_table_is_the_difference_to_the_last_one),
        TEST(a_ring_nobody_stops_ends_the_connection),
        TEST(a_reset_stops_all_and_is_waited_for),
        TEST(configuration_is_answered_in_the_size_asked_for),
        TEST(an_inflight_area_goes_to_the_client_and_comes_back),
        TEST(a_client_is_told_of_changes_and_never_waited_for),
        TEST(the_next_client_comes_when_all_of_the_last_one_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
