/* SPDX-License-Identifier: BSD-3-Clause
 *
 * What is saved of an NVMe-oF controller we attach to: one attach call, with all its paths and its
 * namespaces, so that their bdevs can exist before the target answers. */
#include "control/bdev_nvme_saved.h"

#include "base/log.h"
#include "control/inside.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- namespaces ---- */

static json_t *hex_json(const uint8_t *b, size_t n)
{
    char text[33];

    for (size_t i = 0; i < n; i++)
        snprintf(text + 2 * i, 3, "%02x", b[i]);
    return json_string(text);
}

static bool hex_value(json_t *v, uint8_t *b, size_t n)
{
    const char *text = json_string_value(v);

    if (!text || strlen(text) != 2 * n)
        return false;
    for (size_t i = 0; i < n; i++) {
        unsigned byte;

        if (!isxdigit((unsigned char)text[2 * i]) || !isxdigit((unsigned char)text[2 * i + 1]) ||
            sscanf(text + 2 * i, "%2x", &byte) != 1)
            return false;
        b[i] = (uint8_t)byte;
    }
    return true;
}

struct nvme_of_namespace *nvme_of_namespace_list(const struct nvme_of_host *host, unsigned *ret_n)
{
    unsigned n = nvme_of_namespaces(host, NULL, 0);
    struct nvme_of_namespace *list = n ? calloc(n, sizeof(*list)) : NULL;

    *ret_n = list ? MIN(n, nvme_of_namespaces(host, list, n)) : 0;
    return list;
}

static json_t *namespaces_json(const struct nvme_of_host *host)
{
    unsigned n;
    struct nvme_of_namespace *ns = nvme_of_namespace_list(host, &n);
    json_t *list = json_array();

    for (unsigned i = 0; i < n; i++)
        json_array_append_new(
            list, json_pack("{s:I,s:I,s:I,s:o,s:o,s:o,s:b,s:b,s:b}", "nsid", (json_int_t)ns[i].nsid,
                            "block_size", (json_int_t)ns[i].block_bytes, "num_blocks",
                            (json_int_t)ns[i].nblocks, "uuid", uuid_json(&ns[i].uuid), "nguid",
                            hex_json(ns[i].nguid, 16), "eui64", hex_json(ns[i].eui64, 8),
                            "no_write_cache", ns[i].no_write_cache, "no_unmap", ns[i].no_unmap,
                            "read_only", ns[i].read_only));
    free(ns);
    return list;
}

static bool namespace_value(json_t *v, struct nvme_of_namespace *ns)
{
    json_int_t nsid = json_integer_value(json_object_get(v, "nsid"));
    json_int_t block = json_integer_value(json_object_get(v, "block_size"));
    json_int_t blocks = json_integer_value(json_object_get(v, "num_blocks"));
    const char *uuid = json_string_value(json_object_get(v, "uuid"));

    *ns = (struct nvme_of_namespace){0};
    if (nsid <= 0 || nsid > 0xfffffffe || block <= 0 || block > UINT32_MAX || blocks <= 0 || !uuid)
        return false;
    ns->nsid = (uint32_t)nsid;
    ns->block_bytes = (uint32_t)block;
    ns->nblocks = (uint64_t)blocks;
    ns->no_write_cache = json_is_true(json_object_get(v, "no_write_cache"));
    ns->no_unmap = json_is_true(json_object_get(v, "no_unmap"));
    ns->read_only = json_is_true(json_object_get(v, "read_only"));
    return bdev_uuid_parse(uuid, &ns->uuid) == 0 &&
           hex_value(json_object_get(v, "nguid"), ns->nguid, 16) &&
           hex_value(json_object_get(v, "eui64"), ns->eui64, 8);
}

bool saved_nvme_of_namespaces(json_t *saved, struct nvme_of_namespace **ret, unsigned *ret_n)
{
    size_t n = json_array_size(saved);
    struct nvme_of_namespace *list;

    *ret = NULL;
    *ret_n = 0;
    if (!saved)
        return true;
    list = n <= NVME_OF_NAMESPACES_MAX ? calloc(n + 1, sizeof(*list)) : NULL;
    if (!list)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (!namespace_value(json_array_get(saved, i), &list[i])) {
            free(list);
            return false;
        }
    }
    *ret = list;
    *ret_n = (unsigned)n;
    return true;
}

/* ---- controllers ---- */

json_t *saved_nvme_of_call(struct control_ctx *ctx, const struct nvme_of_host *host)
{
    return json_object_get(ctx->attached, nvme_of_name(host));
}

void update_nvme_of_call(json_t *params, const struct nvme_of_host *host)
{
    json_t *paths = nvme_of_paths(host), *first = json_array_get(paths, 0);

    if (first && (json_array_size(paths) > 1 || json_object_get(params, "_paths"))) {
        json_object_del(params, "adrfam");
        json_object_del(params, "hostaddr");
        json_object_update(params, first);
        json_array_remove(paths, 0);
        json_object_set(params, "_paths", paths);
    }
    json_object_set_new(params, "_namespaces", namespaces_json(host));
    json_decref(paths);
}

void save_nvme_of_again(struct control_ctx *ctx, const struct nvme_of_host *host)
{
    json_t *params = saved_nvme_of_call(ctx, host);
    char *key = key_of_nvme_of(nvme_of_name(host));
    struct rpc_change change = {key, "bdev_nvme_attach_controller", params};
    struct err err = {0};

    if (params) { /* else the attach call has not been answered yet, and will save them */
        update_nvme_of_call(params, host);
        if (ctx->env && ctx->env->save && ctx->env->save(ctx->env->save_arg, &change, 1, &err) < 0)
            log_line(LOG_ERROR, "control", "%s: its paths and namespaces are not saved: %s",
                     nvme_of_name(host), err.msg);
    }
    free(key);
}

void nvme_of_discovered(void *arg, struct nvme_of_host *host)
{
    struct control_ctx *ctx = arg;

    if (!ctx->attached)
        ctx->attached = json_object();
    if (!saved_nvme_of_call(ctx, host)) {
        json_t *paths = nvme_of_paths(host), *call = json_deep_copy(json_array_get(paths, 0));

        json_object_set_new(call, "name", json_string(nvme_of_name(host)));
        json_object_set_new(call, "subnqn", json_string(nvme_of_subnqn(host)));
        json_object_set_new(call, "hostnqn", json_string(nvme_of_hostnqn(host)));
        json_object_set_new(call, "_discovery", json_string(nvme_of_discovery_of(host)));
        json_object_set_new(ctx->attached, nvme_of_name(host), call);
        json_decref(paths);
    }
    save_nvme_of_again(ctx, host);
}

void nvme_of_undiscovered(void *arg, const char *host)
{
    struct control_ctx *ctx = arg;
    char *key = key_of_nvme_of(host);
    struct rpc_change change = {key, "bdev_nvme_attach_controller", NULL};
    struct err err = {0};

    json_object_del(ctx->attached, host);
    if (ctx->env && ctx->env->save && ctx->env->save(ctx->env->save_arg, &change, 1, &err) < 0)
        log_line(LOG_ERROR, "control", "%s: its end is not saved: %s", host, err.msg);
    free(key);
}
