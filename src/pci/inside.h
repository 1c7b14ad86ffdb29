/* SPDX-License-Identifier: BSD-3-Clause
 *
 * pci/inside.h - shared by the files of this room. */
#ifndef PCI_INSIDE_H
#define PCI_INSIDE_H

#include "pci/function.h"
#include "spec/pci.h"

enum { PCI_VPD_IMAGE_BYTES = 256 };

struct pci_function {
    uint8_t config[PCI_CONFIG_BYTES];
    uint8_t writable[PCI_CONFIG_BYTES]; /* bits the host can change */
    uint8_t reset_image[PCI_CONFIG_BYTES];
    uint8_t vpd[PCI_VPD_IMAGE_BYTES];    /* zero-padded */
    unsigned pm, msix, express, vpd_cap; /* where the capabilities are */
    unsigned vectors;
    uint8_t msix_table[PCI_MSIX_MAX_VECTORS * PCI_MSIX_ENTRY_BYTES];
    uint8_t pba[PCI_MSIX_MAX_VECTORS / 8];
};

/* Little-endian stores into an image. */
void pci_put16(uint8_t *image, unsigned offset, uint16_t value);
void pci_put32(uint8_t *image, unsigned offset, uint32_t value);
uint16_t pci_get16(const uint8_t *image, unsigned offset);
uint32_t pci_get32(const uint8_t *image, unsigned offset);

/* Builds header, capabilities and masks. */
void pci_header_build(struct pci_function *f, const struct pci_layout *layout);
void pci_capabilities_build(struct pci_function *f, const struct pci_layout *layout);
void pci_vpd_build(struct pci_function *f, const struct pci_layout *layout);
/* The host wrote the VPD address register. */
void pci_vpd_address_written(struct pci_function *f);
void pci_msix_reset(struct pci_function *f);

#endif
