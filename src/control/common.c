/* SPDX-License-Identifier: BSD-3-Clause */
#include "control/inside.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- keys ---- */

static void add_part(FILE *f, const char *part)
{
    for (; *part; part++) {
        if (*part == '/' || *part == '%')
            fprintf(f, "%%%02X", (unsigned char)*part);
        else
            fputc(*part, f);
    }
}

/* Parts at even places are ours ("nvme/"), those at odd places are foreign names. */
static char *key_of(const char *const *parts, unsigned n)
{
    char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);

    if (!f)
        abort();
    for (unsigned i = 0; i < n; i++) {
        if (i % 2)
            add_part(f, parts[i]);
        else
            fputs(parts[i], f);
    }
    if (fclose(f) != 0)
        abort();
    return text;
}
#define KEY(...)                                                                                   \
    key_of((const char *const[]){__VA_ARGS__}, ARRAY_SIZE(((const char *const[]){__VA_ARGS__})))

struct number {
    char text[16];
};

static struct number number_of(uint32_t n)
{
    struct number s;

    snprintf(s.text, sizeof(s.text), "%u", n);
    return s;
}

char *key_of_bdev(const char *name)
{
    return KEY("bdev/", name);
}

char *key_of_nvme_of(const char *name)
{
    return KEY("nvme_of/", name);
}

char *key_of_discovery(const char *name)
{
    return KEY("discovery/", name);
}

char *key_of_subsystem(const char *nqn)
{
    return KEY("nvme/", nqn);
}

char *key_of_namespace(const char *nqn, uint32_t nsid)
{
    struct number id = number_of(nsid);

    return KEY("nvme/", nqn, "/ns/", id.text);
}

char *key_of_controller(const char *nqn, const char *ctrl_id)
{
    return KEY("nvme/", nqn, "/ctrl/", ctrl_id);
}

char *key_of_vblk(const char *ctrl_id)
{
    return KEY("vblk/", ctrl_id);
}

char *key_of_nvmf(const char *nqn)
{
    return KEY("nvmf/", nqn);
}

char *key_of_nvmf_ns(const char *nqn, uint32_t nsid)
{
    struct number id = number_of(nsid);

    return KEY("nvmf/", nqn, "/ns/", id.text);
}

char *key_of_nvmf_host(const char *nqn, const char *hostnqn)
{
    return KEY("nvmf/", nqn, "/host/", hostnqn);
}

char *key_of_nvmf_listener(const char *nqn, const char *address)
{
    return KEY("nvmf/", nqn, "/listener/", address);
}

char *key_below(const char *key, const char *part)
{
    char *text;

    if (asprintf(&text, "%s/%s", key, part) < 0)
        abort();
    return text;
}

char *key_of_attachment(const char *ctrl_key, uint32_t nsid)
{
    char part[24];

    snprintf(part, sizeof(part), "ns/%u", nsid);
    return key_below(ctrl_key, part);
}

void save_put(struct rpc_request *req, char *key)
{
    rpc_journal_put(req, key);
    free(key);
}

void save_drop(struct rpc_request *req, char *key)
{
    rpc_journal_drop(req, key);
    free(key);
}

/* ---- values ---- */

void set_number(json_t *o, const char *name, uint64_t n)
{
    json_object_set_new(o, name, json_integer((json_int_t)n));
}

json_t *uuid_json(const struct bdev_uuid *uuid)
{
    char text[37];

    bdev_uuid_format(uuid, text);
    return json_string(text);
}

bool uuid_param(struct rpc_request *req, const char *member, const char *text,
                struct bdev_uuid *ret)
{
    if (bdev_uuid_parse(text, ret) == 0)
        return true;
    rpc_error(req, RPC_ERR_PARAMS, "Invalid parameters: '%s' is '%.60s', not a UUID", member, text);
    return false;
}

bool hex_param(struct rpc_request *req, const char *member, const char *text, uint8_t *b, size_t n)
{
    size_t digits = 0;

    for (const char *p = text; p && *p; p++) {
        unsigned char c = (unsigned char)*p;

        if (c == '-' || c == ':')
            continue;
        if (!isxdigit(c) || digits == 2 * n) {
            digits = SIZE_MAX;
            break;
        }
        b[digits / 2] =
            (uint8_t)(b[digits / 2] << 4 | (isdigit(c) ? c - '0' : tolower(c) - 'a' + 10));
        digits++;
    }
    if (!text || digits == 2 * n)
        return true;
    rpc_error(req, RPC_ERR_PARAMS,
              "Invalid parameters: '%s' is '%.60s', not %zu hexadecimal digits", member, text,
              2 * n);
    return false;
}

/* ---- objects by name ---- */

struct bdev *need_bdev(struct control_ctx *ctx, struct rpc_request *req, const char *name)
{
    struct bdev *bd = bdev_find(ctx->bdevs, name);

    if (!bd)
        rpc_error(req, -ENODEV, "no bdev '%s'", name);
    return bd;
}
