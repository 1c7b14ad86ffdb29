/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/pci.h - PCI configuration space: PCI Express Base 4.0, chapter 7; PCI 3.0 for the VPD.
 * Offsets in bytes. */
#ifndef SPEC_PCI_H
#define SPEC_PCI_H

enum { PCI_CONFIG_BYTES = 4096, PCI_CONFIG_LEGACY_BYTES = 256 };

/* ---- type 0 header (7.5.1) ---- */
enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION_ID = 0x08,
    PCI_CLASS_CODE = 0x09, /* 3 bytes: interface, sub-class, base class */
    PCI_CACHE_LINE_SIZE = 0x0c,
    PCI_LATENCY_TIMER = 0x0d,
    PCI_HEADER_TYPE = 0x0e,
    PCI_BIST = 0x0f,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR_ID = 0x2c,
    PCI_SUBSYSTEM_ID = 0x2e,
    PCI_ROM_BAR = 0x30,
    PCI_CAP_POINTER = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
};
enum {
    PCI_COMMAND_IO = 1 << 0,
    PCI_COMMAND_MEMORY = 1 << 1,
    PCI_COMMAND_BUS_MASTER = 1 << 2,
    PCI_COMMAND_PARITY = 1 << 6,
    PCI_COMMAND_SERR = 1 << 8,
    PCI_COMMAND_INTX_DISABLE = 1 << 10,
};
enum { PCI_STATUS_CAP_LIST = 1 << 4 };
enum { PCI_BAR_TYPE_64 = 4 };

/* ---- capabilities ---- */
enum { PCI_CAP_PM = 0x01, PCI_CAP_VPD = 0x03, PCI_CAP_EXPRESS = 0x10, PCI_CAP_MSIX = 0x11 };

/* Power management (7.5.2), from the start of the capability. */
enum { PCI_PM_PMC = 2, PCI_PM_CSR = 4, PCI_PM_BYTES = 8 };
enum {
    PCI_PM_PMC_VERSION_3 = 3,
    PCI_PM_CSR_STATE = 3, /* 0 D0, 3 D3hot */
    PCI_PM_CSR_NO_SOFT_RESET = 1 << 3,
};

/* MSI-X (7.7.2). */
enum { PCI_MSIX_CONTROL = 2, PCI_MSIX_TABLE = 4, PCI_MSIX_PBA = 8, PCI_MSIX_BYTES = 12 };
enum { PCI_MSIX_FUNCTION_MASK = 1 << 14, PCI_MSIX_ENABLE = 1 << 15 };
enum { PCI_MSIX_ENTRY_BYTES = 16, PCI_MSIX_ENTRY_CONTROL = 12, PCI_MSIX_ENTRY_MASKED = 1 };

/* PCI Express (7.5.3). */
enum {
    PCI_EXP_FLAGS = 2,
    PCI_EXP_DEVCAP = 4,
    PCI_EXP_DEVCTL = 8,
    PCI_EXP_DEVSTA = 10,
    PCI_EXP_LNKCAP = 12,
    PCI_EXP_LNKCTL = 16,
    PCI_EXP_LNKSTA = 18,
    PCI_EXP_DEVCAP2 = 36,
    PCI_EXP_DEVCTL2 = 40,
    PCI_EXP_LNKCAP2 = 44,
    PCI_EXP_LNKCTL2 = 48,
    PCI_EXP_BYTES = 60,
};
enum {
    PCI_EXP_FLAGS_VERSION_2 = 2,
    PCI_EXP_FLAGS_ENDPOINT = 0 << 4,
    PCI_EXP_DEVCAP_RBER = 1 << 15,
    PCI_EXP_DEVCAP_FLR = 1 << 28,
    PCI_EXP_DEVCTL_FLR = 1 << 15,
};

/* Vital product data (PCI 3.0, 6.4 and appendix I). */
enum { PCI_VPD_ADDRESS = 2, PCI_VPD_DATA = 4, PCI_VPD_BYTES = 8, PCI_VPD_F = 1 << 15 };

/* ---- extended capabilities ---- */
enum { PCI_EXT_CAP_START = 0x100, PCI_EXT_CAP_DSN = 0x0003, PCI_EXT_DSN_BYTES = 12 };

#endif
