/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Stable names. A vuid is <serial><kind>S0D0F<n>[VF<m>]: serial, 12 characters of this machine (or
 * of the topology file); kind NVME or VBLK; n counts the static physical functions, NVMe first; m
 * is the VF's index + 1. */
#include "emu/emu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

uint64_t identity_hash(const char *text)
{
    uint64_t h = 0xcbf29ce484222325ULL;

    for (; *text; text++)
        h = (h ^ (uint8_t)*text) * 0x100000001b3ULL;
    return h;
}

void identity_serial(char serial[13])
{
    char id[256] = "";
    FILE *f = fopen("/etc/machine-id", "re");

    if (f) {
        if (!fgets(id, sizeof(id), f))
            id[0] = '\0';
        fclose(f);
    }
    if (!id[0])
        gethostname(id, sizeof(id) - 1);
    snprintf(serial, 13, "OS%010llX", (unsigned long long)(identity_hash(id) & 0xffffffffffULL));
}
