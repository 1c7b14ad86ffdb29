/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Framing and order: a client on a real socket, a function made of stubs. */
#include "base/fd.h"
#include "spec/vfio_user.h"
#include "transports/vfio_user/vfio_user.h"

#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

struct stub {
    char dir[64], path[96];
    struct reactor *reactor;
    struct pci_function *pci;
    struct vfio_user *vu;
    int client, map_fd;
    _Atomic int added, removed, resets, disconnects;
    _Atomic uint32_t last_write, removed_id;
    _Atomic bool hold; /* answer LATER */
};

/* ---- the function ---- */

static void connected(void *dev, bool mapped)
{
}

static enum vfio_user_answer disconnected(void *dev)
{
    ((struct stub *)dev)->disconnects++;
    return VFIO_USER_DONE;
}

static void dma_added(void *dev, const struct vfio_user_dma *dma)
{
    ((struct stub *)dev)->added++;
}

static enum vfio_user_answer dma_removed(void *dev, const struct vfio_user_dma *dma)
{
    struct stub *s = dev;

    s->removed_id = dma->id;
    s->removed++;
    return s->hold ? VFIO_USER_LATER : VFIO_USER_DONE;
}

static void unmap_expired(void *dev)
{
}

static void irqs_changed(void *dev, unsigned start, unsigned count)
{
}

static enum vfio_user_answer reset(void *dev)
{
    struct stub *s = dev;

    s->resets++;
    return s->hold ? VFIO_USER_LATER : VFIO_USER_DONE;
}

static enum vfio_user_answer config_written(void *dev, unsigned events)
{
    return VFIO_USER_DONE;
}

static void bar_read(void *dev, unsigned bar, uint64_t offset, void *buf, size_t len)
{
    memset(buf, (int)(offset & 0xff), len);
}

static void bar_write(void *dev, unsigned bar, uint64_t offset, const void *buf, size_t len)
{
    uint32_t v = 0;

    memcpy(&v, buf, len < 4 ? len : 4);
    ((struct stub *)dev)->last_write = v;
}

static const struct vfio_user_ops ops = {connected,     disconnected, dma_added, dma_removed,
                                         unmap_expired, irqs_changed, reset,     config_written,
                                         bar_read,      bar_write};

static int setup(void **state)
{
    struct stub *s = calloc(1, sizeof(*s));
    struct pci_layout layout = {.vendor_id = 0x1234,
                                .vuid = "V",
                                .model = "M",
                                .bar = {[0] = {8192, true}, [4] = {4096, false}},
                                .msix_vectors = 4,
                                .msix_bar = 4};
    struct vfio_user_opts o = {.name = "test",
                               .ops = &ops,
                               .dev = s,
                               .bar_bytes = {[0] = 8192, [4] = 4096},
                               .msix_bar = 4,
                               .map_offset = 4096,
                               .map_bytes = 4096};
    struct err err = {0};

    strcpy(s->dir, "/tmp/vfio-user-test-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    snprintf(s->path, sizeof(s->path), "%s/cntrl", s->dir);
    s->map_fd = fd_memfd("map", 8192);
    s->reactor = reactor_create("test", &err);
    s->pci = pci_function_create(&layout, &err);
    o.path = s->path;
    o.reactor = s->reactor;
    o.pci = s->pci;
    o.map_fd = s->map_fd;
    s->vu = vfio_user_create(&o, &err);
    assert_non_null(s->vu);
    assert_int_equal(fd_unix_connect(s->path, SOCK_STREAM, &err),
                     -ECONNREFUSED); /* bound, not listening */
    assert_int_equal(vfio_user_listen(s->vu, &err), 0);
    assert_int_equal(reactor_spawn(s->reactor, -1, &err), 0);
    s->client = fd_unix_connect(s->path, SOCK_STREAM, &err);
    assert_true(s->client >= 0);
    setsockopt(s->client, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct stub *s = *state;

    fd_close(&s->client);
    reactor_stop(s->reactor);
    reactor_join(s->reactor);
    vfio_user_destroy(s->vu);
    pci_function_destroy(s->pci);
    reactor_destroy(s->reactor);
    fd_close(&s->map_fd);
    assert_int_equal(rmdir(s->dir), 0); /* the socket is gone */
    free(s);
    return 0;
}

/* ---- the client ---- */

static size_t frame(uint8_t *out, uint16_t id, uint16_t command, uint32_t flags,
                    const void *payload, size_t len)
{
    struct vfio_user_header h = {id, command, (uint32_t)(sizeof(h) + len), flags, 0};

    memcpy(out, &h, sizeof(h));
    if (len)
        memcpy(out + sizeof(h), payload, len);
    return sizeof(h) + len;
}

static void put(struct stub *s, const void *buf, size_t len, const int *fds, unsigned nfds)
{
    assert_int_equal(fd_send(s->client, buf, len, fds, nfds), len);
}

static void ask(struct stub *s, uint16_t id, uint16_t command, const void *payload, size_t len)
{
    uint8_t buf[4096];

    put(s, buf, frame(buf, id, command, 0, payload, len), NULL, 0);
}

/* Reads one reply, checks its form, returns the error (0: none). */
static int answer(struct stub *s, uint16_t id, void *payload, size_t len)
{
    struct vfio_user_header h;

    assert_int_equal(recv(s->client, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.id, id);
    if (h.flags & VFIO_USER_F_ERROR) {
        assert_int_equal(h.flags, VFIO_USER_F_REPLY | VFIO_USER_F_ERROR);
        assert_int_equal(h.size, sizeof(h));
        return (int)h.error;
    }
    assert_int_equal(h.flags, VFIO_USER_F_REPLY);
    assert_int_equal(h.size - sizeof(h), len);
    if (len)
        assert_int_equal(recv(s->client, payload, len, MSG_WAITALL), len);
    return 0;
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
    struct vfio_user_version v = {0, 0};
    struct vfio_user_header h;
    char rest[512];

    ask(s, 1, VFIO_USER_VERSION, &v, sizeof(v));
    assert_int_equal(recv(s->client, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.flags, VFIO_USER_F_REPLY);
    assert_true(h.size - sizeof(h) < sizeof(rest));
    assert_int_equal(recv(s->client, rest, h.size - sizeof(h), MSG_WAITALL), h.size - sizeof(h));
    assert_int_equal(rest[h.size - sizeof(h) - 1], 0);
    assert_non_null(strstr(rest + 4, "\"max_msg_fds\":16"));
}

static const struct vfio_user_device_info info = {.argsz = sizeof(info)};

/* ---- tests ---- */

static void a_message_may_come_byte_by_byte(void **state)
{
    struct stub *s = *state;
    struct vfio_user_device_info got;
    uint8_t buf[64];
    size_t n = frame(buf, 7, VFIO_USER_DEVICE_GET_INFO, 0, &info, sizeof(info));

    agree(s);
    for (size_t i = 0; i < n; i++) {
        put(s, buf + i, 1, NULL, 0);
        usleep(200);
    }
    assert_int_equal(answer(s, 7, &got, sizeof(got)), 0);
    assert_int_equal(got.num_regions, 9);
}

static void many_messages_in_one_write_are_answered_in_order(void **state)
{
    struct stub *s = *state;
    struct vfio_user_device_info got;
    uint8_t buf[200 * 32];
    size_t n = 0;

    agree(s);
    for (uint16_t id = 0; id < 200; id++)
        n += frame(buf + n, id, VFIO_USER_DEVICE_GET_INFO, id % 2 ? VFIO_USER_F_NO_REPLY : 0, &info,
                   sizeof(info));
    put(s, buf, n, NULL, 0);
    for (uint16_t id = 0; id < 200; id += 2)
        assert_int_equal(answer(s, id, &got, sizeof(got)), 0);
    assert_true(silent(s));
}

static void a_descriptor_belongs_to_the_message_of_its_first_byte(void **state)
{
    struct stub *s = *state;
    struct vfio_user_dma_map map = {
        .argsz = sizeof(map), .flags = 3, .iova = 0x10000, .size = 8192};
    struct vfio_user_device_info got;
    uint8_t buf[256];
    size_t n = frame(buf, 2, VFIO_USER_DMA_MAP, 0, &map, sizeof(map));
    size_t first = n;

    agree(s);
    n += frame(buf + n, 3, VFIO_USER_DEVICE_GET_INFO, 0, &info, sizeof(info));
    put(s, buf, 1, &s->map_fd, 1);
    usleep(1000);
    put(s, buf + 1, n - 1, NULL, 0);
    assert_int_equal(answer(s, 2, NULL, 0), 0);
    assert_int_equal(answer(s, 3, &got, sizeof(got)), 0);
    assert_int_equal(s->added, 1);
    /* And the next one: its descriptor comes in a read that begins with another message. */
    map.iova = 0x20000;
    n = frame(buf, 4, VFIO_USER_DEVICE_GET_INFO, 0, &info, sizeof(info));
    put(s, buf, n, NULL, 0);
    first = frame(buf, 5, VFIO_USER_DMA_MAP, 0, &map, sizeof(map));
    put(s, buf, first, &s->map_fd, 1);
    assert_int_equal(answer(s, 4, &got, sizeof(got)), 0);
    assert_int_equal(answer(s, 5, NULL, 0), 0);
    assert_int_equal(s->added, 2);
}

struct detach_mail {
    struct mail mail;
    struct stub *s;
};

static void detach(struct mail *m)
{
    struct stub *s = container_of(m, struct detach_mail, mail)->s;

    vfio_user_dma_detached(s->vu, s->removed_id);
}

static void reset_over(struct mail *m)
{
    vfio_user_reset_done(container_of(m, struct detach_mail, mail)->s->vu);
}

static void what_waits_holds_up_its_own_socket_only_and_keeps_the_order(void **state)
{
    struct stub *s = *state;
    struct vfio_user_dma_map map = {
        .argsz = sizeof(map), .flags = 3, .iova = 0x10000, .size = 8192};
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = 0x10000, .size = 8192},
                               echo;
    struct vfio_user_device_info got;
    struct detach_mail mail = {.mail.fn = detach, .s = s};
    uint8_t buf[256];

    agree(s);
    put(s, buf, frame(buf, 2, VFIO_USER_DMA_MAP, 0, &map, sizeof(map)), &s->map_fd, 1);
    assert_int_equal(answer(s, 2, NULL, 0), 0);
    s->hold = true;
    ask(s, 3, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap));
    ask(s, 4, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info));
    assert_true(silent(s));
    reactor_post(s->reactor, &mail.mail);
    assert_int_equal(answer(s, 3, &echo, sizeof(echo)), 0);
    assert_memory_equal(&echo, &unmap, sizeof(echo));
    assert_int_equal(answer(s, 4, &got, sizeof(got)), 0);
    ask(s, 5, VFIO_USER_DEVICE_RESET, NULL, 0);
    assert_true(silent(s));
    mail.mail.fn = reset_over;
    reactor_post(s->reactor, &mail.mail);
    assert_int_equal(answer(s, 5, NULL, 0), 0);
    assert_int_equal(s->resets, 1);
}

static void a_stranded_unmap_is_answered_with_an_error(void **state)
{
    struct stub *s = *state;
    struct vfio_user_dma_map map = {
        .argsz = sizeof(map), .flags = 3, .iova = 0x10000, .size = 8192};
    struct vfio_user_dma_unmap unmap = {.argsz = sizeof(unmap), .iova = 0x10000, .size = 8192};
    uint8_t buf[256];

    agree(s);
    put(s, buf, frame(buf, 2, VFIO_USER_DMA_MAP, 0, &map, sizeof(map)), &s->map_fd, 1);
    assert_int_equal(answer(s, 2, NULL, 0), 0);
    s->hold = true;
    ask(s, 3, VFIO_USER_DMA_UNMAP, &unmap, sizeof(unmap));
    assert_int_equal(answer(s, 3, NULL, 0), ETIMEDOUT);
    ask(s, 4, VFIO_USER_DMA_UNMAP, &unmap, 8);
    assert_int_equal(answer(s, 4, NULL, 0), EINVAL);
}

static void sizes_that_lie(void **state)
{
    static uint8_t big[100000];
    struct stub *s = *state;
    struct vfio_user_header h = {9, VFIO_USER_REGION_WRITE, sizeof(h) + sizeof(big), 0, 0};
    struct vfio_user_region_access a = {0x14, 0, 4};
    uint8_t buf[64], data[20];

    agree(s);
    put(s, &h, sizeof(h), NULL,
        0); /* longer than anything we serve: dropped, refused, and the stream goes on */
    for (size_t done = 0; done < sizeof(big);) {
        ssize_t n = send(s->client, big + done, sizeof(big) - done, 0);

        assert_true(n > 0);
        done += (size_t)n;
    }
    assert_int_equal(answer(s, 9, NULL, 0), EINVAL);
    ask(s, 10, VFIO_USER_REGION_READ, &a, sizeof(a));
    assert_int_equal(answer(s, 10, data, sizeof(data)), 0);
    assert_int_equal(data[16], 0x14);
    memcpy(data, &a, sizeof(a));
    ask(s, 11, VFIO_USER_REGION_WRITE, data, 16 + 3); /* count says 4 */
    assert_int_equal(answer(s, 11, NULL, 0), EINVAL);
    assert_int_equal(s->last_write, 0);
    h.size = 15;
    memcpy(buf, &h, sizeof(h));
    put(s, buf, sizeof(h), NULL, 0);
    assert_int_equal(answer(s, 9, NULL, 0), EINVAL);
    assert_true(closed(s));
}

static void nothing_before_version(void **state)
{
    struct stub *s = *state;

    ask(s, 1, VFIO_USER_DEVICE_GET_INFO, &info, sizeof(info));
    assert_int_equal(answer(s, 1, NULL, 0), EINVAL);
    assert_true(closed(s));
    assert_int_equal(s->disconnects, 0);
}

static void a_client_that_leaves_is_noticed_while_a_message_waits(void **state)
{
    struct stub *s = *state;

    agree(s);
    s->hold = true;
    ask(s, 2, VFIO_USER_DEVICE_RESET, NULL, 0);
    assert_true(silent(s));
    fd_close(&s->client);
    for (int i = 0; i < 200 && s->disconnects == 0; i++)
        usleep(10000);
    assert_int_equal(s->disconnects, 1);
    s->hold = false;
    s->client = fd_unix_connect(s->path, SOCK_STREAM, NULL);
    agree(s);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(a_message_may_come_byte_by_byte),
        TEST(many_messages_in_one_write_are_answered_in_order),
        TEST(a_descriptor_belongs_to_the_message_of_its_first_byte),
        TEST(what_waits_holds_up_its_own_socket_only_and_keeps_the_order),
        TEST(a_stranded_unmap_is_answered_with_an_error),
        TEST(sizes_that_lie),
        TEST(nothing_before_version),
        TEST(a_client_that_leaves_is_noticed_while_a_message_waits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
