/* SPDX-License-Identifier: BSD-3-Clause */
#include "nvme_tcp/digest.h"
#include "nvme_tcp/pdu.h"

#include "base/util.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct nvme_tcp_rules host_plain = {
    .host = true, .ic_done = true, .max_data_bytes = 1 << 20};
static const struct nvme_tcp_rules host_digests = {
    .host = true, .ic_done = true, .hdgst = true, .ddgst = true, .max_data_bytes = 1 << 20};
static const struct nvme_tcp_rules host_fresh = {.host = true};
static const struct nvme_tcp_rules ctrl_plain = {
    .ic_done = true, .max_data_bytes = 131072, .max_capsule_bytes = 4096};

struct header {
    uint8_t type, flags, hlen, pdo;
    uint32_t plen;
};

static int check(const struct nvme_tcp_rules *rules, struct header h, struct nvme_tcp_layout *l,
                 struct nvme_tcp_fault *f)
{
    struct nvme_tcp_ch ch = {h.type, h.flags, h.hlen, h.pdo, le32_of(h.plen)};

    return nvme_tcp_check(rules, &ch, l, f);
}

static void crc32c_has_the_known_check_value(void **state)
{
    (void)state;
    assert_int_equal(nvme_tcp_digest("123456789", 9), 0xe3069283U);
    /* in pieces */
    uint32_t crc = nvme_tcp_crc_update(NVME_TCP_CRC_INIT, "1234", 4);
    assert_int_equal(nvme_tcp_crc_final(nvme_tcp_crc_update(crc, "56789", 5)), 0xe3069283U);
    assert_int_equal(nvme_tcp_digest("", 0), 0);
}

static void legal_headers_are_taken_apart(void **state)
{
    struct nvme_tcp_layout l;
    struct nvme_tcp_fault f;

    (void)state;
    assert_int_equal(check(&host_fresh, (struct header){1, 0, 128, 0, 128}, &l, &f), 0);
    assert_int_equal(l.header_bytes, 128);
    assert_int_equal(check(&host_plain, (struct header){5, 0, 24, 0, 24}, &l, &f), 0);
    assert_int_equal(l.data_bytes, 0);
    assert_int_equal(check(&host_plain, (struct header){7, 0xc, 24, 24, 24 + 4096}, &l, &f), 0);
    assert_int_equal(l.header_bytes + l.pad_bytes, 24);
    assert_int_equal(l.data_bytes, 4096);
    assert_false(l.ddgst);
    assert_int_equal(check(&host_plain, (struct header){7, 4, 24, 64, 64 + 512}, &l, &f), 0);
    assert_int_equal(l.pad_bytes, 40);
    assert_int_equal(check(&host_digests, (struct header){7, 7, 24, 28, 28 + 512 + 4}, &l, &f), 0);
    assert_int_equal(l.header_bytes, 28);
    assert_int_equal(l.data_bytes, 512);
    assert_true(l.hdgst && l.ddgst);
    assert_int_equal(check(&host_digests, (struct header){9, 1, 24, 0, 28}, &l, &f), 0);
    assert_int_equal(check(&host_plain, (struct header){3, 0, 24, 0, 152}, &l, &f), 0);
    assert_int_equal(l.data_bytes, 128);
    assert_int_equal(check(&host_fresh, (struct header){3, 0, 24, 0, 24}, &l, &f), 0);
    assert_int_equal(check(&ctrl_plain, (struct header){4, 0, 72, 0, 72}, &l, &f), 0);
    assert_int_equal(check(&ctrl_plain, (struct header){4, 0, 72, 72, 72 + 4096}, &l, &f), 0);
    assert_int_equal(l.data_bytes, 4096);
    assert_int_equal(check(&ctrl_plain, (struct header){6, 4, 24, 24, 24 + 131072}, &l, &f), 0);
}

static void each_broken_rule_is_refused_with_its_field(void **state)
{
    static const struct {
        const struct nvme_tcp_rules *rules;
        struct header h;
        enum nvme_tcp_fes fes;
        uint32_t fei;
    } cases[] = {
        /* type */
        {&host_plain, {8, 0, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 0},
        {&host_plain, {10, 0, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 0},
        {&host_plain, {255, 0, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 0},
        {&host_plain, {4, 0, 72, 0, 72}, NVME_TCP_FES_HEADER_FIELD, 0}, /* our own direction */
        {&host_plain, {6, 4, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 0},
        {&ctrl_plain, {7, 4, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 0},
        {&ctrl_plain, {9, 0, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 0},
        /* sequence */
        {&host_fresh, {5, 0, 24, 0, 24}, NVME_TCP_FES_SEQUENCE, 0},
        {&host_fresh, {7, 4, 24, 24, 1024}, NVME_TCP_FES_SEQUENCE, 0},
        {&host_plain, {1, 0, 128, 0, 128}, NVME_TCP_FES_SEQUENCE, 0},
        {&ctrl_plain, {0, 0, 128, 0, 128}, NVME_TCP_FES_SEQUENCE, 0},
        /* flags */
        {&host_plain, {5, 1, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_plain, {5, 4, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_plain, {7, 2, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_plain, {7, 0x14, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_plain, {7, 0x08, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 1}, /* not LAST */
        {&host_digests, {7, 6, 24, 28, 1024}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_digests, {7, 5, 24, 28, 1024}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_digests, {5, 0, 24, 0, 28}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_fresh, {1, 1, 128, 0, 128}, NVME_TCP_FES_HEADER_FIELD, 1},
        {&host_plain, {3, 1, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 1},
        /* HLEN */
        {&host_plain, {5, 0, 0, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 2},
        {&host_plain, {5, 0, 16, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 2},
        {&host_plain, {7, 4, 28, 28, 1024}, NVME_TCP_FES_HEADER_FIELD, 2},
        {&host_fresh, {1, 0, 24, 0, 128}, NVME_TCP_FES_HEADER_FIELD, 2},
        {&ctrl_plain, {4, 0, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 2},
        /* PDO */
        {&host_plain, {7, 4, 24, 0, 1024}, NVME_TCP_FES_HEADER_FIELD, 3},
        {&host_plain, {7, 4, 24, 20, 1024}, NVME_TCP_FES_HEADER_FIELD, 3},
        {&host_plain, {7, 4, 24, 26, 1024}, NVME_TCP_FES_HEADER_FIELD, 3},
        {&host_digests, {7, 7, 24, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 3}, /* in the digest */
        {&ctrl_plain, {4, 0, 72, 24, 1024}, NVME_TCP_FES_HEADER_FIELD, 3},
        /* PLEN */
        {&host_plain, {5, 0, 24, 0, 0}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {5, 0, 24, 0, 23}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {5, 0, 24, 0, 25}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {5, 0, 24, 0, 0xffffffff}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_digests, {5, 1, 24, 0, 24}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {9, 0, 24, 0, 1024}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {7, 4, 24, 24, 24}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {7, 4, 24, 200, 100}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_digests, {7, 7, 24, 28, 32}, NVME_TCP_FES_HEADER_FIELD, 4}, /* a digest of nothing */
        {&host_plain, {7, 4, 24, 24, 0xffffffff}, NVME_TCP_FES_LIMIT, 4},
        {&host_plain, {7, 4, 24, 24, 24 + (1 << 20) + 1}, NVME_TCP_FES_LIMIT, 4},
        {&host_plain, {3, 0, 24, 0, 153}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_plain, {3, 0, 24, 0, 20}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&host_fresh, {1, 0, 128, 0, 129}, NVME_TCP_FES_HEADER_FIELD, 4},
        {&ctrl_plain, {4, 0, 72, 72, 72 + 4097}, NVME_TCP_FES_LIMIT, 4},
        {&ctrl_plain, {6, 4, 24, 24, 24 + 131073}, NVME_TCP_FES_LIMIT, 4},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct nvme_tcp_layout l;
        struct nvme_tcp_fault f = {0};
        int rc = check(cases[i].rules, cases[i].h, &l, &f);

        if (rc != -EPROTO || f.fes != cases[i].fes || f.fei != cases[i].fei)
            fail_msg("case %zu: rc %d, fes %d, fei %u (%s)", i, rc, f.fes, f.fei,
                     f.text ? f.text : "-");
    }
}

static void padding_asked_for_is_demanded(void **state)
{
    struct nvme_tcp_rules rules = ctrl_plain;
    struct nvme_tcp_layout l;
    struct nvme_tcp_fault f;

    (void)state;
    rules.pda = 31; /* 128 bytes */
    assert_int_equal(check(&rules, (struct header){6, 4, 24, 24, 1024}, &l, &f), -EPROTO);
    assert_int_equal(check(&rules, (struct header){6, 4, 24, 128, 1024}, &l, &f), 0);
    assert_int_equal(l.pad_bytes, 104);
    assert_int_equal(l.data_bytes, 1024 - 128);
}

static void what_seal_makes_check_takes(void **state)
{
    (void)state;
    for (unsigned mode = 0; mode < 4; mode++) {
        for (unsigned n_pda = 0; n_pda <= NVME_TCP_PDA_MAX; n_pda++) {
            uint8_t pda = (uint8_t)n_pda;
            bool hdgst = mode & 1, ddgst = mode & 2;
            struct nvme_tcp_rules rules = {.ic_done = true,
                                           .hdgst = hdgst,
                                           .ddgst = ddgst,
                                           .pda = pda,
                                           .max_data_bytes = 65536,
                                           .max_capsule_bytes = 65536};
            union {
                struct nvme_tcp_capsule_cmd cmd;
                struct nvme_tcp_data data;
                char room[NVME_TCP_HEADER_MAX];
            } pdu;
            struct nvme_tcp_layout l;
            struct nvme_tcp_fault f;
            size_t n;

            memset(&pdu, 0xa5, sizeof(pdu));
            pdu.cmd.ch.type = NVME_TCP_CAPSULE_CMD;
            n = nvme_tcp_seal(&pdu, 72, 0, 4096, pda, hdgst, ddgst);
            assert_true(n <= sizeof(pdu));
            assert_int_equal(nvme_tcp_check(&rules, &pdu.cmd.ch, &l, &f), 0);
            assert_int_equal(l.header_bytes + l.pad_bytes, n);
            assert_int_equal(l.data_bytes, 4096);
            assert_int_equal(nvme_tcp_check_hdgst(&l, &pdu, &f), 0);
            if (hdgst) {
                pdu.cmd.sqe.opc ^= 1;
                assert_int_equal(nvme_tcp_check_hdgst(&l, &pdu, &f), -EPROTO);
                assert_int_equal(f.fes, NVME_TCP_FES_HDGST);
            }
            pdu.data.ch.type = NVME_TCP_H2C_DATA;
            pdu.data.datal = le32_of(1000);
            n = nvme_tcp_seal(&pdu, 24, NVME_TCP_FLAG_LAST, 1000, pda, hdgst, ddgst);
            assert_int_equal(nvme_tcp_check(&rules, &pdu.data.ch, &l, &f), 0);
            assert_int_equal(l.header_bytes + l.pad_bytes, n);
            assert_int_equal(nvme_tcp_check_data(&l, &pdu.data, &f), 0);
            pdu.data.datal = le32_of(1001);
            assert_int_equal(nvme_tcp_check_data(&l, &pdu.data, &f), -EPROTO);
        }
    }
}

static void ic_contents_are_checked(void **state)
{
    struct nvme_tcp_ic_resp resp = {.dgst = 3, .maxh2cdata = le32_of(4096)};
    struct nvme_tcp_ic_req req = {.dgst = 3};
    struct nvme_tcp_fault f;

    (void)state;
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), 0);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, false, &f), -EPROTO);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, false, true, &f), -EPROTO);
    resp.dgst = 0;
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), 0); /* refused digests */
    resp.maxh2cdata = le32_of(4095);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), -EPROTO);
    resp.maxh2cdata = le32_of(0);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), -EPROTO);
    resp.maxh2cdata = le32_of(0xfffffffc);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), 0);
    resp.cpda = 32;
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), -EPROTO);
    resp.cpda = 31;
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), 0);
    resp.pfv = le16_of(1);
    assert_int_equal(nvme_tcp_check_ic_resp(&resp, true, true, &f), -EPROTO);
    assert_int_equal(f.fes, NVME_TCP_FES_UNSUPPORTED);

    assert_int_equal(nvme_tcp_check_ic_req(&req, &f), 0);
    req.hpda = 32;
    assert_int_equal(nvme_tcp_check_ic_req(&req, &f), -EPROTO);
    req.hpda = 0;
    req.dgst = 4;
    assert_int_equal(nvme_tcp_check_ic_req(&req, &f), -EPROTO);
    req.dgst = 0;
    req.pfv = le16_of(2);
    assert_int_equal(nvme_tcp_check_ic_req(&req, &f), -EPROTO);
}

static void term_req_carries_the_bad_header_and_no_more(void **state)
{
    struct nvme_tcp_fault fault = {NVME_TCP_FES_HDGST, 0x12345678, "x"};
    struct nvme_tcp_rules ctrl = {.ic_done = true};
    struct nvme_tcp_layout l;
    struct nvme_tcp_fault f;
    char buf[NVME_TCP_TERM_MAX], bad[300] = {0};
    struct nvme_tcp_term_req *pdu = (void *)buf;

    (void)state;
    assert_int_equal(nvme_tcp_term_req(buf, true, &fault, bad, 24), 48);
    assert_int_equal(pdu->ch.type, NVME_TCP_H2C_TERM_REQ);
    assert_int_equal(le16_get(pdu->fes), 3);
    assert_int_equal(le16_get(pdu->fei_low), 0x5678);
    assert_int_equal(le16_get(pdu->fei_high), 0x1234);
    assert_int_equal(nvme_tcp_check(&ctrl, &pdu->ch, &l, &f), 0);
    assert_int_equal(nvme_tcp_term_req(buf, false, &fault, bad, sizeof(bad)), 152);
    assert_int_equal(pdu->ch.type, NVME_TCP_C2H_TERM_REQ);
    assert_string_equal(nvme_tcp_fes_text(3), "header digest error");
    assert_string_equal(nvme_tcp_fes_text(77), "unknown reason");
}

/* Whatever the eight bytes are: a verdict, and lengths that add up to PLEN. */
static void random_headers_never_add_up_wrongly(void **state)
{
    unsigned seed = 1;

    (void)state;
    for (unsigned i = 0; i < 300000; i++) {
        struct nvme_tcp_rules rules = {.host = i & 1,
                                       .ic_done = i & 2,
                                       .hdgst = i & 4,
                                       .ddgst = i & 8,
                                       .max_data_bytes = 1 << 20,
                                       .max_capsule_bytes = 8192};
        struct nvme_tcp_ch ch;
        struct nvme_tcp_layout l;
        struct nvme_tcp_fault f = {0};

        ch.type = (uint8_t)(rand_r(&seed) % 12);
        ch.flags = (uint8_t)(rand_r(&seed) & 15);
        ch.hlen = (uint8_t[]){24, 72, 128, 0}[rand_r(&seed) & 3];
        ch.pdo = (uint8_t)rand_r(&seed);
        ch.plen = le32_of((uint32_t)rand_r(&seed) >> (rand_r(&seed) & 31));
        if (nvme_tcp_check(&rules, &ch, &l, &f) == 0) {
            uint64_t sum =
                (uint64_t)l.header_bytes + l.pad_bytes + l.data_bytes + (l.ddgst ? 4 : 0);

            assert_int_equal(sum, le32_get(ch.plen));
            assert_true(l.data_bytes <= 1 << 20);
        } else {
            assert_non_null(f.text);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc32c_has_the_known_check_value),
        cmocka_unit_test(legal_headers_are_taken_apart),
        cmocka_unit_test(each_broken_rule_is_refused_with_its_field),
        cmocka_unit_test(padding_asked_for_is_demanded),
        cmocka_unit_test(what_seal_makes_check_takes),
        cmocka_unit_test(ic_contents_are_checked),
        cmocka_unit_test(term_req_carries_the_bad_header_and_no_more),
        cmocka_unit_test(random_headers_never_add_up_wrongly),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
