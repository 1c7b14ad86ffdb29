/* SPDX-License-Identifier: BSD-3-Clause
 *
 * spec/nvme.h - NVM Express Base 2.0, NVM Command Set 1.0 and PCIe Transport 1.0: wire structs and
 * constants. No code. Field names are the specification's own abbreviations. */
#ifndef SPEC_NVME_H
#define SPEC_NVME_H

#include "base/endian.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

/* ---- controller registers: offsets in bytes (Base 2.0, 3.1.3 "Controller Properties") ---- */
enum {
    NVME_REG_CAP = 0x00, /* 64 bits */
    NVME_REG_VS = 0x08,
    NVME_REG_INTMS = 0x0c,
    NVME_REG_INTMC = 0x10,
    NVME_REG_CC = 0x14,
    NVME_REG_CSTS = 0x1c,
    NVME_REG_NSSR = 0x20,
    NVME_REG_AQA = 0x24,
    NVME_REG_ASQ = 0x28, /* 64 bits */
    NVME_REG_ACQ = 0x30, /* 64 bits */
    NVME_REG_CMBLOC = 0x38,
    NVME_REG_CMBSZ = 0x3c,
    NVME_REG_CRTO = 0x68,
    NVME_REG_DOORBELLS =
        0x1000, /* SQ y tail at 0x1000 + 8y, CQ y head 4 bytes after it (DSTRD 0) */
};

enum { NVME_VS_2_0 = 0x00020000 };

/* CAP */
#define NVME_CAP_MQES(cap) ((uint32_t)((cap)&0xffff)) /* 0's based */
#define NVME_CAP_CQR (1ULL << 16)
#define NVME_CAP_TO(cap) ((uint32_t)(((cap) >> 24) & 0xff)) /* 500 ms units */
#define NVME_CAP_TO_SHIFT 24
#define NVME_CAP_DSTRD(cap) ((uint32_t)(((cap) >> 32) & 0xf))
#define NVME_CAP_CSS_NVM (1ULL << 37)
#define NVME_CAP_CSS_ADMIN_ONLY (1ULL << 44)
#define NVME_CAP_MPSMIN(cap) ((uint32_t)(((cap) >> 48) & 0xf)) /* 2 ^ (12 + n) bytes */
#define NVME_CAP_MPSMAX(cap) ((uint32_t)(((cap) >> 52) & 0xf))

/* CC */
#define NVME_CC_EN (1U << 0)
#define NVME_CC_CSS(cc) (((cc) >> 4) & 0x7)
#define NVME_CC_CSS_SHIFT 4
#define NVME_CC_MPS(cc) (((cc) >> 7) & 0xf)
#define NVME_CC_MPS_SHIFT 7
#define NVME_CC_AMS(cc) (((cc) >> 11) & 0x7)
#define NVME_CC_SHN(cc) (((cc) >> 14) & 0x3)
#define NVME_CC_SHN_SHIFT 14
#define NVME_CC_SHN_MASK (3U << 14)
#define NVME_CC_IOSQES(cc) (((cc) >> 16) & 0xf)
#define NVME_CC_IOSQES_SHIFT 16
#define NVME_CC_IOCQES(cc) (((cc) >> 20) & 0xf)
#define NVME_CC_IOCQES_SHIFT 20
enum { NVME_CC_CSS_NVM = 0, NVME_CC_CSS_ADMIN_ONLY = 7 };
enum { NVME_CC_SHN_NONE = 0, NVME_CC_SHN_NORMAL = 1, NVME_CC_SHN_ABRUPT = 2 };

/* CSTS */
#define NVME_CSTS_RDY (1U << 0)
#define NVME_CSTS_CFS (1U << 1)
#define NVME_CSTS_SHST(csts) (((csts) >> 2) & 0x3)
#define NVME_CSTS_SHST_SHIFT 2
#define NVME_CSTS_SHST_MASK (3U << 2)
#define NVME_CSTS_NSSRO (1U << 4)
enum { NVME_SHST_NORMAL = 0, NVME_SHST_OCCURRING = 1, NVME_SHST_COMPLETE = 2 };

/* AQA: both 0's based */
#define NVME_AQA_ASQS(aqa) ((aqa)&0xfff)
#define NVME_AQA_ACQS(aqa) (((aqa) >> 16) & 0xfff)
#define NVME_AQA_ACQS_SHIFT 16

/* ---- submission and completion queue entries ---- */

/* SGL descriptor (Base 2.0, 4.1.2). The same 16 bytes hold PRP1 and PRP2 when PSDT is 0. */
struct nvme_sgl_desc {
    le64 addr;
    le32 length; /* keyed descriptors (RDMA): 24 bits of length, then the key's first byte */
    uint8_t reserved12[3];
    uint8_t type; /* bits 7:4 type, 3:0 sub type */
};
static_assert(sizeof(struct nvme_sgl_desc) == 16, "SGL descriptors are 16 bytes");
static_assert(offsetof(struct nvme_sgl_desc, type) == 15, "SGL identifier is the last byte");

enum nvme_sgl_type {
    NVME_SGL_DATA_BLOCK = 0x0,
    NVME_SGL_BIT_BUCKET = 0x1,
    NVME_SGL_SEGMENT = 0x2,
    NVME_SGL_LAST_SEGMENT = 0x3,
    NVME_SGL_KEYED_DATA_BLOCK = 0x4,
    NVME_SGL_TRANSPORT_DATA_BLOCK = 0x5,
};
enum nvme_sgl_subtype {
    NVME_SGL_SUB_ADDRESS = 0x0,
    NVME_SGL_SUB_OFFSET = 0x1,    /* in-capsule data */
    NVME_SGL_SUB_TRANSPORT = 0xa, /* TCP: with NVME_SGL_TRANSPORT_DATA_BLOCK */
    NVME_SGL_SUB_INVALIDATE = 0xf,
};
#define NVME_SGL_TYPE(t) ((t) >> 4)
#define NVME_SGL_SUBTYPE(t) ((t)&0xf)
#define NVME_SGL_ID(type, sub) ((uint8_t)((type) << 4 | (sub)))

struct nvme_sqe { /* Base 2.0, Common Command Format */
    uint8_t opc;
    uint8_t flags; /* bits 1:0 FUSE, 7:6 PSDT */
    le16 cid;
    le32 nsid;
    le32 cdw2, cdw3;
    le64 mptr;
    union {
        struct {
            le64 prp1, prp2;
        };
        struct nvme_sgl_desc sgl1;
    };
    le32 cdw10, cdw11, cdw12, cdw13, cdw14, cdw15;
};
static_assert(sizeof(struct nvme_sqe) == 64, "SQE is 64 bytes on the wire");
static_assert(offsetof(struct nvme_sqe, prp1) == 24, "DPTR: dwords 6 to 9");
static_assert(offsetof(struct nvme_sqe, cdw10) == 40, "CDW10");

#define NVME_SQE_FUSE(flags) ((flags)&0x3)
#define NVME_SQE_PSDT(flags) ((flags) >> 6)
enum { NVME_PSDT_PRP = 0, NVME_PSDT_SGL = 1, NVME_PSDT_SGL_MPTR_SGL = 2 };
#define NVME_SQE_FLAGS_SGL (NVME_PSDT_SGL << 6)

struct nvme_cqe { /* Base 2.0, Completion Queue Entry layout */
    le32 dw0, dw1;
    le16 sqhd, sqid, cid;
    le16 sf; /* bit 0: phase tag; bits 15:1: status */
};
static_assert(sizeof(struct nvme_cqe) == 16, "CQE is 16 bytes on the wire");
static_assert(offsetof(struct nvme_cqe, cid) == 12, "CID: dword 3, low half");

/* ---- opcodes ---- */
enum nvme_admin_opc {
    NVME_ADMIN_DELETE_SQ = 0x00,
    NVME_ADMIN_CREATE_SQ = 0x01,
    NVME_ADMIN_GET_LOG_PAGE = 0x02,
    NVME_ADMIN_DELETE_CQ = 0x04,
    NVME_ADMIN_CREATE_CQ = 0x05,
    NVME_ADMIN_IDENTIFY = 0x06,
    NVME_ADMIN_ABORT = 0x08,
    NVME_ADMIN_SET_FEATURES = 0x09,
    NVME_ADMIN_GET_FEATURES = 0x0a,
    NVME_ADMIN_ASYNC_EVENT = 0x0c,
    NVME_ADMIN_NS_MANAGEMENT = 0x0d,
    NVME_ADMIN_FW_COMMIT = 0x10,
    NVME_ADMIN_FW_DOWNLOAD = 0x11,
    NVME_ADMIN_SELF_TEST = 0x14,
    NVME_ADMIN_NS_ATTACHMENT = 0x15,
    NVME_ADMIN_KEEP_ALIVE = 0x18,
    NVME_ADMIN_DIRECTIVE_SEND = 0x19,
    NVME_ADMIN_DIRECTIVE_RECV = 0x1a,
    NVME_ADMIN_VIRT_MANAGEMENT = 0x1c,
    NVME_ADMIN_DOORBELL_BUFFER_CONFIG = 0x7c,
    NVME_OPC_FABRICS = 0x7f,
    NVME_ADMIN_FORMAT_NVM = 0x80,
    NVME_ADMIN_SECURITY_SEND = 0x81,
    NVME_ADMIN_SECURITY_RECV = 0x82,
    NVME_ADMIN_SANITIZE = 0x84,
};

enum nvme_cmd_opc {
    NVME_CMD_FLUSH = 0x00,
    NVME_CMD_WRITE = 0x01,
    NVME_CMD_READ = 0x02,
    NVME_CMD_WRITE_UNCORRECTABLE = 0x04,
    NVME_CMD_COMPARE = 0x05,
    NVME_CMD_WRITE_ZEROES = 0x08,
    NVME_CMD_DSM = 0x09,
    NVME_CMD_VERIFY = 0x0c,
    NVME_CMD_RESV_REGISTER = 0x0d,
    NVME_CMD_RESV_REPORT = 0x0e,
    NVME_CMD_RESV_ACQUIRE = 0x11,
    NVME_CMD_RESV_RELEASE = 0x15,
    NVME_CMD_COPY = 0x19,
};
/* Opcode bits 1:0: direction of the data transfer. */
enum { NVME_XFER_NONE = 0, NVME_XFER_FROM_HOST = 1, NVME_XFER_TO_HOST = 2, NVME_XFER_BOTH = 3 };
#define NVME_OPC_XFER(opc) ((opc)&3)

/* Read, Write, Write Zeroes: CDW12 */
#define NVME_RW_NLB(cdw12) ((cdw12)&0xffff) /* 0's based */
#define NVME_RW_DEAC (1U << 25)
#define NVME_RW_PRINFO(cdw12) (((cdw12) >> 26) & 0xf)
#define NVME_RW_FUA (1U << 30)
#define NVME_RW_LR (1U << 31)

/* Dataset Management */
#define NVME_DSM_NR(cdw10) ((cdw10)&0xff) /* 0's based */
#define NVME_DSM_AD (1U << 2)             /* CDW11: deallocate */
struct nvme_dsm_range {
    le32 cattr;
    le32 nlb; /* 1-based */
    le64 slba;
};
static_assert(sizeof(struct nvme_dsm_range) == 16, "DSM ranges are 16 bytes");
enum { NVME_DSM_MAX_RANGES = 256 };

/* ---- status: bits 14:0 of the status field: SC 7:0, SCT 10:8, CRD 12:11, M 13, DNR 14 ---- */
#define NVME_STATUS_SC(st) ((st)&0xff)
#define NVME_STATUS_SCT(st) (((st) >> 8) & 0x7)
#define NVME_STATUS_MASK 0x7ff /* SCT and SC */
enum { NVME_STATUS_MORE = 0x2000, NVME_STATUS_DNR = 0x4000 };

enum nvme_status_code {
    /* generic, SCT 0 */
    NVME_SC_SUCCESS = 0x000,
    NVME_SC_INVALID_OPCODE = 0x001,
    NVME_SC_INVALID_FIELD = 0x002,
    NVME_SC_CID_CONFLICT = 0x003,
    NVME_SC_DATA_TRANSFER_ERROR = 0x004,
    NVME_SC_ABORTED_POWER_LOSS = 0x005,
    NVME_SC_INTERNAL_ERROR = 0x006,
    NVME_SC_ABORT_REQUESTED = 0x007,
    NVME_SC_ABORTED_SQ_DELETION = 0x008,
    NVME_SC_ABORTED_FUSED_FAILED = 0x009,
    NVME_SC_ABORTED_FUSED_MISSING = 0x00a,
    NVME_SC_INVALID_NAMESPACE = 0x00b,
    NVME_SC_SEQUENCE_ERROR = 0x00c,
    NVME_SC_INVALID_SGL_SEGMENT = 0x00d,
    NVME_SC_INVALID_SGL_COUNT = 0x00e,
    NVME_SC_SGL_DATA_LENGTH = 0x00f,
    NVME_SC_SGL_METADATA_LENGTH = 0x010,
    NVME_SC_SGL_TYPE = 0x011,
    NVME_SC_INVALID_CMB_USE = 0x012,
    NVME_SC_PRP_OFFSET = 0x013,
    NVME_SC_ATOMIC_WRITE_UNIT = 0x014,
    NVME_SC_OPERATION_DENIED = 0x015,
    NVME_SC_SGL_OFFSET = 0x016,
    NVME_SC_HOSTID_FORMAT = 0x018,
    NVME_SC_KAT_EXPIRED = 0x019,
    NVME_SC_KAT_INVALID = 0x01a,
    NVME_SC_SGL_BLOCK_GRANULARITY = 0x01e,
    NVME_SC_NS_WRITE_PROTECTED = 0x020,
    NVME_SC_COMMAND_INTERRUPTED = 0x021,
    NVME_SC_TRANSIENT_TRANSPORT = 0x022,
    NVME_SC_LBA_RANGE = 0x080,
    NVME_SC_CAPACITY_EXCEEDED = 0x081,
    NVME_SC_NS_NOT_READY = 0x082,
    NVME_SC_RESERVATION_CONFLICT = 0x083,
    /* command specific, SCT 1 */
    NVME_SC_CQ_INVALID = 0x100,
    NVME_SC_QID_INVALID = 0x101,
    NVME_SC_QUEUE_SIZE = 0x102,
    NVME_SC_ABORT_LIMIT = 0x103,
    NVME_SC_AER_LIMIT = 0x105,
    NVME_SC_FW_SLOT = 0x106,
    NVME_SC_FW_IMAGE = 0x107,
    NVME_SC_INTERRUPT_VECTOR = 0x108,
    NVME_SC_LOG_PAGE = 0x109,
    NVME_SC_INVALID_FORMAT = 0x10a,
    NVME_SC_QUEUE_DELETION = 0x10c,
    NVME_SC_FEATURE_NOT_SAVEABLE = 0x10d,
    NVME_SC_FEATURE_NOT_CHANGEABLE = 0x10e,
    NVME_SC_FEATURE_NOT_NS_SPECIFIC = 0x10f,
    NVME_SC_NS_ALREADY_ATTACHED = 0x118,
    NVME_SC_NS_PRIVATE = 0x119,
    NVME_SC_NS_NOT_ATTACHED = 0x11a,
    NVME_SC_INVALID_CONTROLLER_LIST = 0x11c,
    NVME_SC_IOCS_NOT_SUPPORTED = 0x129,
    NVME_SC_CONFLICTING_ATTRIBUTES = 0x180,
    NVME_SC_INVALID_PROTECTION = 0x181,
    NVME_SC_READ_ONLY_RANGE = 0x182,
    /* command specific of Fabrics commands, SCT 1 */
    NVME_SC_CONNECT_FORMAT = 0x180,
    NVME_SC_CONNECT_CTRL_BUSY = 0x181,
    NVME_SC_CONNECT_INVALID_PARAM = 0x182,
    NVME_SC_CONNECT_RESTART_DISCOVERY = 0x183,
    NVME_SC_CONNECT_INVALID_HOST = 0x184,
    NVME_SC_AUTH_REQUIRED = 0x191,
    /* media and data integrity, SCT 2 */
    NVME_SC_WRITE_FAULT = 0x280,
    NVME_SC_UNRECOVERED_READ = 0x281,
    NVME_SC_COMPARE_FAILURE = 0x285,
    NVME_SC_ACCESS_DENIED = 0x286,
    NVME_SC_UNWRITTEN_BLOCK = 0x287,
    /* path related, SCT 3 */
    NVME_SC_PATH_INTERNAL = 0x300,
    NVME_SC_ANA_PERSISTENT_LOSS = 0x301,
    NVME_SC_ANA_INACCESSIBLE = 0x302,
    NVME_SC_ANA_TRANSITION = 0x303,
    NVME_SC_CTRL_PATHING = 0x360,
    NVME_SC_HOST_PATHING = 0x370,
    NVME_SC_HOST_ABORTED = 0x371,
};

/* ---- Identify ---- */
enum nvme_identify_cns {
    NVME_CNS_NS = 0x00,
    NVME_CNS_CTRL = 0x01,
    NVME_CNS_ACTIVE_NS_LIST = 0x02,
    NVME_CNS_NS_DESC_LIST = 0x03,
    NVME_CNS_NVMSET_LIST = 0x04,
    NVME_CNS_CSI_NS = 0x05,
    NVME_CNS_CSI_CTRL = 0x06,
    NVME_CNS_CSI_ACTIVE_NS_LIST = 0x07,
    NVME_CNS_CSI_INDEPENDENT_NS = 0x08,
    NVME_CNS_ALLOCATED_NS_LIST = 0x10,
    NVME_CNS_ALLOCATED_NS = 0x11,
    NVME_CNS_NS_CTRL_LIST = 0x12,
    NVME_CNS_CTRL_LIST = 0x13,
    NVME_CNS_IOCS = 0x1c,
};
enum { NVME_IDENTIFY_BYTES = 4096, NVME_CSI_NVM = 0 };
#define NVME_NSID_ALL 0xffffffffU

struct nvme_power_state {
    le16 mp; /* max power, 0.01 W units unless flags bit 0 */
    uint8_t reserved2, flags;
    le32 enlat, exlat;
    uint8_t rrt, rrl, rwt, rwl;
    uint8_t reserved16[16];
};
static_assert(sizeof(struct nvme_power_state) == 32, "power state descriptor");

enum { NVME_NQN_MAX = 223 }; /* bytes of an NVMe Qualified Name, without its end */

struct nvme_id_ctrl { /* Base 2.0, Identify Controller data structure */
    le16 vid, ssvid;
    char sn[20], mn[40], fr[8]; /* ASCII, padded with spaces */
    uint8_t rab, ieee[3];
    uint8_t cmic, mdts; /* 2 ^ mdts minimum pages; 0: no limit */
    le16 cntlid;
    le32 ver, rtd3r, rtd3e, oaes, ctratt;
    le16 rrls;
    uint8_t reserved102[9];
    uint8_t cntrltype; /* 1: I/O controller, 2: discovery, 3: administrative */
    uint8_t fguid[16];
    le16 crdt1, crdt2, crdt3;
    uint8_t reserved134[119];
    uint8_t nvmsr, vwci, mec;
    le16 oacs;
    uint8_t acl, aerl, frmw, lpa, elpe, npss, avscc, apsta; /* acl, aerl, elpe, npss: 0's based */
    le16 wctemp, cctemp, mtfa;
    le32 hmpre, hmmin;
    uint8_t tnvmcap[16], unvmcap[16];
    le32 rpmbs;
    le16 edstt;
    uint8_t dsto, fwug;
    le16 kas; /* 100 ms units; 0: no keep alive */
    le16 hctma, mntmt, mxtmt;
    le32 sanicap, hmminds;
    le16 hmmaxd, nsetidmax, endgidmax;
    uint8_t anatt, anacap;
    le32 anagrpmax, nanagrpid, pels;
    le16 domain;
    uint8_t reserved358[10];
    uint8_t megcap[16];
    uint8_t tmpthha, reserved385;
    le16 cqt; /* Base 2.1, Command Quiesce Time, ms: after a lost association the controller ends
                 its commands within this; 0: not reported */
    uint8_t reserved388[124];
    uint8_t sqes, cqes; /* bits 3:0 required, 7:4 maximum; powers of two */
    le16 maxcmd;
    le32 nn;
    le16 oncs, fuses;
    uint8_t fna, vwc;
    le16 awun, awupf;
    uint8_t icsvscc, nwpc;
    le16 acwu, ocfs;
    le32 sgls, mnan;
    uint8_t maxdna[16];
    le32 maxcna;
    uint8_t reserved564[204];
    char subnqn[256]; /* NUL terminated */
    uint8_t reserved1024[768];
    le32 ioccsz, iorcsz; /* 16-byte units */
    le16 icdoff;
    uint8_t fcatt, msdbd;
    le16 ofcs;
    uint8_t reserved1806[242];
    struct nvme_power_state psd[32];
    uint8_t vs[1024];
};
static_assert(sizeof(struct nvme_id_ctrl) == 4096, "Identify Controller");
static_assert(offsetof(struct nvme_id_ctrl, cntlid) == 78, "CNTLID");
static_assert(offsetof(struct nvme_id_ctrl, cntrltype) == 111, "CNTRLTYPE");
static_assert(offsetof(struct nvme_id_ctrl, oacs) == 256, "OACS");
static_assert(offsetof(struct nvme_id_ctrl, kas) == 320, "KAS");
static_assert(offsetof(struct nvme_id_ctrl, anacap) == 343, "ANACAP");
static_assert(offsetof(struct nvme_id_ctrl, cqt) == 386, "CQT");
static_assert(offsetof(struct nvme_id_ctrl, sqes) == 512, "SQES");
static_assert(offsetof(struct nvme_id_ctrl, sgls) == 536, "SGLS");
static_assert(offsetof(struct nvme_id_ctrl, subnqn) == 768, "SUBNQN");
static_assert(offsetof(struct nvme_id_ctrl, ioccsz) == 1792, "IOCCSZ");
static_assert(offsetof(struct nvme_id_ctrl, psd) == 2048, "PSD");
static_assert(offsetof(struct nvme_id_ctrl, vs) == 3072, "vendor specific");

/* At the beginning of the vendor specific part (byte 3072), by OpenSNAP's own target: before it
 * answers the Connect of a new association it has ended all commands of every earlier one of the
 * same host (HOSTNQN and HOSTID) with this subsystem, whether that one was reset, replaced or its
 * connection lost. 16 bytes of ASCII, no NUL. */
#define NVME_VS_FENCE_MARK "OpenSNAP-fence-1"
static_assert(sizeof(NVME_VS_FENCE_MARK) - 1 == 16, "the mark has 16 bytes");

enum { NVME_CTRATT_TBKAS = 1 << 6 }; /* Traffic Based Keep Alive */

enum { /* OAES, and feature 0Bh: same bits */
       NVME_OAES_NS_ATTR = 1 << 8,
       NVME_OAES_FW_ACTIVATION = 1 << 9,
       NVME_OAES_ANA = 1 << 11,
};
#define NVME_OAES_DISCOVERY (1U << 31)
enum {
    NVME_OACS_SECURITY = 1 << 0,
    NVME_OACS_FORMAT = 1 << 1,
    NVME_OACS_FIRMWARE = 1 << 2,
    NVME_OACS_NS_MANAGEMENT = 1 << 3,
    NVME_OACS_SELF_TEST = 1 << 4,
    NVME_OACS_DOORBELL_BUFFER = 1 << 8,
};
enum {
    NVME_ONCS_COMPARE = 1 << 0,
    NVME_ONCS_WRITE_UNCORRECTABLE = 1 << 1,
    NVME_ONCS_DSM = 1 << 2,
    NVME_ONCS_WRITE_ZEROES = 1 << 3,
    NVME_ONCS_SAVE_SELECT = 1 << 4,
    NVME_ONCS_RESERVATIONS = 1 << 5,
    NVME_ONCS_TIMESTAMP = 1 << 6,
    NVME_ONCS_VERIFY = 1 << 7,
    NVME_ONCS_COPY = 1 << 8,
};
enum {
    NVME_LPA_NS_SMART = 1 << 0,
    NVME_LPA_EFFECTS = 1 << 1,
    NVME_LPA_EXTENDED = 1 << 2, /* Log Page Offset, 32-bit NUMD */
    NVME_LPA_SUPPORTED_PAGES = 1 << 5,
};
enum { NVME_VWC_PRESENT = 1 << 0, NVME_VWC_FLUSH_ALL_NO = 2 << 1, NVME_VWC_FLUSH_ALL_YES = 3 << 1 };
enum { NVME_CMIC_MULTI_PORT = 1 << 0, NVME_CMIC_MULTI_CTRL = 1 << 1, NVME_CMIC_ANA = 1 << 3 };
enum {
    NVME_SGLS_SUPPORTED = 1 << 0,
    NVME_SGLS_SUPPORTED_DWORD = 2,
    NVME_SGLS_KEYED = 1 << 2,
    NVME_SGLS_BIT_BUCKET = 1 << 16,
    NVME_SGLS_EXTRA_LENGTH = 1 << 18,
    NVME_SGLS_OFFSET = 1 << 20
};
enum { NVME_CNTRLTYPE_IO = 1, NVME_CNTRLTYPE_DISCOVERY = 2, NVME_CNTRLTYPE_ADMIN = 3 };

struct nvme_lbaf {
    le16 ms;
    uint8_t lbads; /* 2 ^ lbads bytes */
    uint8_t rp;
};
struct nvme_id_ns { /* NVM Command Set 1.0, Identify Namespace data structure */
    le64 nsze, ncap, nuse;
    uint8_t nsfeat, nlbaf, flbas, mc, dpc, dps, nmic, rescap, fpi, dlfeat; /* nlbaf: 0's based */
    le16 nawun, nawupf, nacwu, nabsn, nabo, nabspf, noiob;
    uint8_t nvmcap[16];
    le16 npwg, npwa, npdg, npda, nows, mssrl;
    le32 mcl;
    uint8_t msrc, reserved81[11];
    le32 anagrpid;
    uint8_t reserved96[3];
    uint8_t nsattr;
    le16 nvmsetid, endgid;
    uint8_t nguid[16], eui64[8];
    struct nvme_lbaf lbaf[64];
    uint8_t vs[3712];
};
static_assert(sizeof(struct nvme_id_ns) == 4096, "Identify Namespace");
static_assert(offsetof(struct nvme_id_ns, nvmcap) == 48, "NVMCAP");
static_assert(offsetof(struct nvme_id_ns, anagrpid) == 92, "ANAGRPID");
static_assert(offsetof(struct nvme_id_ns, nguid) == 104, "NGUID");
static_assert(offsetof(struct nvme_id_ns, lbaf) == 128, "LBAF0");
enum {
    NVME_NSFEAT_THIN = 1 << 0,
    NVME_NSFEAT_DEALLOC_ERROR = 1 << 2,
    NVME_NSFEAT_OPTPERF = 1 << 4,
    NVME_NMIC_SHARED = 1 << 0,
    NVME_NSATTR_WRITE_PROTECTED = 1 << 0,
    NVME_DLFEAT_READ_ZEROES = 1,     /* bits 2:0: deallocated blocks read as zeroes */
    NVME_DLFEAT_WZ_DEALLOC = 1 << 3, /* DEAC bit of Write Zeroes */
};

struct nvme_id_ns_csi { /* CNS 05h, CSI 0: NVM Command Set Specific Identify Namespace */
    le64 lbstm;
    uint8_t pic, reserved9[3];
    le32 elbaf[64];
    uint8_t reserved268[3828];
};
static_assert(sizeof(struct nvme_id_ns_csi) == 4096, "CNS 05h");

struct nvme_id_ctrl_nvm {          /* CNS 06h, CSI 0: Identify Controller, NVM Command Set */
    uint8_t vsl, wzsl, wusl, dmrl; /* sizes: 2 ^ n minimum pages; dmrl: ranges */
    le32 dmrsl;                    /* blocks per range */
    le64 dmsl;                     /* blocks in all */
    uint8_t reserved16[4080];
};
static_assert(sizeof(struct nvme_id_ctrl_nvm) == 4096, "CNS 06h");

struct nvme_id_ns_independent { /* CNS 08h: I/O Command Set Independent Identify Namespace */
    uint8_t nsfeat, nmic, rescap, fpi;
    le32 anagrpid;
    uint8_t nsattr, reserved9;
    le16 nvmsetid, endgid;
    uint8_t nstat; /* bit 0: ready */
    uint8_t reserved15[4081];
};
static_assert(sizeof(struct nvme_id_ns_independent) == 4096, "CNS 08h");
enum { NVME_NSTAT_NRDY = 1 << 0 };

/* CNS 03h: Namespace Identification Descriptor */
struct nvme_ns_id_desc {
    uint8_t nidt, nidl, reserved[2];
};
static_assert(sizeof(struct nvme_ns_id_desc) == 4, "descriptor header");
enum { NVME_NIDT_EUI64 = 1, NVME_NIDT_NGUID = 2, NVME_NIDT_UUID = 3, NVME_NIDT_CSI = 4 };

/* ---- features ---- */
enum nvme_feature {
    NVME_FEAT_ARBITRATION = 0x01,
    NVME_FEAT_POWER_MANAGEMENT = 0x02,
    NVME_FEAT_LBA_RANGE = 0x03,
    NVME_FEAT_TEMPERATURE = 0x04,
    NVME_FEAT_ERROR_RECOVERY = 0x05,
    NVME_FEAT_WRITE_CACHE = 0x06,
    NVME_FEAT_NUM_QUEUES = 0x07, /* both counts 0's based */
    NVME_FEAT_IRQ_COALESCING = 0x08,
    NVME_FEAT_IRQ_VECTOR = 0x09,
    NVME_FEAT_WRITE_ATOMICITY = 0x0a,
    NVME_FEAT_ASYNC_EVENT = 0x0b,
    NVME_FEAT_APST = 0x0c,
    NVME_FEAT_HOST_MEMORY = 0x0d,
    NVME_FEAT_TIMESTAMP = 0x0e,
    NVME_FEAT_KATO = 0x0f, /* ms */
    NVME_FEAT_HOST_BEHAVIOR = 0x16,
    NVME_FEAT_HOST_ID = 0x81,
};
#define NVME_FEAT_FID(cdw10) ((cdw10)&0xff)
#define NVME_FEAT_SEL(cdw10) (((cdw10) >> 8) & 0x7)
#define NVME_FEAT_SV (1U << 31)
enum { NVME_SEL_CURRENT = 0, NVME_SEL_DEFAULT = 1, NVME_SEL_SAVED = 2, NVME_SEL_CAPABILITIES = 3 };
enum { NVME_FEATCAP_SAVEABLE = 1, NVME_FEATCAP_NS_SPECIFIC = 2, NVME_FEATCAP_CHANGEABLE = 4 };

/* ---- log pages ---- */
enum nvme_log_id {
    NVME_LOG_SUPPORTED = 0x00,
    NVME_LOG_ERROR = 0x01,
    NVME_LOG_SMART = 0x02,
    NVME_LOG_FW_SLOT = 0x03,
    NVME_LOG_CHANGED_NS = 0x04,
    NVME_LOG_EFFECTS = 0x05,
    NVME_LOG_ANA = 0x0c,
    NVME_LOG_DISCOVERY = 0x70,
};
#define NVME_LOG_LID(cdw10) ((cdw10)&0xff)
#define NVME_LOG_RAE (1U << 15) /* CDW10: retain asynchronous event */

struct nvme_log_supported {
    le32 lid[256]; /* bit 0: supported */
};
static_assert(sizeof(struct nvme_log_supported) == 1024, "log 00h");

struct nvme_log_error {
    le64 error_count;
    le16 sqid, cid;
    le16 status; /* as in a CQE, phase tag included */
    le16 param_location;
    le64 lba;
    le32 nsid;
    uint8_t vs, trtype, reserved30[2];
    le64 cs;
    le16 trtype_info;
    uint8_t reserved42[22];
};
static_assert(sizeof(struct nvme_log_error) == 64, "log 01h entry");

struct nvme_log_smart {
    uint8_t critical_warning;
    uint8_t temperature[2]; /* Kelvin */
    uint8_t avail_spare, spare_thresh, percent_used, endu_grp_summary;
    uint8_t reserved7[25];
    uint8_t data_units_read[16], data_units_written[16]; /* thousands of 512 bytes, rounded up */
    uint8_t host_reads[16], host_writes[16], ctrl_busy_minutes[16], power_cycles[16],
        power_on_hours[16];
    uint8_t unsafe_shutdowns[16], media_errors[16], num_err_log_entries[16];
    le32 warning_temp_minutes, critical_temp_minutes;
    le16 temp_sensor[8];
    le32 tmt1_count, tmt2_count, tmt1_seconds, tmt2_seconds;
    uint8_t reserved232[280];
};
static_assert(sizeof(struct nvme_log_smart) == 512, "log 02h");

struct nvme_log_fw_slot {
    uint8_t afi, reserved1[7]; /* afi bits 2:0: active slot */
    char frs[7][8];
    uint8_t reserved64[448];
};
static_assert(sizeof(struct nvme_log_fw_slot) == 512, "log 03h");

struct nvme_log_changed_ns {
    le32 nsid[1024]; /* only ffffffffh in the first: more than 1024 */
};
static_assert(sizeof(struct nvme_log_changed_ns) == 4096, "log 04h");

struct nvme_log_effects {
    le32 acs[256], iocs[256];
    uint8_t reserved[2048];
};
static_assert(sizeof(struct nvme_log_effects) == 4096, "log 05h");
enum {
    NVME_EFFECTS_CSUPP = 1 << 0,
    NVME_EFFECTS_LBCC = 1 << 1, /* logical block content change */
    NVME_EFFECTS_NCC = 1 << 2,
    NVME_EFFECTS_NIC = 1 << 3,
    NVME_EFFECTS_CCC = 1 << 4,
};

struct nvme_log_ana { /* then nanagrpid group descriptors */
    le64 chgcnt;
    le16 ngrps;
    uint8_t reserved10[6];
};
static_assert(sizeof(struct nvme_log_ana) == 16, "log 0Ch header");
struct nvme_ana_group { /* then nnsids NSIDs, unless only groups were asked for */
    le32 grpid, nnsids;
    le64 chgcnt;
    uint8_t state, reserved17[15];
};
static_assert(sizeof(struct nvme_ana_group) == 32, "ANA group descriptor");
#define NVME_LOG_ANA_RGO (1U << 8) /* CDW10, LSP: groups only */
enum nvme_ana_state {
    NVME_ANA_OPTIMIZED = 1,
    NVME_ANA_NON_OPTIMIZED = 2,
    NVME_ANA_INACCESSIBLE = 3,
    NVME_ANA_PERSISTENT_LOSS = 4,
    NVME_ANA_CHANGE = 15,
};
enum { /* ANACAP */
       NVME_ANACAP_OPTIMIZED = 1 << 0,
       NVME_ANACAP_NON_OPTIMIZED = 1 << 1,
       NVME_ANACAP_INACCESSIBLE = 1 << 2,
       NVME_ANACAP_GROUP_STAYS = 1 << 6, /* ANAGRPID does not change while attached */
};

/* ---- asynchronous events: DW0 of the completion: type 2:0, info 15:8, log page 23:16 ---- */
#define NVME_AER_DW0(type, info, lid)                                                              \
    ((uint32_t)(type) | (uint32_t)(info) << 8 | (uint32_t)(lid) << 16)
enum nvme_aer_type { NVME_AER_ERROR = 0, NVME_AER_SMART = 1, NVME_AER_NOTICE = 2 };
enum {
    NVME_AER_ERROR_INVALID_DB_REG = 0,
    NVME_AER_ERROR_INVALID_DB_VALUE = 1,
    NVME_AER_NOTICE_NS_ATTR = 0,
    NVME_AER_NOTICE_FW_ACTIVATION = 1,
    NVME_AER_NOTICE_ANA = 3,
    NVME_AER_NOTICE_DISCOVERY = 0xf0,
};

/* ---- Create I/O Queue ---- */
#define NVME_CREATE_QID(cdw10) ((cdw10)&0xffff)
#define NVME_CREATE_QSIZE(cdw10) ((cdw10) >> 16) /* 0's based */
#define NVME_CREATE_PC (1U << 0)                 /* CDW11: physically contiguous */
#define NVME_CREATE_CQ_IEN (1U << 1)
#define NVME_CREATE_CQ_IV(cdw11) ((cdw11) >> 16)
#define NVME_CREATE_SQ_QPRIO(cdw11) (((cdw11) >> 1) & 3)
#define NVME_CREATE_SQ_CQID(cdw11) ((cdw11) >> 16)

#endif
