/* SPDX-License-Identifier: BSD-3-Clause
 *
 * Register images and log, as host and service see them. */
#include "emu/registers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct registers make(void)
{
    struct registers r;

    r.st = aligned_alloc(4096, (sizeof(*r.st) + 4095) & ~4095UL);
    r.doorbells = calloc(1, STATE_DOORBELL_BYTES);
    memset(r.st, 0, sizeof(*r.st));
    atomic_store(&r.st->emu.epoch, 1);
    return r;
}

static void drop(struct registers *r)
{
    free(r->st);
    free((void *)r->doorbells);
}

static uint32_t rd(struct registers *r, uint64_t at)
{
    uint32_t v;

    registers_read(r, at, &v, 4);
    return v;
}

static bool wr(struct registers *r, uint64_t at, uint32_t v)
{
    return registers_write(r, at, &v, 4);
}

static void reads_mix_both_images(void **state)
{
    struct registers r = make();
    uint8_t bytes[6];

    atomic_store(&r.st->svc.reg_dev[5], 0x11223344);
    atomic_store(&r.st->svc.reg_mask[5], 0x00ffff00);
    assert_true(wr(&r, 0x14, 0xaabbccdd));
    assert_int_equal(rd(&r, 0x14), 0x11bbcc44);
    assert_int_equal(atomic_load(&r.st->emu.reg_host[5]), 0x00bbcc00);
    registers_read(&r, 0x13, bytes, sizeof(bytes)); /* any width and offset may be read */
    assert_memory_equal(bytes, "\x00\x44\xcc\xbb\x11\x00", 6);
    assert_int_equal(rd(&r, STATE_REG_BYTES), 0);
    drop(&r);
}

static void writes_go_to_the_log_in_order(void **state)
{
    struct registers r = make();
    uint64_t q = 0x1122334455667788;

    assert_true(wr(&r, 0x14, 1));
    assert_true(registers_write(&r, 0x28, &q, 8));
    assert_true(registers_write(&r, 0x24, &q, 8)); /* not aligned to 8: two dwords */
    assert_int_equal(atomic_load(&r.st->emu.log_tail), 4);
    assert_int_equal(r.st->log[0].offset, 0x14);
    assert_int_equal(r.st->log[0].epoch, 1);
    assert_int_equal(r.st->log[1].size, 8);
    assert_true(r.st->log[1].value == q);
    assert_int_equal(r.st->log[2].offset, 0x24);
    assert_int_equal(r.st->log[2].value, 0x55667788);
    assert_int_equal(r.st->log[3].offset, 0x28);
    assert_int_equal(r.st->log[3].size, 4);
    assert_int_equal(r.st->log[3].seq, 3);
    drop(&r);
}

static void odd_accesses_are_ignored(void **state)
{
    struct registers r = make();
    uint8_t junk[64];

    memset(junk, 0xff, sizeof(junk));
    assert_false(registers_write(&r, 0x14, junk, 1));
    assert_false(registers_write(&r, 0x14, junk, 2));
    assert_false(registers_write(&r, 0x15, junk, 4));
    assert_false(registers_write(&r, 0x10, junk, 64));
    assert_false(registers_write(&r, STATE_REG_BYTES, junk, 4));
    assert_false(registers_write(&r, STATE_REG_BYTES - 4, junk, 8));
    assert_false(registers_write(&r, 0x1002, junk, 4));
    assert_false(registers_write(&r, 0x1000, junk, 2));
    assert_int_equal(atomic_load(&r.st->emu.log_tail), 0);
    assert_int_equal(atomic_load(&r.st->emu.doorbell_messages), 0);
    drop(&r);
}

static void a_full_log_counts_what_it_loses_and_keeps_the_image_right(void **state)
{
    struct registers r = make();

    atomic_store(&r.st->svc.reg_mask[5], 0xffffffff);
    for (uint32_t i = 1; i <= STATE_LOG_ENTRIES + 3; i++)
        wr(&r, 0x14, i);
    assert_int_equal(atomic_load(&r.st->emu.log_tail), STATE_LOG_ENTRIES);
    assert_int_equal(atomic_load(&r.st->emu.log_lost), 3);
    assert_int_equal(rd(&r, 0x14), STATE_LOG_ENTRIES + 3);
    /* The reader has taken one: there is room for one. */
    atomic_store(&r.st->svc.log_head, 1);
    wr(&r, 0x14, 7);
    wr(&r, 0x14, 8);
    assert_int_equal(atomic_load(&r.st->emu.log_lost), 4);
    assert_int_equal(r.st->log[0].value, 7);
    /* A head beyond the tail is nonsense; it costs writes, nothing else. */
    atomic_store(&r.st->svc.log_head, UINT64_MAX / 2);
    wr(&r, 0x14, 9);
    assert_int_equal(atomic_load(&r.st->emu.log_lost), 5);
    drop(&r);
}

static void doorbells_are_stored_and_counted(void **state)
{
    struct registers r = make();
    uint64_t pair = 0x0000000500000004;

    assert_true(wr(&r, 0x1008, 17));
    assert_true(wr(&r, 0x1ffc, 3));
    assert_true(registers_write(&r, 0x1010, &pair, 8));
    assert_int_equal(atomic_load(&r.doorbells[2]), 17);
    assert_int_equal(atomic_load(&r.doorbells[1023]), 3);
    assert_int_equal(atomic_load(&r.doorbells[4]), 4);
    assert_int_equal(atomic_load(&r.doorbells[5]), 5);
    assert_int_equal(rd(&r, 0x1008), 17);
    assert_int_equal(atomic_load(&r.st->emu.doorbell_messages), 4);
    assert_int_equal(atomic_load(&r.st->emu.log_tail), 0);
    drop(&r);
}

static void a_reset_begins_an_epoch(void **state)
{
    struct registers r = make();

    atomic_store(&r.st->svc.reg_mask[5], 0xffffffff);
    atomic_store(&r.st->svc.reg_host_reset[5], 0x460000);
    atomic_store(&r.st->svc.reg_dev_reset[7], 0);
    atomic_store(&r.st->svc.reg_dev[7], 1);
    atomic_store(&r.st->svc.device_epoch, 1);
    wr(&r, 0x14, 1);
    wr(&r, 0x1000, 1);

    registers_reset(&r, false); /* the holder has done its part itself */
    assert_int_equal(rd(&r, 0x14), 0x460000);
    assert_int_equal(rd(&r, 0x1c), 1);
    assert_int_equal(rd(&r, 0x1000), 0);
    assert_int_equal(atomic_load(&r.st->emu.epoch), 2);
    assert_int_equal(atomic_load(&r.st->svc.log_head), 0);

    wr(&r, 0x14, 2);
    registers_reset(&r, true);
    assert_int_equal(rd(&r, 0x1c), 0);
    assert_int_equal(atomic_load(&r.st->emu.epoch), 3);
    assert_int_equal(atomic_load(&r.st->svc.device_epoch), 1);
    assert_int_equal(atomic_load(&r.st->svc.log_head), atomic_load(&r.st->emu.log_tail));
    drop(&r);
}

static void bytes_take_effect_where_the_host_may_write(void **state)
{
    struct registers r = make();
    const uint8_t bytes[] = {0x11, 0x22, 0x33, 0x44, 0x55, 0x66};

    atomic_store(&r.st->svc.reg_mask[8], 0x0000ff0f); /* bytes 0x20 (half of it) and 0x21 */
    atomic_store(&r.st->svc.reg_mask[9], 0x000000ff); /* byte 0x24 */
    atomic_store(&r.st->svc.reg_dev[8], 0xaabbccd0);
    assert_true(registers_write_bytes(&r, 0x1f, bytes, sizeof(bytes))); /* 0x1f .. 0x24 */
    assert_int_equal(rd(&r, 0x1c), 0);
    assert_int_equal(rd(&r, 0x20), 0xaabb33d2);
    assert_int_equal(rd(&r, 0x24), 0x66);
    assert_int_equal(atomic_load(&r.st->emu.log_tail), 3);
    assert_int_equal(r.st->log[0].offset, 0x20);
    assert_int_equal(r.st->log[0].size, 1);
    assert_int_equal(r.st->log[0].value, 0x22);
    assert_int_equal(r.st->log[1].offset, 0x21);
    assert_int_equal(r.st->log[2].offset, 0x24);
    assert_int_equal(r.st->log[2].value, 0x66);
    assert_false(registers_write_bytes(&r, 0x28, bytes, sizeof(bytes)));
    assert_false(registers_write_bytes(&r, STATE_REG_BYTES - 2, bytes, sizeof(bytes)));
    assert_int_equal(atomic_load(&r.st->emu.log_tail), 3);
    drop(&r);
}

static void a_broken_device_is_whole_again_after_a_reset(void **state)
{
    struct registers r = make();

    atomic_store(&r.st->svc.status, 64);
    registers_reset(&r, false); /* the holder's business */
    assert_int_equal(atomic_load(&r.st->svc.status), 64);
    registers_reset(&r, true);
    assert_int_equal(atomic_load(&r.st->svc.status), 0);
    drop(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_mix_both_images),
        cmocka_unit_test(writes_go_to_the_log_in_order),
        cmocka_unit_test(odd_accesses_are_ignored),
        cmocka_unit_test(a_full_log_counts_what_it_loses_and_keeps_the_image_right),
        cmocka_unit_test(doorbells_are_stored_and_counted),
        cmocka_unit_test(a_reset_begins_an_epoch),
        cmocka_unit_test(bytes_take_effect_where_the_host_may_write),
        cmocka_unit_test(a_broken_device_is_whole_again_after_a_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
