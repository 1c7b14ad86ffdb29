/* SPDX-License-Identifier: BSD-3-Clause
 *
 * devices/nvme/test_host.h - for the tests of this room: a machine (shared memory that stands for
 * snap_emu's), a small host driver on it, a service (device and function) that may live in this
 * process or in a child, and a disk in memory whose requests can be made to wait. */
#ifndef DEVICES_NVME_TEST_HOST_H
#define DEVICES_NVME_TEST_HOST_H

#include "base/fd.h"
#include "devices/nvme/room.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

enum {
    DEPTH = 64,
    RAM_BYTES = 4 << 20,
    DISK_BLOCKS = 2048,
    BLOCK = 512,
    /* guest-physical layout */
    GPA_ASQ = 0x10000,
    GPA_ACQ = 0x20000,
    GPA_SQ = 0x30000, /* 0x1000 each */
    GPA_CQ = 0x50000,
    GPA_SHADOW = 0x70000,
    GPA_EVENTIDX = 0x71000,
    GPA_DATA = 0x100000,
    ADMIN_ENTRIES = 16,
};

struct machine {
    struct state_memory *st;
    uint64_t st_bytes;
    _Atomic uint32_t *doorbells;
    char *ram;
    int ram_fd;
    unsigned char *disk; /* shared: outlives the service */
};

static inline void *shared(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(p != MAP_FAILED);
    return p;
}

static inline void machine_make(struct machine *m)
{
    m->st_bytes = STATE_DEVICE_OFFSET + state_device_bytes(DEPTH);
    m->st = shared(m->st_bytes);
    m->st->head.magic = STATE_MAGIC;
    m->st->head.version = STATE_VERSION;
    atomic_store(&m->st->emu.epoch, 1);
    atomic_store(&m->st->emu.flags, STATE_HOST_CONNECTED | STATE_BUS_MASTER | STATE_POWERED);
    m->doorbells = shared(4096);
    m->ram_fd = fd_memfd("ram", RAM_BYTES);
    assert_true(m->ram_fd >= 0);
    m->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, m->ram_fd, 0);
    assert_true(m->ram != MAP_FAILED);
    m->disk = shared((size_t)DISK_BLOCKS * BLOCK);
}

static inline void machine_free(struct machine *m)
{
    munmap(m->st, m->st_bytes);
    munmap((void *)m->doorbells, 4096);
    munmap(m->ram, RAM_BYTES);
    munmap(m->disk, (size_t)DISK_BLOCKS * BLOCK);
    close(m->ram_fd);
}

/* ---- the disk ---- */

struct disk_wait {
    struct bdev_req *req;
    bool detached, cancelled;
};
static struct {
    unsigned char *bytes;
    bool hold;         /* requests wait for disk_release() */
    int fail;          /* answer of the next ones */
    bool detach_waits; /* detach answers BDEV_PENDING */
    struct disk_wait waiting[1024];
    unsigned nwaiting, submits, flushes, detaches, cancels;
} disk;

static inline int disk_do(struct bdev_req *req)
{
    unsigned char *at = disk.bytes + req->lba * BLOCK;

    for (int i = 0; i < req->iovcnt; at += req->iov[i++].iov_len) {
        if (req->op == BDEV_READ)
            memcpy(req->iov[i].iov_base, at, req->iov[i].iov_len);
        else
            memcpy(at, req->iov[i].iov_base, req->iov[i].iov_len);
    }
    if (req->op == BDEV_WRITE_ZEROES || req->op == BDEV_UNMAP)
        memset(at, 0, (size_t)req->nblocks * BLOCK);
    disk.flushes += req->op == BDEV_FLUSH;
    return 0;
}

static inline void *disk_open(void *dev, struct reactor *r, struct err *err)
{
    return dev;
}
static inline void disk_nothing(void *ctx)
{
}
static inline int disk_submit(void *ctx, struct bdev_req *req)
{
    disk.submits++;
    if (disk.fail)
        return disk.fail;
    if (!disk.hold || disk.nwaiting == ARRAY_SIZE(disk.waiting))
        return disk_do(req);
    disk.waiting[disk.nwaiting++] = (struct disk_wait){.req = req};
    return BDEV_PENDING;
}
static inline int disk_detach(void *ctx, struct bdev_req *req)
{
    disk.detaches++;
    for (unsigned i = 0; i < disk.nwaiting; i++)
        if (disk.waiting[i].req == req && !disk.detach_waits)
            disk.waiting[i].detached = true;
    return disk.detach_waits ? BDEV_PENDING : 0;
}
static inline void disk_cancel(void *ctx, struct bdev_req *req)
{
    disk.cancels++;
    for (unsigned i = 0; i < disk.nwaiting; i++)
        if (disk.waiting[i].req == req)
            disk.waiting[i].cancelled = true;
}
static inline void disk_describe(void *dev, struct json_t *out)
{
}

static const struct bdev_ops disk_ops = {
    .kind = "test",
    .product = "Test disk",
    .open_channel = disk_open,
    .close_channel = disk_nothing,
    .submit = disk_submit,
    .flush_batch = disk_nothing,
    .detach = disk_detach,
    .cancel = disk_cancel,
    .describe = disk_describe,
    .destroy = disk_nothing,
};

/* Ends the waiting request i: cancelled ones and detached reads early, the others for real. */
static inline void disk_release(unsigned i)
{
    struct disk_wait w = disk.waiting[i];
    bool early = w.cancelled || (w.detached && w.req->op == BDEV_READ);

    disk.waiting[i] = disk.waiting[--disk.nwaiting];
    bdev_complete(w.req, early ? -ECANCELED : disk_do(w.req));
}

/* ---- the service ---- */

struct service {
    struct reactor *reactor;
    struct bdev_set *bdevs;
    struct bdev *bdev;
    struct nvme_subsystems *set;
    struct nvme_subsystem *ss;
    struct nvme_dev *dev;
    struct function *f;
};

struct service_opts {
    const char *sn;
    uint64_t blocks;
    unsigned num_queues;
    bool no_namespace, no_resume;
};

static inline int service_try(struct service *s, struct machine *m, const struct service_opts *o,
                              struct err *err)
{
    struct nvme_subsystem_opts so = {.nqn = "nqn.2024-01.test:1", .serial_number = o->sn};
    struct bdev_info info = {.block_bytes = BLOCK,
                             .nblocks = o->blocks ? o->blocks : DISK_BLOCKS,
                             .uuid = {{1, 2, 3}},
                             .write_cache = true,
                             .can_unmap = true,
                             .can_write_zeroes = true};
    struct nvme_dev_opts d = {.name = "test",
                              .num_queues = o->num_queues ? o->num_queues : 4,
                              .mdts = 5,
                              .fw_slots = 1,
                              .write_zeroes = true,
                              .dsm = true};
    struct function_parts parts = {.ops = &nvme_function_ops,
                                   .info = {.vuid = "TESTVUID",
                                            .kind = FUNCTION_NVME,
                                            .num_msix = 8,
                                            .max_queue_depth = DEPTH},
                                   .state = m->st,
                                   .state_bytes = m->st_bytes,
                                   .doorbells = m->doorbells};
    struct nvme_dev_ns_opts ns = {.nsid = 1, .uuid = {{1, 2, 3}}, .nguid = {9}};

    memset(&disk, 0, sizeof(disk));
    disk.bytes = m->disk;
    s->reactor = reactor_create("test", err);
    assert_non_null(s->reactor);
    s->bdevs = bdev_set_create();
    assert_int_equal(bdev_register(s->bdevs, "disk", &disk_ops, s, &info, &s->bdev, err), 0);
    s->set = nvme_subsystems_create();
    assert_int_equal(nvme_subsystem_create(s->set, &so, &s->ss, err), 0);
    d.subsystem = s->ss;
    d.reactor = s->reactor;
    s->dev = nvme_dev_create(&d, err);
    parts.reactor = s->reactor;
    parts.dev = s->dev;
    s->f = function_create(&parts);
    function_add_region(
        s->f, guest_region_open(1, 0, RAM_BYTES, m->ram_fd, 0, GUEST_READ | GUEST_WRITE, err));
    if (function_adopt(s->f, err) < 0)
        return err->code;
    ns.bdev = s->bdev;
    if (!o->no_namespace)
        assert_int_equal(nvme_dev_attach(s->dev, &ns, err), 0);
    return o->no_resume ? 0 : device_resume(&s->dev->base, err);
}

static inline void service_start(struct service *s, struct machine *m)
{
    struct service_opts o = {0};
    struct err err = {0};

    if (service_try(s, m, &o, &err) < 0)
        fail_msg("%s", err.msg);
}

static inline void quit_done(void *arg, int rc, const struct err *err)
{
    *(bool *)arg = true;
}

/* carry: what is with the disk is cancelled and stays recorded, as when a release cannot drain. */
static inline void service_end(struct service *s, bool carry)
{
    bool done = false;

    disk.hold = false;
    device_quit(&s->dev->base, quit_done, &done);
    s->dev->base.keeping = carry;
    while (disk.nwaiting) {
        disk.waiting[0].cancelled |= carry;
        disk_release(0);
        device_settle(&s->dev->base);
    }
    s->dev->base.settle = true;
    device_settle(&s->dev->base);
    assert_true(done);
    nvme_dev_destroy(s->dev);
    function_destroy(s->f);
    assert_int_equal(nvme_subsystem_destroy(s->ss, NULL), 0);
    nvme_subsystems_destroy(s->set);
    assert_int_equal(bdev_unregister(s->bdev, NULL, NULL, NULL), 0);
    bdev_set_destroy(s->bdevs);
    reactor_destroy(s->reactor);
}

static inline void service_stop(struct service *s)
{
    service_end(s, false);
}

static inline void service_turn(struct service *s)
{
    function_poll(s->f);
    function_flush(s->f);
}

/* ---- the host's driver ---- */

struct host_queue {
    uint32_t size, tail, head;
    uint16_t phase;
    struct nvme_sqe *sq;
    volatile struct nvme_cqe *cq;
};

struct host {
    struct machine *m;
    struct host_queue q[8];
    bool shadow;
};

static inline void host_reg(struct host *h, uint32_t offset, uint32_t size, uint64_t value)
{
    struct state_memory *st = h->m->st;
    uint64_t tail = atomic_load(&st->emu.log_tail);

    while (tail - atomic_load(&st->svc.log_head) >= STATE_LOG_ENTRIES)
        usleep(100);
    for (uint32_t i = 0; i < size; i += 4)
        atomic_store(&st->emu.reg_host[(offset + i) / 4], (uint32_t)(value >> 8 * i));
    st->log[tail % STATE_LOG_ENTRIES] =
        (struct state_reg_write){.offset = offset,
                                 .size = size,
                                 .value = value,
                                 .epoch = atomic_load(&st->emu.epoch),
                                 .seq = tail};
    atomic_store_explicit(&st->emu.log_tail, tail + 1, memory_order_release);
}

static inline uint32_t host_read(struct host *h, uint32_t offset)
{
    return atomic_load(&h->m->st->svc.reg_dev[offset / 4]);
}

static inline void host_queue_init(struct host *h, unsigned q, uint32_t size, uint64_t sq,
                                   uint64_t cq)
{
    memset(h->m->ram + cq, 0, size * sizeof(struct nvme_cqe));
    h->q[q] = (struct host_queue){.size = size,
                                  .phase = 1,
                                  .sq = (struct nvme_sqe *)(void *)(h->m->ram + sq),
                                  .cq = (struct nvme_cqe *)(void *)(h->m->ram + cq)};
}

enum { CC_ENABLE = 0x460001 };

static inline void host_enable(struct host *h)
{
    host_queue_init(h, 0, ADMIN_ENTRIES, GPA_ASQ, GPA_ACQ);
    host_reg(h, NVME_REG_AQA, 4, (ADMIN_ENTRIES - 1) << 16 | (ADMIN_ENTRIES - 1));
    host_reg(h, NVME_REG_ASQ, 8, GPA_ASQ);
    host_reg(h, NVME_REG_ACQ, 8, GPA_ACQ);
    host_reg(h, NVME_REG_CC, 4, CC_ENABLE);
}

static inline void host_ring(struct host *h, unsigned index, uint32_t value)
{
    if (h->shadow && index >= 2)
        atomic_store((_Atomic uint32_t *)(void *)(h->m->ram + GPA_SHADOW) + index, value);
    else
        atomic_store(&h->m->doorbells[index], value);
}

/* Puts an SQE in place without ringing. */
static inline void host_put(struct host *h, unsigned q, const struct nvme_sqe *sqe)
{
    struct host_queue *hq = &h->q[q];

    hq->sq[hq->tail] = *sqe;
    hq->tail = (hq->tail + 1) % hq->size;
}

static inline void host_submit(struct host *h, unsigned q, const struct nvme_sqe *sqe)
{
    host_put(h, q, sqe);
    host_ring(h, 2 * q, h->q[q].tail);
}

/* Takes one completion; false when there is none. */
static inline bool host_take(struct host *h, unsigned q, struct nvme_cqe *ret)
{
    struct host_queue *hq = &h->q[q];
    uint16_t sf = le16_get(((const struct nvme_cqe *)&hq->cq[hq->head])->sf);

    if ((sf & 1) != hq->phase)
        return false;
    atomic_thread_fence(memory_order_acquire);
    memcpy(ret, (const void *)&hq->cq[hq->head], sizeof(*ret));
    if (++hq->head == hq->size) {
        hq->head = 0;
        hq->phase ^= 1;
    }
    host_ring(h, 2 * q + 1, hq->head);
    return true;
}

static inline nvme_status cqe_status(const struct nvme_cqe *cqe)
{
    return le16_get(cqe->sf) >> 1;
}

static inline struct nvme_sqe rw_sqe(uint8_t opc, uint16_t cid, uint64_t lba, uint32_t nblocks,
                                     uint64_t gpa)
{
    return (struct nvme_sqe){.opc = opc,
                             .cid = le16_of(cid),
                             .nsid = le32_of(1),
                             .prp1 = le64_of(gpa),
                             .prp2 = le64_of((gpa & ~0xfffULL) + 4096),
                             .cdw10 = le32_of((uint32_t)lba),
                             .cdw12 = le32_of(nblocks - 1)};
}

static inline struct nvme_sqe create_cq_sqe(uint16_t cid, unsigned qid, uint32_t size)
{
    return (struct nvme_sqe){.opc = NVME_ADMIN_CREATE_CQ,
                             .cid = le16_of(cid),
                             .prp1 = le64_of(GPA_CQ + qid * 0x1000),
                             .cdw10 = le32_of((size - 1) << 16 | qid),
                             .cdw11 = le32_of(qid << 16 | NVME_CREATE_CQ_IEN | NVME_CREATE_PC)};
}

static inline struct nvme_sqe create_sq_sqe(uint16_t cid, unsigned qid, uint32_t size)
{
    return (struct nvme_sqe){.opc = NVME_ADMIN_CREATE_SQ,
                             .cid = le16_of(cid),
                             .prp1 = le64_of(GPA_SQ + qid * 0x1000),
                             .cdw10 = le32_of((size - 1) << 16 | qid),
                             .cdw11 = le32_of(qid << 16 | NVME_CREATE_PC)};
}

#endif
