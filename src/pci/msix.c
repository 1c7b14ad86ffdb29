/* SPDX-License-Identifier: BSD-3-Clause
 *
 * MSI-X table and PBA. The client of the socket delivers interrupts by eventfd and keeps a table of
 * its own; ours answers those who read and write it here. */
#include "base/util.h"
#include "pci/inside.h"

#include <string.h>

void pci_msix_reset(struct pci_function *f)
{
    memset(f->msix_table, 0, sizeof(f->msix_table));
    memset(f->pba, 0, sizeof(f->pba));
    for (unsigned v = 0; v < f->vectors; v++)
        f->msix_table[v * PCI_MSIX_ENTRY_BYTES + PCI_MSIX_ENTRY_CONTROL] = PCI_MSIX_ENTRY_MASKED;
}

unsigned pci_msix_vectors(const struct pci_function *f)
{
    return f->vectors;
}

void pci_msix_read(const struct pci_function *f, uint64_t offset, void *buf, size_t len)
{
    uint64_t table_bytes = (uint64_t)f->vectors * PCI_MSIX_ENTRY_BYTES;
    uint8_t *out = buf;

    for (size_t i = 0; i < len; i++) {
        uint64_t at = offset + i;

        out[i] = 0;
        if (at < table_bytes)
            out[i] = f->msix_table[at];
        else if (at >= PCI_MSIX_PBA_OFFSET && at - PCI_MSIX_PBA_OFFSET < sizeof(f->pba))
            out[i] = f->pba[at - PCI_MSIX_PBA_OFFSET];
    }
}

/* Whole dwords only, as the specification asks of software; all else is ignored. */
void pci_msix_write(struct pci_function *f, uint64_t offset, const void *buf, size_t len)
{
    uint64_t table_bytes = (uint64_t)f->vectors * PCI_MSIX_ENTRY_BYTES;

    if (offset % 4 || len % 4)
        return;
    for (size_t i = 0; i < len && offset + i < table_bytes; i += 4) {
        uint32_t value;

        memcpy(&value, (const char *)buf + i, 4);
        if ((offset + i) % PCI_MSIX_ENTRY_BYTES == PCI_MSIX_ENTRY_CONTROL)
            value &= PCI_MSIX_ENTRY_MASKED;
        memcpy(f->msix_table + offset + i, &value, 4);
    }
}

void pci_msix_set_pending(struct pci_function *f, unsigned vector, bool pending)
{
    if (vector >= f->vectors)
        return;
    if (pending)
        f->pba[vector / 8] |= (uint8_t)(1U << vector % 8);
    else
        f->pba[vector / 8] &= (uint8_t) ~(1U << vector % 8);
}

bool pci_msix_pending(const struct pci_function *f, unsigned vector)
{
    return vector < f->vectors && (f->pba[vector / 8] >> vector % 8 & 1);
}
