/* SPDX-License-Identifier: BSD-3-Clause
 *
 * The transport of snap_target: TCP, and the limits of its connections. */
#include "control/nvmf.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

struct create_args {
    const char *trtype, *tgt_name;
    uint16_t max_queue_depth, max_io_qpairs;
    uint32_t in_capsule_bytes, max_io_bytes, io_unit_bytes, max_aq_depth, buffers;
    bool in_capsule_set, c2h_success, c2h_success_set;
    bool ignored_flag;
    uint16_t ignored_u16;
    uint32_t ignored_u32;
    int32_t ignored_i32;
    json_t *ignored;
};
#define AT(member) offsetof(struct create_args, member)
#define NO(name, type, member, cli_short, dflt)                                                    \
    {                                                                                              \
        name, type, AT(member), RPC_UNSUPPORTED, "", cli_short, NULL, 0, 0, dflt                   \
    }
#define NO_BOOL(name, cli_short) NO(name, RPC_BOOL, ignored_flag, cli_short, 0)
#define NO_U16(name, cli_short, dflt) NO(name, RPC_U16, ignored_u16, cli_short, dflt)
#define NO_U32(name, cli_short, dflt) NO(name, RPC_U32, ignored_u32, cli_short, dflt)
#define NO_I32(name, cli_short, dflt) NO(name, RPC_I32, ignored_i32, cli_short, dflt)
#define NO_LIST(name) NO(name, RPC_JSON, ignored, NULL, 0)

static const struct rpc_param create_params[] = {
    {"trtype", RPC_STR, AT(trtype), RPC_REQUIRED, "transport: TCP", "-t", NULL, 0, 0, 0},
    NVMF_TGT_NAME_PARAM(create_args, "-g"),
    {"max_queue_depth", RPC_U16, AT(max_queue_depth), 0,
     "most entries of an I/O queue (default 128)", "-q", NULL, 0, 2, 1024},
    {"max_io_qpairs_per_ctrlr", RPC_U16, AT(max_io_qpairs), 0,
     "most I/O queues of a controller (default 127)", "-m", NULL, 0, 1, 1023},
    {"in_capsule_data_size", RPC_U32, AT(in_capsule_bytes), 0,
     "bytes of data that may come with an I/O command (default 4096)", "-c", NULL,
     AT(in_capsule_set) + 1, 0, 65536},
    {"max_io_size", RPC_U32, AT(max_io_bytes), 0,
     "most bytes of a command, a power of two (default 131072)", "-i", NULL, 0, 8192, 1048576},
    {"io_unit_size", RPC_U32, AT(io_unit_bytes), 0,
     "taken and ignored: a buffer has max_io_size bytes", "-u", NULL, 0, 0, 0},
    {"max_aq_depth", RPC_U32, AT(max_aq_depth), 0, "most entries of an admin queue (default 128)",
     "-a", NULL, 0, 32, 4096},
    {"num_shared_buffers", RPC_U32, AT(buffers), 0,
     "buffers of each reactor; 0, the default: 64 MiB of them", "-n", NULL, 0, 0, 65536},
    {"c2h_success", RPC_BOOL, AT(c2h_success), RPC_CLI_OFF,
     "no response after the data of a read, where the host allows it (default: on)", "-o", NULL,
     AT(c2h_success_set) + 1, 0, 0},
    NO_U32("buf_cache_size", "-b", 32),
    NO_U32("iobuf_small_cache_size", NULL, 0),
    NO_U32("iobuf_large_cache_size", NULL, 0),
    NO_BOOL("zcopy", "-z"),
    NO_I32("num_cqe", "-d", 0),
    NO_U32("max_srq_depth", "-s", 0),
    NO_BOOL("no_srq", "-r"),
    NO_BOOL("dif_insert_or_strip", "-f"),
    NO_U32("sock_priority", "-y", 0),
    NO_I32("acceptor_backlog", "-l", 100),
    NO_U32("abort_timeout_sec", "-x", 1),
    NO_BOOL("no_wr_batching", "-w"),
    NO_U16("control_msg_num", "-e", 32),
    NO_BOOL("disable_mappable_bar0", "-M"),
    NO_BOOL("disable_adaptive_irq", "-I"),
    NO_BOOL("disable_shadow_doorbells", "-S"),
    NO_U32("acceptor_poll_rate", NULL, 10000),
    NO_U32("ack_timeout", NULL, 0),
    NO_U32("data_wr_pool_size", NULL, 4095),
    NO_BOOL("disable_command_passthru", NULL),
    NO_U16("kas", NULL, 0),
    NO_U32("min_kato", NULL, 0),
    NO_LIST("masked_oncs"),
    NO_LIST("masked_fuses"),
};

static void nvmf_create_transport(void *arg, struct rpc_request *req, const void *args)
{
    const struct create_args *a = args;
    struct control_ctx *ctx = arg;
    struct nvmf_transport opts = nvmf_transport_default;
    struct err err = {0};

    if (!nvmf_trtype_param(req, "trtype", a->trtype))
        return;
    if (a->max_queue_depth)
        opts.max_queue_depth = a->max_queue_depth;
    if (a->max_io_qpairs)
        opts.max_io_queues = a->max_io_qpairs;
    if (a->in_capsule_set)
        opts.in_capsule_bytes = a->in_capsule_bytes;
    if (a->max_io_bytes)
        opts.max_io_bytes = a->max_io_bytes;
    if (a->max_aq_depth)
        opts.max_aq_depth = a->max_aq_depth;
    if (a->buffers)
        opts.buffers = a->buffers;
    if (a->c2h_success_set)
        opts.c2h_success = a->c2h_success;
    if (nvmf_transport_create(ctx->nvmf, &opts, &err) < 0) {
        nvmf_error(req, &err);
        return;
    }
    rpc_journal_put(req, "nvmf/transport/TCP");
    rpc_true(req);
}

/* ---- list ---- */

struct get_args {
    const char *trtype, *tgt_name;
};
static const struct rpc_param get_params[] = {
    {"trtype", RPC_STR, offsetof(struct get_args, trtype), 0, "only this one", "-t", NULL, 0, 0, 0},
    NVMF_TGT_NAME_PARAM(get_args, "-g"),
};

static json_t *transport_json(const struct nvmf_transport *tr)
{
    json_t *o = json_object();

    json_object_set_new(o, "trtype", json_string("TCP"));
    json_object_set_new(o, "max_queue_depth", json_integer(tr->max_queue_depth));
    json_object_set_new(o, "max_io_qpairs_per_ctrlr", json_integer(tr->max_io_queues));
    json_object_set_new(o, "in_capsule_data_size", json_integer(tr->in_capsule_bytes));
    json_object_set_new(o, "max_io_size", json_integer(tr->max_io_bytes));
    json_object_set_new(o, "io_unit_size", json_integer(tr->max_io_bytes));
    json_object_set_new(o, "max_aq_depth", json_integer(tr->max_aq_depth));
    json_object_set_new(o, "num_shared_buffers", json_integer(tr->buffers));
    json_object_set_new(o, "buf_cache_size", json_integer(0));
    json_object_set_new(o, "dif_insert_or_strip", json_false());
    json_object_set_new(o, "zcopy", json_false());
    json_object_set_new(o, "c2h_success", json_boolean(tr->c2h_success));
    json_object_set_new(o, "sock_priority", json_integer(0));
    return o;
}

static void nvmf_get_transports(void *arg, struct rpc_request *req, const void *args)
{
    const struct get_args *a = args;
    struct control_ctx *ctx = arg;
    const struct nvmf_transport *tr = nvmf_transport_get(ctx->nvmf);
    json_t *list;

    if (a->trtype && (!tr || strcasecmp(a->trtype, "TCP") != 0)) {
        rpc_error(req, -ENODEV, "no transport '%.30s'", a->trtype);
        return;
    }
    list = json_array();
    if (tr)
        json_array_append_new(list, transport_json(tr));
    rpc_result(req, list);
}

static const struct rpc_method methods[] = {
    {"nvmf_create_transport", RPC_PARAMS(create_params), sizeof(struct create_args),
     nvmf_create_transport, "make hosts reach the target over TCP, within these limits",
     RPC_JOURNAL, "true"},
    {"nvmf_get_transports", RPC_PARAMS(get_params), sizeof(struct get_args), nvmf_get_transports,
     "list transports with their limits", 0,
     "array of {trtype, max_queue_depth, max_io_size, ...}"},
};
const struct rpc_method_table nvmf_transport_methods = RPC_TABLE(methods);
