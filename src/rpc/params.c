/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/dispatch.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    NAME_MAX_BYTES = 63,
    NQN_MAX_BYTES = 223,
    PATH_MAX_BYTES = 4095,
    STRING_MAX_BYTES = 4096,
    PARAMS_MAX = 128,
};

/* All decoding errors begin with the words clients look for. */
#define invalid(err, ...) err_set(err, RPC_ERR_PARAMS, "Invalid parameters: " __VA_ARGS__)

bool rpc_param_private(const struct rpc_param *p)
{
    return p->name[0] == '_';
}

/* ---- names: "name" or "object.name" ---- */

const char *rpc_param_word(const struct rpc_param *p)
{
    const char *dot = strchr(p->name, '.');

    return dot ? dot + 1 : p->name;
}

/* Length of the nested object's name; 0: the member is not nested. */
static size_t object_length(const char *name)
{
    const char *dot = strchr(name, '.');

    return dot ? (size_t)(dot - name) : 0;
}

static bool is_in_object(const struct rpc_param *p, const char *object)
{
    size_t len = object_length(p->name);

    return len > 0 && strlen(object) == len && strncmp(p->name, object, len) == 0;
}

json_t *rpc_member_get(json_t *params, const char *name)
{
    size_t len = object_length(name);

    return len ? json_object_get(json_object_getn(params, name, len), name + len + 1)
               : json_object_get(params, name);
}

void rpc_member_set(json_t *params, const char *name, json_t *value)
{
    size_t len = object_length(name);

    if (len) {
        json_t *object = json_object_getn(params, name, len);

        if (!object && value) {
            object = json_object();
            json_object_setn_new(params, name, len, object);
        }
        params = object;
        name += len + 1;
    }
    if (value)
        json_object_set_new(params, name, value);
    else
        json_object_del(params, name);
}

/* ---- decoding ---- */

static const char *type_words(json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number with a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static int wrong_type(const struct rpc_param *p, json_t *v, const char *want, struct err *err)
{
    return invalid(err, "'%s' must be %s, not %s", p->name, want, type_words(v));
}

/* What may be quoted in a message: short and printable. */
static const char *quote(const char *s, char *buf, size_t size)
{
    size_t n = 0;

    for (; *s && n + 4 < size; s++)
        buf[n++] = isprint((unsigned char)*s) ? *s : '?';
    if (*s) {
        memcpy(buf + n, "...", 3);
        n += 3;
    }
    buf[n] = '\0';
    return buf;
}

static int check_string(const struct rpc_param *p, const char *s, size_t len, struct err *err)
{
    size_t limit = p->flags & RPC_NAME   ? NAME_MAX_BYTES
                   : p->flags & RPC_NQN  ? NQN_MAX_BYTES
                   : p->flags & RPC_PATH ? PATH_MAX_BYTES
                                         : STRING_MAX_BYTES;
    char shown[80] = "(hidden)";

    if (!(p->flags & RPC_SECRET))
        quote(s, shown, sizeof(shown));
    if (p->max && p->max < limit)
        limit = p->max;
    if (len > limit)
        return invalid(err, "'%s' has %zu bytes, the limit is %zu", p->name, len, limit);
    if (len == 0 && p->flags & (RPC_NAME | RPC_NQN | RPC_PATH))
        return invalid(err, "'%s' is empty", p->name);
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c < 0x20 || c == 0x7f)
            return invalid(err, "'%s' holds the control character 0x%02x", p->name, c);
        if (p->flags & RPC_NAME && !isalnum(c) && !strchr("._:-", c))
            return invalid(err, "'%s' is '%s': names are made of A-Z a-z 0-9 . _ : -", p->name,
                           shown);
    }
    if (p->flags & RPC_NAME && strstr(s, ".."))
        return invalid(err, "'%s' is '%s': names may not hold '..'", p->name, shown);
    return 0;
}

static int unsupported(const struct rpc_param *p, struct err *err)
{
    return err_set(err, -ENOTSUP, "parameter '%s' is not supported with this value", p->name);
}

static int decode_string(const struct rpc_param *p, json_t *v, void *at, struct err *err)
{
    const char *s = json_string_value(v);
    int rc;

    if (!s)
        return wrong_type(p, v, "a string", err);
    rc = check_string(p, s, json_string_length(v), err);
    if (rc < 0)
        return rc;
    if (p->flags & RPC_UNSUPPORTED && *s)
        return unsupported(p, err);
    *(const char **)at = s;
    return 0;
}

static int decode_bool(const struct rpc_param *p, json_t *v, void *at, struct err *err)
{
    bool on;

    if (json_is_boolean(v))
        on = json_is_true(v);
    else if (json_is_integer(v) && (json_integer_value(v) == 0 || json_integer_value(v) == 1))
        on = json_integer_value(v) == 1;
    else
        return wrong_type(p, v, "true or false", err);
    if (p->flags & RPC_UNSUPPORTED && on)
        return unsupported(p, err);
    *(bool *)at = on;
    return 0;
}

static int decode_number(const struct rpc_param *p, json_t *v, void *at, struct err *err)
{
    int64_t low = p->type == RPC_I32 ? INT32_MIN : 0;
    uint64_t high = p->type == RPC_U16   ? UINT16_MAX
                    : p->type == RPC_U32 ? UINT32_MAX
                    : p->type == RPC_I32 ? INT32_MAX
                                         : INT64_MAX; /* jansson's integers end there */
    int64_t n;

    if (!json_is_integer(v))
        return wrong_type(p, v, "an integer", err);
    n = json_integer_value(v);
    if (p->max && !(p->flags & RPC_UNSUPPORTED)) {
        low = (int64_t)p->min;
        high = p->max;
    }
    if (n < low || (n > 0 && (uint64_t)n > high))
        return invalid(err, "'%s' is %" PRId64 ", the limits are %" PRId64 " to %" PRIu64, p->name,
                       n, low, high);
    if (p->flags & RPC_UNSUPPORTED && n != 0 && n != -1 && (!p->max || (uint64_t)n != p->max))
        return unsupported(p, err);
    switch (p->type) {
    case RPC_U16:
        *(uint16_t *)at = (uint16_t)n;
        break;
    case RPC_U32:
        *(uint32_t *)at = (uint32_t)n;
        break;
    case RPC_I32:
        *(int32_t *)at = (int32_t)n;
        break;
    default:
        *(uint64_t *)at = (uint64_t)n;
        break;
    }
    return 0;
}

static int decode_json(const struct rpc_param *p, json_t *v, void *at, struct err *err)
{
    if (p->flags & RPC_UNSUPPORTED && !json_is_null(v) &&
        !(json_is_object(v) && json_object_size(v) == 0) &&
        !(json_is_array(v) && json_array_size(v) == 0))
        return unsupported(p, err);
    *(json_t **)at = v;
    return 0;
}

static int decode_one(const struct rpc_param *p, json_t *v, char *args, struct err *err)
{
    switch (p->type) {
    case RPC_STR:
        return decode_string(p, v, args + p->offset, err);
    case RPC_BOOL:
        return decode_bool(p, v, args + p->offset, err);
    case RPC_JSON:
        return decode_json(p, v, args + p->offset, err);
    default:
        return decode_number(p, v, args + p->offset, err);
    }
}

struct decoding {
    const struct rpc_param *params;
    unsigned nparams;
    bool replaying;
    char *args;
    bool seen[PARAMS_MAX];
};

/* object NULL: a member of the call itself. */
static const struct rpc_param *find(const struct decoding *d, const char *object, const char *name)
{
    for (unsigned i = 0; i < d->nparams; i++) {
        const struct rpc_param *p = &d->params[i];

        if (rpc_param_private(p) && !d->replaying)
            continue;
        if (object ? !is_in_object(p, object) : object_length(p->name) > 0)
            continue;
        if (strcmp(rpc_param_word(p), name) == 0 || (p->alias && strcmp(p->alias, name) == 0))
            return p;
    }
    return NULL;
}

static bool is_object(const struct decoding *d, const char *name)
{
    for (unsigned i = 0; i < d->nparams; i++)
        if (is_in_object(&d->params[i], name))
            return true;
    return false;
}

static int decode_member(struct decoding *d, const char *object, const char *name, json_t *v,
                         struct err *err)
{
    const struct rpc_param *p = find(d, object, name);
    char shown[80];
    int rc;

    if (!p)
        return invalid(err, "unknown member '%s%s%s'", object ? object : "", object ? "." : "",
                       quote(name, shown, sizeof(shown)));
    if (d->seen[p - d->params])
        return invalid(err, "'%s' is given twice, also as '%s'", p->name, p->alias);
    d->seen[p - d->params] = true;
    rc = decode_one(p, v, d->args, err);
    if (rc == 0 && p->set_offset)
        *((bool *)(d->args + p->set_offset - 1)) = true;
    return rc;
}

static int decode_nested(struct decoding *d, const char *object, json_t *members, struct err *err)
{
    const char *name;
    json_t *v;
    int rc;

    if (!json_is_object(members))
        return invalid(err, "'%s' must be an object, not %s", object, type_words(members));
    json_object_foreach(members, name, v)
    {
        rc = decode_member(d, object, name, v, err);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int rpc_params_decode(const struct rpc_param *params, unsigned nparams, json_t *object,
                      bool replaying, void *args, size_t args_bytes, struct err *err)
{
    struct decoding d = {
        .params = params, .nparams = nparams, .replaying = replaying, .args = args};
    const char *name;
    json_t *v;
    int rc;

    memset(args, 0, args_bytes);
    if (json_is_array(object) && json_array_size(object) == 0)
        object = NULL;
    if (object && !json_is_object(object))
        return invalid(err, "'params' must be an object with named members, not %s",
                       type_words(object));
    if (nparams > PARAMS_MAX)
        return err_set(err, RPC_ERR_INTERNAL, "method table has more than %d parameters",
                       PARAMS_MAX);
    json_object_foreach(object, name, v)
    {
        rc = is_object(&d, name) ? decode_nested(&d, name, v, err)
                                 : decode_member(&d, NULL, name, v, err);
        if (rc < 0)
            return rc;
    }
    for (unsigned i = 0; i < nparams; i++)
        if (params[i].flags & RPC_REQUIRED && !d.seen[i])
            return invalid(err, "mandatory member '%s' is missing", params[i].name);
    return 0;
}
