/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/tcp_inside.h - what tcp.c and tcp_receive.c share. */
#ifndef BACKENDS_NVME_OF_TCP_INSIDE_H
#define BACKENDS_NVME_OF_TCP_INSIDE_H

#include "backends/nvme_of/tcp.h"

/* tcp_receive.c */
extern const struct nvme_tcp_stream_ops tcp_stream_ops;

/* tcp.c */
/* The peer has broken the protocol: says so in a TermReq where that is still possible, then down.
 */
void tcp_fault(struct tcp_conn *c, const struct nvme_tcp_fault *fault, const void *header,
               size_t len);
/* The slot of a CID in flight, or NULL. */
struct tcp_cmd *tcp_find(struct tcp_conn *c, uint16_t cid);
/* Puts the next H2CData PDU of the command's R2T in line. */
void tcp_send_r2t_data(struct tcp_conn *c, struct tcp_cmd *cmd);

#endif
