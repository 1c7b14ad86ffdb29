/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static enum rpc_frame_result scan(const char *text, size_t *end)
{
    struct rpc_frame f = {0};
    const char *why = NULL;
    enum rpc_frame_result r = rpc_frame_scan(&f, text, strlen(text), &why);

    *end = f.pos;
    return r;
}

static void finds_the_end_of_a_text(void **state)
{
    size_t end;

    assert_int_equal(scan("{\"a\":1}{\"b\":2}", &end), RPC_FRAME_DONE);
    assert_int_equal(end, 7);
    assert_int_equal(scan("[]  ", &end), RPC_FRAME_DONE);
    assert_int_equal(end, 2);
    assert_int_equal(scan("{\"a\":[{},[1]]", &end), RPC_FRAME_MORE);
}

static void brackets_in_strings_do_not_count(void **state)
{
    size_t end;

    assert_int_equal(scan("{\"}\\\"}\":\"]\\\\\"}", &end), RPC_FRAME_DONE);
    assert_int_equal(end, strlen("{\"}\\\"}\":\"]\\\\\"}"));
}

static void goes_on_where_it_stopped(void **state)
{
    static const char text[] = "{\"method\":\"a\\\"}\",\"params\":{\"x\":[1,2,{}]}}";
    struct rpc_frame f = {0};
    const char *why;

    for (size_t n = 1; n < strlen(text); n++)
        assert_int_equal(rpc_frame_scan(&f, text, n, &why), RPC_FRAME_MORE);
    assert_int_equal(rpc_frame_scan(&f, text, strlen(text), &why), RPC_FRAME_DONE);
    assert_int_equal(f.pos, strlen(text));
}

static void refuses_what_can_never_be_a_request(void **state)
{
    char deep[200];
    size_t end;

    memset(deep, '[', sizeof(deep));
    deep[sizeof(deep) - 1] = '\0';
    assert_int_equal(scan(deep, &end), RPC_FRAME_BAD);
    assert_int_equal(scan("hello", &end), RPC_FRAME_BAD);
    assert_int_equal(scan("\"text\"", &end), RPC_FRAME_BAD);
    assert_int_equal(scan("}", &end), RPC_FRAME_BAD);
}

static void input_is_bounded(void **state)
{
    char *big = malloc(RPC_FRAME_BYTES + 1);
    size_t end;

    memset(big, 'x', RPC_FRAME_BYTES);
    big[RPC_FRAME_BYTES] = '\0';
    memcpy(big, "{\"", 2);
    assert_int_equal(scan(big, &end), RPC_FRAME_BAD);
    memset(big, ',', RPC_FRAME_BYTES);
    big[0] = '[';
    assert_int_equal(scan(big, &end), RPC_FRAME_BAD);
    assert_true(end < RPC_FRAME_VALUES + 2);
    free(big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_the_end_of_a_text),
        cmocka_unit_test(brackets_in_strings_do_not_count),
        cmocka_unit_test(goes_on_where_it_stopped),
        cmocka_unit_test(refuses_what_can_never_be_a_request),
        cmocka_unit_test(input_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
