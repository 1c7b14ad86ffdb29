/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A host's virtqueues, as services are told of them: a whole snap_emu with one virtio-blk function
 * in a thread, a service and a front end made of sockets. */
#include "base/fd.h"
#include "emu/emu.h"
#include "spec/vhost_user.h"
#include "spec/virtio.h"

#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include <cmocka.h>

enum { MIB = 1 << 20, QUEUE_SIZE = 128 };
#define GPA 0x40000000ULL
#define USER 0x7f0000000000ULL
#define VUID "OSTESTTESTTEVBLKS0D0F0"

struct stub {
    struct emu emu;
    char path[160];
    int service, host, mem_fd, event;
    struct state_memory *st;
    size_t state_bytes;
};

/* ---- the service ---- */

static void say(struct stub *s, const struct link_msg *msg)
{
    assert_int_equal(fd_send(s->service, msg, sizeof(*msg), NULL, 0), sizeof(*msg));
}

/* The next packet; *fd (NULL: not wanted) gets its first descriptor or -1. */
static struct link_msg heard(struct stub *s, int *fd)
{
    int fds[LINK_MAX_FDS];
    struct link_msg msg;
    unsigned nfds;

    assert_int_equal(fd_recv(s->service, &msg, sizeof(msg), fds, LINK_MAX_FDS, &nfds), sizeof(msg));
    if (fd)
        *fd = nfds ? fds[0] : -1;
    for (unsigned i = fd ? 1 : 0; i < nfds; i++)
        close(fds[i]);
    return msg;
}

/* Functions change all the time; their news are not what is looked at here. */
static struct link_msg heard_of(struct stub *s, enum link_type type)
{
    struct link_msg msg;

    do
        msg = heard(s, NULL);
    while (msg.type == LINK_FUNCTION || msg.type == LINK_FLAGS);
    assert_int_equal(msg.type, type);
    return msg;
}

static void service_come(struct stub *s)
{
    int fds[4], fence[2];
    struct link_msg msg = {.type = LINK_HELLO, .cookie = 1};

    snprintf(s->path, sizeof(s->path), "%s/emu.sock", s->emu.run_dir);
    s->service = fd_unix_connect(s->path, SOCK_SEQPACKET, NULL);
    assert_true(s->service >= 0);
    setsockopt(s->service, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0},
               sizeof(struct timeval));
    assert_int_equal(pipe(fence), 0);
    fds[0] = (int)syscall(SYS_pidfd_open, getpid(), 0);
    fds[1] = fence[0];
    fds[2] = fd_memfd("wake", sizeof(struct wake_page));
    fds[3] = eventfd(0, EFD_CLOEXEC);
    msg.hello.version = LINK_VERSION;
    msg.hello.reactors = 1;
    msg.hello.pid = (uint32_t)getpid();
    assert_int_equal(fd_send(s->service, &msg, sizeof(msg), fds, 4), sizeof(msg));
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    close(fence[1]);
    while (heard(s, NULL).type != LINK_READY)
        ;
}

/* Asks for the lease; the state memory is mapped. What comes between LINK_OPENED and LINK_SYNCED is
 * left to the caller. */
static void service_open(struct stub *s)
{
    struct link_msg msg = {.type = LINK_OPEN, .cookie = 2};
    int fd;

    snprintf(msg.open.ctrl_id, sizeof(msg.open.ctrl_id), "Blk1");
    say(s, &msg);
    do
        msg = heard(s, &fd);
    while (msg.type == LINK_FUNCTION);
    assert_int_equal(msg.type, LINK_OPENED);
    assert_int_equal(msg.rc, 0);
    if (s->st)
        munmap(s->st, s->state_bytes);
    s->state_bytes = sizeof(struct state_memory);
    s->st = mmap(NULL, s->state_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(s->st != MAP_FAILED);
    close(fd);
}

static void service_leave(struct stub *s)
{
    struct link_msg msg = {.type = LINK_RELEASE, .cookie = 9};

    say(s, &msg);
    heard_of(s, LINK_RELEASED);
    fd_close(&s->service);
}

/* A controller has been made. */
static void service_start(struct stub *s)
{
    struct link_msg msg = {.type = LINK_START};

    service_open(s);
    while (heard(s, NULL).type != LINK_SYNCED)
        ;
    atomic_store(&s->st->svc.features, VIRTIO_F_VERSION_1 | VIRTIO_BLK_F_FLUSH);
    atomic_store(&s->st->svc.queues, 4);
    atomic_store(&s->st->svc.queue_size, QUEUE_SIZE);
    atomic_store(&s->st->svc.reg_mask[8], 0xff);
    atomic_store(&s->st->svc.reg_dev[0], 2048);
    atomic_store(&s->st->svc.initialized, 1);
    say(s, &msg);
}

/* ---- the host ---- */

static uint64_t ask(struct stub *s, uint32_t request, const void *payload, uint32_t len, int fd)
{
    struct vhost_user_header h = {request, VHOST_USER_VERSION | VHOST_USER_F_NEED_REPLY, len};
    uint8_t buf[512];
    uint64_t v = 0;

    memcpy(buf, &h, sizeof(h));
    memcpy(buf + sizeof(h), payload, len);
    assert_int_equal(fd_send(s->host, buf, sizeof(h) + len, &fd, fd >= 0), sizeof(h) + len);
    if (request == VHOST_USER_GET_VRING_BASE)
        return 0;
    assert_int_equal(recv(s->host, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.request, request);
    assert_true(h.size <= sizeof(buf));
    assert_int_equal(recv(s->host, buf, h.size, MSG_WAITALL), h.size);
    memcpy(&v, buf, h.size < sizeof(v) ? h.size : sizeof(v));
    return v;
}

static void ask_u64(struct stub *s, uint32_t request, uint64_t v, int fd)
{
    assert_int_equal(ask(s, request, &v, sizeof(v), fd), 0);
}

static void ask_ring(struct stub *s, uint32_t request, uint32_t num)
{
    struct vhost_user_vring_state st = {1, num};

    assert_int_equal(ask(s, request, &st, sizeof(st), -1), 0);
}

static void host_come(struct stub *s)
{
    char path[160];

    snprintf(path, sizeof(path), "%s/functions/" VUID "/vhost.sock", s->emu.run_dir);
    for (int i = 0; i < 500 && (s->host = fd_unix_connect(path, SOCK_STREAM, NULL)) < 0; i++)
        usleep(10000);
    assert_true(s->host >= 0);
    setsockopt(s->host, SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    /* Without a reply: REPLY_ACK is not agreed on before. */
    {
        uint64_t v = 1 << VHOST_USER_PROTOCOL_F_REPLY_ACK | 1 << VHOST_USER_PROTOCOL_F_BACKEND_REQ;
        struct vhost_user_header h = {VHOST_USER_SET_PROTOCOL_FEATURES, VHOST_USER_VERSION, 8};
        uint8_t buf[20];

        memcpy(buf, &h, 12);
        memcpy(buf + 12, &v, 8);
        assert_int_equal(send(s->host, buf, 20, 0), 20);
    }
    ask_u64(s, VHOST_USER_SET_FEATURES, VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES, -1);
}

static void host_start_ring(struct stub *s)
{
    struct vhost_user_mem_one one = {.region = {GPA, MIB, USER, 0}};
    struct vhost_user_vring_addr a = {
        .index = 1, .desc = USER, .avail = USER + 0x1000, .used = USER + 0x2000};

    assert_int_equal(ask(s, VHOST_USER_ADD_MEM_REG, &one, sizeof(one), s->mem_fd), 0);
    ask_ring(s, VHOST_USER_SET_VRING_NUM, QUEUE_SIZE);
    ask_ring(s, VHOST_USER_SET_VRING_BASE, 5);
    assert_int_equal(ask(s, VHOST_USER_SET_VRING_ADDR, &a, sizeof(a), -1), 0);
    ask_u64(s, VHOST_USER_SET_VRING_CALL, 1, s->event);
    ask_u64(s, VHOST_USER_SET_VRING_KICK, 1, s->event);
    ask_ring(s, VHOST_USER_SET_VRING_ENABLE, 1);
}

static uint32_t host_heard_base(struct stub *s)
{
    struct vhost_user_vring_state st;
    struct vhost_user_header h;

    assert_int_equal(recv(s->host, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.request, VHOST_USER_GET_VRING_BASE);
    assert_int_equal(recv(s->host, &st, sizeof(st), MSG_WAITALL), sizeof(st));
    return st.num;
}

static bool host_silent(struct stub *s)
{
    struct pollfd p = {.fd = s->host, .events = POLLIN};

    return poll(&p, 1, 100) == 0;
}

/* ---- snap_emu ---- */

static int setup(void **state)
{
    struct stub *s = calloc(1, sizeof(*s));
    struct topology_kind *blk = &s->emu.topology.virtio_blk;
    struct err err = {0};

    topology_default(&s->emu.topology);
    s->emu.topology.nvme.enable = 0;
    blk->num_pf = 1;
    blk->num_vf = 0;
    memcpy(s->emu.topology.serial, VUID, 12);
    strcpy(s->emu.run_dir, "/tmp/emu-test-XXXXXX");
    assert_non_null(mkdtemp(s->emu.run_dir));
    list_init(&s->emu.services);
    s->emu.reactor = reactor_create("emu", &err);
    s->emu.keepsakes = keepsakes_create();
    assert_int_equal(functions_create(&s->emu, &err), 0);
    s->emu.holders = holders_create(&s->emu, &err);
    s->emu.server = link_server_create(&s->emu, &err);
    assert_non_null(s->emu.server);
    assert_int_equal(reactor_spawn(s->emu.reactor, -1, &err), 0);
    s->host = s->service = -1;
    s->mem_fd = fd_memfd("mem", MIB);
    s->event = eventfd(0, EFD_CLOEXEC);
    service_come(s);
    service_start(s);
    host_come(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct stub *s = *state;
    char command[128];

    fd_close(&s->host);
    fd_close(&s->service);
    reactor_stop(s->emu.reactor);
    reactor_join(s->emu.reactor);
    link_server_destroy(s->emu.server);
    s->emu.server = NULL;
    functions_destroy(&s->emu);
    while (!list_empty(&s->emu.services))
        service_free(list_entry(s->emu.services.next, struct service, node));
    holders_destroy(s->emu.holders);
    keepsakes_destroy(s->emu.keepsakes);
    reactor_destroy(s->emu.reactor);
    munmap(s->st, s->state_bytes);
    fd_close(&s->mem_fd);
    fd_close(&s->event);
    snprintf(command, sizeof(command), "rm -r %s", s->emu.run_dir);
    assert_int_equal(system(command), 0);
    free(s);
    return 0;
}

/* ---- tests ---- */

static void check_queue(const struct link_msg *msg, uint32_t flags)
{
    assert_int_equal(msg->queue.index, 1);
    assert_int_equal(msg->queue.flags, flags);
    assert_int_equal(msg->queue.size, QUEUE_SIZE);
    assert_int_equal(msg->queue.base, 5);
    assert_true(msg->queue.features == VIRTIO_F_VERSION_1);
    assert_true(msg->queue.desc_gpa == GPA);
    assert_true(msg->queue.driver_gpa == GPA + 0x1000);
    assert_true(msg->queue.device_gpa == GPA + 0x2000);
}

/* Reads what a ring's start brings; returns the start's number. */
static uint32_t heard_start(struct stub *s)
{
    struct link_msg msg;

    msg = heard_of(s, LINK_MEM_ADD);
    assert_true(msg.mem.gpa == GPA && msg.mem.size_bytes == MIB);
    msg = heard_of(s, LINK_IRQ);
    assert_int_equal(msg.irq.start, 1);
    msg = heard_of(s, LINK_QUEUE);
    check_queue(&msg, 0);
    msg = heard_of(s, LINK_QUEUE);
    check_queue(&msg, LINK_QUEUE_RUN);
    return msg.queue.start;
}

static void the_holder_hears_of_every_change(void **state)
{
    struct stub *s = *state;
    struct link_msg msg, answer = {.type = LINK_QUEUE_STOPPED};
    struct vhost_user_vring_state st = {1, 0};
    uint32_t start;

    host_start_ring(s);
    start = heard_start(s);
    assert_true(start != 0);
    assert_int_equal(atomic_load(&s->st->emu.flags),
                     STATE_HOST_CONNECTED | STATE_BUS_MASTER | STATE_POWERED);
    ask(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st), -1);
    msg = heard_of(s, LINK_QUEUE);
    check_queue(&msg, LINK_QUEUE_STOP);
    assert_int_equal(msg.queue.start, start);
    answer.cookie = msg.cookie + 1; /* somebody else's */
    answer.queue.index = 1;
    answer.queue.base = 77;
    say(s, &answer);
    assert_true(host_silent(s));
    answer.cookie = msg.cookie;
    say(s, &answer);
    assert_int_equal(host_heard_base(s), 77);
    msg = heard_of(s, LINK_IRQ); /* its call eventfd is gone */
    assert_int_equal(msg.irq.start, 1);
    assert_int_equal(msg.irq.count, 1);
}

static void a_new_holder_gets_all_there_is_in_order(void **state)
{
    struct stub *s = *state;
    struct vhost_user_inflight area = {MIB, 0, 4, QUEUE_SIZE, 0};
    struct link_msg msg;
    uint32_t start;
    int fd;

    assert_int_equal(
        ask(s, VHOST_USER_SET_INFLIGHT_FD, &area, VHOST_USER_INFLIGHT_BYTES, s->mem_fd), 0);
    msg = heard_of(s, LINK_INFLIGHT);
    assert_int_equal(msg.inflight.queues, 4);
    host_start_ring(s);
    start = heard_start(s);
    service_leave(s);
    ask_ring(s, VHOST_USER_SET_VRING_ENABLE, 0); /* nobody is there to hear it */
    service_come(s);
    service_open(s);
    heard_of(s, LINK_MEM_ADD);
    do
        msg = heard(s, NULL);
    while (msg.type == LINK_IRQ || msg.type == LINK_FUNCTION || msg.type == LINK_FLAGS);
    assert_int_equal(msg.type, LINK_INFLIGHT);
    assert_int_equal(msg.inflight.queue_size, QUEUE_SIZE);
    do
        msg = heard(s, &fd);
    while (msg.type == LINK_FUNCTION);
    assert_int_equal(msg.type, LINK_QUEUE);
    assert_true(fd >= 0); /* its kick */
    close(fd);
    check_queue(&msg, 0);
    assert_int_equal(msg.queue.start, start);
    heard_of(s, LINK_SYNCED);
}

static void a_stop_that_nobody_answered_goes_to_the_next_holder(void **state)
{
    struct stub *s = *state;
    struct link_msg msg, answer = {.type = LINK_QUEUE_STOPPED};
    struct vhost_user_vring_state st = {1, 0};
    uint32_t start;

    host_start_ring(s);
    start = heard_start(s);
    ask(s, VHOST_USER_GET_VRING_BASE, &st, sizeof(st), -1);
    heard_of(s, LINK_QUEUE);
    service_leave(s);
    assert_true(host_silent(s));
    service_come(s);
    service_open(s);
    do
        msg = heard(s, NULL);
    while (msg.type != LINK_QUEUE);
    check_queue(&msg, 0); /* it exists, and does not run */
    assert_int_equal(msg.queue.start, start);
    heard_of(s, LINK_SYNCED);
    msg = heard_of(s, LINK_QUEUE);
    check_queue(&msg, LINK_QUEUE_STOP);
    answer.cookie = msg.cookie;
    answer.queue.index = 1;
    answer.queue.base = 6;
    say(s, &answer);
    assert_int_equal(host_heard_base(s), 6);
}

static void configuration_and_status_go_through_the_state_memory(void **state)
{
    struct stub *s = *state;
    struct vhost_user_config c = {.offset = 32, .size = 1, .data = {1}};
    struct link_msg msg = {.type = LINK_CONFIG_CHANGED};
    int pair[2], error = eventfd(0, EFD_CLOEXEC);
    struct vhost_user_header h;
    struct pollfd p = {.fd = error, .events = POLLIN};
    uint64_t n;

    assert_int_equal(ask(s, VHOST_USER_SET_CONFIG, &c, 13, -1), 0);
    assert_int_equal(atomic_load(&s->st->emu.reg_host[8]), 1);
    assert_int_equal(atomic_load(&s->st->emu.log_tail), 1);
    assert_int_equal(s->st->log[0].offset, 32);
    assert_int_equal(s->st->log[0].size, 1);

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){5, 0}, sizeof(struct timeval));
    assert_int_equal(ask(s, VHOST_USER_SET_BACKEND_REQ_FD, "", 0, pair[1]), 0);
    ask_u64(s, VHOST_USER_SET_VRING_ERR, 0, error);
    say(s, &msg);
    assert_int_equal(recv(pair[0], &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(h.request, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
    assert_int_equal(poll(&p, 1, 0), 0); /* nothing is broken */
    atomic_store(&s->st->svc.status, VIRTIO_STATUS_NEEDS_RESET);
    say(s, &msg);
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_int_equal(read(error, &n, sizeof(n)), sizeof(n));
    assert_int_equal(ask(s, VHOST_USER_GET_STATUS, "", 0, -1), VIRTIO_STATUS_NEEDS_RESET);
    close(pair[0]);
    close(pair[1]);
    close(error);
}

static void a_reset_is_the_holders_or_is_done_alone(void **state)
{
    struct stub *s = *state;
    struct link_msg msg, answer = {.type = LINK_RESET_DONE};
    struct vhost_user_header h = {VHOST_USER_RESET_DEVICE,
                                  VHOST_USER_VERSION | VHOST_USER_F_NEED_REPLY, 0};
    uint64_t ack = 1;

    host_start_ring(s);
    heard_start(s);
    assert_int_equal(send(s->host, &h, sizeof(h), 0), sizeof(h));
    msg = heard_of(s, LINK_RESET);
    assert_int_equal(msg.reset.why, FUNCTION_RESET_STATUS);
    assert_int_equal(msg.reset.epoch, 2);
    assert_true(host_silent(s));
    answer.cookie = msg.cookie;
    answer.reset.epoch = 2;
    say(s, &answer);
    assert_int_equal(recv(s->host, &h, sizeof(h), MSG_WAITALL), sizeof(h));
    assert_int_equal(recv(s->host, &ack, sizeof(ack), MSG_WAITALL), sizeof(ack));
    assert_int_equal(ack, 0);
    assert_int_equal(atomic_load(&s->st->emu.epoch), 2);

    service_leave(s);
    assert_int_equal(ask(s, VHOST_USER_RESET_DEVICE, "", 0, -1), 0);
    assert_int_equal(atomic_load(&s->st->emu.epoch), 3);
    service_come(s);
    service_open(s);
    do {
        msg = heard(s, NULL);
        assert_int_not_equal(msg.type, LINK_QUEUE); /* of an epoch that is over */
    } while (msg.type != LINK_SYNCED);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_holder_hears_of_every_change),
        TEST(a_new_holder_gets_all_there_is_in_order),
        TEST(a_stop_that_nobody_answered_goes_to_the_next_holder),
        TEST(configuration_and_status_go_through_the_state_memory),
        TEST(a_reset_is_the_holders_or_is_done_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
