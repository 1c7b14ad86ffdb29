/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf_options.h"

#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static const char usage_text[] =
    "usage: snap_perf --socket PATH[,SETTING...]... [options]\n"
    "       snap_perf --vuid VUID[,SETTING...]... [options]\n"
    "\n"
    "Loads emulated disks as a virtual machine would, measures and verifies them: NVMe over\n"
    "vfio-user and virtio-blk over vhost-user, several at once.\n"
    "\n"
    "Which disks:\n"
    "  --socket PATH         a function's socket, .../functions/<vuid>/cntrl (NVMe) or vhost.sock\n"
    "                        (virtio-blk); may be repeated, up to 64 disks\n"
    "  --vuid VUID           the same by name, in the run directory; may be repeated\n"
    "  --run-dir DIR         default: /run/opensnap, or $XDG_RUNTIME_DIR/opensnap when not root\n"
    "  --kind KIND           nvme or virtio-blk; default: by the socket's name, vhost.sock is\n"
    "                        virtio-blk\n"
    "  A SETTING is an option marked * without its dashes, for this disk only:\n"
    "    --socket a/cntrl,doorbells=mapped --socket b/vhost.sock,ring=packed,no-indirect\n"
    "NVMe:\n"
    "* --nsid N              namespace; default: the first active one\n"
    "* --doorbells MODE      trapped, shadow (default) or mapped\n"
    "virtio-blk:\n"
    "* --ring FORMAT         split (default) or packed\n"
    "* --ring-size N         descriptors per ring; default: what the depth needs, 128 to 1024\n"
    "* --no-indirect         do not use indirect descriptors\n"
    "* --no-event-idx        do not use the event index\n"
    "* --segment BYTES       data in pieces of so many bytes; default: one piece\n"
    "* --split-header        the request header in two descriptors\n"
    "* --reconnect           when the connection breaks, make it again with the same in-flight\n"
    "                        area, as QEMU does\n"
    "What to do, on each disk:\n"
    "* --rw MODE             randread (default), randwrite, randrw, read, write\n"
    "* --rwmix-read PCT      reads in randrw; default 50\n"
    "* --zeroes PCT          so many of the writes as Write Zeroes\n"
    "* --deallocate PCT      so many of the writes as deallocate (discard)\n"
    "* --flush PCT           so many of all commands as Flush\n"
    "* --bs BYTES            per command, k/m suffix allowed; default 4k\n"
    "* --align BYTES         random positions are multiples of it; default: the block size\n"
    "* --depth N             commands in flight per queue; default 32\n"
    "* --queues N            I/O queues; default 1\n"
    "* --runtime SECONDS     default 10 when --ios is not given\n"
    "* --ios N               stop after N commands\n"
    "* --rate N              at most N commands per second\n"
    "* --range BLOCKS        size of the part of the disk that is used; default: all\n"
    "* --offset BLOCKS       where it begins\n"
    "* --reset-every SECONDS reset the device so often, with commands in flight\n"
    "  --spin-us N           poll this long before sleeping; default 20\n"
    "  --yield               give way to others of the same CPU while polling\n"
    "Verification (destroys what the range holds):\n"
    "* --verify              every block carries LBA, generation and CRC; anything lost, stale, "
    "torn, duplicated or\n"
    "                        missing is named. Needs --range on a large disk: each block is "
    "written first and read last.\n"
    "* --no-prefill          do not write the range first; blocks count from their first write on\n"
    "* --allow-torn          a read that overlaps a write may see a part of it\n"
    "* --missing-after S     a command without completion for so long is missing; default 60\n"
    "* --stop-on-error       end at the first error, of any disk\n"
    "* --seed N              repeat a run; default: random\n"
    "Output:\n"
    "  --json                results as one JSON object on stdout; with several disks: sums, and\n"
    "                        each disk in \"disks\"\n"
    "  --status SECONDS      a JSON line on stderr so often\n"
    "  --quiet               no progress line\n"
    "  --help                this text\n"
    "\n"
    "Exit: 0 good, 1 errors found or a run could not finish, 2 wrong usage or no connection.\n";

int perf_wrong(const char *fmt, ...)
{
    va_list ap;

    fputs("snap_perf: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputs("\nTry snap_perf --help.\n", stderr);
    return 2;
}

/* ---- values ---- */

/* Digits with an optional k, m or g. */
static bool parse_u64(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long v;
    unsigned shift = 0;

    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno || end == text || text[0] == '-')
        return false;
    switch (*end) {
    case 'k':
    case 'K':
        shift = 10;
        break;
    case 'm':
    case 'M':
        shift = 20;
        break;
    case 'g':
    case 'G':
        shift = 30;
        break;
    default:
        break;
    }
    if (shift)
        end++;
    if (*end || v > max >> shift)
        return false;
    *ret = v << shift;
    return true;
}

static bool parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *ret)
{
    uint64_t n;

    if (!parse_u64(text, max, &n) || n < min)
        return false;
    *ret = (uint32_t)n;
    return true;
}

static bool parse_seconds(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !isfinite(v) || v < 0 || v > 1e7)
        return false;
    *ret = v;
    return true;
}

static bool parse_ms(const char *text, double max_s, uint32_t *ret)
{
    double s;

    if (!parse_seconds(text, &s) || s * 1000 < 1 || s > max_s)
        return false;
    *ret = (uint32_t)(s * 1000);
    return true;
}

static bool parse_word(const char *text, const char *const *words, unsigned n, unsigned *ret)
{
    for (unsigned i = 0; i < n; i++)
        if (!strcmp(text, words[i])) {
            *ret = i;
            return true;
        }
    return false;
}

/* ---- options ---- */

enum {
    OPT_KIND = 1,
    OPT_NSID,
    OPT_DOORBELLS,
    OPT_RING,
    OPT_RING_SIZE,
    OPT_NO_INDIRECT,
    OPT_NO_EVENT_IDX,
    OPT_SEGMENT,
    OPT_SPLIT_HEADER,
    OPT_RECONNECT,
    OPT_RW,
    OPT_MIX,
    OPT_ZEROES,
    OPT_DEALLOCATE,
    OPT_FLUSH,
    OPT_BS,
    OPT_ALIGN,
    OPT_DEPTH,
    OPT_QUEUES,
    OPT_RUNTIME,
    OPT_IOS,
    OPT_RATE,
    OPT_RANGE,
    OPT_OFFSET,
    OPT_RESET,
    OPT_VERIFY,
    OPT_NO_PREFILL,
    OPT_ALLOW_TORN,
    OPT_MISSING,
    OPT_STOP,
    OPT_SEED,
    OPT_LAST_OF_DISK = OPT_SEED, /* those above may also be settings of one disk */
    OPT_SOCKET,
    OPT_VUID,
    OPT_RUN_DIR,
    OPT_SPIN,
    OPT_YIELD,
    OPT_JSON,
    OPT_STATUS,
    OPT_QUIET,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"kind", required_argument, NULL, OPT_KIND},
    {"nsid", required_argument, NULL, OPT_NSID},
    {"doorbells", required_argument, NULL, OPT_DOORBELLS},
    {"ring", required_argument, NULL, OPT_RING},
    {"ring-size", required_argument, NULL, OPT_RING_SIZE},
    {"no-indirect", no_argument, NULL, OPT_NO_INDIRECT},
    {"no-event-idx", no_argument, NULL, OPT_NO_EVENT_IDX},
    {"segment", required_argument, NULL, OPT_SEGMENT},
    {"split-header", no_argument, NULL, OPT_SPLIT_HEADER},
    {"reconnect", no_argument, NULL, OPT_RECONNECT},
    {"rw", required_argument, NULL, OPT_RW},
    {"rwmix-read", required_argument, NULL, OPT_MIX},
    {"zeroes", required_argument, NULL, OPT_ZEROES},
    {"deallocate", required_argument, NULL, OPT_DEALLOCATE},
    {"flush", required_argument, NULL, OPT_FLUSH},
    {"bs", required_argument, NULL, OPT_BS},
    {"align", required_argument, NULL, OPT_ALIGN},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"ios", required_argument, NULL, OPT_IOS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"range", required_argument, NULL, OPT_RANGE},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"reset-every", required_argument, NULL, OPT_RESET},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"no-prefill", no_argument, NULL, OPT_NO_PREFILL},
    {"allow-torn", no_argument, NULL, OPT_ALLOW_TORN},
    {"missing-after", required_argument, NULL, OPT_MISSING},
    {"stop-on-error", no_argument, NULL, OPT_STOP},
    {"seed", required_argument, NULL, OPT_SEED},
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"vuid", required_argument, NULL, OPT_VUID},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"spin-us", required_argument, NULL, OPT_SPIN},
    {"yield", no_argument, NULL, OPT_YIELD},
    {"json", no_argument, NULL, OPT_JSON},
    {"status", required_argument, NULL, OPT_STATUS},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

const char *const perf_rw_words[] = {"randread", "randwrite", "randrw", "read", "write"};
const char *const perf_doorbell_words[] = {"trapped", "shadow", "mapped"};
const char *const perf_kind_words[] = {"auto", "nvme", "virtio-blk"};
static const char *const ring_words[] = {"split", "packed"};

/* How the driver is to use the device. False: the argument is wrong. */
static bool set_driver_option(struct perf_disk *d, int opt, const char *arg)
{
    unsigned word = 0;
    bool ok = true;

    switch (opt) {
    case OPT_KIND:
        ok = parse_word(arg, perf_kind_words, 3, &word);
        d->kind = (enum perf_kind)word;
        break;
    case OPT_NSID:
        ok = parse_u32(arg, 0, UINT32_MAX - 1, &d->nvme.nsid);
        break;
    case OPT_DOORBELLS:
        ok = parse_word(arg, perf_doorbell_words, 3, &word);
        d->nvme.doorbells = (enum nvme_doorbells)word;
        break;
    case OPT_RING:
        ok = parse_word(arg, ring_words, ARRAY_SIZE(ring_words), &word);
        d->blk.packed = word;
        break;
    case OPT_RING_SIZE:
        ok = parse_u32(arg, 1, 32768, &d->blk.ring_size);
        break;
    case OPT_NO_INDIRECT:
        d->blk.no_indirect = true;
        break;
    case OPT_NO_EVENT_IDX:
        d->blk.no_event_idx = true;
        break;
    case OPT_SEGMENT:
        ok = parse_u32(arg, 1, UINT32_MAX, &d->blk.segment_bytes);
        break;
    case OPT_SPLIT_HEADER:
        d->blk.split_header = true;
        break;
    case OPT_RECONNECT:
        d->blk.reconnect = true;
        break;
    case OPT_DEPTH:
        ok = parse_u32(arg, 1, 1024, &d->depth);
        break;
    case OPT_QUEUES:
        ok = parse_u32(arg, 1, 64, &d->queues);
        break;
    default:
        ok = false;
    }
    return ok;
}

/* What is to be done with the disk. */
static bool set_load_option(struct perf_disk *d, int opt, const char *arg)
{
    struct load_opts *l = &d->load;
    unsigned word = 0;
    double s = 0;
    bool ok = true;

    switch (opt) {
    case OPT_RW:
        ok = parse_word(arg, perf_rw_words, ARRAY_SIZE(perf_rw_words), &word);
        l->rw = (enum load_rw)word;
        break;
    case OPT_MIX:
        ok = parse_u32(arg, 0, 100, &l->read_percent);
        break;
    case OPT_ZEROES:
        ok = parse_u32(arg, 0, 100, &l->zeroes_percent);
        break;
    case OPT_DEALLOCATE:
        ok = parse_u32(arg, 0, 100, &l->deallocate_percent);
        break;
    case OPT_FLUSH:
        ok = parse_u32(arg, 0, 100, &l->flush_percent);
        break;
    case OPT_BS:
        ok = parse_u64(arg, 64 << 20, &d->bs_bytes) && d->bs_bytes;
        break;
    case OPT_ALIGN:
        ok = parse_u64(arg, 64 << 20, &d->align_bytes) && d->align_bytes;
        break;
    case OPT_RUNTIME:
        ok = parse_seconds(arg, &s);
        l->runtime_ms = (uint64_t)(s * 1000);
        break;
    case OPT_IOS:
        ok = parse_u64(arg, UINT64_MAX, &l->ios) && l->ios;
        break;
    case OPT_RATE:
        ok = parse_u64(arg, 1000000000, &l->rate) && l->rate;
        break;
    case OPT_RANGE:
        ok = parse_u64(arg, UINT64_MAX, &l->nblocks) && l->nblocks;
        break;
    case OPT_OFFSET:
        ok = parse_u64(arg, UINT64_MAX, &l->first_lba);
        break;
    case OPT_RESET:
        ok = parse_ms(arg, 4e6, &l->reset_every_ms);
        break;
    case OPT_VERIFY:
        l->verify = true;
        break;
    case OPT_NO_PREFILL:
        l->prefill = false;
        break;
    case OPT_ALLOW_TORN:
        l->allow_torn = true;
        break;
    case OPT_MISSING:
        ok = parse_ms(arg, 4e6, &l->missing_ms);
        break;
    case OPT_STOP:
        l->stop_on_error = true;
        break;
    case OPT_SEED:
        ok = parse_u64(arg, UINT64_MAX, &l->seed) && l->seed;
        break;
    default:
        ok = false;
    }
    return ok;
}

static bool set_disk_option(struct perf_disk *d, int opt, const char *arg)
{
    bool driver = opt <= OPT_RECONNECT || opt == OPT_DEPTH || opt == OPT_QUEUES;

    return driver ? set_driver_option(d, opt, arg) : set_load_option(d, opt, arg);
}

/* Disks as they were named, until all options are known. */
struct names {
    char *text[PERF_MAX_DISKS];
    unsigned n;
    bool sockets, vuids;
};

static bool set_option(struct perf_options *o, struct names *names, int opt, char *arg)
{
    if (opt <= OPT_LAST_OF_DISK)
        return set_disk_option(&o->base, opt, arg);
    switch (opt) {
    case OPT_SOCKET:
    case OPT_VUID:
        *(opt == OPT_SOCKET ? &names->sockets : &names->vuids) = true;
        if (names->n == PERF_MAX_DISKS || !*arg || *arg == ',')
            return false;
        names->text[names->n++] = arg;
        return true;
    case OPT_RUN_DIR:
        o->run_dir = arg;
        return true;
    case OPT_SPIN:
        return parse_u32(arg, 0, 1000000, &o->spin_us);
    case OPT_YIELD:
        o->yield = true;
        return true;
    case OPT_JSON:
        o->json = true;
        return true;
    case OPT_STATUS:
        return parse_seconds(arg, &o->status_s) && o->status_s > 0;
    case OPT_QUIET:
        o->quiet = true;
        return true;
    default:
        return false;
    }
}

/* ---- disks ---- */

/* One "name" or "name=value" behind a comma. */
static int apply_setting(struct perf_disk *d, char *setting)
{
    char *value = strchr(setting, '=');

    if (value)
        *value++ = '\0';
    for (const struct option *l = long_options; l->name; l++) {
        if (strcmp(l->name, setting) || l->val > OPT_LAST_OF_DISK)
            continue;
        if (l->has_arg != (value != NULL))
            return perf_wrong("%s: the setting '%s' %s", d->path, setting,
                              value ? "takes no value" : "needs a value");
        if (!set_disk_option(d, l->val, value))
            return perf_wrong("%s: '%s' is not a good value of '%s'", d->path, value, setting);
        return 0;
    }
    return perf_wrong("%s: '%s' is not a setting of a disk", d->path, setting);
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

/* .../functions/<vuid>/vhost.sock when it is there and nothing else is asked for, else cntrl. */
static int find_socket(const struct perf_options *o, struct perf_disk *d, const char *vuid)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    char dir[PATH_MAX];
    int n;

    if (o->run_dir)
        n = snprintf(dir, sizeof(dir), "%s/functions/%s", o->run_dir, vuid);
    else if (geteuid() == 0 || !xdg)
        n = snprintf(dir, sizeof(dir), "/run/opensnap/functions/%s", vuid);
    else
        n = snprintf(dir, sizeof(dir), "%s/opensnap/functions/%s", xdg, vuid);
    if (n < 0 || (size_t)n + sizeof("/vhost.sock") > sizeof(d->path))
        return perf_wrong("%s: the socket path is too long", vuid);
    snprintf(d->path, sizeof(d->path), "%s/vhost.sock", dir);
    if (d->kind == PERF_KIND_NVME || (d->kind == PERF_KIND_AUTO && !exists(d->path)))
        snprintf(d->path, sizeof(d->path), "%s/cntrl", dir);
    return 0;
}

static int make_disk(const struct perf_options *o, struct perf_disk *d, char *text, bool vuid)
{
    char *rest = text, *name = strsep(&rest, ",");
    const char *base;
    int rc = 0;

    if ((size_t)snprintf(d->path, sizeof(d->path), "%s", name) >= sizeof(d->path))
        return perf_wrong("the socket path is too long");
    while (!rc && rest)
        rc = apply_setting(d, strsep(&rest, ","));
    if (!rc && vuid)
        rc = find_socket(o, d, name);
    if (rc)
        return rc;
    base = strrchr(d->path, '/');
    base = base ? base + 1 : d->path;
    if (d->kind == PERF_KIND_AUTO)
        d->kind = strcmp(base, "vhost.sock") ? PERF_KIND_NVME : PERF_KIND_VIRTIO_BLK;
    if (d->kind == PERF_KIND_NVME && d->blk.reconnect)
        return perf_wrong("%s: --reconnect is for virtio-blk; a vfio-user client never reconnects",
                          d->path);
    if (!d->load.ios && !d->load.runtime_ms)
        d->load.runtime_ms = 10000;
    return 0;
}

static int make_disks(struct perf_options *o, struct names *names)
{
    if (names->sockets == names->vuids)
        return perf_wrong("give either --socket or --vuid, as often as there are disks");
    o->disk = calloc(names->n, sizeof(o->disk[0]));
    if (!o->disk)
        return perf_wrong("no memory for %u disks", names->n);
    for (o->ndisks = 0; o->ndisks < names->n; o->ndisks++) {
        struct perf_disk *d = &o->disk[o->ndisks];
        int rc;

        *d = o->base;
        d->load.seed = ((d->load.seed + o->ndisks) & INT64_MAX); /* JSON integers */
        rc = make_disk(o, d, names->text[o->ndisks], names->vuids);
        if (rc)
            return rc;
        d->load.seed |= !d->load.seed;
    }
    return 0;
}

int perf_parse(struct perf_options *o, int argc, char **argv)
{
    struct names names = {.n = 0};
    int opt, index = 0, rc;

    *o = (struct perf_options){
        .base = {.queues = 1,
                 .depth = 32,
                 .nvme = {.doorbells = NVME_DOORBELLS_SHADOW},
                 .load = {.read_percent = 50, .missing_ms = 60000, .prefill = true},
                 .bs_bytes = 4096},
        .spin_us = 20,
    };
    while ((opt = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (opt == OPT_HELP || opt == 'h') {
            fputs(usage_text, stdout);
            return 1;
        }
        if (opt == '?')
            return perf_wrong("unknown option") + 1;
        if (!set_option(o, &names, opt, optarg))
            return perf_wrong("--%s: '%s' is not a good value", long_options[index].name,
                              optarg ? optarg : "") +
                   1;
    }
    if (optind < argc)
        return perf_wrong("'%s' is not an option", argv[optind]) + 1;
    if (!o->base.load.seed &&
        getrandom(&o->base.load.seed, sizeof(o->base.load.seed), 0) != sizeof(o->base.load.seed))
        o->base.load.seed = (uint64_t)time(NULL);
    rc = make_disks(o, &names);
    return rc ? rc + 1 : 0;
}
