/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/util.h"
#include "pci/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void pci_put16(uint8_t *image, unsigned offset, uint16_t value)
{
    image[offset] = (uint8_t)value;
    image[offset + 1] = (uint8_t)(value >> 8);
}

void pci_put32(uint8_t *image, unsigned offset, uint32_t value)
{
    pci_put16(image, offset, (uint16_t)value);
    pci_put16(image, offset + 2, (uint16_t)(value >> 16));
}

uint16_t pci_get16(const uint8_t *image, unsigned offset)
{
    return (uint16_t)(image[offset] | image[offset + 1] << 8);
}

uint32_t pci_get32(const uint8_t *image, unsigned offset)
{
    return pci_get16(image, offset) | (uint32_t)pci_get16(image, offset + 2) << 16;
}

/* ---- building ---- */

static int check_layout(const struct pci_layout *l, struct err *err)
{
    if (l->msix_vectors < 1 || l->msix_vectors > PCI_MSIX_MAX_VECTORS)
        return err_set(err, -EINVAL, "%u MSI-X vectors: 1 to %d are possible", l->msix_vectors,
                       PCI_MSIX_MAX_VECTORS);
    for (unsigned i = 0; i < PCI_BARS; i++) {
        const struct pci_bar_layout *bar = &l->bar[i];

        if (bar->bytes == 0)
            continue;
        if (bar->bytes < 16 || (bar->bytes & (bar->bytes - 1)))
            return err_set(err, -EINVAL, "BAR%u: %llu bytes is not a power of two of 16 or more", i,
                           (unsigned long long)bar->bytes);
        if (bar->wide && (i + 1 == PCI_BARS || l->bar[i + 1].bytes))
            return err_set(err, -EINVAL, "BAR%u: a 64-bit BAR needs the next one free", i);
        if (!bar->wide && bar->bytes > 1ULL << 31)
            return err_set(err, -EINVAL, "BAR%u: %llu bytes do not fit a 32-bit BAR", i,
                           (unsigned long long)bar->bytes);
    }
    if (l->msix_bar >= PCI_BARS || l->bar[l->msix_bar].bytes < PCI_MSIX_BAR_BYTES)
        return err_set(err, -EINVAL, "BAR%u is no place for the MSI-X table", l->msix_bar);
    return 0;
}

static void bar_build(struct pci_function *f, unsigned index, const struct pci_bar_layout *bar)
{
    unsigned at = PCI_BAR0 + index * 4;
    uint64_t mask = ~(bar->bytes - 1);

    if (bar->bytes == 0)
        return; /* hard-wired to zero, also as the upper half of a 64-bit one before it is written
                   below */
    pci_put32(f->writable, at, (uint32_t)mask & ~0xfU);
    if (bar->wide) {
        pci_put32(f->config, at, PCI_BAR_TYPE_64);
        pci_put32(f->writable, at + 4, (uint32_t)(mask >> 32));
    }
}

void pci_header_build(struct pci_function *f, const struct pci_layout *layout)
{
    uint8_t *c = f->config;

    pci_put16(c, PCI_VENDOR_ID, layout->vendor_id);
    pci_put16(c, PCI_DEVICE_ID, layout->device_id);
    pci_put16(c, PCI_STATUS, PCI_STATUS_CAP_LIST);
    c[PCI_REVISION_ID] = layout->revision_id;
    c[PCI_CLASS_CODE] = (uint8_t)layout->class_code;
    c[PCI_CLASS_CODE + 1] = (uint8_t)(layout->class_code >> 8);
    c[PCI_CLASS_CODE + 2] = (uint8_t)(layout->class_code >> 16);
    pci_put16(c, PCI_SUBSYSTEM_VENDOR_ID, layout->subsystem_vendor_id);
    pci_put16(c, PCI_SUBSYSTEM_ID, layout->subsystem_id);
    pci_put16(f->writable, PCI_COMMAND,
              PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
                  PCI_COMMAND_INTX_DISABLE);
    f->writable[PCI_CACHE_LINE_SIZE] = 0xff;
    f->writable[PCI_INTERRUPT_LINE] = 0xff; /* the pin is 0: there is no INTx */
    for (unsigned i = 0; i < PCI_BARS; i++)
        bar_build(f, i, &layout->bar[i]);
    /* The ROM BAR stays hard-wired to zero: hosts that size it by an echo would invent a ROM. */
}

struct pci_function *pci_function_create(const struct pci_layout *layout, struct err *err)
{
    struct pci_function *f;

    if (check_layout(layout, err) < 0)
        return NULL;
    f = calloc(1, sizeof(*f));
    if (!f) {
        err_set(err, -ENOMEM, "no memory for a PCI function");
        return NULL;
    }
    f->vectors = layout->msix_vectors;
    pci_header_build(f, layout);
    pci_capabilities_build(f, layout);
    pci_vpd_build(f, layout);
    memcpy(f->reset_image, f->config, sizeof(f->config));
    pci_msix_reset(f);
    return f;
}

void pci_function_destroy(struct pci_function *f)
{
    free(f);
}

void pci_function_reset(struct pci_function *f)
{
    memcpy(f->config, f->reset_image, sizeof(f->config));
    pci_msix_reset(f);
}

/* ---- accesses ---- */

void pci_config_read(const struct pci_function *f, uint64_t offset, void *buf, size_t len)
{
    size_t n = 0;

    if (offset < PCI_CONFIG_BYTES)
        n = MIN(len, (size_t)(PCI_CONFIG_BYTES - offset));
    memcpy(buf, f->config + (n ? offset : 0), n);
    memset((char *)buf + n, 0, len - n);
}

static bool covers(uint64_t offset, size_t len, unsigned at)
{
    return offset <= at && at - offset < len;
}

/* Only D0 and D3hot exist; a write of another state is completed and changes nothing (7.5.2.2). */
static void power_written(struct pci_function *f, unsigned old_state)
{
    uint8_t *csr = &f->config[f->pm + PCI_PM_CSR];
    unsigned state = *csr & PCI_PM_CSR_STATE;

    if (state != 0 && state != PCI_PM_CSR_STATE)
        *csr = (uint8_t)((*csr & ~PCI_PM_CSR_STATE) | old_state);
}

unsigned pci_config_write(struct pci_function *f, uint64_t offset, const void *buf, size_t len)
{
    bool was_master = pci_bus_master(f), was_powered = pci_powered(f);
    unsigned old_state = f->config[f->pm + PCI_PM_CSR] & PCI_PM_CSR_STATE, events = 0;
    unsigned flr = f->express + PCI_EXP_DEVCTL + 1; /* bit 15 is bit 7 of the second byte */
    const uint8_t *bytes = buf;

    if (offset >= PCI_CONFIG_BYTES)
        return 0;
    len = MIN(len, (size_t)(PCI_CONFIG_BYTES - offset));
    for (size_t i = 0; i < len; i++) {
        size_t at = (size_t)offset + i;

        f->config[at] =
            (uint8_t)((f->config[at] & ~f->writable[at]) | (bytes[i] & f->writable[at]));
    }
    power_written(f, old_state);
    if (covers(offset, len, f->vpd_cap + PCI_VPD_ADDRESS + 1))
        pci_vpd_address_written(f);
    if (covers(offset, len, flr) && (bytes[flr - offset] & (PCI_EXP_DEVCTL_FLR >> 8)))
        events |= PCI_EVENT_FLR; /* the bit itself reads as zero */
    if (pci_bus_master(f) != was_master || pci_powered(f) != was_powered)
        events |= PCI_EVENT_FLAGS;
    if (pci_powered(f) && !was_powered)
        events |= PCI_EVENT_D0;
    return events;
}

bool pci_bus_master(const struct pci_function *f)
{
    return pci_get16(f->config, PCI_COMMAND) & PCI_COMMAND_BUS_MASTER;
}

bool pci_powered(const struct pci_function *f)
{
    return (f->config[f->pm + PCI_PM_CSR] & PCI_PM_CSR_STATE) == 0;
}
