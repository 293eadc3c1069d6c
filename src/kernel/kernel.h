/*
 * The kernels: what each computes, to the bit. The scalar files (*_ref.c) say the same in code and are the definition; every SIMD tier must give equal
 * results, and tests/kernels compares them for equality.
 *
 * A kernel is a pure leaf: no allocation, no threads, no errors, no globals; it works on the range it is given. Sizes were validated at load.
 * Buffers from pm_calloc are 64-byte aligned; weights in a mapped file too. A kernel never reads or writes outside of the ranges given here.
 *
 * Float rules: binary32, round to nearest even, no contraction. fma(a,b,c) is fused everywhere. NaN and infinity inputs give some result without harm, but
 * not the same one on every tier.
 *
 * ---- linears ----
 *
 * y[m][n] = sum_k x[m][k] * W[n][k] (+ bias[n]). Weights lie in row panels of 16 output rows; N is padded to 16, K to 64 (kp), both with zeros.
 *
 *   w8      [N/16][kp/4][16][4]  int8      row r of panel p, column k: byte ((p*kp/4 + k/4)*16 + r)*4 + k%4
 *   w4      [N/16][kp/8][16][4]  2 x u4    one byte holds column 8j+i in its low nibble and 8j+4+i in its high nibble (i = 0..3), as value+8
 *   f16/bf16 [N/16][k][16]                 K is not padded
 *
 * Activations of integer linears are packed in tiles of `mr` tokens (pm_kernels.mr; the last tile has mt = the remainder):
 *
 *   tile t: [kp/4][mt][4] int8, at byte t*mr*kp;   token m lies in tile m/mr at lane m%mr
 *
 * so for one token the row is plain, and a GEMM reads mt consecutive quads. w4 has two such planes: a16 = 256*hi + lo.
 *
 * Results, for row n and token m; acc are exact integers:
 *   w8, group 0:   acc = sum_k w*a;  y = (float)acc * (w_scale[n] * a_scale[m])
 *   w8, group G:   y = 0; per group g of G columns (32 to 512) ascending: y = fma((float)acc_g, w_scale[n,g] * a_scale[m,g], y)
 *   w4, group 0:   y = 0; per unit u of 128 columns: y = fma((float)acc_u, a_scale[m,u], y);  then y = y * w_scale[n]
 *   w4, group G:   y = 0; per group g of G columns (32, 64, 128): y = fma((float)acc_g, w_scale[n,g] * a_scale[m, g*G/128], y)
 *   f16, bf16:     y = 0; per k ascending: y = fma(w, x, y)
 *   then y = y + bias[n] when bias is not NULL.
 * acc of w4 is sum (u4 - 8) * a16 = 256*sum(u4*hi) + sum(u4*lo) - 8*sum(a16); it fits int32 (128*15*32512 < 2^26).
 * acc of w8 fits int32 because kp <= PM_MAX_K. The last unit of 128 may have 64 columns.
 *
 * Scales: w_scale is [N/16][kp/G][16] when grouped (G > 0), else [N]. a_scale: w8 [m][kp/G] or [m]; w4 [m][n_unit128]. a_sum: the sum of the quantised values
 * over w8: the row or each group; w4: each group of min(G,128) columns, or each 128 when G is 0. The sums are exact.
 */
#ifndef PM_KERNEL_KERNEL_H
#define PM_KERNEL_KERNEL_H

#include "base/cpu.h"

#include <stddef.h>
#include <stdint.h>

#define PM_PANEL 16             /* output rows in a panel */
#define PM_K_ALIGN 64           /* K is padded to this for integer weights */
#define PM_MAX_K 65536          /* 65536 * 255 * 127 < 2^31 */
#define PM_ACT_UNIT 128         /* columns that share one scale of a 16-bit activation */
#define PM_Q8_MAX 127
#define PM_Q16_MAX 32512        /* 127 * 256: both planes stay in [-128, 127] */
#define PM_QUANT_TINY 1e-30f    /* rows whose absmax is below this are zero */
#define PM_KV_PAGE 64           /* tokens in a KV page; also the chunk of the softmax */
#define PM_MAX_HEAD_DIM 256
#define PM_MAX_LATENT 1024      /* components of a latent key */
#define PM_RWKV7_DECAY (-0.60653066f)    /* -e^-0.5 */
#define PM_RWKV7_TINY 1e-12f

struct pm_gemm {
    const void *w;              /* panels */
    const float *w_scale;
    const float *bias;          /* [N padded to 16] or NULL */
    const int8_t *a;            /* packed activations; w4: the high plane */
    const int8_t *a_lo;         /* w4: the low plane */
    const float *a_scale;
    const int32_t *a_sum;
    const float *x;             /* f16, bf16: [m][ldx] */
    size_t ldx;
    float *y;                   /* [m][ldy], ldy >= N padded to 16, rows 64-byte aligned: whole panels are written */
    size_t ldy;
    size_t m;                   /* tokens, >= 1 */
    size_t k, kp;
    size_t group;               /* 0 = one scale per row */
};

/*
 * outer: C += A^T B, the product that calibration, factorisation and error feedback are made of:
 * c[i*ldc + j] = fma(a[k*lda + i], b[k*ldb + j], c[i*ldc + j]) for k ascending. One chain per element, so cutting k into several calls changes nothing.
 */
struct pm_outer {
    float *c;                   /* [m][ldc] */
    const float *a, *b;         /* [k][lda], [k][ldb] */
    size_t ldc, lda, ldb;
    size_t m, n, k;             /* n: a multiple of 16 */
};

/*
 * Quantises one token's row x[k] into its lane of a tile.
 *   absmax over the row (w8, group 0), each group (w8, group G), each 128 columns (q16);  the maximum of |x|, 0 when there is none
 *   absmax < PM_QUANT_TINY: scale 0, values 0.  Else scale = absmax / MAX, inv = MAX / absmax, value = round_to_even(x * inv)
 * Columns k..kp are written as 0.
 *   q16: lo = (int8)(value & 255), hi = (value - lo) / 256.
 */
struct pm_quant {
    size_t k, kp, group;        /* group of the weights, as in pm_gemm */
    size_t stride;              /* bytes from one quad of this token to its next: 4*mt */
    int8_t *dst;                /* first quad of this token; q16: the high plane */
    int8_t *dst_lo;             /* q16 */
    float *scale;               /* [1], [kp/G] or [n_unit128] */
    int32_t *sum;               /* as a_sum for one token */
};

/*
 * hadamard: x[n] in place, in blocks of `block` (a power of two from 2 to 4096 that divides n): stages h = 1, 2, 4, ... < block replace the pair (a, b) at
 * distance h by (a+b, a-b); then every element is multiplied by the float nearest 1/sqrt(block). It is its own inverse up to rounding.
 *
 * rmsnorm: y = (x * r) * w,  r = 1 / sqrt(sum(x*x) / n + eps).  The sum: lane l of 16 takes x[l], x[l+16], ... with lane = fma(x, x, lane) from 0; then the
 * tree: l += l+8 (l < 8), l += l+4 (l < 4), l += l+2 (l < 2), 0 += 1. y may be x.
 *
 * layernorm: mean = sum(x) / n;  d = x - mean;  y = (d * r) * w, r = 1 / sqrt(sum(d*d) / n + eps);  then y = y + b when b is not NULL. Both sums are of 16 lanes
 * and the tree of rmsnorm: lane = lane + x from 0, and lane = fma(d, d, lane) from 0. y may be x.
 *
 * rope: rotates the first n_rot of the d values of each of n_head consecutive heads: pairs (i, i + n_rot/2), with c = cos[i], s = sin[i]:
 * a' = a*c - b*s, b' = b*c + a*s (products and sums rounded separately).
 *
 * swiglu: y = (g / (1 + exp(-g))) * u with pm_expf. y may be gate or up.
 * gelu: y = gelu(x), the form with tanh:  c = (x * x) * x;  t = pm_tanhf(0.7978845608 * fma(0.044715, c, x));  y = (0.5 * x) * (1 + t). y may be x.
 * geglu: y = gelu(g) * u. y may be gate or up.
 * relu2: m = x where x > 0, else +0;  y = m * m. y may be x.
 * softcap: x = cap * pm_tanhf(x / cap) in place, cap > 0.
 * add: y += x.
 *
 * shift: y = fma(prev - x, mix, x): a token's row moved towards that of the token before it. y may be x or prev.
 * tanh: y = pm_tanhf(x).  sigmoid: y = pm_sigmoidf(x). y may be x.
 */

/*
 * ---- KV cache ----
 * A page holds PM_KV_PAGE tokens. The block of one layer and one KV head in it:
 *   K: [PM_KV_PAGE/16][d_k][16]   16 keys side by side, so that one vector holds one component of 16 keys
 *   V: [PM_KV_PAGE][d_vp]         d_vp = d_v rounded up to 16; the padding is written as zero
 * in F32, F16, or int8 with one F32 scale per key and per value (scale = absmax/127, value = round_to_even(x * (127/absmax)), tiny rule as above).
 */
enum pm_kv_kind { PM_KV_KIND_F16 = 0, PM_KV_KIND_F32 = 1, PM_KV_KIND_INT8 = 2 };   /* same numbers as pm_kv_type */

struct pm_kv_block {
    enum pm_kv_kind kind;
    size_t d_k, d_v;
    void *k, *v;                /* of this block */
    float *k_scale, *v_scale;   /* [PM_KV_PAGE]; int8 only */
};

/* Sizes inside a block, all multiples of 64 bytes. */
struct pm_kv_layout {
    size_t v_off, k_scale_off, v_scale_off, block_bytes;
};
struct pm_kv_layout pm_kv_layout_of(enum pm_kv_kind kind, size_t d_k, size_t d_v);

/* kv_put: writes the key k[d_k] and the value v[d_v] of one token into slot (0..PM_KV_PAGE-1) of a block. */

/*
 * attend: causal attention of the heads that share one KV head, for n_tok consecutive tokens of one sequence.
 * Query row (t, g), t < n_tok, g < n_group, is q + t*ldq + g*d_k, already rotated; it has position p = pos0+t. out row is out + t*ldo + g*d_v.
 * It sees keys lo .. p, lo = p + 1 - window where 0 < window < p + 1, else 0: a window counts the query's own key.
 *
 * For one row, with chunks of PM_KV_PAGE keys at multiples of PM_KV_PAGE from position 0 (whatever the window); a chunk of which it sees no key is not there,
 * and the first of the others is its first chunk. A page of which no row sees a key may be gone: neither its memory nor its number is used. Over the keys seen:
 *   s_j = sum_i fma(q_i, K[j][i], s) over i ascending from 0;  int8: then s_j = s_j * k_scale[j];  then s_j = s_j * scale
 *   softcap > 0: then s_j = softcap * tanh(s_j / softcap), pm_tanhf
 *   M' = max(M, max_j s_j); first chunk: L = 0, O = 0; later: c = exp(M - M'), L = L * c, O = O * c (when M' == M, c is exactly 1: it may be skipped)
 *   p_j = exp(s_j - M'); the sum of p: lane j%16 adds p_j for j ascending (absent keys add 0, from 0), then the tree of rmsnorm; L = L + sum
 *   int8: p_j = p_j * v_scale[j];  O_d = fma(p_j, V[j][d], O_d) for j ascending
 * and at the end out_d = O_d * (1 / L).
 * exp is pm_expf. It does not depend on n_tok, so a result is the same for every split of a prompt. pm_expf(0) is exactly 1.
 */
struct pm_attend {
    enum pm_kv_kind kind;
    const float *q;
    size_t ldq;
    float *out;
    size_t ldo;
    size_t n_tok, n_group, d_k, d_v;
    size_t pos0;
    float scale;                /* 1/sqrt(d_k) as a rule */
    size_t window;              /* keys that a row sees at most; 0 = all before it */
    float softcap;              /* 0 = none */
    const uint8_t *pool;        /* block of page i: pool + page[i]*page_bytes + block_off */
    const uint32_t *page;
    size_t page_bytes, block_off;
    struct pm_kv_layout layout;
};

/*
 * ---- latent attention ----
 * All heads of a layer share one key per token, and its value is the first d_v components of the key: the cache holds it once. The block of one layer:
 *   [PM_KV_PAGE][d_kp]            d_kp = d_k rounded up to 16; the padding is written as zero
 *   [PM_KV_PAGE][2]               int8 only, F32: the scale of components 0 .. d_v-1, which models norm, and that of the others, which they do not
 * in F32, F16, or int8 (scale = absmax/127, value = round_to_even(x * (127/absmax)), tiny rule as above; the scale of no components is 0).
 *
 * latent_put: writes the key x[d_k] of one token into slot (0..PM_KV_PAGE-1) of a block; of struct pm_kv_block it uses kind, d_k, d_v, k and k_scale.
 *
 * attend_latent: causal attention of n_head query heads for n_tok consecutive tokens of one sequence. Query row (t, h), t < n_tok, h < n_head, is q + t*ldq + h*q_step, already rotated; it
 * has position p = pos0+t and sees keys 0 .. p. With K[j][i] what is stored, for int8 (float)value * scale, a row's result is that of attend without window and cap for an F32 cache that
 * holds the keys K[j][0 .. d_k-1] and the values K[j][0 .. d_v-1]. out row is out + t*ldo + h*out_step: d_v values, then zeros up to a multiple of 16.
 */
struct pm_attend_latent {
    enum pm_kv_kind kind;
    const float *q;
    size_t ldq, q_step;
    float *out;
    size_t ldo, out_step;
    size_t n_tok, n_head, d_k, d_v;     /* d_v <= d_k <= PM_MAX_LATENT */
    size_t pos0;
    float scale;
    const uint8_t *pool;                /* block of page i: pool + page[i]*page_bytes + block_off */
    const uint32_t *page;
    size_t page_bytes, block_off;
    struct pm_kv_layout layout;
    float *work;                        /* [pm_latent_work(n_tok * n_head, d_k)], overwritten */
};
/* k_scale_off is where the scales lie; v_off and v_scale_off say the same of the values. */
struct pm_kv_layout pm_kv_latent_layout(enum pm_kv_kind kind, size_t d_k);
/* Floats of work: a page twice, and two per query row. */
static inline size_t pm_latent_work(size_t n_rows, size_t d_k) { return 2 * PM_KV_PAGE * ((d_k + 15) / 16 * 16) + 2 * n_rows; }

/*
 * rwkv7: the time mixing of one head, for n_tok consecutive tokens of one sequence, one after the other (RWKV-7 "Goose", Peng et al., 2025). Its memory is the
 * matrix T of n keys by n values, read and written. For one token, with i over values and j over keys; lanes are those of rmsnorm, sums over j are fma chains from 0:
 *   w = pm_expf(-0.60653066 * pm_sigmoidf(w));  a = pm_sigmoidf(a)
 *   c = k * k_k;  q = c * (1 / max(sqrt(sum(c*c)), 1e-12))                the sum: 16 lanes and the tree
 *   k = k * fma(a - 1, k_a, 1);  b = q * a
 *   v = fma(v_first - v, pm_sigmoidf(v_gate), v) when v_first is not NULL
 *   s_i = sum_j fma(T[j][i], q_j, s)
 *   T[j][i] = fma(v_i, k_j, fma(-s_i, b_j, T[j][i] * w_j))
 *   y_i = sum_j fma(T[j][i], r_j, y)                                      the new T
 *   z = layernorm(y) with weights norm and norm_bias, and eps
 *   out = fma(sum(fma(r*k, r_k, lane)), v, z) * g                         the sum: 16 lanes and the tree
 * What a token gives does not depend on how many follow it in the call, so a result is the same for every split of a prompt.
 */
struct pm_rwkv7 {
    size_t n_tok, n;                    /* n: head size, a multiple of 16, at most PM_MAX_HEAD_DIM */
    const float *r, *w, *k, *v, *a;     /* [n_tok][ld], n values each */
    const float *v_first, *v_gate;      /* [n_tok][ld_first], [n_tok][ld], or both NULL */
    const float *g;
    size_t ld, ld_first;
    const float *k_k, *k_a, *r_k, *norm, *norm_bias;    /* [n] */
    float eps;
    float *state;                       /* T: [n][n] */
    float *out;                         /* [n_tok][ld]; may be g */
};

/*
 * peak_int8 / peak_fma: n rounds of the tier's dot or FMA instruction on registers, as many independent chains as it takes to reach the peak; *ops is what was done, two per
 * product. peak_read: reads `bytes` (multiple of 4096) as fast as one core can, *sum is the sum of its 32-bit words modulo 2^32.
 */

struct pm_kernels {
    enum pm_isa isa;            /* the tier asked for */
    size_t mr;                  /* tokens in an activation tile, 1..16 */
#define PM_KERNEL(name, args) void(*name) args;
#include "kernel/list.inc"
#undef PM_KERNEL
    enum pm_isa served[28];     /* tier that filled kernel i of list.inc */
};

/* Tiers in this binary that this CPU can run, as a mask of 1 << pm_isa. */
uint32_t pm_kernels_available(void);
/* Fills the table from scalar up to `isa`; isa must be available. */
void pm_kernels_init(struct pm_kernels *k, enum pm_isa isa);
/* The highest available tier. */
enum pm_isa pm_kernels_best(void);

/* Where lane m of a packed activation starts, and its stride, for m_total tokens. */
static inline size_t pm_tile_offset(size_t m, size_t m_total, size_t mr, size_t kp, size_t *stride)
{
    size_t t = m / mr, mt = m_total - t * mr < mr ? m_total - t * mr : mr;
    *stride = 4 * mt;
    return t * mr * kp + 4 * (m % mr);
}
/* Columns per a_sum entry, and entries per token. */
static inline size_t pm_sum_unit_w4(size_t group) { return group ? group : PM_ACT_UNIT; }
static inline size_t pm_units(size_t kp, size_t unit) { return (kp + unit - 1) / unit; }

#endif
