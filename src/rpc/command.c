/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/command.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- splitting ---- */

struct words {
    char **argv;
    int argc, capacity;
};

static int add_word(struct words *w, const char *text, size_t len)
{
    if (w->argc + 2 > w->capacity) {
        int capacity = w->capacity ? 2 * w->capacity : 16;
        char **more = realloc(w->argv, (size_t)capacity * sizeof(*more));

        if (!more)
            return -ENOMEM;
        w->argv = more;
        w->capacity = capacity;
    }
    w->argv[w->argc] = strndup(text, len);
    if (!w->argv[w->argc])
        return -ENOMEM;
    w->argv[++w->argc] = NULL;
    return 0;
}

void rpc_command_free(char **argv)
{
    for (char **a = argv; a && *a; a++)
        free(*a);
    free(argv);
}

/* One word into out (as long as the line); moves *s behind it. -EINVAL: a quote or backslash is
 * open. */
static int next_word(const char **s, char *out, size_t *len)
{
    const char *p = *s;
    size_t n = 0;
    char quote = '\0';

    for (; *p && (quote || !isspace((unsigned char)*p)); p++) {
        if (quote != '\'' && *p == '\\') {
            /* Between double quotes a backslash is one unless it protects something. */
            if (quote == '"' && p[1] != '"' && p[1] != '\\') {
                out[n++] = *p;
                continue;
            }
            if (*++p == '\0')
                return -EINVAL;
            out[n++] = *p;
        } else if (quote && *p == quote) {
            quote = '\0';
        } else if (!quote && (*p == '"' || *p == '\'')) {
            quote = *p;
        } else {
            out[n++] = *p;
        }
    }
    *s = p;
    *len = n;
    return quote ? -EINVAL : 0;
}

int rpc_command_split(const char *line, char ***ret_argv, int *ret_argc, struct err *err)
{
    struct words w = {0};
    char *word = malloc(strlen(line) + 1);
    int rc = word ? 0 : -ENOMEM;

    while (rc == 0) {
        size_t len = 0;

        while (isspace((unsigned char)*line))
            line++;
        if (*line == '\0' || *line == '#')
            break;
        rc = next_word(&line, word, &len);
        if (rc == 0)
            rc = add_word(&w, word, len);
    }
    free(word);
    if (rc == 0 && !w.argv) {
        w.argv = calloc(1, sizeof(*w.argv));
        rc = w.argv ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        rpc_command_free(w.argv);
        return err_set(err, rc,
                       rc == -EINVAL ? "a quote or backslash is open at the end of the line"
                                     : "out of memory");
    }
    *ret_argv = w.argv;
    *ret_argc = w.argc;
    return 0;
}

/* ---- parsing ---- */

/* --num-io-queues and --num_io_queues are the same. */
static bool same_flag(const char *a, const char *b, size_t len)
{
    if (strlen(b) != len)
        return false;
    for (size_t i = 0; i < len; i++)
        if ((a[i] == '-' ? '_' : a[i]) != (b[i] == '-' ? '_' : b[i]))
            return false;
    return true;
}

static const struct rpc_param *find_flag(const struct rpc_method *m, const char *word, size_t len)
{
    for (unsigned i = 0; i < m->nparams; i++) {
        const struct rpc_param *p = &m->params[i];

        if (rpc_param_private(p))
            continue;
        if (p->cli_short && strlen(p->cli_short) == len && strncmp(p->cli_short, word, len) == 0)
            return p;
        if (len > 2 && strncmp(word, "--", 2) == 0 &&
            (same_flag(word + 2, rpc_param_word(p), len - 2) ||
             (p->alias && same_flag(word + 2, p->alias, len - 2))))
            return p;
    }
    return NULL;
}

static const struct rpc_param *next_positional(const struct rpc_method *m, json_t *params,
                                               const char *word)
{
    for (unsigned i = 0; i < m->nparams; i++)
        if (m->params[i].flags & RPC_POSITIONAL && !rpc_member_get(params, m->params[i].name))
            return &m->params[i];
    return NULL;
}

static int parse_bool(const struct rpc_param *p, const char *text, json_t **ret, struct err *err)
{
    bool on =
        text ? strcasecmp(text, "true") == 0 || strcmp(text, "1") == 0 : !(p->flags & RPC_CLI_OFF);

    if (text && !on && strcasecmp(text, "false") != 0 && strcmp(text, "0") != 0)
        return err_set(err, -EINVAL, "--%s: '%s' is neither true nor false", rpc_param_word(p),
                       text);
    *ret = json_boolean(on);
    return 0;
}

static int parse_number(const struct rpc_param *p, const char *text, json_t **ret, struct err *err)
{
    char *end;
    long long n;

    if (!text)
        return err_set(err, -EINVAL, "--%s needs an integer", rpc_param_word(p));
    errno = 0;
    n = strtoll(text, &end, 0);
    if (errno || end == text || *end)
        return err_set(err, -EINVAL, "--%s: '%s' is not an integer of up to 63 bits",
                       rpc_param_word(p), text);
    *ret = json_integer(n);
    return 0;
}

/* MiB as people write them ("64", "0.5"), to bytes for now: the block size may come later on the
 * line. */
static int parse_mib(const struct rpc_param *p, const char *text, json_t **ret, struct err *err)
{
    char *end;
    double mib;

    errno = 0;
    mib = strtod(text, &end);
    if (errno || end == text || *end || !(mib > 0) || mib > 8e12)
        return err_set(err, -EINVAL, "%s: '%s' is not a size in MiB", p->name, text);
    *ret = json_integer((json_int_t)(mib * 1048576.0));
    return 0;
}

static int parse_value(const struct rpc_param *p, const char *text, json_t **ret, struct err *err)
{
    switch (p->type) {
    case RPC_BOOL:
        return parse_bool(p, text, ret, err);
    case RPC_STR:
        *ret = json_string(text);
        break;
    case RPC_JSON:
        *ret = json_loads(text, JSON_DECODE_ANY, NULL);
        if (!*ret)
            *ret = json_string(text);
        break;
    default:
        return parse_number(p, text, ret, err);
    }
    return *ret ? 0 : err_set(err, -EINVAL, "--%s: the value is not UTF-8", rpc_param_word(p));
}

static int mib_to_blocks(const struct rpc_param *p, json_t *params, struct err *err)
{
    json_int_t block = json_integer_value(json_object_get(params, "block_size"));
    json_int_t bytes = json_integer_value(json_object_get(params, p->name));

    if (block <= 0)
        return err_set(err, -EINVAL, "a size in MiB needs a block_size");
    json_object_set_new(params, p->name, json_integer(bytes / block));
    return 0;
}

/* One flag with its value, or one positional; *i moves to the last word used. */
static int parse_word(const struct rpc_method *m, int argc, char *const *argv, int *i,
                      json_t *params, const struct rpc_param **mib, struct err *err)
{
    const char *word = argv[*i], *value = strchr(word, '=');
    bool flag = word[0] == '-' && word[1] && !isdigit((unsigned char)word[1]);
    size_t len = value && strncmp(word, "--", 2) == 0 ? (size_t)(value - word) : strlen(word);
    const struct rpc_param *p = flag ? find_flag(m, word, len) : next_positional(m, params, word);
    json_t *v = NULL;
    int rc;

    if (!p)
        return err_set(err, -EINVAL, flag ? "unknown option '%s'" : "unexpected argument '%s'",
                       word);
    if (rpc_member_get(params, p->name))
        return err_set(err, -EINVAL, "--%s is given twice", rpc_param_word(p));
    if (!flag) {
        value = word;
    } else if (word[len] == '=') {
        value++;
    } else if (p->type == RPC_BOOL) {
        value = NULL;
    } else {
        if (*i + 1 >= argc)
            return err_set(err, -EINVAL, "option '%s' needs a value", word);
        value = argv[++*i];
    }
    if (!flag && p->flags & RPC_MIB) {
        *mib = p;
        rc = parse_mib(p, value, &v, err);
    } else {
        rc = parse_value(p, value, &v, err);
    }
    if (rc == 0)
        rpc_member_set(params, p->name, v);
    return rc;
}

int rpc_command_parse(const struct rpc_method_set *set, int argc, char *const *argv,
                      const struct rpc_method **ret_method, json_t **ret_params, struct err *err)
{
    const struct rpc_method *m = argc > 0 ? rpc_method_find(set, argv[0]) : NULL;
    const struct rpc_param *mib = NULL;
    json_t *params;
    int rc = 0;

    if (!m)
        return err_set(err, -ENOENT, "no command '%s'", argc > 0 ? argv[0] : "");
    params = json_object();
    if (!params)
        return err_set(err, -ENOMEM, "out of memory");
    for (int i = 1; i < argc && rc == 0; i++)
        rc = parse_word(m, argc, argv, &i, params, &mib, err);
    for (unsigned i = 0; i < m->nparams && rc == 0; i++) {
        const struct rpc_param *p = &m->params[i];

        if (p->flags & RPC_REQUIRED && !rpc_member_get(params, p->name))
            rc = err_set(err, -EINVAL,
                         p->flags & RPC_POSITIONAL ? "argument <%s> is missing"
                                                   : "option --%s is missing",
                         rpc_param_word(p));
    }
    if (rc == 0 && mib)
        rc = mib_to_blocks(mib, params, err);
    if (rc < 0 || json_object_size(params) == 0) {
        json_decref(params);
        params = NULL;
    }
    if (rc < 0)
        return err_prefix(err, rc, "%s: ", argv[0]);
    *ret_method = m;
    *ret_params = params;
    return 0;
}

/* ---- help ---- */

static const char *value_word(const struct rpc_param *p)
{
    switch (p->type) {
    case RPC_BOOL:
        return "";
    case RPC_STR:
        return " TEXT";
    case RPC_JSON:
        return " JSON";
    default:
        return " N";
    }
}

static void help_param(const struct rpc_param *p, FILE *out)
{
    const char *word = rpc_param_word(p);
    char left[100];

    if (p->flags & RPC_POSITIONAL)
        snprintf(left, sizeof(left), "%s%s%s", word, p->cli_short ? ", " : "",
                 p->cli_short ? p->cli_short : "");
    else
        snprintf(left, sizeof(left), "%s%s--%s%s", p->cli_short ? p->cli_short : "",
                 p->cli_short ? ", " : "", word, value_word(p));
    fprintf(out, "  %-32s %s", left, p->help ? p->help : "");
    if (p->flags & RPC_MIB)
        fprintf(out, " (on this command line: size in MiB)");
    if (p->max && !(p->flags & RPC_UNSUPPORTED) && p->type != RPC_STR)
        fprintf(out, " (%" PRIu64 " to %" PRIu64 ")", p->min, p->max);
    if (p->flags & RPC_UNSUPPORTED)
        fprintf(out, "%snot supported yet: only its default is taken",
                p->help && *p->help ? "; " : "");
    if (p->flags & RPC_CLI_OFF)
        fprintf(out, " (on this command line: without a value it is false)");
    if (word != p->name)
        fprintf(out, " (in JSON: %s)", p->name);
    if (p->flags & RPC_REQUIRED)
        fprintf(out, " [required]");
    fputc('\n', out);
}

void rpc_command_help(const struct rpc_method *m, FILE *out)
{
    fprintf(out, "usage: %s", m->name);
    for (unsigned i = 0; i < m->nparams; i++) {
        const struct rpc_param *p = &m->params[i];

        if (p->flags & RPC_POSITIONAL)
            fprintf(out, p->flags & RPC_REQUIRED ? " <%s>" : " [%s]",
                    p->flags & RPC_MIB ? "size in MiB" : rpc_param_word(p));
    }
    fprintf(out, " [options]\n\n%s\n", m->help);
    if (m->nparams)
        fputc('\n', out);
    for (unsigned i = 0; i < m->nparams; i++)
        if (!rpc_param_private(&m->params[i]))
            help_param(&m->params[i], out);
    if (m->result_help)
        fprintf(out, "\nresult: %s\n", m->result_help);
}
