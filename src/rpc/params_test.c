/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/dispatch.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

struct args {
    const char *name, *nqn, *text, *secret;
    uint16_t small;
    uint32_t count;
    uint64_t blocks;
    int32_t level;
    bool flag, count_set, md;
    uint32_t md_size;
    json_t *any;
    const char *traddr;
    uint16_t port;
    bool port_set;
};

static const struct rpc_param params[] = {
    {"name", RPC_STR, offsetof(struct args, name), RPC_REQUIRED | RPC_NAME, "", "-b", "ctrl", 0, 0,
     0},
    {"nqn", RPC_STR, offsetof(struct args, nqn), RPC_NQN, "", NULL, NULL, 0, 0, 0},
    {"text", RPC_STR, offsetof(struct args, text), 0, "", NULL, NULL, 0, 0, 20},
    {"secret", RPC_STR, offsetof(struct args, secret), RPC_SECRET, "", NULL, NULL, 0, 0, 0},
    {"small", RPC_U16, offsetof(struct args, small), 0, "", NULL, NULL, 0, 0, 0},
    {"count", RPC_U32, offsetof(struct args, count), 0, "", NULL, NULL,
     offsetof(struct args, count_set) + 1, 1, 31},
    {"blocks", RPC_U64, offsetof(struct args, blocks), 0, "", NULL, NULL, 0, 0, 0},
    {"level", RPC_I32, offsetof(struct args, level), 0, "", NULL, NULL, 0, 0, 0},
    {"flag", RPC_BOOL, offsetof(struct args, flag), 0, "", NULL, NULL, 0, 0, 0},
    {"md_interleave", RPC_BOOL, offsetof(struct args, md), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0,
     0},
    {"md_size", RPC_U32, offsetof(struct args, md_size), RPC_UNSUPPORTED, "", NULL, NULL, 0, 0,
     128},
    {"_private", RPC_JSON, offsetof(struct args, any), 0, "", NULL, NULL, 0, 0, 0},
    {"address.traddr", RPC_STR, offsetof(struct args, traddr), 0, "", "-a", NULL, 0, 0, 20},
    {"address.port", RPC_U16, offsetof(struct args, port), 0, "", "-p", NULL,
     offsetof(struct args, port_set) + 1, 1, 9999},
};
static const struct rpc_param nested_params[] = {
    {"address.traddr", RPC_STR, offsetof(struct args, traddr), RPC_REQUIRED, "", NULL, NULL, 0, 0,
     0},
};

static struct args args;
static json_t *lender; /* args borrows from it */
static struct err err;

static int decode_as(const char *text, bool replaying)
{
    json_t *object = json_loads(text, JSON_DECODE_ANY, NULL);
    int rc;

    assert_non_null(object);
    memset(&err, 0, sizeof(err));
    rc = rpc_params_decode(RPC_PARAMS(params), object, replaying, &args, sizeof(args), &err);
    json_decref(lender);
    lender = object;
    return rc;
}

static int decode(const char *text)
{
    return decode_as(text, false);
}

static void refused(const char *text, int code, const char *member)
{
    assert_int_equal(decode(text), code);
    assert_non_null(strstr(err.msg, member));
}

static void fills_the_struct(void **state)
{
    assert_int_equal(
        decode("{\"name\":\"N0\",\"small\":65535,\"count\":31,\"blocks\":1099511627776,"
               "\"level\":-1,\"flag\":true,\"text\":\"hi\"}"),
        0);
    assert_string_equal(args.name, "N0");
    assert_string_equal(args.text, "hi");
    assert_int_equal(args.small, 65535);
    assert_int_equal(args.count, 31);
    assert_true(args.count_set);
    assert_int_equal(args.blocks, 1099511627776);
    assert_int_equal(args.level, -1);
    assert_true(args.flag);
    assert_null(args.nqn);
}

static void absent_members_are_zero(void **state)
{
    assert_int_equal(decode("{\"ctrl\":\"N0\"}"), 0);
    assert_string_equal(args.name, "N0");
    assert_false(args.count_set);
    assert_int_equal(args.count, 0);
}

static void booleans_may_be_numbers(void **state)
{
    assert_int_equal(decode("{\"name\":\"N\",\"flag\":1}"), 0);
    assert_true(args.flag);
    assert_int_equal(decode("{\"name\":\"N\",\"flag\":0}"), 0);
    assert_false(args.flag);
    refused("{\"name\":\"N\",\"flag\":2}", RPC_ERR_PARAMS, "flag");
    refused("{\"name\":\"N\",\"flag\":\"true\"}", RPC_ERR_PARAMS, "flag");
}

static void nested_members(void **state)
{
    assert_int_equal(decode("{\"name\":\"N\",\"address\":{\"traddr\":\"::1\",\"port\":7}}"), 0);
    assert_string_equal(args.traddr, "::1");
    assert_int_equal(args.port, 7);
    assert_true(args.port_set);
    assert_int_equal(decode("{\"name\":\"N\",\"address\":{}}"), 0);
    assert_null(args.traddr);
    refused("{\"name\":\"N\",\"address\":\"::1\"}", RPC_ERR_PARAMS,
            "'address' must be an object, not a string");
    refused("{\"name\":\"N\",\"address\":{\"x\":1}}", RPC_ERR_PARAMS, "unknown member 'address.x'");
    refused("{\"name\":\"N\",\"address\":{\"name\":\"M\"}}", RPC_ERR_PARAMS, "'address.name'");
    refused("{\"name\":\"N\",\"address\":{\"port\":0}}", RPC_ERR_PARAMS,
            "'address.port' is 0, the limits are 1 to 9999");
    refused("{\"name\":\"N\",\"address.port\":1}", RPC_ERR_PARAMS, "unknown member 'address.port'");
    refused("{\"name\":\"N\",\"traddr\":\"::1\"}", RPC_ERR_PARAMS, "unknown member 'traddr'");
}

static void a_nested_member_may_be_required(void **state)
{
    json_t *object = json_pack("{s:{}}", "address");

    assert_int_equal(
        rpc_params_decode(RPC_PARAMS(nested_params), object, false, &args, sizeof(args), &err),
        RPC_ERR_PARAMS);
    assert_non_null(strstr(err.msg, "'address.traddr' is missing"));
    json_decref(object);
}

static void members_are_found_and_set_by_their_names(void **state)
{
    json_t *object = json_pack("{s:i}", "a", 1);

    assert_null(rpc_member_get(object, "b.c"));
    rpc_member_set(object, "b.c", json_integer(2));
    rpc_member_set(object, "b.d", json_integer(3));
    rpc_member_set(object, "b.d", NULL);
    rpc_member_set(object, "a", NULL);
    rpc_member_set(object, "x.y", NULL);
    assert_int_equal(json_integer_value(rpc_member_get(object, "b.c")), 2);
    assert_null(rpc_member_get(object, "b.d"));
    assert_int_equal(json_object_size(object), 1);
    json_decref(object);
}

static void names_the_member_value_and_limit(void **state)
{
    refused("{}", RPC_ERR_PARAMS, "'name' is missing");
    refused("{\"name\":\"N\",\"extra\":1}", RPC_ERR_PARAMS, "'extra'");
    refused("{\"name\":1}", RPC_ERR_PARAMS, "'name' must be a string");
    refused("{\"name\":null}", RPC_ERR_PARAMS, "'name'");
    refused("{\"name\":\"N\",\"ctrl\":\"M\"}", RPC_ERR_PARAMS, "twice");
    refused("{\"name\":\"N\",\"count\":0}", RPC_ERR_PARAMS, "'count' is 0, the limits are 1 to 31");
    refused("{\"name\":\"N\",\"count\":32}", RPC_ERR_PARAMS, "'count'");
    refused("{\"name\":\"N\",\"small\":65536}", RPC_ERR_PARAMS, "'small'");
    refused("{\"name\":\"N\",\"small\":-1}", RPC_ERR_PARAMS, "'small'");
    refused("{\"name\":\"N\",\"blocks\":-1}", RPC_ERR_PARAMS, "'blocks'");
    refused("{\"name\":\"N\",\"blocks\":1.0}", RPC_ERR_PARAMS, "'blocks'");
    refused("{\"name\":\"N\",\"level\":2147483648}", RPC_ERR_PARAMS, "'level'");
    refused("{\"name\":\"N\",\"text\":\"123456789012345678901\"}", RPC_ERR_PARAMS, "limit is 20");
    refused("[1]", RPC_ERR_PARAMS, "params");
}

static void names_are_plain(void **state)
{
    char text[400] = "{\"name\":\"";

    refused("{\"name\":\"\"}", RPC_ERR_PARAMS, "'name'");
    refused("{\"name\":\"a/b\"}", RPC_ERR_PARAMS, "'name'");
    refused("{\"name\":\"..\"}", RPC_ERR_PARAMS, "'name'");
    refused("{\"name\":\"a\\u0001\"}", RPC_ERR_PARAMS, "control");
    memset(text + 9, 'a', 64);
    strcpy(text + 73, "\"}");
    refused(text, RPC_ERR_PARAMS, "63");
    strcpy(text, "{\"name\":\"a\",\"nqn\":\"");
    memset(text + 19, 'q', 224);
    strcpy(text + 19 + 224, "\"}");
    refused(text, RPC_ERR_PARAMS, "223");
    strcpy(text + 19 + 223, "\"}");
    assert_int_equal(decode(text), 0);
}

static void secrets_are_not_quoted(void **state)
{
    refused("{\"name\":\"N\",\"secret\":\"hush\\u0002\"}", RPC_ERR_PARAMS, "'secret'");
    assert_null(strstr(err.msg, "hush"));
}

static void undone_features_are_refused_by_name(void **state)
{
    assert_int_equal(decode("{\"name\":\"N\",\"md_interleave\":false,\"md_size\":0}"), 0);
    assert_int_equal(decode("{\"name\":\"N\",\"md_size\":128}"), 0); /* the documented default */
    refused("{\"name\":\"N\",\"md_interleave\":true}", -ENOTSUP, "'md_interleave'");
    refused("{\"name\":\"N\",\"md_size\":8}", -ENOTSUP, "'md_size'");
}

static void private_members_come_from_the_journal_only(void **state)
{
    refused("{\"name\":\"N\",\"_private\":[1]}", RPC_ERR_PARAMS, "unknown member '_private'");
    assert_int_equal(decode_as("{\"name\":\"N\",\"_private\":[1]}", true), 0);
    assert_true(json_is_array(args.any));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_the_struct),
        cmocka_unit_test(absent_members_are_zero),
        cmocka_unit_test(booleans_may_be_numbers),
        cmocka_unit_test(nested_members),
        cmocka_unit_test(a_nested_member_may_be_required),
        cmocka_unit_test(members_are_found_and_set_by_their_names),
        cmocka_unit_test(names_the_member_value_and_limit),
        cmocka_unit_test(names_are_plain),
        cmocka_unit_test(secrets_are_not_quoted),
        cmocka_unit_test(undone_features_are_refused_by_name),
        cmocka_unit_test(private_members_come_from_the_journal_only),
    };

    int rc = cmocka_run_group_tests(tests, NULL, NULL);

    json_decref(lender);
    return rc;
}
