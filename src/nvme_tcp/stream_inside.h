/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_tcp/stream_inside.h - what stream_in.c and stream_out.c share. */
#ifndef NVME_TCP_STREAM_INSIDE_H
#define NVME_TCP_STREAM_INSIDE_H

#include "nvme_tcp/stream.h"

/* Makes the pages of an iov present in this process after EFAULT: the guard of guest/memory.h
 * replaces those of a truncated file. write: they are going to be written. */
void nvme_tcp_touch(const struct iovec *v, unsigned n, bool write);

#endif
