/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/nvme_fabrics.h - Fabrics commands of NVM Express Base 2.0, section 6. No code. */
#ifndef SPEC_NVME_FABRICS_H
#define SPEC_NVME_FABRICS_H

#include "base/endian.h"
#include "spec/nvme.h"

enum nvme_fabrics_type {
    NVME_FCTYPE_PROPERTY_SET = 0x00,
    NVME_FCTYPE_CONNECT = 0x01,
    NVME_FCTYPE_PROPERTY_GET = 0x04,
    NVME_FCTYPE_AUTH_SEND = 0x05,
    NVME_FCTYPE_AUTH_RECEIVE = 0x06,
    NVME_FCTYPE_DISCONNECT = 0x08,
};

/* Byte 4 of a Fabrics command is FCTYPE: the low byte of what other commands call NSID. */
struct nvme_fabrics_connect {
    uint8_t opc, flags;
    le16 cid;
    uint8_t fctype, reserved5[19];
    struct nvme_sgl_desc sgl1;
    le16 recfmt, qid;
    le16 sqsize; /* 0's based */
    uint8_t cattr, reserved47;
    le32 kato; /* ms */
    uint8_t reserved52[12];
};
static_assert(sizeof(struct nvme_fabrics_connect) == 64, "Connect");
static_assert(offsetof(struct nvme_fabrics_connect, recfmt) == 40, "RECFMT");

enum {
    NVME_CATTR_DISABLE_SQFLOW = 1 << 2,
    NVME_SQHD_NO_SQFLOW = 0xffff, /* in the response to Connect: agreed */
};

struct nvme_fabrics_connect_data {
    uint8_t hostid[16];
    le16 cntlid; /* ffffh: the target chooses (dynamic model) */
    uint8_t reserved18[238];
    char subnqn[256], hostnqn[256];
    uint8_t reserved768[256];
};
static_assert(sizeof(struct nvme_fabrics_connect_data) == 1024, "Connect data");
enum { NVME_CNTLID_DYNAMIC = 0xffff, NVME_CNTLID_MAX = 0xffef };

/* Response to Connect, in CQE dword 0: CNTLID 15:0, AUTHREQ 31:16 on success. */
#define NVME_CONNECT_CNTLID(dw0) ((uint16_t)((dw0)&0xffff))
#define NVME_CONNECT_AUTHREQ(dw0) ((dw0) >> 16)

struct nvme_fabrics_property {
    uint8_t opc, flags;
    le16 cid;
    uint8_t fctype, reserved5[35];
    uint8_t attrib, reserved41[3]; /* bits 2:0: 0 is 4 bytes, 1 is 8 bytes */
    le32 ofst;
    le64 value; /* Set only */
    uint8_t reserved56[8];
};
static_assert(sizeof(struct nvme_fabrics_property) == 64, "Property Get and Set");
static_assert(offsetof(struct nvme_fabrics_property, attrib) == 40, "ATTRIB");

#define NVME_DISCOVERY_NQN "nqn.2014-08.org.nvmexpress.discovery"
enum { NVME_ATTRIB_BYTES_8 = 1 }; /* Property Get and Set, ATTRIB */

struct nvme_log_discovery { /* then numrec entries */
    le64 genctr, numrec;
    le16 recfmt;
    uint8_t reserved18[1006];
};
static_assert(sizeof(struct nvme_log_discovery) == 1024, "log 70h header");
struct nvme_discovery_entry {
    uint8_t trtype, adrfam, subtype, treq;
    le16 portid, cntlid, asqsz, eflags;
    uint8_t reserved12[20];
    char trsvcid[32];
    uint8_t reserved64[192];
    char subnqn[256], traddr[256];
    uint8_t tsas[256];
};
static_assert(sizeof(struct nvme_discovery_entry) == 1024, "log 70h entry");
enum {
    NVME_TRTYPE_TCP = 3,
    NVME_ADRFAM_IPV4 = 1,
    NVME_ADRFAM_IPV6 = 2,
    NVME_DISCOVERY_SUBTYPE_NVM = 2,
    NVME_DISCOVERY_SUBTYPE_SELF = 3,
    NVME_TREQ_NOT_SPECIFIED = 0,
    NVME_TREQ_DISABLE_SQFLOW = 1 << 2, /* can be disabled */
};

enum { NVME_PORT_DISCOVERY = 8009, NVME_PORT_IO = 4420 };

#endif
