/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"
#include "journal/journal.h"
#include "journal/records.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[64];

static char *path_of(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static int setup(void **state)
{
    strcpy(dir, "/tmp/journal_test.XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    static const char *const names[] = {"config.journal", "config.journal.bad",
                                        "config.journal.new", "service.lock"};

    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        unlink(path_of(names[i]));
    return rmdir(dir);
}

static struct journal *open_journal(void)
{
    struct journal *j = NULL;
    struct err err = {0};

    if (journal_open(dir, &j, &err) < 0)
        fail_msg("%s", err.msg);
    return j;
}

static int save(struct journal *j, const char *put, const char *drop, int value)
{
    struct rpc_change changes[2];
    json_t *params = json_pack("{s:i}", "value", value);
    struct err err = {0};
    unsigned n = 0;
    int rc;

    if (drop)
        changes[n++] = (struct rpc_change){drop, "test", NULL};
    if (put)
        changes[n++] = (struct rpc_change){put, "test", params};
    rc = journal_save(j, changes, n, &err);
    if (rc < 0)
        assert_true(err.code == rc && err.msg[0]);
    json_decref(params);
    return rc;
}

static void put(struct journal *j, const char *key, int value)
{
    assert_int_equal(save(j, key, NULL, value), 0);
}

/* ---- a method that remembers its calls ---- */

static char called[256];

struct test_args {
    int32_t value;
};
static const struct rpc_param test_params[] = {
    {"value", RPC_I32, offsetof(struct test_args, value), RPC_REQUIRED, "", NULL, NULL, 0, 0, 0},
};

static void test_handler(void *ctx, struct rpc_request *req, const void *args)
{
    size_t len = strlen(called);

    assert_true(rpc_replaying(req));
    snprintf(called + len, sizeof(called) - len, "%d ", ((const struct test_args *)args)->value);
    if (((const struct test_args *)args)->value < 0)
        rpc_error(req, -EINVAL, "no");
    else
        rpc_true(req);
}

static const struct rpc_method test_methods[] = {
    {"test", RPC_PARAMS(test_params), sizeof(struct test_args), test_handler, "", 0, NULL},
};
static const struct rpc_method_table table = RPC_TABLE(test_methods);
static const struct rpc_method_table *const tables[] = {&table};
static const struct rpc_method_set set = {tables, 1};

static unsigned done_ok, done_failed;

static void replayed(void *arg, unsigned ok, unsigned failed)
{
    done_ok = ok;
    done_failed = failed;
}

static const char *replay(struct journal *j)
{
    struct rpc_env env = {&set, NULL, journal_save, j};

    called[0] = '\0';
    journal_replay(j, &env, replayed, NULL);
    return called;
}

static void append_to_file(const char *bytes, size_t len)
{
    int fd = open(path_of("config.journal"), O_WRONLY | O_APPEND);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes, len), len);
    close(fd);
}

static off_t size_of(const char *name)
{
    struct stat st;

    return stat(path_of(name), &st) < 0 ? -1 : st.st_size;
}

/* ---- tests ---- */

static void crc_is_crc32c(void **state)
{
    size_t len;
    char *line = record_line_of_text("123456789", &len);

    assert_string_equal(
        line, "e3069283 123456789\n"); /* RFC 3720, B.4 uses other inputs; the common check value */
    assert_int_equal(len, strlen(line));
    free(line);
}

static void a_line_with_a_wrong_byte_is_not_read(void **state)
{
    size_t len;
    char *line = record_line_of_text("{\"put\":\"a\",\"method\":\"m\"}", &len);
    json_t *v = record_parse(line, len - 1);

    assert_non_null(v);
    json_decref(v);
    for (size_t i = 0; i < len - 1; i++) {
        line[i] ^= 1;
        assert_null(record_parse(line, len - 1));
        line[i] ^= 1;
    }
    assert_null(record_parse(line, len - 2));
    assert_null(record_parse(line, 0));
    free(line);
}

static void replays_in_order(void **state)
{
    struct journal *j = open_journal();

    put(j, "a", 1);
    put(j, "b", 2);
    put(j, "c", 3);
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "1 2 3 ");
    assert_int_equal(done_ok, 3);
    journal_close(j, false);
}

static void a_second_put_keeps_its_place(void **state)
{
    struct journal *j = open_journal();

    put(j, "parent", 1);
    put(j, "parent/child", 2);
    put(j, "parent", 3);
    assert_string_equal(replay(j), "3 2 ");
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "3 2 ");
    journal_close(j, false);
}

static void a_drop_takes_what_is_below_and_no_more(void **state)
{
    struct journal *j = open_journal();

    put(j, "nvme/a", 1);
    put(j, "nvme/a/ns/1", 2);
    put(j, "nvme/ab", 3);
    put(j, "nvme/a/ctrl/x/ns/1", 4);
    put(j, "nvme/ab/ns/1", 5);
    assert_int_equal(save(j, NULL, "nvme/a", 0), 0);
    assert_int_equal(save(j, NULL, "nvme/none", 0), 0);
    assert_string_equal(replay(j), "3 5 ");
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "3 5 ");
    assert_int_equal(journal_count(j), 2);
    journal_close(j, false);
}

static void changes_of_one_call_are_one_line(void **state)
{
    struct journal *j = open_journal();

    put(j, "x", 1);
    assert_int_equal(save(j, "y", "x", 2), 0);
    journal_close(j, false);
    assert_int_equal(truncate(path_of("config.journal"), size_of("config.journal") - 3), 0);
    j = open_journal();
    assert_string_equal(replay(j), "1 "); /* neither half */
    journal_close(j, false);
}

static void failures_are_counted_and_kept(void **state)
{
    struct journal *j = open_journal();

    put(j, "a", -1);
    put(j, "b", 2);
    assert_string_equal(replay(j), "-1 2 ");
    assert_int_equal(done_ok, 1);
    assert_int_equal(done_failed, 1);
    assert_int_equal(journal_count(j), 2);
    journal_close(j, false);
}

static void garbage_at_the_end_is_set_aside(void **state)
{
    static const char garbage[] = "deadbeef {\"put\":\"z\"}\n\0\xff more";
    struct journal *j = open_journal();

    put(j, "a", 1);
    journal_close(j, false);
    append_to_file(garbage, sizeof(garbage));
    j = open_journal();
    assert_string_equal(replay(j), "1 ");
    assert_int_equal(size_of("config.journal.bad"), sizeof(garbage));
    put(j, "b", 2);
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "1 2 ");
    journal_close(j, false);
}

static void every_cut_leaves_a_good_prefix(void **state)
{
    struct journal *j = open_journal();
    off_t full, header;

    header = size_of("config.journal");
    put(j, "a", 1);
    put(j, "b", 2);
    journal_close(j, false);
    full = size_of("config.journal");
    for (off_t cut = full; cut-- > 0;) {
        unsigned n;

        assert_int_equal(truncate(path_of("config.journal"), cut), 0);
        j = open_journal();
        n = journal_count(j);
        assert_true(n <= 2);
        if (cut >= header && n > 0)
            assert_true(strncmp(replay(j), "1 2 ", 2) == 0);
        journal_close(j, false);
        if (cut % 16)
            continue;
        teardown(NULL); /* begin again now and then: opening repairs the file */
        setup(NULL);
        j = open_journal();
        put(j, "a", 1);
        put(j, "b", 2);
        journal_close(j, false);
    }
}

static void a_file_that_is_no_journal_is_kept(void **state)
{
    struct journal *j;
    FILE *f = fopen(path_of("config.journal"), "w");

    fputs("[global]\nname = value\n", f);
    fclose(f);
    j = open_journal();
    assert_int_equal(journal_count(j), 0);
    assert_int_equal(size_of("config.journal.bad"), 22);
    journal_close(j, false);
}

static void another_version_is_refused_and_untouched(void **state)
{
    size_t len;
    char *line = record_line_of_text("{\"journal\":\"opensnap\",\"version\":9}", &len);
    FILE *f = fopen(path_of("config.journal"), "w");
    struct journal *j;
    struct err err = {0};

    fwrite(line, 1, len, f);
    fclose(f);
    free(line);
    assert_int_equal(journal_open(dir, &j, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.msg, "version 9"));
    assert_int_equal(size_of("config.journal"), len);
    assert_int_equal(size_of("config.journal.bad"), -1);
}

static void tells_an_orderly_stop_from_a_crash(void **state)
{
    struct journal *j = open_journal();

    assert_true(journal_was_orderly(j)); /* the first start ever */
    journal_close(j, false);
    j = open_journal();
    assert_false(journal_was_orderly(j));
    journal_close(j, true);
    j = open_journal();
    assert_true(journal_was_orderly(j));
    journal_close(j, false); /* killed without a change */
    j = open_journal();
    assert_false(journal_was_orderly(j));
    put(j, "a", 1);
    journal_close(j, true);
    j = open_journal();
    assert_true(journal_was_orderly(j));
    assert_string_equal(replay(j), "1 ");
    journal_close(j, false);
}

static void a_directory_has_one_owner(void **state)
{
    struct journal *j = open_journal(), *other;
    struct err err = {0};

    assert_int_equal(journal_open(dir, &other, &err), -EBUSY);
    assert_non_null(strstr(err.msg, dir));
    journal_close(j, false);
    journal_close(open_journal(), false);
    strcat(dir, "/none");
    assert_int_equal(journal_open(dir, &other, &err), -ENOENT);
    dir[strlen(dir) - 5] = '\0';
}

static void dead_lines_are_compacted_away(void **state)
{
    struct journal *j = open_journal();
    unsigned waited_ms = 0;

    put(j, "stays", 7);
    for (int i = 0; i < 1500; i++) {
        put(j, "churn", i);
        assert_int_equal(save(j, NULL, "churn", 0), 0);
    }
    put(j, "last", 8);
    while (size_of("config.journal") > 1000 && waited_ms < 10000) {
        usleep(20000);
        waited_ms += 20;
    }
    assert_true(size_of("config.journal") < 1000);
    put(j, "after", 9);
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "7 8 9 ");
    journal_close(j, false);
    assert_int_equal(size_of("config.journal.new"), -1);
}

static void changes_during_compaction_are_not_lost(void **state)
{
    struct journal *j = open_journal();
    char key[32];

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 400; i++) {
            put(j, "churn", i);
            assert_int_equal(save(j, NULL, "churn", 0), 0);
        }
        snprintf(key, sizeof(key), "k%d", round);
        put(j, key, round);
        usleep(30000);
    }
    journal_close(j, false);
    j = open_journal();
    assert_int_equal(journal_count(j), 20);
    assert_string_equal(replay(j), "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 ");
    journal_close(j, false);
}

static void a_failed_write_is_reported_and_made_good(void **state)
{
    struct journal *j = open_journal();
    struct rlimit before, small;

    put(j, "a", 1);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = (rlim_t)size_of("config.journal") + 10;
    setrlimit(RLIMIT_FSIZE, &small);
    assert_int_equal(save(j, "b", NULL, 2), -EFBIG);
    assert_int_equal(size_of("config.journal"), small.rlim_cur - 10); /* no half line */
    setrlimit(RLIMIT_FSIZE, &before);
    put(j, "c", 3);
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "1 2 3 ");
    journal_close(j, false);
}

static void clear_forgets_everything(void **state)
{
    struct journal *j = open_journal();
    struct err err = {0};

    put(j, "a", 1);
    assert_int_equal(journal_clear(j, &err), 0);
    put(j, "b", 2);
    journal_close(j, false);
    j = open_journal();
    assert_string_equal(replay(j), "2 ");
    journal_close(j, false);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(crc_is_crc32c),
        cmocka_unit_test(a_line_with_a_wrong_byte_is_not_read),
        TEST(replays_in_order),
        TEST(a_second_put_keeps_its_place),
        TEST(a_drop_takes_what_is_below_and_no_more),
        TEST(changes_of_one_call_are_one_line),
        TEST(failures_are_counted_and_kept),
        TEST(garbage_at_the_end_is_set_aside),
        TEST(every_cut_leaves_a_good_prefix),
        TEST(a_file_that_is_no_journal_is_kept),
        TEST(another_version_is_refused_and_untouched),
        TEST(tells_an_orderly_stop_from_a_crash),
        TEST(a_directory_has_one_owner),
        TEST(dead_lines_are_compacted_away),
        TEST(changes_during_compaction_are_not_lost),
        TEST(a_failed_write_is_reported_and_made_good),
        TEST(clear_forgets_everything),
    };

    log_set_level(LOG_CRITICAL); /* damage is made on purpose here */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
