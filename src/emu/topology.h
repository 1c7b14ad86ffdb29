/* SPDX-License-Identifier: BSD-3-Clause
 *
 * emu/topology.h - which functions there are: a text file of KEY = VALUE lines with the firmware's
 * parameter names, read once at start. What the file does not name has the default of
 * topology_default(). */
#ifndef EMU_TOPOLOGY_H
#define EMU_TOPOLOGY_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum topology_doorbells { DOORBELLS_AUTO, DOORBELLS_TRAPPED, DOORBELLS_MAPPED };

/* The functions of one kind. */
struct topology_kind {
    uint32_t enable;
    uint32_t num_pf, num_vf;        /* VFs: for each PF */
    uint32_t num_msix, num_vf_msix; /* 0: the default of 32 */
    uint32_t queue_depth_log2;      /* 0: 64 entries */
    uint32_t vendor_id, device_id, class_code, revision_id, subsystem_vendor_id, subsystem_id;
};

struct topology {
    struct topology_kind nvme, virtio_blk;
    uint32_t doorbells; /* enum topology_doorbells */
    char serial[13];    /* the first 12 characters of every vuid; "": made from the machine's id */
};

void topology_default(struct topology *t);

/* Reads a file over *t. err names file, line, value and limit. */
int topology_read(struct topology *t, const char *path, struct err *err);
/* The same for a text; name stands for the file in messages. */
int topology_parse(struct topology *t, const char *name, const char *text, struct err *err);

/* Vectors and queue depth as functions get them. */
uint32_t topology_msix(const struct topology_kind *k, bool vf);
uint32_t topology_queue_depth(const struct topology_kind *k);

#endif
