/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Configuration space as a host sizes, probes and resets it. */
#include "pci/function.h"
#include "spec/pci.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

static struct pci_function *make(void)
{
    struct pci_layout l = {
        .vendor_id = 0x15b3,
        .device_id = 0x6001,
        .class_code = 0x010802,
        .serial = 0x1122334455667788,
        .vuid = "OS0123456789NVMES0D0F0",
        .model = "OpenSNAP NVMe function",
        .bar = {[0] = {8192, true}, [4] = {4096, false}},
        .msix_vectors = 32,
        .msix_bar = 4,
    };
    struct err err = {0};
    struct pci_function *f = pci_function_create(&l, &err);

    assert_non_null(f);
    return f;
}

static uint32_t rd32(struct pci_function *f, unsigned at)
{
    uint32_t v;

    pci_config_read(f, at, &v, 4);
    return v;
}

static unsigned wr32(struct pci_function *f, unsigned at, uint32_t v)
{
    return pci_config_write(f, at, &v, 4);
}

static unsigned wr16(struct pci_function *f, unsigned at, uint16_t v)
{
    return pci_config_write(f, at, &v, 2);
}

static unsigned find_cap(struct pci_function *f, uint8_t id)
{
    unsigned at = rd32(f, PCI_CAP_POINTER) & 0xff;

    for (int hops = 0; at && hops < 16; hops++) {
        uint32_t head = rd32(f, at);

        if ((head & 0xff) == id)
            return at;
        at = head >> 8 & 0xff;
    }
    return 0;
}

static void identity_cannot_be_written(void **state)
{
    struct pci_function *f = make();

    wr32(f, PCI_VENDOR_ID, 0);
    wr32(f, PCI_REVISION_ID, 0xffffffff);
    assert_int_equal(rd32(f, PCI_VENDOR_ID), 0x600115b3);
    assert_int_equal(rd32(f, PCI_REVISION_ID), 0x01080200);
    pci_function_destroy(f);
}

static void bars_size_and_unused_ones_are_zero(void **state)
{
    struct pci_function *f = make();

    for (unsigned at = PCI_BAR0; at < PCI_BAR0 + 24; at += 4)
        wr32(f, at, 0xffffffff);
    wr32(f, PCI_ROM_BAR, 0xfffff800);
    assert_int_equal(rd32(f, PCI_BAR0), 0xffffe004);
    assert_int_equal(rd32(f, PCI_BAR0 + 4), 0xffffffff);
    assert_int_equal(rd32(f, PCI_BAR0 + 8), 0);
    assert_int_equal(rd32(f, PCI_BAR0 + 12), 0);
    assert_int_equal(rd32(f, PCI_BAR0 + 16), 0xfffff000);
    assert_int_equal(rd32(f, PCI_BAR0 + 20), 0);
    assert_int_equal(rd32(f, PCI_ROM_BAR), 0);
    pci_function_destroy(f);
}

static void command_register_tells_bus_master(void **state)
{
    struct pci_function *f = make();

    assert_false(pci_bus_master(f));
    assert_int_equal(wr16(f, PCI_COMMAND, 0xffff), PCI_EVENT_FLAGS);
    assert_true(pci_bus_master(f));
    assert_int_equal(rd32(f, PCI_COMMAND) & 0xffff, 0x0546);
    assert_int_equal(rd32(f, PCI_COMMAND) >> 16, PCI_STATUS_CAP_LIST);
    assert_int_equal(wr16(f, PCI_COMMAND, 0xffff), 0);
    pci_function_destroy(f);
}

static void capabilities_are_all_there(void **state)
{
    struct pci_function *f = make();

    assert_int_not_equal(find_cap(f, PCI_CAP_PM), 0);
    assert_int_not_equal(find_cap(f, PCI_CAP_MSIX), 0);
    assert_int_not_equal(find_cap(f, PCI_CAP_EXPRESS), 0);
    assert_int_not_equal(find_cap(f, PCI_CAP_VPD), 0);
    assert_int_equal(rd32(f, find_cap(f, PCI_CAP_MSIX)) >> 16, 31);
    assert_int_equal(rd32(f, 0x100), 0x00010003);
    assert_int_equal(rd32(f, 0x104), 0x55667788);
    pci_function_destroy(f);
}

static void flr_bit_asks_for_a_reset_and_reads_zero(void **state)
{
    struct pci_function *f = make();
    unsigned at = find_cap(f, PCI_CAP_EXPRESS) + PCI_EXP_DEVCTL;
    uint16_t ctl = (uint16_t)rd32(f, at);
    uint8_t all[PCI_CONFIG_BYTES];

    assert_true(rd32(f, at - 4) & PCI_EXP_DEVCAP_FLR);
    assert_int_equal(wr16(f, at, ctl | PCI_EXP_DEVCTL_FLR), PCI_EVENT_FLR);
    assert_int_equal(rd32(f, at) & PCI_EXP_DEVCTL_FLR, 0);
    assert_int_equal(wr16(f, at, ctl), 0);
    /* One byte and the whole space at once mean the same. */
    assert_int_equal(pci_config_write(f, at + 1, "\x80", 1), PCI_EVENT_FLR);
    memset(all, 0xff, sizeof(all));
    assert_true(pci_config_write(f, 0, all, sizeof(all)) & PCI_EVENT_FLR);
    pci_function_destroy(f);
}

static void power_states(void **state)
{
    struct pci_function *f = make();
    unsigned at = find_cap(f, PCI_CAP_PM) + PCI_PM_CSR;

    assert_true(pci_powered(f));
    assert_int_equal(wr16(f, at, 1), 0); /* D1: not supported, nothing happens */
    assert_true(pci_powered(f));
    assert_int_equal(wr16(f, at, 3), PCI_EVENT_FLAGS);
    assert_false(pci_powered(f));
    assert_int_equal(wr16(f, at, 2), 0);
    assert_int_equal(rd32(f, at) & 3, 3);
    assert_int_equal(wr16(f, at, 0), PCI_EVENT_FLAGS | PCI_EVENT_D0);
    assert_true(pci_powered(f));
    assert_false(rd32(f, at) & PCI_PM_CSR_NO_SOFT_RESET);
    pci_function_destroy(f);
}

static void reset_restores_the_image(void **state)
{
    struct pci_function *f = make();
    uint8_t before[PCI_CONFIG_BYTES], after[PCI_CONFIG_BYTES], junk[PCI_CONFIG_BYTES];

    pci_config_read(f, 0, before, sizeof(before));
    memset(junk, 0xa5, sizeof(junk));
    pci_config_write(f, 0, junk, sizeof(junk));
    pci_function_reset(f);
    pci_config_read(f, 0, after, sizeof(after));
    assert_memory_equal(before, after, sizeof(before));
    pci_function_destroy(f);
}

static void accesses_out_of_range_are_harmless(void **state)
{
    struct pci_function *f = make();
    uint8_t buf[64];

    memset(buf, 0xff, sizeof(buf));
    assert_int_equal(pci_config_write(f, PCI_CONFIG_BYTES - 4, buf, sizeof(buf)), 0);
    assert_int_equal(pci_config_write(f, UINT64_MAX - 3, buf, sizeof(buf)), 0);
    pci_config_read(f, UINT64_MAX - 3, buf, sizeof(buf));
    assert_int_equal(buf[0], 0);
    pci_msix_write(f, 31 * 16 + 12, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
    pci_msix_write(f, PCI_MSIX_PBA_OFFSET, "\xff\xff\xff\xff", 4);
    pci_msix_write(f, 1, "\xff\xff\xff\xff", 4);
    pci_msix_read(f, PCI_MSIX_PBA_OFFSET, buf, 8);
    assert_int_equal(buf[0] | buf[7], 0);
    pci_msix_read(f, 31 * 16 + 12, buf, 8);
    assert_memory_equal(buf, "\x01\0\0\0\0\0\0\0", 8);
    pci_msix_read(f, 0, buf, 4);
    assert_memory_equal(buf, "\0\0\0\0", 4);
    pci_function_destroy(f);
}

static void vpd_holds_the_vuid(void **state)
{
    struct pci_function *f = make();
    unsigned at = find_cap(f, PCI_CAP_VPD);
    char image[128];
    uint8_t sum = 0;
    size_t rv;

    for (unsigned i = 0; i < sizeof(image); i += 4) {
        uint32_t data;

        wr16(f, at + PCI_VPD_ADDRESS, (uint16_t)i);
        assert_true(rd32(f, at) >> 16 & PCI_VPD_F);
        data = rd32(f, at + PCI_VPD_DATA);
        memcpy(image + i, &data, 4);
    }
    assert_non_null(memmem(image, sizeof(image), "VU\x16OS0123456789NVMES0D0F0", 25));
    rv = (size_t)((char *)memmem(image, sizeof(image), "RV\x01", 3) - image);
    for (size_t i = 0; i <= rv + 3; i++)
        sum = (uint8_t)(sum + (uint8_t)image[i]);
    assert_int_equal(sum, 0);
    assert_int_equal((uint8_t)image[rv + 4], 0x78);
    /* A write cycle ends at once and changes nothing. */
    wr16(f, at + PCI_VPD_ADDRESS, PCI_VPD_F);
    assert_false(rd32(f, at) >> 16 & PCI_VPD_F);
    pci_function_destroy(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(identity_cannot_be_written),
        cmocka_unit_test(bars_size_and_unused_ones_are_zero),
        cmocka_unit_test(command_register_tells_bus_master),
        cmocka_unit_test(capabilities_are_all_there),
        cmocka_unit_test(flr_bit_asks_for_a_reset_and_reads_zero),
        cmocka_unit_test(power_states),
        cmocka_unit_test(reset_restores_the_image),
        cmocka_unit_test(accesses_out_of_range_are_harmless),
        cmocka_unit_test(vpd_holds_the_vuid),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
