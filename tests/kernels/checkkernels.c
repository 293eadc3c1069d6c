/*
 * checkkernels: every kernel of every tier that this CPU can run, compared bit for bit with the scalar one.
 *
 * Owns: options, the loop over list.inc, what the table itself must satisfy, and the digests: for the default seed the scalar outputs of each op have a known
 * digest (digest.inc), so x86 and ARM are compared although they never meet. After a deliberate change of cases or contract: checkkernels --digest > digest.inc.
 */
#include "check.h"

#include <getopt.h>
#include <stdlib.h>
#include <strings.h>

#define SEED 20250101u

static const struct {
    const char *name;
    void (*check)(struct ck *c);
    void (*bench)(struct ck *c);
} ops[] = {
#define PM_KERNEL(name, args) { #name, ck_check_##name, ck_bench_##name },
#include "kernel/list.inc"
#undef PM_KERNEL
};

static const struct {
    const char *name;
    uint64_t digest;
} golden[] = {
#define DIGEST(name, value) { #name, value },
#include "digest.inc"
#undef DIGEST
};

static const char usage[] =
    "usage: checkkernels [OPTION]...\n"
    "Compares every kernel of every tier that this CPU can run with the scalar one, bit for bit.\n"
    "  --bench        time them instead: median of one call, per unit of work, and how many times faster than scalar\n"
    "  --op NAME      only this kernel (see --list)\n"
    "  --isa NAME     only this tier: scalar, avx2, avxvnni, avx512vnni, neon, dotprod\n"
    "  --seed N       other random cases\n"
    "  --list         the kernels, and which tier serves each on this CPU\n"
    "  --digest       print digest.inc for the default seed\n"
    "  --help         this text\n";

struct options {
    bool bench, list, digest;
    const char *op, *isa;
    uint64_t seed;
};

static void parse(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        { "bench", no_argument, NULL, 'b' }, { "op", required_argument, NULL, 'o' }, { "isa", required_argument, NULL, 'i' },  { "seed", required_argument, NULL, 's' },
        { "list", no_argument, NULL, 'l' },  { "digest", no_argument, NULL, 'd' },   { "help", no_argument, NULL, 'h' },       { NULL, 0, NULL, 0 },
    };
    *o = (struct options){ .seed = SEED };
    for (int ch; (ch = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        char *end = NULL;
        switch (ch) {
        case 'b': o->bench = true; break;
        case 'o': o->op = optarg; break;
        case 'i': o->isa = optarg; break;
        case 's':
            o->seed = strtoull(optarg, &end, 0);
            if (end == optarg || *end) {
                fprintf(stderr, "checkkernels: --seed takes a number, not '%s'\n", optarg);
                exit(2);
            }
            break;
        case 'l': o->list = true; break;
        case 'd': o->digest = true; break;
        case 'h': fputs(usage, stdout); exit(0);
        default: fputs(usage, stderr); exit(2);
        }
    }
    if (optind < argc) {
        fprintf(stderr, "checkkernels: unexpected argument '%s'\n%s", argv[optind], usage);
        exit(2);
    }
}

/* The tiers asked for; exits when the name is none or this CPU lacks it (77 is "skipped" to Meson). */
static uint32_t tier_mask(const char *name)
{
    uint32_t have = pm_kernels_available();
    if (!name) return have & ~1u;
    for (int isa = 0; isa < PM_ISA_COUNT; isa++) {
        if (strcasecmp(pm_isa_name((enum pm_isa)isa), name)) continue;
        if (have & 1u << isa) return 1u << isa & ~1u;
        fprintf(stderr, "checkkernels: this CPU or binary has no tier %s\n", name);
        exit(77);
    }
    fprintf(stderr, "checkkernels: no tier is called '%s'\n", name);
    exit(2);
}

/* What holds for the table as a whole. */
static size_t check_tables(const struct ck *c)
{
    size_t bad = 0;
    for (int isa = 0; isa < PM_ISA_COUNT; isa++) {
        const struct pm_kernels *k = &c->table[isa];
        if (!(pm_kernels_available() & 1u << isa)) continue;
        if (k->isa != (enum pm_isa)isa || k->mr < 1 || k->mr > 16) {
            fprintf(stderr, "FAIL table %s: isa %d, mr %zu\n", pm_isa_name((enum pm_isa)isa), (int)k->isa, k->mr);
            bad++;
        }
        for (int op = 0; op < CK_N_OP; op++) {
            enum pm_isa by = k->served[op];
            /* There are CPUs with AVX-512 VNNI and without AVX-VNNI: the higher tier may not lean on the lower one. */
            if (by <= (enum pm_isa)isa && !(isa == PM_ISA_AVX512 && by == PM_ISA_AVXVNNI)) continue;
            fprintf(stderr, "FAIL table %s: %s is served by %s\n", pm_isa_name((enum pm_isa)isa), ops[op].name, pm_isa_name(by));
            bad++;
        }
    }
    return bad;
}

static void list(const struct ck *c)
{
    printf("%-12s", "");
    for (int isa = 0; isa < PM_ISA_COUNT; isa++)
        if (pm_kernels_available() & 1u << isa) printf(" %-11s", pm_isa_name((enum pm_isa)isa));
    printf("\n%-12s", "mr");
    for (int isa = 0; isa < PM_ISA_COUNT; isa++)
        if (pm_kernels_available() & 1u << isa) printf(" %-11zu", c->table[isa].mr);
    for (int op = 0; op < CK_N_OP; op++) {
        printf("\n%-12s", ops[op].name);
        for (int isa = 0; isa < PM_ISA_COUNT; isa++)
            if (pm_kernels_available() & 1u << isa) printf(" %-11s", pm_isa_name(c->table[isa].served[op]));
    }
    putchar('\n');
}

static void run_op(struct ck *c, const struct options *o, int op)
{
    size_t fails = c->n_fail;
    c->op = (enum ck_op)op;
    c->seed = o->seed;
    c->rng = pm_rng_at(o->seed, (uint64_t)op);
    c->digest = 0;
    memset(c->n_case, 0, sizeof c->n_case);
    memset(c->n_bad, 0, sizeof c->n_bad);
    if (o->bench) {
        ops[op].bench(c);
        return;
    }
    ops[op].check(c);
    if (o->digest) {
        printf("DIGEST(%s, 0x%016llxu)\n", ops[op].name, (unsigned long long)c->digest);
        return;
    }
    if (o->seed == SEED) {
        uint64_t want = 0;
        for (size_t i = 0; i < sizeof golden / sizeof golden[0]; i++)
            if (!strcmp(golden[i].name, ops[op].name)) want = golden[i].digest;
        if (want != c->digest) {
            fprintf(stderr, "FAIL %s scalar: digest of all outputs is %016llx, digest.inc has %016llx\n", ops[op].name, (unsigned long long)c->digest, (unsigned long long)want);
            c->n_fail++;
        }
    }
    printf("%-4s %-10s", c->n_fail == fails ? "ok" : "FAIL", ops[op].name);
    for (int isa = 0; isa < PM_ISA_COUNT; isa++)
        if (c->n_case[isa]) printf("  %s %zu%s", pm_isa_name((enum pm_isa)isa), c->n_case[isa], c->n_bad[isa] ? " (wrong)" : "");
    putchar('\n');
    fflush(stdout);
}

int main(int argc, char **argv)
{
    struct options o;
    parse(argc, argv, &o);
    struct ck c = { .bench = o.bench, .tiers = tier_mask(o.isa), .scratch_cap = 64u << 20 };
    pm_error err = { 0 };
    c.scratch = pm_calloc(c.scratch_cap, 1, &err);
    if (!c.scratch) {
        fprintf(stderr, "checkkernels: %s\n", err.msg);
        return 2;
    }
    for (int isa = 0; isa < PM_ISA_COUNT; isa++)
        if (pm_kernels_available() & 1u << isa) pm_kernels_init(&c.table[isa], (enum pm_isa)isa);
    if (o.list) {
        list(&c);
        free(c.scratch);
        return 0;
    }
    c.n_fail = check_tables(&c);
    int n_run = 0;
    for (int op = 0; op < CK_N_OP; op++) {
        if (o.op && strcmp(o.op, ops[op].name)) continue;
        run_op(&c, &o, op);
        n_run++;
    }
    if (!n_run) fprintf(stderr, "checkkernels: no kernel is called '%s'\n", o.op);
    else if (c.n_fail) fprintf(stderr, "checkkernels: %zu failures, --seed %llu\n", c.n_fail, (unsigned long long)o.seed);
    free(c.scratch);
    free(c.want);
    return !n_run ? 2 : c.n_fail != 0;
}
