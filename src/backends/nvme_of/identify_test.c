/* SPDX-License-Identifier: BSD-3-Clause */
#include "backends/nvme_of/identify.h"
#include "backends/nvme_of/status.h"
#include "spec/nvme_fabrics.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.io.opensnap:test"
enum { CNTLID = 7 };
static const uint64_t good_cap = 127;

static struct nvme_id_ctrl good_ctrl(void)
{
    struct nvme_id_ctrl c = {
        .cntlid = le16_of(CNTLID),
        .mdts = 5,
        .cntrltype = NVME_CNTRLTYPE_IO,
        .sqes = 0x66,
        .cqes = 0x44,
        .oncs = le16_of(NVME_ONCS_DSM | NVME_ONCS_WRITE_ZEROES),
        .vwc = NVME_VWC_PRESENT,
        .sgls = le32_of(NVME_SGLS_SUPPORTED | NVME_SGLS_OFFSET),
        .subnqn = NQN,
        .ioccsz = le32_of((64 + 8192) / 16),
        .iorcsz = le32_of(1),
    };

    memcpy(c.sn, "SERIAL              ", 20);
    memset(c.mn, 'm', sizeof(c.mn)); /* fills the field, no end */
    memcpy(c.fr, "1\x01\xff     ", 8);
    return c;
}

static int check(const struct nvme_id_ctrl *raw, uint64_t cap, struct nof_ctrl *ret,
                 struct err *err)
{
    return nof_check_ctrl(raw, cap, NQN, CNTLID, ret, err);
}

static void a_good_controller_is_taken(void **state)
{
    struct nvme_id_ctrl raw = good_ctrl();
    struct nof_ctrl c;
    struct err err;

    (void)state;
    assert_int_equal(check(&raw, good_cap, &c, &err), 0);
    assert_int_equal(c.max_io_bytes, 131072);
    assert_int_equal(c.inline_bytes, 8192);
    assert_int_equal(c.entries, 128);
    assert_true(c.volatile_cache && c.dsm && c.write_zeroes);
    assert_string_equal(c.sn, "SERIAL");
    assert_int_equal(strlen(c.mn), 40);
    assert_string_equal(c.fr, "1??");
    raw.mdts = 0;
    assert_int_equal(check(&raw, good_cap, &c, &err), 0);
    assert_int_equal(c.max_io_bytes, 1 << 30);
    raw.mdts = 255; /* 2^267 bytes */
    assert_int_equal(check(&raw, good_cap, &c, &err), 0);
    assert_int_equal(c.max_io_bytes, 1 << 30);
    raw.mdts = 1;
    assert_int_equal(check(&raw, good_cap | 1ULL << 48, &c, &err), 0); /* MPSMIN: 8 KiB */
    assert_int_equal(c.max_io_bytes, 16384);
    assert_int_equal(check(&raw, 65535, &c, &err), 0);
    assert_int_equal(c.entries, 128);
    assert_int_equal(check(&raw, 1, &c, &err), 0);
    assert_int_equal(c.entries, 2);
    raw.sgls = le32_of(NVME_SGLS_SUPPORTED);
    assert_int_equal(check(&raw, good_cap, &c, &err), 0);
    assert_int_equal(c.inline_bytes, 0);
    raw = good_ctrl();
    raw.ioccsz = le32_of(0xffffffff);
    assert_int_equal(check(&raw, good_cap, &c, &err), 0);
    assert_int_equal(c.inline_bytes, 65536);
}

static void impossible_controllers_are_refused(void **state)
{
    struct nvme_id_ctrl good = good_ctrl(), raw;
    struct nof_ctrl c;
    struct err err;

    (void)state;
#define REFUSED(change, cap, word)                                                                 \
    do {                                                                                           \
        raw = good;                                                                                \
        change;                                                                                    \
        assert_int_equal(check(&raw, cap, &c, &err), -EPROTO);                                     \
        assert_non_null(strstr(err.msg, word));                                                    \
    } while (0)
    REFUSED((void)0, 0, "MQES");
    REFUSED(raw.ioccsz = le32_of(3), good_cap, "IOCCSZ");
    REFUSED(raw.iorcsz = le32_of(0), good_cap, "IORCSZ");
    REFUSED(raw.icdoff = le16_of(1), good_cap, "ICDOFF");
    REFUSED(raw.sqes = 0x77, good_cap, "SQES");
    REFUSED(raw.sqes = 0x55, good_cap, "SQES");
    REFUSED(raw.cqes = 0x55, good_cap, "CQES");
    REFUSED(raw.cntlid = le16_of(8), good_cap, "CNTLID");
    REFUSED(raw.subnqn[4] = 'x', good_cap, "subsystem");
    REFUSED(memset(raw.subnqn, 'n', sizeof(raw.subnqn)), good_cap, "subsystem");
    REFUSED(raw.cntrltype = NVME_CNTRLTYPE_DISCOVERY, good_cap, "discovery");
}

static struct nvme_id_ns good_ns(void)
{
    struct nvme_id_ns ns = {.nsze = le64_of(1000)};

    ns.lbaf[0].lbads = 9;
    return ns;
}

static void namespaces_are_checked(void **state)
{
    struct nof_ctrl ctrl = {.max_io_bytes = 4096, .dsm = true};
    struct nvme_of_namespace ns = {.nsid = 3};
    struct nvme_id_ns raw = good_ns();
    struct err err;

    (void)state;
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), 0);
    assert_int_equal(ns.block_bytes, 512);
    assert_int_equal(ns.nblocks, 1000);
    assert_true(ns.no_write_cache);
    assert_false(ns.no_unmap);
    raw.flbas = 0x20 | 3; /* format 19 */
    raw.nlbaf = 18;
    raw.lbaf[19].lbads = 12;
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
    raw.nlbaf = 19;
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), 0);
    assert_int_equal(ns.block_bytes, 4096);
    raw.lbaf[19].lbads = 13; /* 8 KiB blocks, 4 KiB per command */
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
    assert_non_null(strstr(err.msg, "MDTS"));
    for (unsigned lbads = 0; lbads < 256; lbads++) {
        raw = good_ns();
        raw.lbaf[0].lbads = (uint8_t)lbads;
        assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err),
                         lbads >= 9 && lbads <= 12 ? 0 : -EPROTO);
    }
    raw = good_ns();
    raw.lbaf[0].ms = le16_of(8);
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
    raw = good_ns();
    raw.nsze = le64_of(0);
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
    raw.nsze = le64_of(UINT64_MAX);
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
    raw.nsze = le64_of(1ULL << 54); /* 2^63 bytes */
    assert_int_equal(nof_check_ns(&raw, &ctrl, &ns, &err), -EPROTO);
}

static void descriptor_lists_end_where_they_must(void **state)
{
    uint8_t list[NVME_IDENTIFY_BYTES] = {3, 16, 0, 0};
    struct nvme_of_namespace ns = {0};

    (void)state;
    memset(list + 4, 0xaa, 16);
    list[20] = 1;
    list[21] = 8;
    memset(list + 24, 0xbb, 8);
    list[32] = 77; /* unknown type */
    list[33] = 255;
    nof_read_descs(list, &ns);
    assert_int_equal(ns.uuid.b[15], 0xaa);
    assert_int_equal(ns.eui64[7], 0xbb);
    /* wrong lengths, and one that runs over the end */
    memset(&ns, 0, sizeof(ns));
    memset(list, 0, sizeof(list));
    list[0] = 3;
    list[1] = 15;
    nof_read_descs(list, &ns);
    assert_int_equal(ns.uuid.b[0], 0);
    for (unsigned at = 0; at + 4 < sizeof(list); at += 4 + 248) {
        list[at] = 9;
        list[at + 1] = 248;
    }
    nof_read_descs(list, &ns);
    memset(list, 0xff, sizeof(list));
    nof_read_descs(list, &ns);
}

static void uuids_are_derived_and_compared(void **state)
{
    struct nvme_of_namespace a = {.nsid = 1, .block_bytes = 512, .nblocks = 10}, b = a;
    struct err err;

    (void)state;
    nof_derive_uuid(NQN, &a);
    nof_derive_uuid(NQN, &b);
    assert_int_equal(nof_same_ns(&a, &b, &err), 0);
    b.nblocks = 20;
    assert_int_equal(nof_same_ns(&a, &b, &err), 0);
    b.nguid[3] = 1;
    assert_int_equal(nof_same_ns(&a, &b, &err), -ESTALE);
    b = a;
    b.block_bytes = 4096;
    assert_int_equal(nof_same_ns(&a, &b, &err), -ESTALE);
    b = (struct nvme_of_namespace){.nsid = 2, .block_bytes = 512};
    nof_derive_uuid(NQN, &b);
    assert_int_equal(nof_same_ns(&a, &b, &err), -ESTALE);
    b = (struct nvme_of_namespace){.nsid = 1, .block_bytes = 512};
    nof_derive_uuid(NQN "2", &b);
    assert_int_equal(nof_same_ns(&a, &b, &err), -ESTALE);
    b = (struct nvme_of_namespace){.nsid = 1, .nguid = {1, 2, 3}};
    nof_derive_uuid(NQN, &b);
    assert_memory_equal(&b.uuid, b.nguid, 16);
}

static void statuses_have_meanings(void **state)
{
    char text[160];

    (void)state;
    assert_int_equal(nof_status_errno(0), 0);
    assert_int_equal(nof_status_errno(NVME_STATUS_DNR), 0);
    assert_int_equal(nof_status_errno(NVME_SC_LBA_RANGE | NVME_STATUS_DNR), -ERANGE);
    assert_int_equal(nof_status_errno(NVME_SC_UNRECOVERED_READ), -ENODATA);
    assert_int_equal(nof_status_errno(0x7ff), -EIO);
    assert_true(nof_status_retry(NVME_SC_NS_NOT_READY));
    assert_false(nof_status_retry(NVME_SC_NS_NOT_READY | NVME_STATUS_DNR));
    assert_true(nof_status_retry(NVME_SC_INVALID_NAMESPACE | NVME_STATUS_DNR));
    assert_false(nof_status_retry(NVME_SC_LBA_RANGE));
    assert_false(nof_status_retry(0x7ff));
    nof_connect_text(NVME_SC_CONNECT_INVALID_PARAM | NVME_STATUS_DNR, 0x10100, text, sizeof(text));
    assert_non_null(strstr(text, "NQN"));
    nof_status_text(NVME_SC_LBA_RANGE, text, sizeof(text));
    assert_non_null(strstr(text, "080h"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_controller_is_taken),
        cmocka_unit_test(impossible_controllers_are_refused),
        cmocka_unit_test(namespaces_are_checked),
        cmocka_unit_test(descriptor_lists_end_where_they_must),
        cmocka_unit_test(uuids_are_derived_and_compared),
        cmocka_unit_test(statuses_have_meanings),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
