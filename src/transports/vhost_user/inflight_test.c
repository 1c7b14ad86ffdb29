/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The in-flight area: what we make, and which areas of a client are taken. */
#include "base/fd.h"
#include "transports/vhost_user/inside.h"
#include "virtio/inflight.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned told;

static struct vhost_user_limits limits(void *dev)
{
    return (struct vhost_user_limits){.queues = 4, .queue_size = 256};
}

static void area_set(void *dev)
{
    told++;
}

static const struct vhost_user_ops ops = {.limits = limits, .inflight_set = area_set};

struct test {
    struct vhost_user vh;
    struct message m;
    struct reply r;
    struct err err;
};

static struct test *make(void)
{
    struct test *t = calloc(1, sizeof(*t));

    t->vh.o.ops = &ops;
    t->vh.inflight.fd = t->r.fd = -1;
    told = 0;
    return t;
}

static void drop(struct test *t)
{
    inflight_clear(&t->vh);
    fd_close(&t->r.fd);
    free(t);
}

static struct vhost_user_inflight get(struct test *t, uint16_t queues, uint16_t size)
{
    struct vhost_user_inflight a = {.num_queues = queues, .queue_size = size};

    fd_close(&t->r.fd);
    memcpy(t->m.payload, &a, sizeof(a));
    t->m.h.size = VHOST_USER_INFLIGHT_BYTES;
    assert_int_equal(inflight_get(&t->vh, &t->m, &t->r, &t->err), 0);
    assert_int_equal(t->r.len, VHOST_USER_INFLIGHT_BYTES);
    memcpy(&a, t->r.payload, VHOST_USER_INFLIGHT_BYTES);
    return a;
}

static int set(struct test *t, int file, uint64_t size, uint64_t offset, uint16_t queues,
               uint16_t queue_size)
{
    struct vhost_user_inflight a = {size, offset, queues, queue_size, 0};
    int rc, *fd = &t->vh.stream.fds[0];

    memcpy(t->m.payload, &a, sizeof(a));
    t->m.h.size = VHOST_USER_INFLIGHT_BYTES;
    t->vh.stream.nfds = file >= 0;
    *fd = file >= 0 ? dup(file) : -1;
    rc = inflight_set(&t->vh, &t->m, &t->r, &t->err);
    assert_int_equal(*fd < 0, rc == 0 || file < 0);
    fd_close(fd);
    return rc;
}

static void an_area_has_room_for_either_format_and_comes_back(void **state)
{
    struct test *t = make();
    struct vhost_user_inflight a = get(t, 4, 256);
    const struct vhost_user_inflight_area *kept;
    uint64_t zero = 0;

    assert_true(a.mmap_size >= 4 * virtq_inflight_stride(256));
    assert_int_equal(a.mmap_offset, 0);
    assert_int_equal(a.num_queues, 4);
    assert_true(fcntl(t->r.fd, F_GET_SEALS) & F_SEAL_SHRINK);
    for (off_t at = 0; at < (off_t)a.mmap_size; at += 8) {
        uint64_t v = 1;

        assert_int_equal(pread(t->r.fd, &v, 8, at), 8);
        assert_memory_equal(&v, &zero, 8);
    }
    assert_null(vhost_user_inflight(&t->vh));
    assert_int_equal(set(t, t->r.fd, a.mmap_size, 0, 4, 256), 0);
    kept = vhost_user_inflight(&t->vh);
    assert_non_null(kept);
    assert_int_equal(kept->queues, 4);
    assert_int_equal(kept->queue_size, 256);
    assert_true(kept->size_bytes == a.mmap_size);
    assert_int_equal(told, 1);
    drop(t);
}

static void none_is_made_beyond_the_limits(void **state)
{
    struct test *t = make();

    assert_int_equal(get(t, 5, 256).mmap_size, 0);
    assert_int_equal(get(t, 0, 256).mmap_size, 0);
    assert_int_equal(get(t, 4, 257).mmap_size, 0);
    assert_int_equal(get(t, 4, 0).mmap_size, 0);
    assert_int_equal(t->r.fd, -1);
    drop(t);
}

static void an_area_that_lies_is_refused_and_the_old_one_stays(void **state)
{
    uint64_t need = virtq_inflight_stride(256) * 4, whole = (need + 4095) & ~4095ULL;
    int file = fd_memfd("area", whole + 4096), event = eventfd(0, EFD_CLOEXEC), readonly;
    struct test *t = make();
    char path[64];

    snprintf(path, sizeof(path), "/proc/self/fd/%d", file);
    readonly = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(set(t, file, whole, 4096, 4, 256), 0);
    assert_int_equal(set(t, -1, whole, 0, 4, 256), -EINVAL);
    assert_int_equal(set(t, event, whole, 0, 4, 256), -EINVAL);
    assert_int_equal(set(t, readonly, whole, 0, 4, 256), -EINVAL);
    assert_int_equal(set(t, file, need - 1, 0, 4, 256), -EINVAL);
    assert_int_equal(set(t, file, whole, 8192, 4, 256), -EINVAL);
    assert_int_equal(set(t, file, whole, 100, 4, 256), -EINVAL);
    assert_int_equal(set(t, file, UINT64_MAX - 4095, 4096, 4, 256), -EINVAL);
    assert_int_equal(set(t, file, whole, 0, 5, 256), -EINVAL);
    assert_int_equal(set(t, file, whole, 0, 4, 512), -EINVAL);
    assert_int_equal(set(t, file, whole, 0, 0, 256), -EINVAL);
    assert_int_equal(told, 1);
    assert_int_equal(vhost_user_inflight(&t->vh)->fd_offset, 4096);
    close(file);
    close(event);
    close(readonly);
    drop(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_area_has_room_for_either_format_and_comes_back),
        cmocka_unit_test(none_is_made_beyond_the_limits),
        cmocka_unit_test(an_area_that_lies_is_refused_and_the_old_one_stays),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
