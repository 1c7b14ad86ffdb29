/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Rings: how they start and stop, and what keeps them stopped. */
#include "transports/vhost_user/test_client.h"

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

static void status_0_stops_rings_where_they_are(void **state)
{
    struct stub *s = *state;
    struct order o = {.s = s, .index = 1, .base = 41};
    struct vhost_user_vring_state st = {1, 0};
    uint64_t zero = 0;

    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    start_ring(s);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_NUM, 2, 64));
    assert_true(ok_addr(s, 2, USER + 0x4000, USER + 0x5000, USER + 0x6000));
    assert_true(ok_u64(s, VHOST_USER_SET_VRING_KICK, 2, s->event));
    say(s, VHOST_USER_SET_STATUS, VHOST_USER_F_NEED_REPLY, &zero, sizeof(zero), -1);
    assert_true(silent(s));
    assert_int_equal(s->stops, 1); /* one after the other */
    post(&o, do_stopped);
    assert_int_equal(s->stops, 2);
    assert_int_equal(s->resets, 0);
    o.index = 2;
    o.base = 42;
    post(&o, do_stopped);
    assert_int_equal(heard_u64(s, VHOST_USER_SET_STATUS), 0);
    assert_int_equal(s->resets, 1);
    assert_true(ok_ring(s, VHOST_USER_SET_VRING_ENABLE, 1, 0));
    for (uint32_t i = 1; i <= 2; i++) { /* the client asks only now */
        st.index = i;
        say(s, VHOST_USER_GET_VRING_BASE, 0, &st, sizeof(st), -1);
        assert_int_equal(heard(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st)), sizeof(st));
        assert_int_equal(st.num, 40 + i);
    }
    assert_int_equal(s->stops, 2);
}

static void a_ring_nobody_works_on_stops_as_it_is(void **state)
{
    struct stub *s = *state;
    struct vhost_user_inflight a = {MIB, 0, QUEUES, QUEUE_SIZE, 0};
    struct vhost_user_vring_state st = {1, 0};
    const uint16_t version = 1;
    uint16_t found = 0;
    off_t at = offsetof(struct vhost_inflight_split, version);

    assert_int_equal(pwrite(s->mem_fd, &version, sizeof(version), at), sizeof(version));
    set_up_ring(s, FEATURES & ~VIRTIO_F_RING_PACKED);
    assert_true(ok(s, VHOST_USER_SET_INFLIGHT_FD, &a, VHOST_USER_INFLIGHT_BYTES, s->mem_fd));
    start_ring(s);
    s->nobody = true;
    assert_true(ok_u64(s, VHOST_USER_SET_STATUS, 0, -1));
    assert_int_equal(s->stops, 1);
    assert_true(s->kept);
    assert_int_equal(pread(s->mem_fd, &found, sizeof(found), at), sizeof(found));
    assert_int_equal(found, 1); /* the next start finds what was in flight */
    say(s, VHOST_USER_GET_VRING_BASE, 0, &st, sizeof(st), -1);
    assert_int_equal(heard(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st)), sizeof(st));

    /* An area that is set anew is of another driver. */
    assert_true(ok(s, VHOST_USER_SET_INFLIGHT_FD, &a, VHOST_USER_INFLIGHT_BYTES, s->mem_fd));
    assert_true(ok_u64(s, VHOST_USER_RESET_DEVICE, 0, -1));
    assert_false(s->kept);
    assert_int_equal(pread(s->mem_fd, &found, sizeof(found), at), sizeof(found));
    assert_int_equal(found, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_ring_is_told_by_guest_addresses_and_stops_when_it_is_drained),
        TEST(rings_run_at_once_for_a_client_without_protocol_features),
        TEST(what_is_wrong_with_a_ring_keeps_it_stopped),
        TEST(packed_rings_have_sizes_and_positions_of_their_own),
        TEST(features_that_are_not_offered_start_nothing),
        TEST(a_ring_nobody_stops_ends_the_connection),
        TEST(status_0_stops_rings_where_they_are),
        TEST(a_ring_nobody_works_on_stops_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
