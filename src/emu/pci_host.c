/* SPDX-License-Identifier: BSD-3-Clause
 *
 * A function whose host sees PCI: registers, doorbells and MSI-X on a vfio-user socket. */
#include "emu/emu.h"

#include <string.h>

/* ---- what the host does ---- */

static enum vfio_user_answer answer(bool over)
{
    return over ? VFIO_USER_DONE : VFIO_USER_LATER;
}

static void connected(void *dev, bool mapped)
{
    struct emu_function *fn = dev;

    fn->mapped = mapped;
    function_changed(fn);
}

static enum vfio_user_answer disconnected(void *dev)
{
    struct emu_function *fn = dev;

    fn->mapped = false;
    lease_tell_irqs(fn, 0, fn->info.num_msix);
    function_changed(fn);
    return answer(reset_begin(fn, FUNCTION_RESET_DISCONNECT));
}

static struct host_memory memory_of(const struct vfio_user_dma *dma)
{
    return (struct host_memory){.id = dma->id,
                                .prot = dma->prot,
                                .gpa = dma->iova,
                                .size_bytes = dma->size_bytes,
                                .fd_offset = dma->fd_offset,
                                .fd = dma->fd};
}

static void dma_added(void *dev, const struct vfio_user_dma *dma)
{
    struct host_memory mem = memory_of(dma);

    lease_tell_memory(dev, &mem);
}

static enum vfio_user_answer dma_removed(void *dev, const struct vfio_user_dma *dma)
{
    struct host_memory mem = memory_of(dma);

    return answer(lease_take_memory(dev, &mem));
}

static void unmap_expired(void *dev)
{
    function_fail(dev, "unmap timeout");
}

static void irqs_changed(void *dev, unsigned start, unsigned count)
{
    lease_tell_irqs(dev, start, count);
}

static enum vfio_user_answer reset(void *dev)
{
    return answer(reset_begin(dev, FUNCTION_RESET_DEVICE));
}

static enum vfio_user_answer config_written(void *dev, unsigned events)
{
    struct emu_function *fn = dev;

    if (events & PCI_EVENT_FLR) {
        (void)reset_begin(
            fn, FUNCTION_RESET_FLR); /* the write is done; reads give all-ones until the reset is */
        return VFIO_USER_DONE;
    }
    if (events & PCI_EVENT_D0)
        return answer(reset_begin(fn, FUNCTION_RESET_POWER));
    function_changed(fn);
    return VFIO_USER_DONE;
}

static bool answers(const struct emu_function *fn)
{
    return pci_powered(fn->pci) && !fn->failed[0];
}

static void bar_read(void *dev, unsigned bar, uint64_t offset, void *buf, size_t len)
{
    struct emu_function *fn = dev;

    (void)bar; /* there is one */
    if (answers(fn))
        registers_read(&fn->regs, offset, buf, len);
    else
        memset(buf, 0xff, len);
}

static void bar_write(void *dev, unsigned bar, uint64_t offset, const void *buf, size_t len)
{
    struct emu_function *fn = dev;

    (void)bar;
    if (answers(fn) && registers_write(&fn->regs, offset, buf, len))
        lease_wake(fn);
}

static const struct vfio_user_ops ops = {
    .connected = connected,
    .disconnected = disconnected,
    .dma_added = dma_added,
    .dma_removed = dma_removed,
    .unmap_expired = unmap_expired,
    .irqs_changed = irqs_changed,
    .reset = reset,
    .config_written = config_written,
    .bar_read = bar_read,
    .bar_write = bar_write,
};

/* ---- what leases and resets want of it ---- */

static int start_listening(struct emu_function *fn, struct err *err)
{
    return vfio_user_listen(fn->vu, err);
}

static bool has_client(const struct emu_function *fn)
{
    return vfio_user_has_client(fn->vu);
}

static uint32_t flags(const struct emu_function *fn)
{
    return (pci_bus_master(fn->pci) ? STATE_BUS_MASTER : 0) |
           (pci_powered(fn->pci) ? STATE_POWERED : 0) | (fn->mapped ? STATE_DOORBELLS_MAPPED : 0);
}

static int irq_fd(const struct emu_function *fn, unsigned vector)
{
    return vfio_user_irq_fd(fn->vu, vector);
}

struct each {
    struct emu_function *fn;
    host_memory_fn call;
};

static void call_each(void *arg, const struct vfio_user_dma *dma)
{
    struct each *e = arg;
    struct host_memory mem = memory_of(dma);

    e->call(e->fn, &mem);
}

static void memory_for_each(struct emu_function *fn, host_memory_fn call)
{
    struct each e = {fn, call};

    vfio_user_dma_for_each(fn->vu, call_each, &e);
}

static void memory_detached(struct emu_function *fn, uint32_t id)
{
    vfio_user_dma_detached(fn->vu, id);
}

static void hide(struct emu_function *fn, bool hidden)
{
    vfio_user_hide(fn->vu, hidden);
}

static void reset_config(struct emu_function *fn)
{
    pci_function_reset(fn->pci);
}

static void reset_over(struct emu_function *fn)
{
    vfio_user_reset_done(fn->vu);
}

static void config_changed(struct emu_function *fn)
{
    (void)fn; /* registers are read whenever the host likes; devices have their own ways to tell */
}

const struct host_transport pci_host = {
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

int pci_host_create(struct emu_function *fn, const char *path, struct err *err)
{
    static const enum vfio_user_mapping mapping[] = {
        [DOORBELLS_AUTO] = VFIO_USER_MAP_AUTO,
        [DOORBELLS_TRAPPED] = VFIO_USER_MAP_NEVER,
        [DOORBELLS_MAPPED] = VFIO_USER_MAP_ALWAYS,
    };
    struct vfio_user_opts opts = {
        .reactor = fn->emu->reactor,
        .name = fn->info.vuid,
        .path = path,
        .ops = &ops,
        .dev = fn,
        .pci = fn->pci,
        .bar_bytes = {[0] = REGISTERS_BAR_BYTES, [4] = PCI_MSIX_BAR_BYTES},
        .msix_bar = 4,
        .mapping = mapping[fn->emu->topology.doorbells],
        .map_bar = 0,
        .map_offset = STATE_DOORBELL_OFFSET,
        .map_bytes = STATE_DOORBELL_BYTES,
        .map_fd = fn->doorbell_fd,
    };

    fn->host = &pci_host;
    fn->vu = vfio_user_create(&opts, err);
    return fn->vu ? 0 : err->code;
}
