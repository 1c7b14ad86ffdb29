/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The capability chain: power management, MSI-X, PCI Express, VPD; extended: device serial number.
 */
#include "pci/inside.h"

#include <string.h>

enum {
    PM_AT = 0x40,
    MSIX_AT = 0x50,
    EXPRESS_AT = 0x60,
    VPD_AT = 0xa0,
    /* The link of a made-up but plausible slot: 8 GT/s, x4. */
    LINK_SPEED = 3,
    LINK_WIDTH = 4,
    LINK_SPEEDS = 0xe, /* 2.5, 5, 8 GT/s */
};

static void chain(struct pci_function *f, unsigned *link, unsigned at, uint8_t id)
{
    f->config[*link] = (uint8_t)at;
    f->config[at] = id;
    *link = at + 1;
}

static void power_build(struct pci_function *f)
{
    f->pm = PM_AT;
    pci_put16(f->config, PM_AT + PCI_PM_PMC, PCI_PM_PMC_VERSION_3); /* no D1, D2, PME */
    pci_put16(f->writable, PM_AT + PCI_PM_CSR, PCI_PM_CSR_STATE);
}

static void msix_build(struct pci_function *f, const struct pci_layout *layout)
{
    f->msix = MSIX_AT;
    pci_put16(f->config, MSIX_AT + PCI_MSIX_CONTROL, (uint16_t)(layout->msix_vectors - 1));
    pci_put32(f->config, MSIX_AT + PCI_MSIX_TABLE, PCI_MSIX_TABLE_OFFSET | layout->msix_bar);
    pci_put32(f->config, MSIX_AT + PCI_MSIX_PBA, PCI_MSIX_PBA_OFFSET | layout->msix_bar);
    pci_put16(f->writable, MSIX_AT + PCI_MSIX_CONTROL, PCI_MSIX_ENABLE | PCI_MSIX_FUNCTION_MASK);
}

static void express_build(struct pci_function *f)
{
    uint32_t link = LINK_SPEED | LINK_WIDTH << 4;

    f->express = EXPRESS_AT;
    pci_put16(f->config, EXPRESS_AT + PCI_EXP_FLAGS,
              PCI_EXP_FLAGS_VERSION_2 | PCI_EXP_FLAGS_ENDPOINT);
    pci_put32(f->config, EXPRESS_AT + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR);
    pci_put32(f->config, EXPRESS_AT + PCI_EXP_LNKCAP, link);
    pci_put16(f->config, EXPRESS_AT + PCI_EXP_LNKSTA, (uint16_t)link);
    pci_put32(f->config, EXPRESS_AT + PCI_EXP_LNKCAP2, LINK_SPEEDS);
    pci_put16(f->config, EXPRESS_AT + PCI_EXP_LNKCTL2, LINK_SPEED);
    /* Error reporting enables, payload and read request size, relaxed ordering, no-snoop; bit 15
     * (FLR) reads as 0. */
    pci_put16(f->config, EXPRESS_AT + PCI_EXP_DEVCTL, 2 << 12 | 1 << 11 | 1 << 4);
    pci_put16(f->writable, EXPRESS_AT + PCI_EXP_DEVCTL, 0x78ff);
    pci_put16(f->writable, EXPRESS_AT + PCI_EXP_LNKCTL,
              0x00c3); /* ASPM, common clock, extended synch */
}

static void serial_build(struct pci_function *f, uint64_t serial)
{
    enum { AT = PCI_EXT_CAP_START };

    pci_put32(f->config, AT, PCI_EXT_CAP_DSN | 1U << 16); /* version 1, no next one */
    pci_put32(f->config, AT + 4, (uint32_t)serial);
    pci_put32(f->config, AT + 8, (uint32_t)(serial >> 32));
}

void pci_capabilities_build(struct pci_function *f, const struct pci_layout *layout)
{
    unsigned link = PCI_CAP_POINTER;

    chain(f, &link, PM_AT, PCI_CAP_PM);
    power_build(f);
    chain(f, &link, MSIX_AT, PCI_CAP_MSIX);
    msix_build(f, layout);
    chain(f, &link, EXPRESS_AT, PCI_CAP_EXPRESS);
    express_build(f);
    chain(f, &link, VPD_AT, PCI_CAP_VPD);
    f->vpd_cap = VPD_AT;
    pci_put16(f->writable, VPD_AT + PCI_VPD_ADDRESS, 0xffff);
    pci_put32(f->writable, VPD_AT + PCI_VPD_DATA, 0xffffffff);
    serial_build(f, layout->serial);
}
