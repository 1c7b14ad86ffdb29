/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A function whose host sees virtqueues: a device on a vhost-user socket. Interrupt vectors are
 * queue indexes. */
#include "emu/emu.h"
#include "guest/memory.h"
#include "spec/virtio.h"

#include <string.h>

static_assert(VHOST_USER_MAX_QUEUES <= 64, "queues_stale has a bit for each");

/* ---- what the host does ---- */

static enum vhost_user_answer answer(bool over)
{
    return over ? VHOST_USER_DONE : VHOST_USER_LATER;
}

/* Without state memory there has never been a controller, and nobody to connect. */
static struct vhost_user_limits limits(void *dev)
{
    const struct emu_function *fn = dev;
    const struct state_svc *svc = fn->regs.st ? &fn->regs.st->svc : NULL;

    if (!svc)
        return (struct vhost_user_limits){0};
    return (struct vhost_user_limits){
        .features = atomic_load_explicit(&svc->features, memory_order_acquire),
        .queues = atomic_load_explicit(&svc->queues, memory_order_acquire),
        .queue_size = atomic_load_explicit(&svc->queue_size, memory_order_acquire),
        .status = (uint8_t)atomic_load_explicit(&svc->status, memory_order_acquire),
    };
}

static void connected(void *dev)
{
    function_changed(dev);
}

static enum vhost_user_answer disconnected(void *dev)
{
    struct emu_function *fn = dev;

    queues_forget(fn);
    lease_tell_irqs(fn, 0, fn->info.num_msix);
    function_changed(fn);
    return answer(reset_begin(fn, FUNCTION_RESET_DISCONNECT));
}

static struct host_memory memory_of(const struct vhost_user_mem *mem)
{
    return (struct host_memory){.id = mem->id,
                                .prot = GUEST_READ | GUEST_WRITE,
                                .gpa = mem->gpa,
                                .size_bytes = mem->size_bytes,
                                .fd_offset = mem->fd_offset,
                                .fd = mem->fd};
}

static void mem_added(void *dev, const struct vhost_user_mem *vhost_mem)
{
    struct host_memory mem = memory_of(vhost_mem);

    lease_tell_memory(dev, &mem);
}

static enum vhost_user_answer mem_removed(void *dev, const struct vhost_user_mem *vhost_mem)
{
    struct host_memory mem = memory_of(vhost_mem);

    return answer(lease_take_memory(dev, &mem));
}

static void unmap_expired(void *dev)
{
    function_fail(dev, "unmap timeout");
}

static void queue_changed(void *dev, const struct vhost_user_queue *q)
{
    queues_tell(dev, q);
}

static enum vhost_user_answer queue_stopping(void *dev, const struct vhost_user_queue *q)
{
    return answer(queues_stop(dev, q));
}

static enum vhost_user_answer queue_pausing(void *dev, const struct vhost_user_queue *q)
{
    return answer(queues_pause(dev, q));
}

static void calls_changed(void *dev, unsigned start, unsigned count)
{
    lease_tell_irqs(dev, start, count);
}

static void inflight_set(void *dev)
{
    queues_tell_inflight(dev);
}

static enum vhost_user_answer reset(void *dev, bool keep)
{
    queues_forget(dev);
    return answer(reset_begin(dev, keep ? FUNCTION_RESET_DISCONNECT : FUNCTION_RESET_STATUS));
}

static void config_read(void *dev, uint32_t offset, void *buf, size_t len)
{
    const struct emu_function *fn = dev;

    if (fn->regs.st)
        registers_read(&fn->regs, offset, buf, len);
    else
        memset(buf, 0, len);
}

static void config_write(void *dev, uint32_t offset, const void *buf, size_t len)
{
    struct emu_function *fn = dev;

    if (fn->regs.st && !fn->failed[0] && registers_write_bytes(&fn->regs, offset, buf, len))
        lease_wake(fn);
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

/* ---- what leases and resets want of it ---- */

static int start_listening(struct emu_function *fn, struct err *err)
{
    return vhost_user_listen(fn->vh, err);
}

static bool has_client(const struct emu_function *fn)
{
    return vhost_user_has_client(fn->vh);
}

/* There is no command register and no power state: the device may always reach what was mapped. */
static uint32_t flags(const struct emu_function *fn)
{
    (void)fn;
    return STATE_BUS_MASTER | STATE_POWERED;
}

static int irq_fd(const struct emu_function *fn, unsigned vector)
{
    return vhost_user_call_fd(fn->vh, vector);
}

struct each {
    struct emu_function *fn;
    host_memory_fn call;
};

static void call_each(void *arg, const struct vhost_user_mem *vhost_mem)
{
    struct each *e = arg;
    struct host_memory mem = memory_of(vhost_mem);

    e->call(e->fn, &mem);
}

static void memory_for_each(struct emu_function *fn, host_memory_fn call)
{
    struct each e = {fn, call};

    vhost_user_mem_for_each(fn->vh, call_each, &e);
}

static void memory_detached(struct emu_function *fn, uint32_t id)
{
    vhost_user_mem_detached(fn->vh, id);
}

static void hide(struct emu_function *fn, bool hidden)
{
    (void)fn; /* the client waits for the end of its reset, or is told that it failed */
    (void)hidden;
}

static void reset_config(struct emu_function *fn)
{
    (void)fn; /* all there is of it is in the register images */
}

static void reset_over(struct emu_function *fn)
{
    vhost_user_reset_done(fn->vh);
}

static void config_changed(struct emu_function *fn)
{
    vhost_user_config_changed(fn->vh, limits(fn).status & VIRTIO_STATUS_NEEDS_RESET);
}

const struct host_transport virtqueue_host = {
    .listen = start_listening,
    .has_client = has_client,
    .flags = flags,
    .irq_fd = irq_fd,
    .memory_for_each = memory_for_each,
    .memory_detached = memory_detached,
    .hide = hide,
    .reset = reset_config,
    .reset_done = reset_over,
    .config_changed = config_changed,
};

int virtqueue_host_create(struct emu_function *fn, const char *path, struct err *err)
{
    struct vhost_user_opts opts = {
        .reactor = fn->emu->reactor, .name = fn->info.vuid, .path = path, .ops = &ops, .dev = fn};

    fn->host = &virtqueue_host;
    fn->vh = vhost_user_create(&opts, err);
    return fn->vh ? 0 : err->code;
}
