/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bdev/bdev.h"

#include <errno.h>
#include <string.h>

static void text_survives_a_round_trip(void **state)
{
    const char *text = "0123a567-89ab-4def-8123-456789abcdef";
    struct bdev_uuid uuid;
    char out[37];

    assert_int_equal(bdev_uuid_parse(text, &uuid), 0);
    assert_int_equal(uuid.b[0], 0x01);
    assert_int_equal(uuid.b[15], 0xef);
    bdev_uuid_format(&uuid, out);
    assert_string_equal(out, text);
    assert_int_equal(bdev_uuid_parse("0123A567-89AB-4DEF-8123-456789ABCDEF", &uuid), 0);
    bdev_uuid_format(&uuid, out);
    assert_string_equal(out, text);
}

static void malformed_text_is_refused_and_writes_nothing(void **state)
{
    static const char *const bad[] = {
        "",
        "0123a567-89ab-4def-8123-456789abcde",
        "0123a567-89ab-4def-8123-456789abcdeff",
        "0123a567-89ab-4def-8123-456789abcdef ",
        "0123a56789ab4def8123456789abcdef",
        "0123a567-89ab-4def-8123_456789abcdef",
        "0123a567-89ab-4def-8123-456789abcdeg",
        "0123a567--9ab-4def-8123-456789abcdef",
        "{123a567-89ab-4def-8123-456789abcde}",
    };
    struct bdev_uuid uuid = {{7}}, before = uuid;

    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(bdev_uuid_parse(bad[i], &uuid), -EINVAL);
    assert_memory_equal(&uuid, &before, sizeof(uuid));
}

static void derived_ones_are_stable_and_distinct(void **state)
{
    struct bdev_uuid a, b, c, d;

    bdev_uuid_derive("file", "/srv/a.img", &a);
    bdev_uuid_derive("file", "/srv/a.img", &b);
    bdev_uuid_derive("file", "/srv/b.img", &c);
    bdev_uuid_derive("file/", "srv/a.img", &d);
    assert_memory_equal(&a, &b, sizeof(a));
    assert_memory_not_equal(&a, &c, sizeof(a));
    assert_memory_not_equal(&a, &d, sizeof(a));
    assert_int_equal(a.b[6] >> 4, 8);
    assert_int_equal(a.b[8] >> 6, 2);
    assert_false(bdev_uuid_is_zero(&a));
}

static void random_ones_are_version_4_and_differ(void **state)
{
    struct bdev_uuid a, b;

    bdev_uuid_random(&a);
    bdev_uuid_random(&b);
    assert_memory_not_equal(&a, &b, sizeof(a));
    assert_int_equal(a.b[6] >> 4, 4);
    assert_int_equal(a.b[8] >> 6, 2);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_survives_a_round_trip),
        cmocka_unit_test(malformed_text_is_refused_and_writes_nothing),
        cmocka_unit_test(derived_ones_are_stable_and_distinct),
        cmocka_unit_test(random_ones_are_version_4_and_differ),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
