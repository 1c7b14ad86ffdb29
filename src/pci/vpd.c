/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Vital product data: identifier string and, in the read-only section, the vuid in the vendor field
 * VU. */
#include "base/util.h"
#include "pci/inside.h"

#include <string.h>

enum { TAG_IDENTIFIER = 0x82, TAG_READ_ONLY = 0x90, TAG_END = 0x78, FIELD_HEADER = 3 };

void pci_vpd_build(struct pci_function *f, const struct pci_layout *layout)
{
    size_t model_len = MIN(strlen(layout->model), (size_t)64);
    size_t vuid_len = MIN(strlen(layout->vuid), (size_t)63);
    size_t fields = FIELD_HEADER + vuid_len + FIELD_HEADER + 1;
    uint8_t *p = f->vpd, sum = 0;

    *p++ = TAG_IDENTIFIER;
    *p++ = (uint8_t)model_len;
    *p++ = 0;
    memcpy(p, layout->model, model_len);
    p += model_len;
    *p++ = TAG_READ_ONLY;
    *p++ = (uint8_t)fields;
    *p++ = 0;
    *p++ = 'V';
    *p++ = 'U';
    *p++ = (uint8_t)vuid_len;
    memcpy(p, layout->vuid, vuid_len);
    p += vuid_len;
    *p++ = 'R';
    *p++ = 'V';
    *p++ = 1;
    for (const uint8_t *q = f->vpd; q < p; q++)
        sum = (uint8_t)(sum + *q);
    *p++ = (uint8_t)-sum; /* all bytes up to and with this one add up to zero */
    *p = TAG_END;
}

/* F = 0 asks for a read; it is finished at once, which F = 1 tells. F = 1 would be a write: ours
 * cannot be written, and clearing F ends the cycle without effect. */
void pci_vpd_address_written(struct pci_function *f)
{
    uint16_t address = pci_get16(f->config, f->vpd_cap + PCI_VPD_ADDRESS);
    unsigned at = address & (PCI_VPD_F - 1);

    if (!(address & PCI_VPD_F)) {
        uint32_t data = 0;

        if (at <= PCI_VPD_IMAGE_BYTES - 4)
            data = pci_get32(f->vpd, at);
        pci_put32(f->config, f->vpd_cap + PCI_VPD_DATA, data);
    }
    pci_put16(f->config, f->vpd_cap + PCI_VPD_ADDRESS, (uint16_t)(address ^ PCI_VPD_F));
}
