/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/nvme_tcp.h - NVMe/TCP Transport 1.0: PDU layouts and constants. No code. */
#ifndef SPEC_NVME_TCP_H
#define SPEC_NVME_TCP_H

#include "base/endian.h"
#include "spec/nvme.h"

enum nvme_tcp_pdu_type {
    NVME_TCP_IC_REQ = 0x00,
    NVME_TCP_IC_RESP = 0x01,
    NVME_TCP_H2C_TERM_REQ = 0x02,
    NVME_TCP_C2H_TERM_REQ = 0x03,
    NVME_TCP_CAPSULE_CMD = 0x04,
    NVME_TCP_CAPSULE_RESP = 0x05,
    NVME_TCP_H2C_DATA = 0x06,
    NVME_TCP_C2H_DATA = 0x07,
    NVME_TCP_R2T = 0x09,
};

enum {
    NVME_TCP_FLAG_HDGST = 1 << 0,
    NVME_TCP_FLAG_DDGST = 1 << 1,
    NVME_TCP_FLAG_LAST = 1 << 2,    /* H2CData, C2HData */
    NVME_TCP_FLAG_SUCCESS = 1 << 3, /* C2HData: no response capsule follows */
};

struct nvme_tcp_ch { /* Common Header */
    uint8_t type, flags;
    uint8_t hlen; /* header bytes, without the digest */
    uint8_t pdo;  /* data bytes begin here, counted from the first byte of the PDU */
    le32 plen;    /* all of the PDU, digests included */
};
static_assert(sizeof(struct nvme_tcp_ch) == 8, "common header");

struct nvme_tcp_ic_req {
    struct nvme_tcp_ch ch;
    le16 pfv;
    uint8_t hpda; /* 0's based dwords */
    uint8_t dgst; /* bit 0 header, bit 1 data */
    le32 maxr2t;  /* 0's based */
    uint8_t reserved[112];
};
static_assert(sizeof(struct nvme_tcp_ic_req) == 128, "ICReq");

struct nvme_tcp_ic_resp {
    struct nvme_tcp_ch ch;
    le16 pfv;
    uint8_t cpda, dgst;
    le32 maxh2cdata; /* bytes per H2CData PDU */
    uint8_t reserved[112];
};
static_assert(sizeof(struct nvme_tcp_ic_resp) == 128, "ICResp");

enum { NVME_TCP_DGST_HDR = 1 << 0, NVME_TCP_DGST_DATA = 1 << 1 };
enum {
    NVME_TCP_PDA_MAX = 31,
    NVME_TCP_MAXH2CDATA_MIN = 4096,
    NVME_TCP_IC_BYTES = 128,
    NVME_TCP_TERM_MAX = 152, /* PLEN of a TermReq */
    NVME_TCP_ADMIN_INLINE_BYTES =
        8192, /* in-capsule data of the admin queue and of Fabrics commands */
};

struct nvme_tcp_term_req {
    struct nvme_tcp_ch ch;
    le16 fes;
    le16 fei_low, fei_high; /* 32 bits at offset 10 */
    uint8_t reserved[10];
    /* then the offending PDU's header, at most 128 bytes */
};
static_assert(sizeof(struct nvme_tcp_term_req) == 24, "TermReq header");

enum nvme_tcp_fes { /* Fatal Error Status */
                    NVME_TCP_FES_HEADER_FIELD = 0x01,
                    NVME_TCP_FES_SEQUENCE = 0x02,
                    NVME_TCP_FES_HDGST = 0x03,
                    NVME_TCP_FES_OUT_OF_RANGE = 0x04,
                    NVME_TCP_FES_LIMIT =
                        0x05, /* H2C: R2T limit exceeded; C2H: data transfer limit exceeded */
                    NVME_TCP_FES_UNSUPPORTED = 0x06,
};

struct nvme_tcp_capsule_cmd {
    struct nvme_tcp_ch ch;
    struct nvme_sqe sqe;
};
static_assert(sizeof(struct nvme_tcp_capsule_cmd) == 72, "CapsuleCmd header");

struct nvme_tcp_capsule_resp {
    struct nvme_tcp_ch ch;
    struct nvme_cqe cqe;
};
static_assert(sizeof(struct nvme_tcp_capsule_resp) == 24, "CapsuleResp");

struct nvme_tcp_data { /* H2CData, C2HData */
    struct nvme_tcp_ch ch;
    le16 cccid;
    le16 ttag; /* C2HData: reserved */
    le32 datao, datal;
    uint8_t reserved[4];
};
static_assert(sizeof(struct nvme_tcp_data) == 24, "H2CData and C2HData header");

struct nvme_tcp_r2t {
    struct nvme_tcp_ch ch;
    le16 cccid, ttag;
    le32 r2to, r2tl;
    uint8_t reserved[4];
};
static_assert(sizeof(struct nvme_tcp_r2t) == 24, "R2T");

#endif
