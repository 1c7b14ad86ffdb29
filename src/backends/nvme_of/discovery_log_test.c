/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The Discovery log of a target that lies in each of its fields. */
#include "backends/nvme_of/discovery_log.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define NQN "nqn.2024-01.io.opensnap:test"

/* As targets fill it: text fields padded with spaces, the NQN with NULs. */
static struct nvme_discovery_entry good(void)
{
    struct nvme_discovery_entry e = {
        .trtype = NVME_TRTYPE_TCP,
        .adrfam = NVME_ADRFAM_IPV4,
        .subtype = NVME_DISCOVERY_SUBTYPE_NVM,
        .subnqn = NQN,
    };

    memset(e.trsvcid, ' ', sizeof(e.trsvcid));
    memcpy(e.trsvcid, "4420", 4);
    memset(e.traddr, ' ', sizeof(e.traddr));
    memcpy(e.traddr, "192.0.2.1", 9);
    return e;
}

static void put(char *field, size_t size, const char *text)
{
    memset(field, 0, size);
    assert_true(snprintf(field, size, "%s", text) < (int)size);
}

static void assert_refused(const struct nvme_discovery_entry *raw, const char *why)
{
    struct nof_record r;
    struct err err;

    assert_int_equal(nof_discovery_record(raw, &r, &err), -EPROTO);
    assert_non_null(strstr(err.msg, why));
}

static void a_subsystem_is_read_whether_padded_with_spaces_or_nuls(void **state)
{
    struct nvme_discovery_entry raw = good();
    struct nof_record r;
    struct err err;

    assert_int_equal(nof_discovery_record(&raw, &r, &err), 1);
    assert_string_equal(r.subnqn, NQN);
    assert_string_equal(r.traddr, "192.0.2.1");
    assert_string_equal(r.trsvcid, "4420");
    assert_false(r.ipv6);
    put(raw.traddr, sizeof(raw.traddr), "2001:db8::1");
    put(raw.trsvcid, sizeof(raw.trsvcid), "65535");
    raw.adrfam = NVME_ADRFAM_IPV6;
    assert_int_equal(nof_discovery_record(&raw, &r, &err), 1);
    assert_string_equal(r.traddr, "2001:db8::1");
    assert_string_equal(r.trsvcid, "65535");
    assert_true(r.ipv6);
}

static void what_is_no_nvm_subsystem_over_tcp_is_passed_over_unread(void **state)
{
    struct nvme_discovery_entry raw;
    struct nof_record r;
    struct err err;

    memset(&raw, 0xff, sizeof(raw));
    assert_int_equal(nof_discovery_record(&raw, &r, &err), 0);
    raw.subtype = NVME_DISCOVERY_SUBTYPE_NVM;
    raw.trtype = 1; /* RDMA */
    assert_int_equal(nof_discovery_record(&raw, &r, &err), 0);
    raw.trtype = NVME_TRTYPE_TCP;
    for (unsigned subtype = 0; subtype < 256; subtype++) {
        raw.subtype = (uint8_t)subtype;
        if (subtype != NVME_DISCOVERY_SUBTYPE_NVM)
            assert_int_equal(nof_discovery_record(&raw, &r, &err), 0);
    }
}

static void an_nqn_without_end_empty_or_not_printable_is_refused(void **state)
{
    struct nvme_discovery_entry raw = good();
    struct nof_record r;
    struct err err;

    memset(raw.subnqn, 'n', sizeof(raw.subnqn)); /* on into TRADDR */
    assert_refused(&raw, "subsystem NQN");
    raw.subnqn[NVME_NQN_MAX + 1] = '\0';
    assert_refused(&raw, "subsystem NQN"); /* one byte too long */
    raw.subnqn[NVME_NQN_MAX] = '\0';
    assert_int_equal(nof_discovery_record(&raw, &r, &err), 1);
    assert_int_equal(strlen(r.subnqn), NVME_NQN_MAX);
    memset(raw.subnqn, ' ', sizeof(raw.subnqn)); /* short, and still without end */
    memcpy(raw.subnqn, NQN, strlen(NQN));
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "");
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "    ");
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "nqn.a b");
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "nqn.\n2026: forged log line");
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "nqn.\x7f");
    assert_refused(&raw, "subsystem NQN");
    put(raw.subnqn, sizeof(raw.subnqn), "nqn.\xc3\xa4");
    assert_refused(&raw, "subsystem NQN");
}

static void an_address_must_be_one_of_its_family(void **state)
{
    struct nvme_discovery_entry raw = good();

    for (unsigned family = 0; family < 256; family++) {
        raw.adrfam = (uint8_t)family;
        if (family != NVME_ADRFAM_IPV4 && family != NVME_ADRFAM_IPV6)
            assert_refused(&raw, "address family");
    }
    raw.adrfam = NVME_ADRFAM_IPV6; /* of an IPv4 address */
    assert_refused(&raw, "its address");
    raw.adrfam = NVME_ADRFAM_IPV4;
    for (const char *const *text = (const char *const[]){"", " ", "target.example", "192.0.2",
                                                         "192.0.2.256", "192.0.2.1;x", NULL};
         *text; text++) {
        put(raw.traddr, sizeof(raw.traddr), *text);
        assert_refused(&raw, "its address");
    }
    memset(raw.traddr, '1', sizeof(raw.traddr)); /* no end */
    assert_refused(&raw, "its address");
}

static void a_port_must_be_a_number_that_tcp_has(void **state)
{
    struct nvme_discovery_entry raw = good();

    for (const char *const *text =
             (const char *const[]){"", "0", "65536", "-1", "+1", "0x10", "44 20", "4420x", "http",
                                   "18446744073709551617", "99999999999999999999999999", NULL};
         *text; text++) {
        put(raw.trsvcid, sizeof(raw.trsvcid), *text);
        assert_refused(&raw, "its port");
    }
    put(raw.trsvcid, sizeof(raw.trsvcid), "0000000000004420"); /* 16: no room for its end */
    assert_refused(&raw, "its port");
    memset(raw.trsvcid, '1', sizeof(raw.trsvcid)); /* no end: SUBNQN's bytes are not its */
    assert_refused(&raw, "its port");
}

static void a_log_of_too_many_records_or_another_format_is_refused(void **state)
{
    struct nvme_log_discovery head = {.numrec = le64_of(NOF_DISCOVERY_RECORDS)};
    struct err err;
    unsigned n = 7;

    assert_int_equal(nof_discovery_count(&head, &n, &err), 0);
    assert_int_equal(n, NOF_DISCOVERY_RECORDS);
    head.numrec = le64_of(0);
    assert_int_equal(nof_discovery_count(&head, &n, &err), 0);
    assert_int_equal(n, 0);
    for (const uint64_t *lie = (const uint64_t[]){NOF_DISCOVERY_RECORDS + 1, 1ULL << 32,
                                                  (1ULL << 54) + 1, UINT64_MAX, 0};
         *lie; lie++) { /* also those of which 32 bits, or the bytes times 1024, look small */
        head.numrec = le64_of(*lie);
        n = 7;
        assert_int_equal(nof_discovery_count(&head, &n, &err), -EPROTO);
        assert_int_equal(n, 7);
    }
    head.numrec = le64_of(1);
    head.recfmt = le16_of(1);
    assert_int_equal(nof_discovery_count(&head, &n, &err), -EPROTO);
    assert_non_null(strstr(err.msg, "format 1"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_subsystem_is_read_whether_padded_with_spaces_or_nuls),
        cmocka_unit_test(what_is_no_nvm_subsystem_over_tcp_is_passed_over_unread),
        cmocka_unit_test(an_nqn_without_end_empty_or_not_printable_is_refused),
        cmocka_unit_test(an_address_must_be_one_of_its_family),
        cmocka_unit_test(a_port_must_be_a_number_that_tcp_has),
        cmocka_unit_test(a_log_of_too_many_records_or_another_format_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
