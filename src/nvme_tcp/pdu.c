/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_tcp/pdu.h"

#include "base/util.h"
#include "nvme_tcp/digest.h"

#include <errno.h>
#include <string.h>

enum { DIGEST_BYTES = 4 };

enum data_rule { DATA_NONE, DATA_MAY, DATA_MUST, DATA_TERM };

struct pdu_rule {
    bool known, from_host, before_ic, digests;
    uint8_t hlen;
    uint8_t flags; /* that may be set, digests apart */
    enum data_rule data;
};

/* Transport 1.0, section 3.6 "PDU definitions". */
static const struct pdu_rule pdu_rules[] = {
    [NVME_TCP_IC_REQ] = {true, true, true, false, 128, 0, DATA_NONE},
    [NVME_TCP_IC_RESP] = {true, false, true, false, 128, 0, DATA_NONE},
    [NVME_TCP_H2C_TERM_REQ] = {true, true, false, false, 24, 0, DATA_TERM},
    [NVME_TCP_C2H_TERM_REQ] = {true, false, false, false, 24, 0, DATA_TERM},
    [NVME_TCP_CAPSULE_CMD] = {true, true, false, true, 72, 0, DATA_MAY},
    [NVME_TCP_CAPSULE_RESP] = {true, false, false, true, 24, 0, DATA_NONE},
    [NVME_TCP_H2C_DATA] = {true, true, false, true, 24, NVME_TCP_FLAG_LAST, DATA_MUST},
    [NVME_TCP_C2H_DATA] = {true, false, false, true, 24, NVME_TCP_FLAG_LAST | NVME_TCP_FLAG_SUCCESS,
                           DATA_MUST},
    [NVME_TCP_R2T] = {true, false, false, true, 24, 0, DATA_NONE},
};

int nvme_tcp_fail(struct nvme_tcp_fault *fault, enum nvme_tcp_fes fes, size_t fei, const char *text)
{
    *fault = (struct nvme_tcp_fault){fes, (uint32_t)fei, text};
    return -EPROTO;
}

#define FEI(member) offsetof(struct nvme_tcp_ch, member)

static int check_flags(const struct nvme_tcp_rules *rules, const struct pdu_rule *rule,
                       const struct nvme_tcp_ch *ch, bool has_data, struct nvme_tcp_fault *fault)
{
    uint8_t allowed = rule->flags, needed = 0;

    if (rule->digests && rules->hdgst)
        needed |= NVME_TCP_FLAG_HDGST;
    if (rule->digests && rules->ddgst && has_data)
        needed |= NVME_TCP_FLAG_DDGST;
    allowed |= needed;
    if ((ch->flags & needed) != needed)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(flags),
                             "a digest flag is missing");
    if (ch->flags & ~allowed)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(flags), "unexpected flags");
    if ((ch->flags & NVME_TCP_FLAG_SUCCESS) && !(ch->flags & NVME_TCP_FLAG_LAST))
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(flags), "SUCCESS without LAST");
    return 0;
}

/* PDO and PLEN of a PDU that carries data behind header_bytes. */
static int check_place(const struct nvme_tcp_rules *rules, const struct nvme_tcp_ch *ch,
                       uint32_t max_bytes, struct nvme_tcp_layout *l, struct nvme_tcp_fault *fault)
{
    uint32_t plen = le32_get(ch->plen), digest = l->ddgst ? DIGEST_BYTES : 0;

    if (ch->pdo < l->header_bytes || ch->pdo % ((rules->pda + 1U) * 4))
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(pdo), "wrong data offset (PDO)");
    if (plen <= ch->pdo + digest)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(plen),
                             "no room for data (PLEN)");
    l->pad_bytes = ch->pdo - l->header_bytes;
    l->data_bytes = plen - ch->pdo - digest;
    if (l->data_bytes > max_bytes)
        return nvme_tcp_fail(fault, NVME_TCP_FES_LIMIT, FEI(plen), "more data than allowed (PLEN)");
    return 0;
}

int nvme_tcp_check(const struct nvme_tcp_rules *rules, const struct nvme_tcp_ch *ch,
                   struct nvme_tcp_layout *ret, struct nvme_tcp_fault *fault)
{
    const struct pdu_rule *rule;
    struct nvme_tcp_layout l = {0};
    uint32_t plen = le32_get(ch->plen);
    bool has_data;
    int rc;

    rule = ch->type < ARRAY_SIZE(pdu_rules) ? &pdu_rules[ch->type] : NULL;
    if (!rule || !rule->known || rule->from_host == rules->host)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(type), "unexpected PDU type");
    /* A controller may answer a bad ICReq with a TermReq. */
    if (rule->before_ic == rules->ic_done && rule->data != DATA_TERM)
        return nvme_tcp_fail(fault, NVME_TCP_FES_SEQUENCE, FEI(type),
                             rules->ic_done ? "a second IC PDU" : "a PDU before the IC PDU");
    if (ch->hlen != rule->hlen)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(hlen),
                             "wrong header length (HLEN)");
    l.hdgst = rule->digests && rules->hdgst;
    l.header_bytes = rule->hlen + (l.hdgst ? DIGEST_BYTES : 0U);
    if (plen < l.header_bytes)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(plen),
                             "PLEN below the header's length");
    has_data = rule->data == DATA_MUST || (rule->data == DATA_MAY && plen > l.header_bytes);
    rc = check_flags(rules, rule, ch, has_data, fault);
    if (rc)
        return rc;
    l.ddgst = has_data && rules->ddgst;
    if (rule->data == DATA_TERM) {
        if (plen > NVME_TCP_TERM_MAX)
            return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(plen),
                                 "too long a TermReq (PLEN)");
        l.data_bytes = plen - l.header_bytes;
    } else if (has_data) {
        rc = check_place(rules, ch,
                         rule->data == DATA_MAY ? rules->max_capsule_bytes : rules->max_data_bytes,
                         &l, fault);
        if (rc)
            return rc;
    } else if (plen != l.header_bytes) {
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD, FEI(plen), "wrong length (PLEN)");
    }
    *ret = l;
    return 0;
}

int nvme_tcp_check_hdgst(const struct nvme_tcp_layout *layout, const void *header,
                         struct nvme_tcp_fault *fault)
{
    size_t len = layout->header_bytes - DIGEST_BYTES;
    le32 got;

    if (!layout->hdgst)
        return 0;
    memcpy(&got, (const char *)header + len, sizeof(got));
    if (nvme_tcp_digest(header, len) != le32_get(got))
        return nvme_tcp_fail(fault, NVME_TCP_FES_HDGST, le32_get(got), "header digest error");
    return 0;
}

int nvme_tcp_check_data(const struct nvme_tcp_layout *layout, const struct nvme_tcp_data *pdu,
                        struct nvme_tcp_fault *fault)
{
    if (le32_get(pdu->datal) != layout->data_bytes)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD,
                             offsetof(struct nvme_tcp_data, datal),
                             "DATAL is not what the PDU carries");
    return 0;
}

int nvme_tcp_check_ic_req(const struct nvme_tcp_ic_req *pdu, struct nvme_tcp_fault *fault)
{
    if (le16_get(pdu->pfv) != 0)
        return nvme_tcp_fail(fault, NVME_TCP_FES_UNSUPPORTED, offsetof(struct nvme_tcp_ic_req, pfv),
                             "unknown PDU format version");
    if (pdu->hpda > NVME_TCP_PDA_MAX)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD,
                             offsetof(struct nvme_tcp_ic_req, hpda), "HPDA above 31");
    if (pdu->dgst & ~(NVME_TCP_DGST_HDR | NVME_TCP_DGST_DATA))
        return nvme_tcp_fail(fault, NVME_TCP_FES_UNSUPPORTED,
                             offsetof(struct nvme_tcp_ic_req, dgst), "unknown digest bits");
    return 0;
}

int nvme_tcp_check_ic_resp(const struct nvme_tcp_ic_resp *pdu, bool hdgst_asked, bool ddgst_asked,
                           struct nvme_tcp_fault *fault)
{
    uint8_t asked = (hdgst_asked ? NVME_TCP_DGST_HDR : 0) | (ddgst_asked ? NVME_TCP_DGST_DATA : 0);

    if (le16_get(pdu->pfv) != 0)
        return nvme_tcp_fail(fault, NVME_TCP_FES_UNSUPPORTED,
                             offsetof(struct nvme_tcp_ic_resp, pfv), "unknown PDU format version");
    if (pdu->cpda > NVME_TCP_PDA_MAX)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD,
                             offsetof(struct nvme_tcp_ic_resp, cpda), "CPDA above 31");
    if (pdu->dgst & ~asked)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD,
                             offsetof(struct nvme_tcp_ic_resp, dgst),
                             "digests that were not asked for");
    if (le32_get(pdu->maxh2cdata) < NVME_TCP_MAXH2CDATA_MIN || le32_get(pdu->maxh2cdata) % 4)
        return nvme_tcp_fail(fault, NVME_TCP_FES_HEADER_FIELD,
                             offsetof(struct nvme_tcp_ic_resp, maxh2cdata),
                             "MAXH2CDATA below 4096 or not a multiple of 4");
    return 0;
}

const char *nvme_tcp_fes_text(unsigned fes)
{
    static const char *const texts[] = {
        [NVME_TCP_FES_HEADER_FIELD] = "invalid PDU header field",
        [NVME_TCP_FES_SEQUENCE] = "PDU sequence error",
        [NVME_TCP_FES_HDGST] = "header digest error",
        [NVME_TCP_FES_OUT_OF_RANGE] = "data transfer out of range",
        [NVME_TCP_FES_LIMIT] = "transfer limit exceeded",
        [NVME_TCP_FES_UNSUPPORTED] = "unsupported parameter",
    };

    return fes < ARRAY_SIZE(texts) && texts[fes] ? texts[fes] : "unknown reason";
}

size_t nvme_tcp_seal(void *pdu, uint8_t hlen, uint8_t flags, uint32_t data_bytes, uint8_t pda,
                     bool hdgst, bool ddgst)
{
    struct nvme_tcp_ch *ch = pdu;
    size_t header = hlen + (hdgst ? DIGEST_BYTES : 0U), align = (pda + 1U) * 4, before = header;
    le32 digest;

    if (data_bytes)
        before = (header + align - 1) / align * align;
    ch->flags = flags;
    if (hdgst)
        ch->flags |= NVME_TCP_FLAG_HDGST;
    if (ddgst && data_bytes)
        ch->flags |= NVME_TCP_FLAG_DDGST;
    ch->hlen = hlen;
    ch->pdo = data_bytes ? (uint8_t)before : 0;
    ch->plen = le32_of((uint32_t)before + data_bytes + (ddgst && data_bytes ? DIGEST_BYTES : 0));
    memset((char *)pdu + hlen, 0, before - hlen);
    if (hdgst) {
        digest = le32_of(nvme_tcp_digest(pdu, hlen));
        memcpy((char *)pdu + hlen, &digest, sizeof(digest));
    }
    return before;
}

size_t nvme_tcp_term_req(void *buf, bool host, const struct nvme_tcp_fault *fault,
                         const void *header, size_t len)
{
    struct nvme_tcp_term_req *pdu = buf;

    len = MIN(len, (size_t)NVME_TCP_TERM_MAX - sizeof(*pdu));
    *pdu = (struct nvme_tcp_term_req){
        .ch = {.type = host ? NVME_TCP_H2C_TERM_REQ : NVME_TCP_C2H_TERM_REQ,
               .hlen = sizeof(*pdu),
               .plen = le32_of((uint32_t)(sizeof(*pdu) + len))},
        .fes = le16_of((uint16_t)fault->fes),
        .fei_low = le16_of((uint16_t)fault->fei),
        .fei_high = le16_of((uint16_t)(fault->fei >> 16)),
    };
    memcpy((char *)buf + sizeof(*pdu), header, len);
    return sizeof(*pdu) + len;
}
