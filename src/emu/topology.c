/* SPDX-License-Identifier: BSD-3-Clause */
#include "emu/topology.h"

#include "base/log.h"
#include "base/util.h"
#include "pci/function.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FILE_BYTES_MAX = 65536, DEFAULT_MSIX = 32, DEFAULT_QUEUE_DEPTH_LOG2 = 6 };

enum key_type { KEY_BOOL, KEY_NUMBER, KEY_DEPTH, KEY_DOORBELLS, KEY_SERIAL, KEY_NO_EFFECT };

struct key {
    const char *name;
    enum key_type type;
    size_t offset; /* in struct topology */
    uint32_t min, max;
};

#define AT(member) offsetof(struct topology, member)

static const struct key keys[] = {
    {"NVME_EMULATION_ENABLE", KEY_BOOL, AT(nvme.enable), 0, 1},
    {"NVME_EMULATION_NUM_PF", KEY_NUMBER, AT(nvme.num_pf), 0, 4},
    {"NVME_EMULATION_NUM_VF", KEY_NUMBER, AT(nvme.num_vf), 0, 256},
    {"NVME_EMULATION_NUM_MSIX", KEY_NUMBER, AT(nvme.num_msix), 0, 63},
    {"NVME_EMULATION_NUM_VF_MSIX", KEY_NUMBER, AT(nvme.num_vf_msix), 0, PCI_MSIX_MAX_VECTORS},
    {"NVME_EMULATION_MAX_QUEUE_DEPTH", KEY_DEPTH, AT(nvme.queue_depth_log2), 4, 12},
    {"NVME_EMULATION_VENDOR_ID", KEY_NUMBER, AT(nvme.vendor_id), 1, 0xfffe},
    {"NVME_EMULATION_DEVICE_ID", KEY_NUMBER, AT(nvme.device_id), 0, 0xffff},
    {"NVME_EMULATION_CLASS_CODE", KEY_NUMBER, AT(nvme.class_code), 0, 0xffffff},
    {"NVME_EMULATION_REVISION_ID", KEY_NUMBER, AT(nvme.revision_id), 0, 0xff},
    {"NVME_EMULATION_SUBSYSTEM_VENDOR_ID", KEY_NUMBER, AT(nvme.subsystem_vendor_id), 0, 0xffff},
    {"NVME_EMULATION_SUBSYSTEM_ID", KEY_NUMBER, AT(nvme.subsystem_id), 0, 0xffff},
    {"VIRTIO_BLK_EMULATION_ENABLE", KEY_BOOL, AT(virtio_blk.enable), 0, 1},
    {"VIRTIO_BLK_EMULATION_NUM_PF", KEY_NUMBER, AT(virtio_blk.num_pf), 0, 4},
    {"VIRTIO_BLK_EMULATION_NUM_VF", KEY_NUMBER, AT(virtio_blk.num_vf), 0, 2000},
    {"VIRTIO_BLK_EMULATION_NUM_MSIX", KEY_NUMBER, AT(virtio_blk.num_msix), 0, 63},
    {"VIRTIO_BLK_EMULATION_NUM_VF_MSIX", KEY_NUMBER, AT(virtio_blk.num_vf_msix), 0,
     PCI_MSIX_MAX_VECTORS},
    {"VIRTIO_BLK_EMU_SUBSYSTEM_VENDOR_ID", KEY_NUMBER, AT(virtio_blk.subsystem_vendor_id), 0,
     0xffff},
    {"VIRTIO_BLK_EMU_SUBSYSTEM_ID", KEY_NUMBER, AT(virtio_blk.subsystem_id), 0, 0xffff},
    {"doorbells", KEY_DOORBELLS, AT(doorbells), 0, 0},
    {"serial_number", KEY_SERIAL, AT(serial), 0, 0},
    /* Known to the firmware; nothing here depends on them. */
    {"INTERNAL_CPU_MODEL", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"SRIOV_EN", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"NUM_OF_VFS", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"PCI_SWITCH_EMULATION_ENABLE", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"PCI_SWITCH_EMULATION_NUM_PORT", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"PER_PF_NUM_SF", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"PF_SF_BAR_SIZE", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"PF_TOTAL_SF", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"EXP_ROM_NVME_UEFI_x86_ENABLE", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
    {"EXP_ROM_VIRTIO_BLK_UEFI_x86_ENABLE", KEY_NO_EFFECT, 0, 0, UINT32_MAX},
};

void topology_default(struct topology *t)
{
    *t = (struct topology){
        .nvme = {.enable = 1,
                 .num_pf = 1,
                 .num_vf = 4,
                 .queue_depth_log2 = 10,
                 .vendor_id = 0x15b3,
                 .device_id = 0x6001,
                 .class_code = 0x010802},
        .virtio_blk = {.enable = 1,
                       .num_pf = 1,
                       .num_vf = 4,
                       .queue_depth_log2 = 10,
                       .vendor_id = 0x1af4,
                       .device_id = 0x1042,
                       .class_code = 0x010000,
                       .subsystem_vendor_id = 0x1af4,
                       .subsystem_id = 0x1042},
    };
}

uint32_t topology_msix(const struct topology_kind *k, bool vf)
{
    uint32_t n = vf ? k->num_vf_msix : k->num_msix;

    return n ? n : DEFAULT_MSIX;
}

uint32_t topology_queue_depth(const struct topology_kind *k)
{
    return 1U << (k->queue_depth_log2 ? k->queue_depth_log2 : DEFAULT_QUEUE_DEPTH_LOG2);
}

/* ---- values ---- */

struct line {
    const char *file;
    unsigned number;
    const char *value;
};

static int parse_number(const struct key *key, const struct line *l, uint32_t *ret, struct err *err)
{
    unsigned long long v;
    char *end;

    errno = 0;
    v = strtoull(l->value, &end, 0);
    if (errno || end == l->value || *end || l->value[0] == '-')
        return err_set(err, -EINVAL, "%s:%u: %s = '%s': a number from %u to %u is needed", l->file,
                       l->number, key->name, l->value, key->min, key->max);
    if (v < key->min || v > key->max) {
        if (key->type == KEY_DEPTH && v == 0) {
            *ret = 0;
            return 0;
        }
        return err_set(
            err, -ERANGE, "%s:%u: %s = %s: the limits are %u and %u%s", l->file, l->number,
            key->name, l->value, key->min, key->max,
            key->type == KEY_DEPTH ? " (log2 of the entries; 0: the default of 64 entries)" : "");
    }
    *ret = (uint32_t)v;
    return 0;
}

static int parse_choice(const struct key *key, const struct line *l, const char *const *words,
                        unsigned nwords, unsigned meanings, uint32_t *ret, struct err *err)
{
    char all[128] = "";

    for (unsigned i = 0; i < nwords; i++) {
        if (!strcasecmp(l->value, words[i])) {
            *ret = i % meanings;
            return 0;
        }
        snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? ", " : "", words[i]);
    }
    return err_set(err, -EINVAL, "%s:%u: %s = '%s': one of %s is needed", l->file, l->number,
                   key->name, l->value, all);
}

static int parse_serial(const struct key *key, const struct line *l, char *ret, struct err *err)
{
    size_t len = strlen(l->value);
    bool ok = len == 12;

    for (size_t i = 0; ok && i < len; i++)
        ok = isupper((unsigned char)l->value[i]) || isdigit((unsigned char)l->value[i]);
    if (!ok)
        return err_set(err, -EINVAL, "%s:%u: %s = '%s': exactly 12 of A-Z and 0-9 are needed",
                       l->file, l->number, key->name, l->value);
    memcpy(ret, l->value, len + 1);
    return 0;
}

static int parse_value(struct topology *t, const struct key *key, const struct line *l,
                       struct err *err)
{
    static const char *const bools[] = {"0", "1", "false", "true"};
    static const char *const doorbells[] = {"auto", "trapped", "mapped"};
    void *to = (char *)t + key->offset;

    switch (key->type) {
    case KEY_BOOL:
        return parse_choice(key, l, bools, ARRAY_SIZE(bools), 2, to, err);
    case KEY_NUMBER:
    case KEY_DEPTH:
        return parse_number(key, l, to, err);
    case KEY_DOORBELLS:
        return parse_choice(key, l, doorbells, ARRAY_SIZE(doorbells), ARRAY_SIZE(doorbells), to,
                            err);
    case KEY_SERIAL:
        return parse_serial(key, l, to, err);
    case KEY_NO_EFFECT:
        log_line(LOG_INFO, "emu", "%s:%u: %s has no effect here", l->file, l->number, key->name);
        return 0;
    }
    return -EINVAL;
}

/* ---- lines ---- */

static char *trim(char *s)
{
    char *end = s + strlen(s);

    while (isspace((unsigned char)*s))
        s++;
    while (end > s && isspace((unsigned char)end[-1]))
        end--;
    *end = '\0';
    return s;
}

static int parse_line(struct topology *t, char *text, struct line *l, unsigned *seen,
                      struct err *err)
{
    char *comment = strchr(text, '#'), *equals, *name;

    if (comment)
        *comment = '\0';
    text = trim(text);
    if (!*text)
        return 0;
    equals = strchr(text, '=');
    if (!equals)
        return err_set(err, -EINVAL, "%s:%u: '%s' is not KEY = VALUE", l->file, l->number, text);
    *equals = '\0';
    name = trim(text);
    l->value = trim(equals + 1);
    for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
        if (strcmp(keys[i].name, name) != 0)
            continue;
        if (seen[i])
            return err_set(err, -EINVAL, "%s:%u: %s is given twice, first in line %u", l->file,
                           l->number, name, seen[i]);
        seen[i] = l->number;
        return parse_value(t, &keys[i], l, err);
    }
    return err_set(err, -EINVAL, "%s:%u: there is no key '%s'", l->file, l->number, name);
}

int topology_parse(struct topology *t, const char *name, const char *text, struct err *err)
{
    unsigned seen[ARRAY_SIZE(keys)] = {0};
    struct topology next = *t;
    struct line l = {.file = name};
    char *copy = strdup(text), *at = copy, *line;
    int rc = 0;

    if (!copy)
        return err_set(err, -ENOMEM, "%s: no memory", name);
    while (rc == 0 && (line = strsep(&at, "\n"))) {
        l.number++;
        rc = parse_line(&next, line, &l, seen, err);
    }
    if (rc == 0)
        *t = next; /* all or nothing */
    free(copy);
    return rc;
}

int topology_read(struct topology *t, const char *path, struct err *err)
{
    char *text = malloc(FILE_BYTES_MAX + 1);
    FILE *f = fopen(path, "re");
    size_t n;
    int rc;

    if (!f || !text) {
        rc = err_set(err, f ? -ENOMEM : -errno, "cannot read topology file '%s': %s", path,
                     strerror(f ? ENOMEM : errno));
        goto out;
    }
    n = fread(text, 1, FILE_BYTES_MAX + 1, f);
    if (ferror(f)) {
        rc = err_set(err, -EIO, "cannot read topology file '%s'", path);
        goto out;
    }
    if (n > FILE_BYTES_MAX || memchr(text, '\0', n)) {
        rc = err_set(err, -EINVAL, "topology file '%s' is not a text of at most %d bytes", path,
                     FILE_BYTES_MAX);
        goto out;
    }
    text[n] = '\0';
    rc = topology_parse(t, path, text, err);
out:
    if (f)
        fclose(f);
    free(text);
    return rc;
}
