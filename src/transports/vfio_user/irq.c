/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Interrupt eventfds of a client. MSI-X has vectors; INTx and MSI have none; ERR may be given an
 * eventfd, which is never signalled (QEMU would stop the machine); REQ does not exist. */
#include "base/checked.h"
#include "base/fd.h"
#include "transports/vfio_user/inside.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void irq_init(struct irq_table *t, unsigned vectors)
{
    t->vectors = vectors;
    for (unsigned v = 0; v < PCI_MSIX_MAX_VECTORS; v++)
        t->fds[v] = -1;
}

void irq_clear(struct irq_table *t)
{
    for (unsigned v = 0; v < t->vectors; v++)
        fd_close(&t->fds[v]);
}

uint32_t irq_count(const struct irq_table *t, uint32_t index)
{
    switch (index) {
    case VFIO_PCI_IRQ_MSIX:
        return t->vectors;
    case VFIO_PCI_IRQ_ERR:
        return 1;
    default:
        return 0;
    }
}

static void signal_vector(struct irq_table *t, struct pci_function *pci, unsigned vector)
{
    uint64_t one = 1;

    if (t->fds[vector] >= 0)
        (void)!write(t->fds[vector], &one, sizeof(one));
    else
        pci_msix_set_pending(pci, vector, true);
}

static void assign(struct irq_table *t, struct pci_function *pci, unsigned vector, int *fd)
{
    fd_close(&t->fds[vector]);
    t->fds[vector] = *fd;
    *fd = -1;
    if (pci_msix_pending(pci, vector)) {
        pci_msix_set_pending(pci, vector, false);
        signal_vector(t, pci, vector);
    }
}

static int assign_all(struct irq_table *t, struct pci_function *pci,
                      const struct vfio_user_irq_set *set, int *fds, unsigned nfds)
{
    if (nfds != set->count && nfds != 0)
        return -EINVAL;
    for (unsigned i = 0; i < nfds; i++) {
        int rc = fd_check_eventfd(fds[i]);

        if (rc < 0)
            return rc;
    }
    if (set->index != VFIO_PCI_IRQ_MSIX)
        return 0; /* ERR: the caller closes it */
    for (unsigned i = 0; i < set->count; i++) {
        if (nfds)
            assign(t, pci, set->start + i, &fds[i]);
        else
            fd_close(&t->fds[set->start + i]);
    }
    return 0;
}

static bool single_bit(uint32_t v)
{
    return v && !(v & (v - 1));
}

int irq_set(struct irq_table *t, struct pci_function *pci, const struct vfio_user_irq_set *set,
            const uint8_t *bools, size_t nbools, int *fds, unsigned nfds, unsigned *start,
            unsigned *count)
{
    uint32_t data = set->flags & VFIO_IRQ_SET_DATA_MASK, action = set->flags & VFIO_IRQ_SET_ACTIONS;
    uint32_t total = irq_count(t, set->index);
    int rc;

    *start = *count = 0;
    if ((set->flags & ~(uint32_t)(VFIO_IRQ_SET_DATA_MASK | VFIO_IRQ_SET_ACTIONS)) ||
        !single_bit(data) || !single_bit(action) || set->index >= VFIO_PCI_IRQS)
        return -EINVAL;
    if (!checked_range(set->start, set->count, total))
        return -EINVAL;
    if (nfds > 0 && data != VFIO_IRQ_SET_DATA_EVENTFD)
        return -EINVAL;
    if (nbools != (data == VFIO_IRQ_SET_DATA_BOOL ? set->count : 0))
        return -EINVAL;
    if (action != VFIO_IRQ_SET_ACTION_TRIGGER)
        return -EINVAL; /* no index of ours is maskable */
    if (set->count == 0) {
        if (data != VFIO_IRQ_SET_DATA_NONE || set->start != 0)
            return -EINVAL;
        if (set->index == VFIO_PCI_IRQ_MSIX) { /* disables the whole index */
            irq_clear(t);
            *count = t->vectors;
        }
        return 0;
    }
    if (data == VFIO_IRQ_SET_DATA_EVENTFD) {
        rc = assign_all(t, pci, set, fds, nfds);
        if (rc == 0 && set->index == VFIO_PCI_IRQ_MSIX) {
            *start = set->start;
            *count = set->count;
        }
        return rc;
    }
    for (uint32_t i = 0; i < set->count && set->index == VFIO_PCI_IRQ_MSIX; i++)
        if (data == VFIO_IRQ_SET_DATA_NONE || bools[i])
            signal_vector(t, pci, set->start + i);
    return 0;
}
