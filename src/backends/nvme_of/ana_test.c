/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The ANA log of a target that lies: whatever is refused leaves the former states as they were. */
#include "backends/nvme_of/ana.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct log {
    struct nvme_log_ana head;
    struct nvme_ana_group groups[NOF_ANA_GROUPS];
};

/* n groups, numbered from 1, optimized. In memory of just the size: a checker sees each byte that
 * is read beyond. */
static struct log *log_of(unsigned n, size_t *ret_bytes)
{
    struct log *log;

    *ret_bytes = nof_ana_bytes(n ? n : 1);
    log = calloc(1, *ret_bytes);
    assert_non_null(log);
    log->head.ngrps = le16_of((uint16_t)n);
    for (unsigned i = 0; i < n; i++) {
        log->groups[i].grpid = le32_of(i + 1);
        log->groups[i].state = NVME_ANA_OPTIMIZED;
    }
    return log;
}

/* What was known before each lie, and must still be known after it. */
static struct nof_ana *known(void)
{
    struct nof_ana *ana = calloc(1, sizeof(*ana));
    struct err err;
    size_t bytes;
    struct log *log = log_of(2, &bytes);

    assert_non_null(ana);
    log->groups[1].state = NVME_ANA_INACCESSIBLE;
    assert_int_equal(nof_ana_parse(log, bytes, ana, &err), 0);
    free(log);
    return ana;
}

static void assert_refused(const struct log *log, size_t bytes, const char *why)
{
    struct nof_ana *ana = known(), *before = malloc(sizeof(*ana));
    struct err err;

    assert_non_null(before);
    memcpy(before, ana, sizeof(*ana));
    assert_int_equal(nof_ana_parse(log, bytes, ana, &err), -EPROTO);
    assert_non_null(strstr(err.msg, why));
    assert_memory_equal(ana, before, sizeof(*ana));
    free(before);
    free(ana);
}

static void a_log_has_room_for_nanagrpid_groups_and_no_more_than_we_take(void **state)
{
    assert_int_equal(nof_ana_bytes(0), 0);
    assert_int_equal(nof_ana_bytes(1), 16 + 32);
    assert_int_equal(nof_ana_bytes(NOF_ANA_GROUPS), 16 + 32 * NOF_ANA_GROUPS);
    assert_int_equal(nof_ana_bytes(NOF_ANA_GROUPS + 1), 0);
    assert_int_equal(nof_ana_bytes(UINT32_MAX), 0);
}

static void states_of_groups_are_found_by_their_number(void **state)
{
    struct nof_ana *ana = known();

    assert_int_equal(nof_ana_state(ana, 1), NVME_ANA_OPTIMIZED);
    assert_int_equal(nof_ana_state(ana, 2), NVME_ANA_INACCESSIBLE);
    assert_int_equal(nof_ana_state(ana, 3), 0);
    assert_int_equal(nof_ana_state(ana, 0), 0);
    ana->known = false;
    assert_int_equal(nof_ana_state(ana, 1), 0);
    free(ana);
}

static void the_greatest_log_is_taken_and_a_shorter_one_forgets_it(void **state)
{
    struct nof_ana *ana = known();
    struct err err;
    size_t bytes;
    struct log *log = log_of(NOF_ANA_GROUPS, &bytes);

    log->groups[NOF_ANA_GROUPS - 1].state = NVME_ANA_CHANGE | 0xf0; /* bits 7:4 are reserved */
    assert_int_equal(nof_ana_parse(log, bytes, ana, &err), 0);
    assert_int_equal(nof_ana_state(ana, NOF_ANA_GROUPS), NVME_ANA_CHANGE);
    assert_true(nof_ana_changes(ana));
    log->head.ngrps = le16_of(1);
    assert_int_equal(nof_ana_parse(log, bytes, ana, &err), 0);
    assert_int_equal(nof_ana_state(ana, NOF_ANA_GROUPS), 0);
    assert_false(nof_ana_changes(ana));
    log->head.ngrps = le16_of(0);
    assert_int_equal(nof_ana_parse(log, bytes, ana, &err), 0);
    assert_int_equal(nof_ana_state(ana, 1), 0);
    free(log);
    free(ana);
}

static void more_groups_than_the_log_has_bytes_for_are_refused(void **state)
{
    size_t bytes;
    struct log *log = log_of(3, &bytes);

    log->head.ngrps = le16_of(4);
    assert_refused(log, bytes, "4 ANA groups");
    log->head.ngrps = le16_of(UINT16_MAX);
    assert_refused(log, bytes, "65535 ANA groups");
    log->head.ngrps = le16_of(3);
    assert_refused(log, bytes - 1, "3 ANA groups"); /* the last descriptor crosses the end */
    free(log);
}

static void a_log_without_a_whole_header_is_refused(void **state)
{
    char *cut = calloc(1, 8); /* CHGCNT alone */

    assert_refused((const struct log *)(void *)cut, 8, "8 bytes");
    assert_refused((const struct log *)(void *)cut, 0, "0 bytes");
    free(cut);
}

static void more_groups_than_we_take_are_refused_though_the_bytes_are_there(void **state)
{
    size_t bytes = sizeof(struct log) + sizeof(struct nvme_ana_group);
    struct log *log = calloc(1, bytes);
    struct nvme_ana_group *g;

    assert_non_null(log);
    g = log->groups;
    for (unsigned i = 0; i <= NOF_ANA_GROUPS; i++)
        g[i] = (struct nvme_ana_group){.grpid = le32_of(i + 1), .state = NVME_ANA_OPTIMIZED};
    log->head.ngrps = le16_of(NOF_ANA_GROUPS + 1);
    assert_refused(log, bytes, "1025 ANA groups");
    free(log);
}

static void namespaces_that_were_not_asked_for_are_refused(void **state)
{
    size_t bytes;
    struct log *log = log_of(3, &bytes);

    log->groups[1].nnsids = le32_of(8); /* would be the bytes of the third descriptor */
    assert_refused(log, bytes, "ANA group 2 with namespaces");
    log->groups[1].nnsids = le32_of(UINT32_MAX);
    assert_refused(log, bytes, "ANA group 2 with namespaces");
    free(log);
}

static void group_0_and_a_group_named_twice_are_refused(void **state)
{
    size_t bytes;
    struct log *log = log_of(3, &bytes);

    log->groups[2].grpid = le32_of(0);
    assert_refused(log, bytes, "ANA group 0");
    log->groups[2].grpid = le32_of(1);
    assert_refused(log, bytes, "ANA group 1 twice");
    free(log);
}

static void only_the_states_of_the_specification_are_known(void **state)
{
    for (unsigned s = 0; s < 16; s++) {
        bool good = (s >= 1 && s <= 4) || s == 15;
        struct nof_ana *ana = known();
        struct err err;
        size_t bytes;
        struct log *log = log_of(1, &bytes);

        log->groups[0].state = (uint8_t)s;
        if (good)
            assert_int_equal(nof_ana_parse(log, bytes, ana, &err), 0);
        else
            assert_refused(log, bytes, "unknown state");
        assert_int_equal(strcmp(nof_ana_name((uint8_t)s), "unknown") != 0, good);
        free(log);
        free(ana);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_log_has_room_for_nanagrpid_groups_and_no_more_than_we_take),
        cmocka_unit_test(states_of_groups_are_found_by_their_number),
        cmocka_unit_test(the_greatest_log_is_taken_and_a_shorter_one_forgets_it),
        cmocka_unit_test(more_groups_than_the_log_has_bytes_for_are_refused),
        cmocka_unit_test(a_log_without_a_whole_header_is_refused),
        cmocka_unit_test(more_groups_than_we_take_are_refused_though_the_bytes_are_there),
        cmocka_unit_test(namespaces_that_were_not_asked_for_are_refused),
        cmocka_unit_test(group_0_and_a_group_named_twice_are_refused),
        cmocka_unit_test(only_the_states_of_the_specification_are_known),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
