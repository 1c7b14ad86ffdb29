/* SPDX-License-Identifier: BSD-3-Clause
 *
 * backends/nvme_of/tcp_inside.h - what tcp.c, tcp_cmd.c and tcp_receive.c share. */
#ifndef BACKENDS_NVME_OF_TCP_INSIDE_H
#define BACKENDS_NVME_OF_TCP_INSIDE_H

#include "backends/nvme_of/tcp.h"

/* CID: slot, then a turn count, so that a late response of a finished command is found out. */
enum { TCP_SLOT_BITS = 7 };

/* tcp_receive.c */
extern const struct nvme_tcp_stream_ops tcp_stream_ops;

/* tcp.c */
/* The peer has broken the protocol: says so in a TermReq where that is still possible, then down.
 */
void tcp_fault(struct tcp_conn *c, const struct nvme_tcp_fault *fault, const void *header,
               size_t len);
/* Looks at deadlines from now on, as long as there is one. */
void tcp_arm_tick(struct tcp_conn *c);

/* tcp_cmd.c */
/* The slot of a CID in flight, or NULL. */
struct tcp_cmd *tcp_find(struct tcp_conn *c, uint16_t cid);
/* Puts the next H2CData PDU of the command's R2T in line. */
void tcp_send_r2t_data(struct tcp_conn *c, struct tcp_cmd *cmd);

#endif
