/*
 * Owns: the machinery of the kernel tests: buffers between guard pages, running a case on every tier, comparing, timing, and the generators of values.
 *
 *      PROT_NONE | p .................. | canary ... | PROT_NONE        at the start: p is the first byte of the map
 *      PROT_NONE | ... canary | .................. p | PROT_NONE        at the end: nothing follows but what alignment asks for
 *
 * A stray read or write of the guard page raises a signal, which is caught and counted against the tier at work. Around each buffer up to CANARY bytes hold a
 * pattern that must survive. Inputs are compared with their masters after each call. Pages are mapped once and reused: a case costs copies, not system calls.
 *
 * Values come from integers only, so a seed gives the same cases on every machine, and the scalar outputs have the same digest everywhere.
 */
#include "check.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define CANARY 256
#define MAX_SHOWN 5     /* failures shown per op and tier */

/* ---- buffers ---- */

static uint8_t pattern(size_t i)
{
    return (uint8_t)(0xA5u ^ (i * 29u));
}

static void die(const char *what)
{
    perror(what);
    exit(2);
}

static void map_buf(struct ck_buf *b, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), need = pm_round_up(bytes + CANARY, page);
    if (b->map && need <= b->map_bytes) return;
    if (b->map) munmap(b->map - page, b->map_bytes + 2 * page);
    uint8_t *m = mmap(NULL, need + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (m == MAP_FAILED) die("mmap");
    if (mprotect(m, page, PROT_NONE) || mprotect(m + page + need, page, PROT_NONE)) die("mprotect");
    b->map = m + page;
    b->map_bytes = need;
}

/* The bytes of the map that are near the buffer and not in it: [*before, p) and [p + bytes, *after). */
static void around(const struct ck_buf *b, uint8_t **before, uint8_t **after)
{
    uint8_t *end = b->map + b->map_bytes;
    *before = b->p - b->map > CANARY ? b->p - CANARY : b->map;
    *after = end - (b->p + b->bytes) > CANARY ? b->p + b->bytes + CANARY : end;
}

static struct ck_buf *place(struct ck *c, const char *name, size_t bytes, size_t align)
{
    if (c->n_buf == CK_N_BUF) {
        fprintf(stderr, "checkkernels: more than %d buffers in one call\n", CK_N_BUF);
        exit(2);
    }
    struct ck_buf *b = &c->buf[c->n_buf++];
    map_buf(b, bytes);
    b->name = name;
    b->bytes = bytes;
    b->p = c->at_end ? b->map + ((b->map_bytes - bytes) & ~(align - 1)) : b->map;
    b->master = NULL;
    b->output = false;
    uint8_t *before, *after;
    around(b, &before, &after);
    for (uint8_t *q = before; q < b->p; q++) *q = pattern((size_t)(q - b->map));
    for (uint8_t *q = b->p + bytes; q < after; q++) *q = pattern((size_t)(q - b->map));
    return b;
}

const void *ck_in(struct ck *c, const char *name, const void *master, size_t bytes, size_t align)
{
    struct ck_buf *b = place(c, name, bytes, align);
    memcpy(b->p, master, bytes);
    b->master = master;
    return b->p;
}

void *ck_inout(struct ck *c, const char *name, const void *master, size_t bytes, size_t align, enum ck_as as)
{
    struct ck_buf *b = place(c, name, bytes, align);
    memcpy(b->p, master, bytes);
    b->output = true;
    b->as = as;
    return b->p;
}

void *ck_out(struct ck *c, const char *name, size_t bytes, size_t align, enum ck_as as)
{
    struct ck_buf *b = place(c, name, bytes, align);
    for (size_t i = 0; i < bytes; i++) b->p[i] = pattern(i);
    b->output = true;
    b->as = as;
    return b->p;
}

/* ---- scratch ---- */

void *ck_alloc(struct ck *c, size_t n, size_t size)
{
    size_t bytes = pm_round_up(n * size, 64);
    if (c->scratch_cap - c->scratch_used < bytes) {
        fprintf(stderr, "checkkernels: scratch of %zu bytes is too small\n", c->scratch_cap);
        exit(2);
    }
    void *p = c->scratch + c->scratch_used;
    c->scratch_used += bytes;
    return memset(p, 0, bytes);
}

size_t ck_mark(const struct ck *c)
{
    return c->scratch_used;
}

void ck_release(struct ck *c, size_t mark)
{
    c->scratch_used = mark;
}

/* ---- judging ---- */

static const char *op_name(enum ck_op op)
{
    static const char *const names[] = {
#define PM_KERNEL(name, args) #name,
#include "kernel/list.inc"
#undef PM_KERNEL
    };
    return names[op];
}

void ck_fail(struct ck *c, const char *fmt, ...)
{
    c->n_fail++;
    if (c->n_bad[c->isa]++ >= MAX_SHOWN) return;
    va_list ap;
    va_start(ap, fmt);
    fprintf(stderr, "FAIL %s %s [%s; buffers at the %s; --seed %llu]: ", op_name(c->op), pm_isa_name(c->isa), c->label, c->at_end ? "end" : "start", (unsigned long long)c->seed);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
}

static void check_surroundings(struct ck *c)
{
    for (size_t i = 0; i < c->n_buf; i++) {
        const struct ck_buf *b = &c->buf[i];
        uint8_t *before, *after;
        around(b, &before, &after);
        for (const uint8_t *q = before; q < after; q++) {
            if (q == b->p) q += b->bytes;
            if (q == after) break;
            if (*q == pattern((size_t)(q - b->map))) continue;
            ck_fail(c, "wrote byte %td of %s, which has %zu", q - b->p, b->name, b->bytes);
            break;
        }
        if (b->master && memcmp(b->p, b->master, b->bytes)) ck_fail(c, "wrote into its input %s", b->name);
    }
}

static bool same_float(uint32_t a, uint32_t b)
{
    return a == b || ((a & 0x7FFFFFFFu) > 0x7F800000u && (b & 0x7FFFFFFFu) > 0x7F800000u);
}

static void compare(struct ck *c, const struct ck_buf *b, const uint8_t *want)
{
    if (b->as == CK_HARM || !memcmp(b->p, want, b->bytes)) return;
    for (size_t i = 0; b->as == CK_F32 && i + 4 <= b->bytes; i += 4) {
        uint32_t got, ref;
        memcpy(&got, b->p + i, 4);
        memcpy(&ref, want + i, 4);
        if (same_float(got, ref)) continue;
        ck_fail(c, "%s[%zu] is %.9g (%08x), scalar %.9g (%08x)", b->name, i / 4, (double)pm_f32_from_bits(got), got, (double)pm_f32_from_bits(ref), ref);
        return;
    }
    for (size_t i = 0; b->as == CK_BYTES && i < b->bytes; i++) {
        if (b->p[i] == want[i]) continue;
        ck_fail(c, "%s byte %zu is %d, scalar %d", b->name, i, (int8_t)b->p[i], (int8_t)want[i]);
        return;
    }
}

static void keep_outputs(struct ck *c)
{
    c->want_bytes = 0;
    for (size_t i = 0; i < c->n_buf; i++) {
        const struct ck_buf *b = &c->buf[i];
        if (!b->output) continue;
        if (c->want_bytes + b->bytes > c->want_cap) {
            c->want_cap = 2 * (c->want_bytes + b->bytes);
            c->want = realloc(c->want, c->want_cap);
            if (!c->want) die("realloc");
        }
        memcpy(c->want + c->want_bytes, b->p, b->bytes);
        c->want_bytes += b->bytes;
        if (b->as == CK_HARM) continue;
        for (size_t j = 0; j < b->bytes; j += 4) {
            uint32_t w = 0;
            memcpy(&w, b->p + j, pm_min_size(4, b->bytes - j));
            if (b->as == CK_F32 && same_float(w, 0x7FC00000u)) w = 0x7FC00000u;
            c->digest = pm_rng_mix(c->digest ^ w) + j;
        }
    }
}

static void compare_outputs(struct ck *c)
{
    size_t at = 0, bad = c->n_fail;
    for (size_t i = 0; i < c->n_buf; i++) {
        if (!c->buf[i].output) continue;
        if (c->n_fail == bad) compare(c, &c->buf[i], c->want + at);
        at += c->buf[i].bytes;
    }
}

/* ---- running ---- */

static sigjmp_buf escape;
static volatile sig_atomic_t armed, caught;

static void on_signal(int sig)
{
    if (!armed) {
        signal(sig, SIG_DFL);
        raise(sig);
        return;
    }
    caught = sig;
    siglongjmp(escape, 1);
}

static void arm(void)
{
    static const int sigs[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE };
    struct sigaction sa = { .sa_handler = on_signal, .sa_flags = SA_NODEFER };
    for (size_t i = 0; i < sizeof sigs / sizeof sigs[0]; i++) sigaction(sigs[i], &sa, NULL);
    armed = 1;
}

/* One call of one tier. False when it was cut short by a signal. */
static bool run_once(struct ck *c, ck_body body, const void *arg, enum pm_isa isa, bool at_end)
{
    static const char *volatile where;
    c->isa = isa;
    c->at_end = at_end;
    c->n_buf = 0;
    c->n_case[isa]++;
    size_t bad = c->n_fail;
    if (sigsetjmp(escape, 1)) {
        where = caught == SIGILL ? "an instruction that this CPU does not have" : caught == SIGFPE ? "an arithmetic trap" : "memory outside of its buffers";
        ck_fail(c, "signal %d: %s", (int)caught, where);
        return false;
    }
    arm();
    body(c, &c->table[isa], arg);
    armed = 0;
    check_surroundings(c);
    return c->n_fail == bad;
}

void ck_case(struct ck *c, ck_body body, const void *arg, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->label, sizeof c->label, fmt, ap);
    va_end(ap);
    if (c->bench) return;
    size_t mark = ck_mark(c);
    bool ok = run_once(c, body, arg, PM_ISA_SCALAR, c->n_all++ & 1);
    if (ok) keep_outputs(c);
    ck_release(c, mark);
    for (int isa = PM_ISA_SCALAR + 1; isa < PM_ISA_COUNT; isa++) {
        if (!(c->tiers & 1u << isa) || c->table[isa].served[c->op] != (enum pm_isa)isa) continue;
        for (int at_end = 0; at_end < 2; at_end++) {
            if (run_once(c, body, arg, (enum pm_isa)isa, at_end) && ok) compare_outputs(c);
            ck_release(c, mark);
        }
    }
}

/* ---- timing ---- */

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

#define SAMPLE_NS 200000u   /* a sample is as many calls as take this long */
#define N_SAMPLE 31

void ck_call_begin(struct ck *c)
{
    c->calls = 0;
    c->n_sample = 0;
    c->batch = 1;
    if (c->bench) c->t0 = now_ns();
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bool ck_call_again(struct ck *c)
{
    if (!c->bench) return false;
    if (++c->calls < c->batch) return true;
    uint64_t t = now_ns(), took = t - c->t0;
    if (took < SAMPLE_NS && c->n_sample == 0) c->batch *= 2;    /* still warming up */
    else c->sample[c->n_sample++] = (double)took / (double)c->calls;
    c->calls = 0;
    if (c->n_sample == N_SAMPLE) {
        qsort(c->sample, N_SAMPLE, sizeof *c->sample, by_size);
        c->ns = c->sample[N_SAMPLE / 2];
        return false;
    }
    c->t0 = now_ns();
    return true;
}

static void bench_tier(struct ck *c, enum pm_isa isa, ck_body body, const void *arg, double work, const char *unit)
{
    size_t mark = ck_mark(c);
    if (isa && (!(c->tiers & 1u << isa) || c->table[isa].served[c->op] != isa)) return;
    bool ok = run_once(c, body, arg, isa, true);
    ck_release(c, mark);
    if (!ok) return;
    double rate = work / c->ns;     /* units per ns */
    if (!isa) c->scalar_rate = rate;
    printf("%-10s %-42s %-10s %12.1f ns %9.4f ns/%-5s %8.2f G%s/s %7.1fx\n", op_name(c->op), c->label, pm_isa_name(isa), c->ns, 1 / rate, unit, rate, unit, rate / c->scalar_rate);
    fflush(stdout);
}

void ck_bench_one(struct ck *c, enum pm_isa isa, ck_body body, const void *arg, double work, const char *unit, const char *label)
{
    snprintf(c->label, sizeof c->label, "%s", label);
    bench_tier(c, isa, body, arg, work, unit);
}

void ck_bench(struct ck *c, ck_body body, const void *arg, double work, const char *unit, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->label, sizeof c->label, fmt, ap);
    va_end(ap);
    for (int isa = 0; isa < PM_ISA_COUNT; isa++) bench_tier(c, (enum pm_isa)isa, body, arg, work, unit);
}

/* ---- values ---- */

uint32_t ck_u32(struct ck *c)
{
    return (uint32_t)(pm_rng_next(&c->rng) >> 32);
}

size_t ck_below(struct ck *c, size_t n)
{
    return (size_t)((uint64_t)ck_u32(c) * n >> 32);
}

const char *ck_fill_name(enum ck_fill f)
{
    static const char *const names[CK_N_FILL] = { "unit", "wide", "tiny", "edge", "any", "zero", "hostile" };
    return names[f];
}

static const float edges[] = {
    0.0f, -0.0f, 0x1p-149f, -0x1p-149f, 0x1.fffffcp-127f, 0x1p-126f, -0x1p-126f, 1e-30f, 0.99999994e-30f, -1.0000001e-30f, 0x1p-25f, 0x1.000002p-25f, 0x1p-24f, -0x1p-14f, 0x1.ffcp-15f,
    0x1.ffep-15f, 0.5f, 0.99999994f, 1.0f, -1.0f, 1.0000001f, 1.5f, -2.5f, 126.5f, 127.0f, -127.0f, 127.5f, 32511.5f, 32512.0f, -32512.0f, 65504.0f, 65519.996f, -65520.0f, 65536.0f, 8388607.5f,
    16777216.0f, -3e9f, 1e20f, -1e38f, 3.402823466e38f,
};

float *ck_floats(struct ck *c, size_t n, enum ck_fill f)
{
    float *p = ck_alloc(c, n, sizeof *p);
    for (size_t i = 0; i < n; i++) {
        uint32_t u = ck_u32(c), sign = u & 0x80000000u, man = u & 0x7FFFFFu, exp = 0;
        p[i] = (float)((int32_t)(u >> 7) - (1 << 24)) * 0x1p-24f;
        switch (f) {
        case CK_WIDE: exp = 87 + (u >> 23) % 81; break;
        case CK_TINY: man = ck_below(c, 4) ? man >> ck_below(c, 23) : 0; break;
        case CK_ANY: exp = (u >> 23 & 255) % 255; break;
        case CK_EDGE: p[i] = CK_PICK(c, edges); continue;
        case CK_ZERO: man = 0; break;
        case CK_HOSTILE:
            if (ck_below(c, 8)) continue;
            man = ck_below(c, 2) ? man : 0;
            exp = 255;
            break;
        default: continue;
        }
        p[i] = pm_f32_from_bits(sign | exp << 23 | man);
    }
    return p;
}

float *ck_scales(struct ck *c, size_t n, enum ck_fill f)
{
    static const float odd[] = { 0.0f, 0x1p-149f, 0x1p-130f, 1e-30f, 0x1p-8f, 1.0f, 3.0f, 1e10f, 1e30f };
    if (f == CK_TINY) {
        float *t = ck_floats(c, n, f);
        for (size_t i = 0; i < n; i++) t[i] = fabsf(t[i]);
        return t;
    }
    float *p = ck_alloc(c, n, sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = f == CK_EDGE ? CK_PICK(c, odd) : (float)(ck_u32(c) >> 8 | 1) * 0x1p-31f;
    return p;
}
