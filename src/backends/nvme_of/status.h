/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/status.h - what a target's completion status means for us. Pure functions;
 * status is bits 14:0. */
#ifndef BACKENDS_NVME_OF_STATUS_H
#define BACKENDS_NVME_OF_STATUS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 0 or a negative errno. */
int nof_status_errno(uint16_t status);
/* Worth another try after a while. */
bool nof_status_retry(uint16_t status);
/* The path's, not the medium's: another path may do. */
bool nof_status_path(uint16_t status);
/* Of those: by asymmetric access, of which there is a log. */
bool nof_status_ana(uint16_t status);
/* "LBA out of range (0080h)" into out. */
void nof_status_text(uint16_t status, char *out, size_t size);
/* The same for the answer to Connect, whose codes overlap with others. */
void nof_connect_text(uint16_t status, uint32_t dw0, char *out, size_t size);

#endif
