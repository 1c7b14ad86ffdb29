/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/fd.h"
#include "base/log.h"
#include "base/util.h"
#include "emu/emu.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    STATIC_BUS = 1, /* where all functions pretend to be; hosts enumerate them elsewhere */
    PFS_MAX = 8,    /* routing ids 0..7 of that bus: 4 of each kind */
};

/* ---- identity ---- */

struct place {
    enum function_kind kind;
    const struct topology_kind *topo;
    int pf, vf;          /* of its kind; vf -1: the PF */
    unsigned pf_number;  /* among all static PFs */
    unsigned routing_id; /* from 01:00.0 on; also the vhca_id */
};

static void fill_info(struct link_function_info *info, const char *serial, const struct place *p)
{
    char vf[16] = "";

    *info = (struct link_function_info){
        .kind = p->kind,
        .vhca_id = p->routing_id,
        .pf_index = p->pf,
        .vf_index = p->vf,
        .num_vfs = p->vf < 0 ? p->topo->num_vf : 0,
        .num_msix = topology_msix(p->topo, p->vf >= 0),
        .max_queue_depth = topology_queue_depth(p->topo),
    };
    if (p->vf >= 0)
        snprintf(vf, sizeof(vf), "VF%d", p->vf + 1);
    snprintf(info->vuid, sizeof(info->vuid), "%s%sS0D0F%u%s", serial,
             p->kind == FUNCTION_NVME ? "NVME" : "VBLK", p->pf_number, vf);
    snprintf(info->pci_bdf, sizeof(info->pci_bdf), "%02x:%02x.%x",
             (STATIC_BUS + (p->routing_id >> 8)) & 0xff, p->routing_id >> 3 & 0x1f,
             p->routing_id & 7);
    snprintf(info->state, sizeof(info->state), "new");
}

/* ---- memory ---- */

static int map_memfd(const char *name, uint64_t size, uint64_t map_bytes, int *ret_fd, void **ret)
{
    int fd = fd_memfd(name, size);

    if (fd < 0)
        return fd;
    *ret = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (*ret == MAP_FAILED) {
        close(fd);
        return -errno;
    }
    *ret_fd = fd;
    return 0;
}

static uint32_t flags_now(const struct emu_function *fn)
{
    return fn->host->flags(fn) | (fn->host->has_client(fn) ? STATE_HOST_CONNECTED : 0) |
           (fn->failed[0] ? STATE_FAILED : 0);
}

int function_memory(struct emu_function *fn, struct err *err)
{
    struct state_memory *st;
    void *at;
    int rc;

    if (fn->regs.st)
        return 0;
    fn->state_bytes = STATE_DEVICE_OFFSET + state_device_bytes(fn->info.max_queue_depth);
    fn->state_bytes = (fn->state_bytes + 4095) & ~4095ULL;
    /* The device part is the service's: it is never mapped here. */
    rc = map_memfd("snap-state", fn->state_bytes, STATE_DEVICE_OFFSET, &fn->state_fd, &at);
    if (rc < 0)
        return err_set(err, rc, "function %s: state memory: %s", fn->info.vuid, strerror(-rc));
    st = at;
    st->head = (struct state_head){
        .magic = STATE_MAGIC,
        .version = STATE_VERSION,
        .head_bytes = sizeof(st->head),
        .total_bytes = fn->state_bytes,
        .device_offset = STATE_DEVICE_OFFSET,
        .reg_bytes = STATE_REG_BYTES,
        .log_entries = STATE_LOG_ENTRIES,
        .function_kind = fn->info.kind,
    };
    memcpy(st->head.vuid, fn->info.vuid, sizeof(st->head.vuid));
    atomic_store(&st->emu.epoch, 1);
    atomic_store(&st->emu.flags, flags_now(fn));
    fn->regs.st = st;
    return 0;
}

/* ---- state ---- */

void function_changed(struct emu_function *fn)
{
    struct link_function_info before = fn->info, *info = &fn->info;
    uint32_t flags;

    if (fn->failed[0])
        snprintf(info->state, sizeof(info->state), "failed: %s", fn->failed);
    else if (fn->holder)
        snprintf(info->state, sizeof(info->state), lease_conn(fn) ? "leased" : "fencing");
    else
        snprintf(info->state, sizeof(info->state), fn->started ? "parked" : "new");
    info->holder_pid = fn->holder ? fn->holder->pid : 0;
    info->host_connected = fn->host->has_client(fn);
    if (fn->regs.st) {
        flags = flags_now(fn);
        if (atomic_exchange(&fn->regs.st->emu.flags, flags) != flags)
            lease_tell_flags(fn);
    }
    if (memcmp(&before, info, sizeof(before)) != 0)
        link_function_changed(fn->emu, fn->index);
}

void function_fail(struct emu_function *fn, const char *why)
{
    log_line(LOG_ERROR, "emu", "function %s: stopped: %s", fn->info.vuid, why);
    snprintf(fn->failed, sizeof(fn->failed), "%s", why);
    function_changed(fn);
}

/* ---- making them ---- */

static int make_socket(struct emu_function *fn, const char *name,
                       int (*create)(struct emu_function *fn, const char *path, struct err *err),
                       struct err *err)
{
    struct emu *emu = fn->emu;
    char dir[sizeof(emu->run_dir) + LINK_NAME_BYTES + 16], path[sizeof(dir) + 16];
    int rc;

    snprintf(dir, sizeof(dir), "%s/functions/%s", emu->run_dir, fn->info.vuid);
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    rc = fd_mkdirs(dir, 0755, err);
    return rc < 0 ? rc : create(fn, path, err);
}

/* The image of BAR0 with the doorbell page. Virtqueues have none; services map one all the same. */
static int make_doorbells(struct emu_function *fn, struct err *err)
{
    void *at;
    int rc = map_memfd("snap-doorbells", REGISTERS_BAR_BYTES, REGISTERS_BAR_BYTES, &fn->doorbell_fd,
                       &at);

    if (rc < 0)
        return err_set(err, rc, "function %s: doorbell page: %s", fn->info.vuid, strerror(-rc));
    fn->regs.doorbells = (void *)((char *)at + STATE_DOORBELL_OFFSET);
    return 0;
}

static int make_nvme(struct emu_function *fn, const struct topology_kind *k, struct err *err)
{
    struct pci_layout layout = {
        .vendor_id = (uint16_t)k->vendor_id,
        .device_id = (uint16_t)k->device_id,
        .subsystem_vendor_id = (uint16_t)k->subsystem_vendor_id,
        .subsystem_id = (uint16_t)k->subsystem_id,
        .class_code = k->class_code,
        .revision_id = (uint8_t)k->revision_id,
        .serial = identity_hash(fn->info.vuid),
        .vuid = fn->info.vuid,
        .model = "OpenSNAP NVMe function",
        .bar = {[0] = {REGISTERS_BAR_BYTES, true}, [4] = {PCI_MSIX_BAR_BYTES, false}},
        .msix_vectors = fn->info.num_msix,
        .msix_bar = 4,
    };

    fn->pci = pci_function_create(&layout, err);
    return fn->pci ? make_socket(fn, "cntrl", pci_host_create, err) : err->code;
}

/* virtqueues on a vhost-user socket; the same device as a PCI function is not built yet. */
static int make_virtio_blk(struct emu_function *fn, const struct topology_kind *k, struct err *err)
{
    (void)k;
    return make_socket(fn, "vhost.sock", virtqueue_host_create, err);
}

static int (*const make[])(struct emu_function *fn, const struct topology_kind *k,
                           struct err *err) = {
    [FUNCTION_NVME] = make_nvme,
    [FUNCTION_VIRTIO_BLK] = make_virtio_blk,
};

static int make_function(struct emu *emu, const char *serial, const struct place *place,
                         struct err *err)
{
    struct emu_function *fn = calloc(1, sizeof(*fn));
    int rc;

    if (!fn)
        return err_set(err, -ENOMEM, "no memory for the functions of the topology");
    fn->emu = emu;
    fn->index = emu->nfunctions;
    fn->state_fd = fn->doorbell_fd = -1;
    list_init(&fn->waiters);
    emu->functions[emu->nfunctions++] = fn;
    fill_info(&fn->info, serial, place);
    rc = make_doorbells(fn, err);
    return rc < 0 ? rc : make[place->kind](fn, place->topo, err);
}

static unsigned count(const struct topology_kind *k)
{
    return k->enable ? k->num_pf * (1 + k->num_vf) : 0;
}

/* PFs of a kind and their VFs. Routing ids: PFs first, in the order of their numbers; then the VFs,
 * PF by PF. */
static int make_kind(struct emu *emu, const char *serial, struct place place, unsigned *next_vf,
                     struct err *err)
{
    int rc = 0;

    if (!place.topo->enable)
        return 0;
    for (place.pf = 0; rc == 0 && place.pf < (int)place.topo->num_pf;
         place.pf++, place.pf_number++) {
        place.vf = -1;
        place.routing_id = place.pf_number;
        rc = make_function(emu, serial, &place, err);
        for (place.vf = 0; rc == 0 && place.vf < (int)place.topo->num_vf; place.vf++) {
            place.routing_id = (*next_vf)++;
            rc = make_function(emu, serial, &place, err);
        }
    }
    return rc;
}

int functions_create(struct emu *emu, struct err *err)
{
    const struct topology *t = &emu->topology;
    struct place nvme = {.kind = FUNCTION_NVME, .topo = &t->nvme};
    struct place blk = {.kind = FUNCTION_VIRTIO_BLK, .topo = &t->virtio_blk};
    unsigned total = count(&t->nvme) + count(&t->virtio_blk), next_vf = PFS_MAX;
    char serial[13];
    int rc;

    emu->functions = calloc(total + 1, sizeof(*emu->functions));
    if (!emu->functions)
        return err_set(err, -ENOMEM, "no memory for %u functions", total);
    identity_serial(serial);
    if (t->serial[0])
        memcpy(serial, t->serial, sizeof(serial));
    blk.pf_number = t->nvme.enable ? t->nvme.num_pf : 0;
    rc = make_kind(emu, serial, nvme, &next_vf, err);
    return rc < 0 ? rc : make_kind(emu, serial, blk, &next_vf, err);
}

static void function_destroy(struct emu_function *fn)
{
    vfio_user_destroy(fn->vu);
    vhost_user_destroy(fn->vh);
    pci_function_destroy(fn->pci);
    if (fn->regs.st)
        munmap(fn->regs.st, STATE_DEVICE_OFFSET);
    if (fn->regs.doorbells)
        munmap((char *)fn->regs.doorbells - STATE_DOORBELL_OFFSET, REGISTERS_BAR_BYTES);
    fd_close(&fn->state_fd);
    fd_close(&fn->doorbell_fd);
    free(fn);
}

void functions_destroy(struct emu *emu)
{
    for (unsigned i = 0; i < emu->nfunctions; i++)
        function_destroy(emu->functions[i]);
    free(emu->functions);
    emu->functions = NULL;
    emu->nfunctions = 0;
}
