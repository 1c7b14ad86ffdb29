/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The PCI side of the host driver. */
#include "base/fd.h"
#include "base/util.h"
#include "client/nvme_inside.h"
#include "spec/pci.h"
#include "spec/vfio_user.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

static int find_cap(struct nvme_host *h, uint8_t id, uint8_t *ret)
{
    uint8_t cfg[256];
    unsigned at, hops = 0;
    int rc = vfio_client_read(h->vc, VFIO_PCI_CONFIG, 0, cfg, sizeof(cfg));

    if (rc)
        return rc;
    for (at = cfg[PCI_CAP_POINTER] & 0xfc; at && hops < 48; at = cfg[at + 1] & 0xfc, hops++)
        if (cfg[at] == id) {
            *ret = (uint8_t)at;
            return 0;
        }
    return -ENOENT;
}

int nvme_pci_open_vectors(struct nvme_host *h, struct err *err)
{
    uint32_t count = 0;
    uint8_t cap = 0;
    int rc = vfio_client_irq_count(h->vc, VFIO_PCI_IRQ_MSIX, &count);

    if (!rc)
        rc = find_cap(h, PCI_CAP_MSIX, &cap);
    if (rc)
        return err_set(err, rc, "%s: no MSI-X: %s", h->o.path, strerror(-rc));
    h->nvectors = MIN(MIN(count, h->o.queues + 1), (unsigned)MAX_VECTORS);
    if (!h->nvectors)
        return err_set(err, -ENOENT, "%s: the function has no MSI-X vectors", h->o.path);
    for (unsigned i = 0; i < h->nvectors; i++) {
        h->vector_fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (h->vector_fd[i] < 0)
            return err_set(err, -errno, "%s: no eventfd: %s", h->o.path, strerror(errno));
    }
    rc = vfio_client_set_irqs(h->vc, VFIO_PCI_IRQ_MSIX, 0, h->nvectors, h->vector_fd);
    if (!rc)
        rc = vfio_client_write16(h->vc, VFIO_PCI_CONFIG, cap + PCI_MSIX_CONTROL, PCI_MSIX_ENABLE);
    if (!rc)
        rc = vfio_client_write16(h->vc, VFIO_PCI_CONFIG, PCI_COMMAND,
                                 PCI_COMMAND_MEMORY | PCI_COMMAND_BUS_MASTER |
                                     PCI_COMMAND_INTX_DISABLE);
    return rc ? err_set(err, rc, "%s: cannot set up interrupts: %s", h->o.path, strerror(-rc)) : 0;
}

int nvme_pci_map_doorbells(struct nvme_host *h, struct err *err)
{
    struct vfio_client_region r;
    int rc = vfio_client_region(h->vc, VFIO_PCI_BAR0, &r);
    void *p;

    if (rc)
        return err_set(err, rc, "%s: no BAR 0: %s", h->o.path, strerror(-rc));
    if (h->o.doorbells != NVME_DOORBELLS_MAPPED) {
        fd_close(&r.fd);
        return 0;
    }
    if (r.fd < 0 || !r.mmap_length || r.mmap_offset != NVME_REG_DOORBELLS) {
        fd_close(&r.fd);
        return err_set(err, -ENOTSUP, "%s: the function's doorbells cannot be mapped", h->o.path);
    }
    p = mmap(NULL, r.mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, r.fd,
             (off_t)(r.fd_offset + r.mmap_offset));
    rc = p == MAP_FAILED ? -errno : 0;
    fd_close(&r.fd);
    if (rc)
        return err_set(err, rc, "%s: cannot map the doorbells: %s", h->o.path, strerror(-rc));
    h->doorbells = p;
    h->doorbells_bytes = r.mmap_length;
    h->bell.mapped = (void *)p;
    return 0;
}
