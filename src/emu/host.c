/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What the host of a function does, as its transport tells it. */
#include "emu/emu.h"

#include <string.h>

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
    return reset_begin(fn, FUNCTION_RESET_DISCONNECT);
}

static void dma_added(void *dev, const struct vfio_user_dma *dma)
{
    lease_tell_dma(dev, dma);
}

static enum vfio_user_answer dma_removed(void *dev, const struct vfio_user_dma *dma)
{
    struct emu_function *fn = dev;
    struct link_msg msg = {.type = LINK_MEM_DEL, .cookie = dma->id};

    if (!fn->holder)
        return VFIO_USER_DONE;
    msg.mem.id = dma->id;
    msg.mem.prot = dma->prot;
    msg.mem.gpa = dma->iova;
    msg.mem.size_bytes = dma->size_bytes;
    msg.mem.fd_offset = dma->fd_offset;
    lease_tell(fn, &msg, NULL, 0);
    return VFIO_USER_LATER; /* answered by the holder, or its fence */
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
    return reset_begin(dev, FUNCTION_RESET_DEVICE);
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
        return reset_begin(fn, FUNCTION_RESET_POWER);
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

const struct vfio_user_ops host_ops = {
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
