/* SPDX-License-Identifier: BSD-3-Clause
 *
 * snap_rpc - the command line of snap_service and snap_target, also under the names snap_rpc.py and
 * spdk_rpc.py. Its commands are the method tables of control/, so there is nothing here to keep in
 * step with them. */
#include "base/fd.h"
#include "control/control.h"
#include "rpc/command.h"

#include <errno.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { EXIT_FAILED = 1, EXIT_USAGE = 2, MAX_ANSWER_BYTES = 33 * 1024 * 1024 };

struct options {
    const char *socket;
    double seconds;
    bool debug;
};

struct client {
    const struct options *opts;
    int fd; /* -1: not connected yet */
    char *in;
    size_t len, cap;
    unsigned next_id;
};

/* ---- help ---- */

static void list_method(const struct rpc_method *m, void *arg)
{
    printf("  %-34s %s\n", m->name, m->help);
}

static void usage(const char *program)
{
    printf("usage: %s [-s SOCKET] [-t SECONDS] [-v LEVEL] COMMAND [arguments]\n"
           "       %s [options] < FILE          one command per line, stops at the first failure\n"
           "       %s COMMAND --help\n\n"
           "  -s SOCKET    socket of the service (default $SNAP_RPC_SOCK, /var/tmp/spdk.sock),\n"
           "               or of the target: /var/tmp/snap_target.sock\n"
           "  -t SECONDS   longest wait for an answer (default 60.0)\n"
           "  -v LEVEL     DEBUG shows requests and answers; INFO, ERROR\n\n"
           "commands:\n",
           program, program, program);
    rpc_method_for_each(&all_methods, list_method, NULL);
}

/* ---- talking to the service ---- */

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static int connect_service(struct client *c, struct err *err)
{
    int fd;

    if (c->fd >= 0)
        return 0;
    fd = fd_unix_connect(c->opts->socket, SOCK_STREAM, err);
    if (fd < 0)
        return err_prefix(err, fd, "is snap_service (or snap_target) running? ");
    c->fd = fd;
    return 0;
}

static int send_all(struct client *c, const char *data, size_t len, struct err *err)
{
    while (len > 0) {
        ssize_t n = send(c->fd, data, len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(err, -errno, "'%s': %s", c->opts->socket, strerror(errno));
        data += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Reads more bytes, until the deadline. */
static int receive(struct client *c, double deadline, struct err *err)
{
    struct pollfd p = {.fd = c->fd, .events = POLLIN};
    double left = deadline - now();
    ssize_t n;
    int ready;

    if (c->cap - c->len < 65536) {
        char *more = c->cap < MAX_ANSWER_BYTES ? realloc(c->in, c->cap + 1024 * 1024) : NULL;

        if (!more)
            return err_set(err, -EMSGSIZE, "the answer is too long");
        c->in = more;
        c->cap += 1024 * 1024;
    }
    ready = left <= 0 ? 0 : poll(&p, 1, (int)fmin(ceil(left * 1000), 1e9));
    if (ready < 0 && errno == EINTR)
        return 0;
    if (ready <= 0)
        return err_set(err, -ETIMEDOUT, "no answer within %g seconds (-t)", c->opts->seconds);
    n = recv(c->fd, c->in + c->len, c->cap - c->len, 0);
    if (n <= 0)
        return err_set(err, n < 0 ? -errno : -ECONNRESET, "'%s': %s", c->opts->socket,
                       n < 0 ? strerror(errno) : "the service closed the connection");
    c->len += (size_t)n;
    return 0;
}

/* One JSON value out of what has come; NULL: incomplete. */
static json_t *take_value(struct client *c)
{
    json_error_t where;
    json_t *v = json_loadb(c->in, c->len, JSON_DISABLE_EOF_CHECK, &where);

    if (v) {
        memmove(c->in, c->in + where.position, c->len - (size_t)where.position);
        c->len -= (size_t)where.position;
    }
    return v;
}

/* The whole answer to one request; new reference. */
static int exchange(struct client *c, json_t *request, json_t **ret, struct err *err)
{
    char *text = json_dumps(request, JSON_COMPACT);
    double deadline = now() + c->opts->seconds;
    json_t *answer = NULL;
    int rc = text ? connect_service(c, err) : -ENOMEM;

    if (rc == 0)
        rc = send_all(c, text, strlen(text), err);
    free(text);
    while (rc == 0 && !answer) {
        rc = receive(c, deadline, err);
        /* An answer ends with a line end: no need to parse a long one again with each piece. */
        if (rc == 0 && c->len > 0 && c->in[c->len - 1] == '\n')
            answer = take_value(c);
        if (answer && !json_equal(json_object_get(answer, "id"), json_object_get(request, "id")) &&
            !json_is_null(json_object_get(answer, "id"))) {
            json_decref(answer); /* of an earlier request that timed out */
            answer = NULL;
        }
    }
    if (rc == 0)
        *ret = answer;
    return rc;
}

/* ---- output ---- */

static void print_json(json_t *v, FILE *out)
{
    char *text;

    if (json_is_string(v)) {
        fprintf(out, "%s\n", json_string_value(v));
        return;
    }
    text = json_dumps(v, JSON_INDENT(2) | JSON_ENCODE_ANY);
    fprintf(out, "%s\n", text ? text : "");
    free(text);
}

/* The request as people may see it. */
static json_t *without_secrets(const struct rpc_method *m, json_t *request)
{
    json_t *copy = json_deep_copy(request), *params = json_object_get(copy, "params");

    for (unsigned i = 0; i < m->nparams; i++)
        if (m->params[i].flags & RPC_SECRET && rpc_member_get(params, m->params[i].name))
            rpc_member_set(params, m->params[i].name, json_string("***"));
    return copy;
}

static void print_failure(const struct rpc_method *m, json_t *request, json_t *error)
{
    json_t *shown = without_secrets(m, request);

    printf("request:\n");
    print_json(shown, stdout);
    printf("Got JSON-RPC error response\nresponse:\n");
    print_json(error, stdout);
    json_decref(shown);
}

/* ---- one command ---- */

static int call(struct client *c, const struct rpc_method *m, json_t *params)
{
    json_t *request =
        json_pack("{s:s,s:s,s:i}", "jsonrpc", "2.0", "method", m->name, "id", (int)++c->next_id);
    json_t *answer = NULL, *error;
    struct err err = {0};
    int rc;

    if (params)
        json_object_set(request, "params", params);
    if (c->opts->debug) {
        json_t *shown = without_secrets(m, request);

        print_json(shown, stderr);
        json_decref(shown);
    }
    rc = exchange(c, request, &answer, &err);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", m->name, err.msg);
        fd_close(&c->fd); /* a late answer must not meet the next request */
        c->len = 0;
        json_decref(request);
        return EXIT_FAILED;
    }
    if (c->opts->debug)
        print_json(answer, stderr);
    error = json_object_get(answer, "error");
    if (error)
        print_failure(m, request, error);
    else
        print_json(json_object_get(answer, "result"), stdout);
    rc = error ? EXIT_FAILED : 0;
    json_decref(answer);
    json_decref(request);
    return rc;
}

static bool wants_help(int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
            return true;
    return false;
}

static int run_command(struct client *c, const char *program, int argc, char **argv)
{
    const struct rpc_method *m = rpc_method_find(&all_methods, argv[0]);
    json_t *params;
    struct err err = {0};
    int rc;

    if (m && wants_help(argc, argv)) {
        rpc_command_help(m, stdout);
        return 0;
    }
    rc = rpc_command_parse(&all_methods, argc, argv, &m, &params, &err);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", program, err.msg);
        fprintf(stderr,
                rc == -ENOENT ? "%s --help lists the commands\n"
                              : "%s %s --help shows what it takes\n",
                program, argv[0]);
        return EXIT_USAGE;
    }
    rc = call(c, m, params);
    json_decref(params);
    return rc;
}

/* ---- commands from a file ---- */

struct lines {
    char **list;
    size_t n;
};

static void remember_line(struct lines *l, const char *line)
{
    char **more = realloc(l->list, (l->n + 1) * sizeof(*more));

    if (!more)
        return;
    l->list = more;
    l->list[l->n++] = strdup(line);
}

static int run_line(struct client *c, const char *program, const char *line, bool *ret_empty)
{
    char **argv = NULL;
    int argc = 0, rc;
    struct err err = {0};

    *ret_empty = false;
    if (rpc_command_split(line, &argv, &argc, &err) < 0) {
        fprintf(stderr, "%s: %s\n", program, err.msg);
        return EXIT_FAILED;
    }
    *ret_empty = argc == 0;
    rc = argc == 0 ? 0 : run_command(c, program, argc, argv);
    rpc_command_free(argv);
    return rc ? EXIT_FAILED : 0;
}

static int run_batch(struct client *c, const char *program)
{
    struct lines done = {0};
    char *line = NULL;
    size_t size = 0;
    ssize_t len;
    int rc = 0;

    while (rc == 0 && (len = getline(&line, &size, stdin)) >= 0) {
        bool empty;

        line[strcspn(line, "\r\n")] = '\0';
        rc = run_line(c, program, line, &empty);
        if (!empty)
            remember_line(&done, line);
        fflush(stdout);
    }
    if (rc) {
        for (size_t i = 0; i < done.n; i++)
            printf("%s%s\n", done.list[i], i + 1 == done.n ? " <<<" : "");
    }
    for (size_t i = 0; i < done.n; i++)
        free(done.list[i]);
    free(done.list);
    free(line);
    return rc;
}

/* ---- options ---- */

static bool parse_seconds(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !(v > 0) || v > 1e6)
        return false;
    *ret = v;
    return true;
}

/* Options in front of the command. Index of the command; -1: usage error; -2: help was wanted. */
static int parse_options(struct options *o, int argc, char **argv)
{
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i += 2) {
        const char *word = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        bool ok = true;

        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
            return -2;
        if (!value)
            ok = false;
        else if (strcmp(word, "-s") == 0 || strcmp(word, "--server") == 0)
            o->socket = value;
        else if (strcmp(word, "-t") == 0 || strcmp(word, "--timeout") == 0)
            ok = parse_seconds(value, &o->seconds);
        else if (strcmp(word, "-v") == 0 || strcmp(word, "--verbose") == 0)
            o->debug = strcasecmp(value, "DEBUG") == 0;
        else
            ok = false;
        if (!ok) {
            fprintf(stderr, "%s: option '%s' is unknown or needs another value\n", argv[0], word);
            return -1;
        }
    }
    return i;
}

int main(int argc, char **argv)
{
    const char *env = getenv("SNAP_RPC_SOCK");
    struct options opts = {.socket = env ? env : "/var/tmp/spdk.sock", .seconds = 60.0};
    struct client client = {.opts = &opts, .fd = -1};
    int first, rc;

    signal(SIGPIPE, SIG_DFL);
    first = parse_options(&opts, argc, argv);
    if (first == -1)
        return EXIT_USAGE;
    if (first == -2) {
        usage(argv[0]);
        return 0;
    }
    if (first < argc) {
        rc = run_command(&client, argv[0], argc - first, argv + first);
    } else if (!isatty(STDIN_FILENO)) {
        rc = run_batch(&client, argv[0]);
    } else {
        usage(argv[0]);
        rc = EXIT_USAGE;
    }
    fd_close(&client.fd);
    free(client.in);
    if (fflush(stdout) != 0)
        return EXIT_FAILED;
    return rc;
}
