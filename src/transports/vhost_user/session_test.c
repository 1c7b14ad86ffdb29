/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Messages, memory, resets, configuration and the coming and going of clients. */
#include "transports/vhost_user/test_client.h"

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
    say(s, VHOST_USER_RESET_DEVICE, VHOST_USER_F_NEED_REPLY, NULL, 0, -1);
    say(s, VHOST_USER_GET_STATUS, 0, NULL, 0, -1);
    assert_true(silent(s));
    assert_int_equal(s->resets, 1);
    post(&o, do_reset_done);
    assert_int_equal(heard_u64(s, VHOST_USER_RESET_DEVICE), 0);
    assert_int_equal(heard_u64(s, VHOST_USER_GET_STATUS), 0);
    assert_int_equal(s->stops, 0);
    assert_false(ok_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event)); /* all is forgotten */

    /* Nobody does it: the client is told, and no ring starts before it is over. */
    assert_false(ok(s, VHOST_USER_SET_STATUS, &zero, sizeof(zero), -1));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_offered),
        TEST(replies_are_for_those_who_asked_and_agreed),
        TEST(a_message_may_come_in_pieces_and_several_in_one),
        TEST(what_is_no_message_ends_the_connection),
        TEST(memory_that_is_taken_away_is_waited_for),
        TEST(a_memory_table_is_the_difference_to_the_last_one),
        TEST(a_reset_stops_all_and_is_waited_for),
        TEST(configuration_is_answered_in_the_size_asked_for),
        TEST(an_inflight_area_goes_to_the_client_and_comes_back),
        TEST(a_client_is_told_of_changes_and_never_waited_for),
        TEST(the_next_client_comes_when_all_of_the_last_one_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
