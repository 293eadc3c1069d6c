/*
 * Owns: sampling. sampler.h has the order of operations and the seed rule.
 * Idea: candidates become a heap in linear time and are taken from it best first only as far as a rule or the draw needs them, so nothing is sorted that is not used
 * and nothing is allocated. What was taken lies at the end of the same array, so the heap shrinks from the back.
 * Mirostat: Basu et al., Mirostat: a neural text decoding algorithm that directly controls perplexity, 2021 (versions 1 and 2).
 */
#include "engine/sampler.h"

#include "base/detmath.h"
#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

#define SPAN 25.0f      /* temperatures below the best at which a candidate is dropped */
#define LN2 0.69314718055994530942

pm_status pm_sampler_create(struct pm_sampler *s, size_t n_vocab, pm_error *err)
{
    *s = (struct pm_sampler){ .n_vocab = n_vocab };
    s->c = pm_calloc(n_vocab, sizeof *s->c, err);
    s->count = pm_calloc(n_vocab, sizeof *s->count, err);
    if (s->c && s->count) return PM_OK;
    pm_sampler_free(s);
    return PM_ERR_MEMORY;
}

void pm_sampler_free(struct pm_sampler *s)
{
    if (!s) return;
    free(s->c);
    free(s->count);
    *s = (struct pm_sampler){ 0 };
}

int32_t pm_argmax(const float *logits, size_t n)
{
    float lane[16], best;       /* lanes, so that the compiler may use vectors */
    size_t i = 0;
    for (int k = 0; k < 16; k++) lane[k] = logits[0];
    for (; i + 16 <= n; i += 16)
        for (size_t k = 0; k < 16; k++) lane[k] = logits[i + k] > lane[k] ? logits[i + k] : lane[k];
    best = lane[0];
    for (int k = 1; k < 16; k++) best = lane[k] > best ? lane[k] : best;
    for (; i < n; i++) best = logits[i] > best ? logits[i] : best;
    for (i = 0; i < n; i++)
        if (logits[i] == best) return (int32_t)i;
    return 0;       /* NaN everywhere */
}

static bool better(const struct pm_candidate *a, const struct pm_candidate *b)
{
    return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static void sift(struct pm_candidate *c, size_t n, size_t i)
{
    struct pm_candidate x = c[i];
    for (size_t kid; (kid = 2 * i + 1) < n; i = kid) {
        if (kid + 1 < n && better(&c[kid + 1], &c[kid])) kid++;
        if (!better(&c[kid], &x)) break;
        c[i] = c[kid];
    }
    c[i] = x;
}

/* The penalised logits as candidates. */
static void penalise(struct pm_sampler *s, const pm_sampling_params *p, const float *logits, const int32_t *history, size_t n)
{
    bool on = (p->repeat_penalty > 0 && p->repeat_penalty != 1) || p->frequency_penalty != 0 || p->presence_penalty != 0;
    size_t window = p->penalty_last_n < 0 ? n : pm_min_size(n, p->penalty_last_n ? (size_t)p->penalty_last_n : 64);
    for (size_t i = 0; i < s->n_vocab; i++) s->c[i] = (struct pm_candidate){ .logit = logits[i], .id = (int32_t)i };
    if (!on) return;
    for (size_t i = n - window; i < n; i++)
        if (history[i] >= 0 && (size_t)history[i] < s->n_vocab) s->count[history[i]]++;
    float repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1;
    for (size_t i = n - window; i < n; i++) {
        int32_t id = history[i];
        if (id < 0 || (size_t)id >= s->n_vocab || !s->count[id]) continue;
        float x = s->c[id].logit;
        x = x > 0 ? x / repeat : x * repeat;
        s->c[id].logit = x - (float)s->count[id] * p->frequency_penalty - p->presence_penalty;
        s->count[id] = 0;
    }
}

/* Unnormalised probability: 1 for the best candidate. */
static double weight(const struct pm_sampler *s, float logit)
{
    return pm_exp(((double)logit - s->top) / s->temperature);
}

/* Keeps the candidates within SPAN temperatures of the best and makes them a heap. */
static void gather(struct pm_sampler *s, float best, float temperature)
{
    size_t n = 0;
    for (size_t i = 0; i < s->n_vocab; i++)
        if (s->c[i].logit >= best - SPAN * temperature) s->c[n++] = s->c[i];
    s->n = s->n_heap = n;
    s->top = (double)best;
    s->temperature = (double)temperature;
}

static void heapify(struct pm_sampler *s)
{
    for (size_t i = s->n / 2; i-- > 0;) sift(s->c, s->n, i);
}

/* The i-th best candidate (0 = the best), i < n. Its p is its weight. */
static const struct pm_candidate *nth(struct pm_sampler *s, size_t i)
{
    while (s->n - s->n_heap <= i) {
        struct pm_candidate best = s->c[0];
        best.p = weight(s, best.logit);
        s->c[0] = s->c[--s->n_heap];
        if (s->n_heap) sift(s->c, s->n_heap, 0);
        s->c[s->n_heap] = best;
    }
    return &s->c[s->n - 1 - i];
}

/* Weight of all candidates together, in the order of their ids. Call before heapify. */
static double weight_of_all(const struct pm_sampler *s)
{
    double sum = 0;
    for (size_t i = 0; i < s->n; i++) sum += weight(s, s->c[i].logit);
    return sum;
}

/* One of the n best, whose weights sum to total. */
static size_t draw(struct pm_sampler *s, size_t n, double total, uint64_t seed)
{
    double u = (double)(pm_rng_at(seed, s->n_draws++) >> 11) * 0x1p-53, sum = 0;
    for (size_t i = 0; i < n; i++)
        if ((sum += nth(s, i)->p) > u * total) return i;
    return n - 1;
}

static size_t mirostat_1(struct pm_sampler *s)
{
    double tb = 0, tt = 0;
    for (size_t i = 0; i + 1 < s->n && i < 99; i++) {      /* Zipf exponent from the most probable tokens */
        double p = nth(s, i)->p, t = pm_log((double)(i + 2) / (double)(i + 1)), b = pm_log(p / nth(s, i + 1)->p);
        tb += t * b;
        tt += t * t;
    }
    double exponent = tt > 0 ? tb / tt : 1, e = exponent - 1;
    if (!(exponent > 0)) return 1;
    double denominator = 1 - pm_pow((double)s->n_vocab, -e), ratio = e * pm_pow(2, s->mu) / denominator;
    if (!(ratio > 0)) return 1;
    double k = pm_pow(ratio, 1 / exponent);
    return k < 1 ? 1 : k > (double)s->n ? s->n : (size_t)k;
}

static size_t mirostat_2(struct pm_sampler *s, double total)
{
    size_t k = 1;
    while (k < s->n && -pm_log(nth(s, k)->p / total) / LN2 <= s->mu) k++;
    return k;
}

static int32_t mirostat(struct pm_sampler *s, const pm_sampling_params *p)
{
    double tau = p->mirostat_tau > 0 ? (double)p->mirostat_tau : 5, eta = p->mirostat_eta > 0 ? (double)p->mirostat_eta : 0.1;
    if (s->mu <= 0) s->mu = 2 * tau;
    double total = p->mirostat == 1 ? 0 : weight_of_all(s), kept = 0;
    heapify(s);
    size_t k = p->mirostat == 1 ? mirostat_1(s) : mirostat_2(s, total);
    for (size_t i = 0; i < k; i++) kept += nth(s, i)->p;
    const struct pm_candidate *c = nth(s, draw(s, k, kept, p->seed));
    s->mu -= eta * (-pm_log(c->p / kept) / LN2 - tau);
    return c->id;
}

/* Top-k, top-p, min-p, then one draw from what they leave. */
static int32_t filter_and_draw(struct pm_sampler *s, const pm_sampling_params *p)
{
    bool use_p = p->top_p > 0 && p->top_p < 1, use_k = p->top_k > 0 && (size_t)p->top_k < s->n;
    size_t limit = use_k ? (size_t)p->top_k : s->n, k = 0;
    double all = 0, sum = 0;
    if (!use_k && (use_p || !(p->min_p > 0))) all = weight_of_all(s);
    heapify(s);
    for (size_t i = 0; use_k && i < limit; i++) all += nth(s, i)->p;
    if (!use_p && !(p->min_p > 0)) return nth(s, draw(s, limit, all, p->seed))->id;
    while (k < limit && (!use_p || sum < (double)p->top_p * all)) {    /* the fewest whose share reaches top_p */
        double w = nth(s, k)->p;
        if (k && p->min_p > 0 && w < (double)p->min_p * nth(s, 0)->p) break;
        sum += w;
        k++;
    }
    if (k == 0) k = 1;
    return nth(s, draw(s, k, sum, p->seed))->id;
}

int32_t pm_sampler_next(struct pm_sampler *s, const pm_sampling_params *p, const float *logits, const int32_t *history, size_t n)
{
    bool penalties = (p->repeat_penalty > 0 && p->repeat_penalty != 1) || p->frequency_penalty != 0 || p->presence_penalty != 0;
    if (!(p->temperature > 0) && !penalties) return pm_argmax(logits, s->n_vocab);
    penalise(s, p, logits, history, n);
    size_t best = 0;
    for (size_t i = 1; i < s->n_vocab; i++)
        if (better(&s->c[i], &s->c[best])) best = i;
    int32_t id = s->c[best].id;
    if (!(p->temperature > 0)) return id;
    gather(s, s->c[best].logit, p->temperature);
    if (!s->n) return id;       /* NaN: nothing compares */
    return p->mirostat ? mirostat(s, p) : filter_and_draw(s, p);
}
