/* SPDX-License-Identifier: BSD-3-Clause
 *
 * nvme_tcp/pdu.h - NVMe/TCP PDUs: the rules of their headers, for the host and the controller side.
 * Pure functions. What a peer sent is never trusted: a header is checked as a whole before any
 * length in it is used. */
#ifndef NVME_TCP_PDU_H
#define NVME_TCP_PDU_H

#include "spec/nvme_tcp.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a receiver expects; grows with the connection. */
struct nvme_tcp_rules {
    bool
        host; /* we are the host: controller-to-host PDUs are legal; else host-to-controller ones */
    bool ic_done; /* ICReq and ICResp have been exchanged */
    bool hdgst, ddgst;
    uint8_t pda;                /* alignment we have asked for (HPDA or CPDA), 0's based dwords */
    uint32_t max_data_bytes;    /* of one C2HData or H2CData */
    uint32_t max_capsule_bytes; /* controller: data of one command capsule */
};

/* Where the parts of a PDU are, as bytes in order of arrival. */
struct nvme_tcp_layout {
    uint32_t header_bytes; /* header and its digest */
    uint32_t pad_bytes;
    uint32_t data_bytes;
    bool hdgst, ddgst;
};

/* Why a peer's PDU ends the connection: the contents of a TermReq, and words for the log. */
struct nvme_tcp_fault {
    enum nvme_tcp_fes fes;
    uint32_t fei; /* byte of the header that is wrong; or the digest that was received */
    const char *text;
};

/* Fills *fault and returns -EPROTO. text lives for ever; fei as above. */
int nvme_tcp_fail(struct nvme_tcp_fault *fault, enum nvme_tcp_fes fes, size_t fei,
                  const char *text);

/* Checks a common header. 0 with *ret filled, or -EPROTO with *fault filled. */
int nvme_tcp_check(const struct nvme_tcp_rules *rules, const struct nvme_tcp_ch *ch,
                   struct nvme_tcp_layout *ret, struct nvme_tcp_fault *fault);

/* Checks the digest behind the header bytes of a PDU that has one. 0 or -EPROTO with *fault filled.
 */
int nvme_tcp_check_hdgst(const struct nvme_tcp_layout *layout, const void *header,
                         struct nvme_tcp_fault *fault);

/* DATAL must be what the PDU carries. 0 or -EPROTO with *fault filled. */
int nvme_tcp_check_data(const struct nvme_tcp_layout *layout, const struct nvme_tcp_data *pdu,
                        struct nvme_tcp_fault *fault);

/* What ICReq (ICResp) must hold beyond its common header. 0 or -EPROTO with *fault filled. */
int nvme_tcp_check_ic_req(const struct nvme_tcp_ic_req *pdu, struct nvme_tcp_fault *fault);
int nvme_tcp_check_ic_resp(const struct nvme_tcp_ic_resp *pdu, bool hdgst_asked, bool ddgst_asked,
                           struct nvme_tcp_fault *fault);

/* "invalid PDU header field" ... for the FES of a received TermReq. */
const char *nvme_tcp_fes_text(unsigned fes);

enum {
    NVME_TCP_HEADER_MAX = 160
}; /* room that nvme_tcp_seal() may need: header, digest, padding */

/* Completes a header for sending: pdu holds hlen bytes (type and own fields filled), data_bytes
 * will follow. Fills flags, HLEN, PDO and PLEN, appends digest and padding. flags: LAST, SUCCESS.
 * Returns the bytes before the data. */
size_t nvme_tcp_seal(void *pdu, uint8_t hlen, uint8_t flags, uint32_t data_bytes, uint8_t pda,
                     bool hdgst, bool ddgst);

/* Builds a TermReq about a header of len bytes into buf (NVME_TCP_TERM_MAX bytes). Returns its
 * length. */
size_t nvme_tcp_term_req(void *buf, bool host, const struct nvme_tcp_fault *fault,
                         const void *header, size_t len);

#endif
