/* SPDX-License-Identifier: BSD-3-Clause */
#include "emu/topology.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static void defaults(void **state)
{
    struct topology t;

    topology_default(&t);
    assert_int_equal(t.nvme.num_pf, 1);
    assert_int_equal(t.nvme.num_vf, 4);
    assert_int_equal(t.virtio_blk.num_pf, 1);
    assert_int_equal(topology_msix(&t.nvme, false), 32);
    assert_int_equal(topology_msix(&t.nvme, true), 32);
    assert_int_equal(topology_queue_depth(&t.nvme), 1024);
    assert_int_equal(t.doorbells, DOORBELLS_AUTO);
}

static void a_file_is_read_over_the_defaults(void **state)
{
    struct topology t;
    struct err err = {0};

    topology_default(&t);
    assert_int_equal(
        topology_parse(&t, "f",
                       "# ours\n\n NVME_EMULATION_NUM_PF = 2 # two\nNVME_EMULATION_NUM_VF=0\r\n"
                       "VIRTIO_BLK_EMULATION_ENABLE = False\n"
                       "NVME_EMULATION_MAX_QUEUE_DEPTH = 0\nNVME_EMULATION_DEVICE_ID = 0x1234\n"
                       "doorbells = mapped\nserial_number = ABCDEF012345\nSRIOV_EN = 1\n",
                       &err),
        0);
    assert_int_equal(t.nvme.num_pf, 2);
    assert_int_equal(t.nvme.num_vf, 0);
    assert_int_equal(t.virtio_blk.enable, 0);
    assert_int_equal(topology_queue_depth(&t.nvme), 64);
    assert_int_equal(t.nvme.device_id, 0x1234);
    assert_int_equal(t.doorbells, DOORBELLS_MAPPED);
    assert_string_equal(t.serial, "ABCDEF012345");
    assert_int_equal(t.virtio_blk.num_vf, 4);
}

static void errors_name_file_line_value_and_limit(void **state)
{
    static const struct {
        const char *text, *parts[4];
        int rc;
    } cases[] = {
        {"\nNVME_EMULATION_NUM_PF = 5\n", {"f:2", "NVME_EMULATION_NUM_PF", "5", "4"}, -ERANGE},
        {"NVME_EMULATION_NUM_VF = 257", {"f:1", "257", "256"}, -ERANGE},
        {"NVME_EMULATION_NUM_VF = many", {"f:1", "many", "256"}, -EINVAL},
        {"NVME_EMULATION_NUM_VF = -1", {"f:1", "-1"}, -EINVAL},
        {"NVME_EMULATION_NUM_VF =", {"f:1", "NVME_EMULATION_NUM_VF"}, -EINVAL},
        {"NVME_EMULATION_MAX_QUEUE_DEPTH = 13", {"f:1", "13", "12", "log2"}, -ERANGE},
        {"NVME_EMULATION_ENABLE = perhaps", {"f:1", "perhaps", "true"}, -EINVAL},
        {"NVME_PFS = 1", {"f:1", "NVME_PFS"}, -EINVAL},
        {"just words", {"f:1", "just words", "KEY = VALUE"}, -EINVAL},
        {"doorbells = often", {"f:1", "often", "trapped"}, -EINVAL},
        {"serial_number = short", {"f:1", "short", "12"}, -EINVAL},
        {"NVME_EMULATION_NUM_VF = 1\nNVME_EMULATION_NUM_VF = 2",
         {"f:2", "twice", "line 1"},
         -EINVAL},
        {"NVME_EMULATION_NUM_VF = 99999999999999999999", {"f:1", "99999999999999999999"}, -EINVAL},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct topology t, before;
        struct err err = {0};

        topology_default(&t);
        before = t;
        assert_int_equal(topology_parse(&t, "f", cases[i].text, &err), cases[i].rc);
        for (int p = 0; p < 4 && cases[i].parts[p]; p++)
            if (!strstr(err.msg, cases[i].parts[p]))
                fail_msg("'%s' lacks '%s'", err.msg, cases[i].parts[p]);
        assert_memory_equal(&t, &before, sizeof(t));
    }
}

static void a_missing_file_is_named(void **state)
{
    struct topology t;
    struct err err = {0};

    topology_default(&t);
    assert_int_equal(topology_read(&t, "/nowhere/topology", &err), -ENOENT);
    assert_non_null(strstr(err.msg, "/nowhere/topology"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(a_file_is_read_over_the_defaults),
        cmocka_unit_test(errors_name_file_line_value_and_limit),
        cmocka_unit_test(a_missing_file_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
