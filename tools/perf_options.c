/* SPDX-License-Identifier: BSD-3-Clause */
#include "perf_options.h"

#include "base/util.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static const char usage_text[] =
    "usage: snap_perf (--socket PATH | --vuid VUID) [options]\n"
    "\n"
    "Loads an emulated NVMe function over vfio-user, as a virtual machine would, and measures it.\n"
    "\n"
    "Which disk:\n"
    "  --socket PATH         the function's vfio-user socket (.../functions/<vuid>/cntrl)\n"
    "  --vuid VUID           the same by name, in the run directory\n"
    "  --run-dir DIR         default: /run/opensnap, or $XDG_RUNTIME_DIR/opensnap when not root\n"
    "  --nsid N              namespace; default: the first active one\n"
    "What to do:\n"
    "  --rw MODE             randread (default), randwrite, randrw, read, write\n"
    "  --rwmix-read PCT      reads in randrw; default 50\n"
    "  --zeroes PCT          so many of the writes as Write Zeroes\n"
    "  --deallocate PCT      so many of the writes as deallocate\n"
    "  --flush PCT           so many of all commands as Flush\n"
    "  --bs BYTES            per command, k/m suffix allowed; default 4k\n"
    "  --align BYTES         random positions are multiples of it; default: the block size\n"
    "  --depth N             commands in flight per queue; default 32\n"
    "  --queues N            I/O queue pairs; default 1\n"
    "  --doorbells MODE      trapped, shadow (default) or mapped\n"
    "  --runtime SECONDS     default 10 when --ios is not given\n"
    "  --ios N               stop after N commands\n"
    "  --rate N              at most N commands per second\n"
    "  --range BLOCKS        size of the part of the disk that is used; default: all\n"
    "  --offset BLOCKS       where it begins\n"
    "  --spin-us N           poll this long before sleeping; default 20\n"
    "Verification (destroys what the range holds):\n"
    "  --verify              every block carries LBA, generation and CRC; anything lost, stale, "
    "torn, duplicated or\n"
    "                        missing is named. Needs --range on a large disk: each block is "
    "written first and read last.\n"
    "  --no-prefill          do not write the range first; blocks count from their first write on\n"
    "  --allow-torn          a read that overlaps a write may see a part of it\n"
    "  --missing-after S     a command without completion for so long is missing; default 60\n"
    "  --stop-on-error       end at the first error\n"
    "  --seed N              repeat a run; default: random\n"
    "Output:\n"
    "  --json                results as one JSON object on stdout\n"
    "  --status SECONDS      a JSON line on stderr so often\n"
    "  --quiet               no progress line\n"
    "  --help                this text\n";

int perf_wrong(const char *fmt, const char *a, const char *b)
{
    fputs("snap_perf: ", stderr);
    fprintf(stderr, fmt, a, b);
    fputs("\nTry snap_perf --help.\n", stderr);
    return 2;
}

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

static bool parse_seconds(const char *text, double *ret)
{
    char *end;
    double v = strtod(text, &end);

    if (end == text || *end || !isfinite(v) || v < 0 || v > 1e7)
        return false;
    *ret = v;
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

enum {
    OPT_SOCKET = 1,
    OPT_VUID,
    OPT_RUN_DIR,
    OPT_NSID,
    OPT_RW,
    OPT_MIX,
    OPT_ZEROES,
    OPT_DEALLOCATE,
    OPT_FLUSH,
    OPT_BS,
    OPT_ALIGN,
    OPT_DEPTH,
    OPT_QUEUES,
    OPT_DOORBELLS,
    OPT_RUNTIME,
    OPT_IOS,
    OPT_RATE,
    OPT_RANGE,
    OPT_OFFSET,
    OPT_SPIN,
    OPT_VERIFY,
    OPT_NO_PREFILL,
    OPT_ALLOW_TORN,
    OPT_MISSING,
    OPT_STOP,
    OPT_SEED,
    OPT_JSON,
    OPT_STATUS,
    OPT_QUIET,
    OPT_HELP,
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"vuid", required_argument, NULL, OPT_VUID},
    {"run-dir", required_argument, NULL, OPT_RUN_DIR},
    {"nsid", required_argument, NULL, OPT_NSID},
    {"rw", required_argument, NULL, OPT_RW},
    {"rwmix-read", required_argument, NULL, OPT_MIX},
    {"zeroes", required_argument, NULL, OPT_ZEROES},
    {"deallocate", required_argument, NULL, OPT_DEALLOCATE},
    {"flush", required_argument, NULL, OPT_FLUSH},
    {"bs", required_argument, NULL, OPT_BS},
    {"align", required_argument, NULL, OPT_ALIGN},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"doorbells", required_argument, NULL, OPT_DOORBELLS},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"ios", required_argument, NULL, OPT_IOS},
    {"rate", required_argument, NULL, OPT_RATE},
    {"range", required_argument, NULL, OPT_RANGE},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"spin-us", required_argument, NULL, OPT_SPIN},
    {"verify", no_argument, NULL, OPT_VERIFY},
    {"no-prefill", no_argument, NULL, OPT_NO_PREFILL},
    {"allow-torn", no_argument, NULL, OPT_ALLOW_TORN},
    {"missing-after", required_argument, NULL, OPT_MISSING},
    {"stop-on-error", no_argument, NULL, OPT_STOP},
    {"seed", required_argument, NULL, OPT_SEED},
    {"json", no_argument, NULL, OPT_JSON},
    {"status", required_argument, NULL, OPT_STATUS},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {NULL, 0, NULL, 0},
};

const char *const perf_rw_words[] = {"randread", "randwrite", "randrw", "read", "write"};
const char *const perf_doorbell_words[] = {"trapped", "shadow", "mapped"};

/* One option; false: its argument is wrong. */
static bool set_option(struct perf_options *o, int opt, const char *arg)
{
    uint64_t n = 0;
    unsigned word = 0;
    double s = 0;
    bool ok = true;

    switch (opt) {
    case OPT_SOCKET:
        o->socket = arg;
        break;
    case OPT_VUID:
        o->vuid = arg;
        break;
    case OPT_RUN_DIR:
        o->run_dir = arg;
        break;
    case OPT_NSID:
        ok = parse_u64(arg, UINT32_MAX - 1, &n);
        o->host.nsid = (uint32_t)n;
        break;
    case OPT_RW:
        ok = parse_word(arg, perf_rw_words, ARRAY_SIZE(perf_rw_words), &word);
        o->load.rw = (enum load_rw)word;
        break;
    case OPT_MIX:
    case OPT_ZEROES:
    case OPT_DEALLOCATE:
    case OPT_FLUSH:
        ok = parse_u64(arg, 100, &n);
        *(opt == OPT_MIX          ? &o->load.read_percent
          : opt == OPT_ZEROES     ? &o->load.zeroes_percent
          : opt == OPT_DEALLOCATE ? &o->load.deallocate_percent
                                  : &o->load.flush_percent) = (unsigned)n;
        break;
    case OPT_BS:
        ok = parse_u64(arg, 64 << 20, &o->bs_bytes) && o->bs_bytes;
        break;
    case OPT_ALIGN:
        ok = parse_u64(arg, 64 << 20, &o->align_bytes) && o->align_bytes;
        break;
    case OPT_DEPTH:
        ok = parse_u64(arg, 1024, &n) && n;
        o->host.depth = (unsigned)n;
        break;
    case OPT_QUEUES:
        ok = parse_u64(arg, 64, &n) && n;
        o->host.queues = (unsigned)n;
        break;
    case OPT_DOORBELLS:
        ok = parse_word(arg, perf_doorbell_words, ARRAY_SIZE(perf_doorbell_words), &word);
        o->host.doorbells = (enum nvme_doorbells)word;
        break;
    case OPT_RUNTIME:
        ok = parse_seconds(arg, &s);
        o->load.runtime_ms = (uint64_t)(s * 1000);
        break;
    case OPT_IOS:
        ok = parse_u64(arg, UINT64_MAX, &o->load.ios) && o->load.ios;
        break;
    case OPT_RATE:
        ok = parse_u64(arg, 1000000000, &o->load.rate) && o->load.rate;
        break;
    case OPT_RANGE:
        ok = parse_u64(arg, UINT64_MAX, &o->load.nblocks) && o->load.nblocks;
        break;
    case OPT_OFFSET:
        ok = parse_u64(arg, UINT64_MAX, &o->load.first_lba);
        break;
    case OPT_SPIN:
        ok = parse_u64(arg, 1000000, &n);
        o->load.spin_us = (uint32_t)n;
        break;
    case OPT_VERIFY:
        o->load.verify = true;
        break;
    case OPT_NO_PREFILL:
        o->load.prefill = false;
        break;
    case OPT_ALLOW_TORN:
        o->load.allow_torn = true;
        break;
    case OPT_MISSING:
        ok = parse_seconds(arg, &s) && s > 0 && s < 4e6;
        o->load.missing_ms = (uint32_t)(s * 1000);
        break;
    case OPT_STOP:
        o->load.stop_on_error = true;
        break;
    case OPT_SEED:
        ok = parse_u64(arg, UINT64_MAX, &o->load.seed) && o->load.seed;
        break;
    case OPT_JSON:
        o->json = true;
        break;
    case OPT_STATUS:
        ok = parse_seconds(arg, &o->status_s) && o->status_s > 0;
        break;
    case OPT_QUIET:
        o->quiet = true;
        break;
    default:
        ok = false;
    }
    return ok;
}

int perf_parse(struct perf_options *o, int argc, char **argv)
{
    int opt, index = 0;

    *o = (struct perf_options){
        .host = {.queues = 1, .depth = 32, .doorbells = NVME_DOORBELLS_SHADOW},
        .load = {.read_percent = 50, .spin_us = 20, .missing_ms = 60000, .prefill = true},
        .bs_bytes = 4096,
    };
    while ((opt = getopt_long(argc, argv, "h", long_options, &index)) != -1) {
        if (opt == OPT_HELP || opt == 'h') {
            fputs(usage_text, stdout);
            return 1;
        }
        if (opt == '?')
            return perf_wrong("unknown option%s%s", "", "") + 1;
        if (!set_option(o, opt, optarg))
            return perf_wrong("--%s: '%s' is not a good value", long_options[index].name,
                              optarg ? optarg : "") +
                   1;
    }
    if (optind < argc)
        return perf_wrong("'%s' is not an option%s", argv[optind], "") + 1;
    if (!o->socket == !o->vuid)
        return perf_wrong("give either --socket or --vuid%s%s", "", "") + 1;
    if (!o->load.ios && !o->load.runtime_ms)
        o->load.runtime_ms = 10000;
    if (!o->load.seed && getrandom(&o->load.seed, sizeof(o->load.seed), 0) != sizeof(o->load.seed))
        o->load.seed = (uint64_t)time(NULL);
    o->load.seed &= INT64_MAX; /* JSON integers */
    o->load.seed |= !o->load.seed;
    return 0;
}

int perf_socket_path(const struct perf_options *o, char *out, size_t size)
{
    const char *xdg = getenv("XDG_RUNTIME_DIR");
    int n;

    if (o->socket)
        n = snprintf(out, size, "%s", o->socket);
    else if (o->run_dir)
        n = snprintf(out, size, "%s/functions/%s/cntrl", o->run_dir, o->vuid);
    else if (geteuid() == 0 || !xdg)
        n = snprintf(out, size, "/run/opensnap/functions/%s/cntrl", o->vuid);
    else
        n = snprintf(out, size, "%s/opensnap/functions/%s/cntrl", xdg, o->vuid);
    return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}
