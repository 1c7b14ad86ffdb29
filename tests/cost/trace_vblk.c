/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The trace on a virtio-blk controller: one queue, chains of header, data and status.
 * trace_vblk split|packed */
#include "trace.h"

#include "backends/backends.h"
#include "devices/virtio_blk/inside.h"
#include "virtio/test_driver.h"

#include <sys/eventfd.h>

enum {
    QUEUE_SIZE = 128, /* GPA_DATA..: behind the driver's own */
    GPA_DATA = 0x200000,
    VECTOR = 0,
};

struct world {
    struct machine m;
    struct driver d;
    struct function *f;
};

static struct function *function_of(struct machine *m, struct vblk_dev *dev, struct reactor *r)
{
    struct function_parts parts = {.reactor = r,
                                   .ops = &vblk_function_ops,
                                   .dev = dev,
                                   .info = {.vuid = "TRACE",
                                            .kind = FUNCTION_VIRTIO_BLK,
                                            .num_msix = 8,
                                            .max_queue_depth = QUEUE_SIZE},
                                   .state_bytes =
                                       STATE_DEVICE_OFFSET + state_device_bytes(QUEUE_SIZE),
                                   .doorbells = shared(4096)};
    struct function *f;

    parts.state = shared(parts.state_bytes);
    parts.state->head.magic = STATE_MAGIC;
    parts.state->head.version = STATE_VERSION;
    atomic_store(&parts.state->emu.epoch, 1);
    atomic_store(&parts.state->emu.flags, STATE_HOST_CONNECTED | STATE_BUS_MASTER | STATE_POWERED);
    f = function_create(&parts);
    assert_non_null(f);
    function_add_region(
        f, guest_region_open(1, 0, RAM_BYTES, m->ram_fd, 0, GUEST_READ | GUEST_WRITE, NULL));
    return f;
}

static void on_a_null_disk(struct world *w, uint64_t features)
{
    struct null_opts disk = {.name = "Null0", .block_bytes = 512, .nblocks = TRACE_BLOCKS};
    struct vblk_dev_opts o = {.name = "trace",
                              .num_queues = 1,
                              .queue_size = QUEUE_SIZE,
                              .seg_max = QUEUE_SIZE - 2,
                              .features = features | VIRTIO_F_VERSION_1 | VIRTIO_BLK_F_FLUSH};
    struct function_queue q;
    struct vblk_dev *dev;
    struct bdev *bdev;
    struct err err = {0};

    machine_make(&w->m);
    driver_init(&w->d, &w->m, QUEUE_SIZE, features, 0);
    o.reactor = reactor_create("trace", &err);
    dev = vblk_dev_create(&o, &err);
    w->f = function_of(&w->m, dev, o.reactor);
    assert_int_equal(function_adopt(w->f, &err), 0);
    assert_int_equal(null_bdev_create(bdev_set_create(), &disk, &bdev, &err), 0);
    assert_int_equal(vblk_disk_open(dev, bdev, &err), 0);
    assert_int_equal(device_resume(&dev->base, &err), 0);
    function_set_irq(w->f, VECTOR, eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    q = (struct function_queue){.size = QUEUE_SIZE,
                                .base = w->d.cfg.base,
                                .start = 1,
                                .features = w->d.cfg.features | VIRTIO_BLK_F_FLUSH,
                                .desc_gpa = w->d.cfg.desc_gpa,
                                .driver_gpa = w->d.cfg.driver_gpa,
                                .device_gpa = w->d.cfg.device_gpa,
                                .run = true};
    function_set_queue(w->f, &q, -1, NULL, NULL);
}

static void batch(struct world *w, unsigned first)
{
    uint16_t id;
    uint32_t len;

    for (unsigned i = first; i < first + TRACE_DEPTH; i++) {
        uint64_t gpa = gpa_of_buffer(i % TRACE_DEPTH);
        bool writes = trace_writes(i);
        struct virtio_blk_req_head head = {.type =
                                               le32_of(writes ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN),
                                           .sector = le64_of(trace_lba(i))};
        struct seg segs[] = {{gpa, sizeof(head), false},
                             {GPA_DATA + i % TRACE_DEPTH * 4096ULL, trace_blocks(i) * 512, !writes},
                             {gpa + 32, 1, true}};

        memcpy(at(&w->m, gpa), &head, sizeof(head));
        *(uint8_t *)at(&w->m, gpa + 32) = 0xff;
        assert_true(driver_add(&w->d, segs, 3, false) >= 0);
    }
    trace_turn(w->f);
    for (unsigned i = 0; i < TRACE_DEPTH; i++) {
        assert_true(driver_take(&w->d, &id, &len));
        assert_int_equal(*(uint8_t *)at(&w->m, gpa_of_buffer(i) + 32), VIRTIO_BLK_S_OK);
    }
}

int main(int argc, char **argv)
{
    static struct world w;
    bool packed = argc > 1 && strcmp(argv[1], "packed") == 0;

    if (argc > 1 && strcmp(argv[1], "about") == 0) {
        trace_about();
        return 0;
    }
    on_a_null_disk(&w, VIRTIO_F_RING_EVENT_IDX | (packed ? VIRTIO_F_RING_PACKED : 0));
    for (unsigned i = 0; i < TRACE_COMMANDS; i += TRACE_DEPTH)
        batch(&w, i);
    return 0;
}
