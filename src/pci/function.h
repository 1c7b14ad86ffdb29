/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pci/function.h - a PCI function as its host sees it: configuration space with write masks, MSI-X
 * table and PBA. It holds no device: what a write means for the device comes back as PCI_EVENT_*.
 * Everything a host can send is legal here; accesses out of range read as zero and write nothing.
 * Thread: the owner's. */
#ifndef PCI_FUNCTION_H
#define PCI_FUNCTION_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PCI_BARS = 6, PCI_MSIX_MAX_VECTORS = 128 };

struct pci_bar_layout {
    uint64_t bytes; /* a power of two of at least 16, or 0: hard-wired to zero */
    bool wide;      /* 64-bit: takes the next BAR as well */
};

struct pci_layout {
    uint16_t vendor_id, device_id, subsystem_vendor_id, subsystem_id;
    uint32_t class_code; /* base class, sub-class, interface: 0x010802 */
    uint8_t revision_id;
    uint64_t serial;   /* Device Serial Number capability */
    const char *vuid;  /* VPD field VU, at most 63 characters; copied */
    const char *model; /* VPD identifier string; copied */
    struct pci_bar_layout bar[PCI_BARS];
    unsigned msix_vectors; /* 1..PCI_MSIX_MAX_VECTORS */
    unsigned msix_bar;     /* table at PCI_MSIX_TABLE_OFFSET, PBA at PCI_MSIX_PBA_OFFSET, 4 KiB */
};

enum { PCI_MSIX_TABLE_OFFSET = 0, PCI_MSIX_PBA_OFFSET = 0x800, PCI_MSIX_BAR_BYTES = 4096 };

struct pci_function;

/* NULL with err filled: a layout that makes no function. */
struct pci_function *pci_function_create(const struct pci_layout *layout, struct err *err);
void pci_function_destroy(struct pci_function *f); /* accepts NULL */

/* Back to the state after power-on. */
void pci_function_reset(struct pci_function *f);

/* What a configuration write asks for. */
enum {
    PCI_EVENT_FLAGS = 1 << 0, /* bus master or power state changed */
    PCI_EVENT_FLR = 1 << 1,   /* function level reset */
    PCI_EVENT_D0 = 1 << 2,    /* D3hot -> D0 with No_Soft_Reset = 0: reset the function */
};
/* Any offset and length in bytes: what is beyond the configuration space reads as zeroes, is not
 * written. The write returns PCI_EVENT_*. */
void pci_config_read(const struct pci_function *f, uint64_t offset, void *buf, size_t len);
unsigned pci_config_write(struct pci_function *f, uint64_t offset, const void *buf, size_t len);

bool pci_bus_master(const struct pci_function *f);
bool pci_powered(const struct pci_function *f); /* D0 */
unsigned pci_msix_vectors(const struct pci_function *f);

/* The BAR of the MSI-X table and the PBA; the PBA is read-only. */
void pci_msix_read(const struct pci_function *f, uint64_t offset, void *buf, size_t len);
void pci_msix_write(struct pci_function *f, uint64_t offset, const void *buf, size_t len);
void pci_msix_set_pending(struct pci_function *f, unsigned vector, bool pending);
bool pci_msix_pending(const struct pci_function *f, unsigned vector);

#endif
