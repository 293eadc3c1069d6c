/*
 * Owns: sampling. sampler.h has the order of operations and the seed rule.
 * Idea: candidates become a heap in linear time and are taken from it best first only as far as a rule needs them, so nothing is sorted that is not used and nothing
 * is allocated.
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
    float best = logits[0];
    for (size_t i = 1; i < n; i++) best = logits[i] > best ? logits[i] : best;
    for (size_t i = 0; i < n; i++)
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

/* Best first into c[0..k) by taking from the heap; the rest stays behind them in no order. Returns k. */
static size_t order(struct pm_candidate *c, size_t n, size_t k)
{
    for (size_t i = n / 2; i-- > 0;) sift(c, n, i);
    if (k > n) k = n;
    for (size_t taken = 0; taken < k; taken++) {    /* heap sort from the back, then turned around */
        struct pm_candidate top = c[0];
        c[0] = c[n - 1 - taken];
        sift(c, n - 1 - taken, 0);
        c[n - 1 - taken] = top;
    }
    /* the k best lie at the end, best last */
    for (size_t i = 0; i < k && i < n - 1 - i; i++) {
        struct pm_candidate t = c[i];
        c[i] = c[n - 1 - i];
        c[n - 1 - i] = t;
    }
    return k;
}

static double softmax(struct pm_candidate *c, size_t n, double temperature)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += c[i].p = pm_exp(((double)c[i].logit - (double)c[0].logit) / temperature);
    for (size_t i = 0; i < n; i++) c[i].p /= sum;
    return sum;
}

static size_t draw(struct pm_sampler *s, const struct pm_candidate *c, size_t n, uint64_t seed)
{
    double u = (double)(pm_rng_at(seed, s->n_draws++) >> 11) * 0x1p-53, total = 0, sum = 0;
    for (size_t i = 0; i < n; i++) total += c[i].p;
    for (size_t i = 0; i < n; i++)
        if ((sum += c[i].p) > u * total) return i;
    return n - 1;
}

static size_t mirostat_1(const struct pm_sampler *s, const struct pm_candidate *c, size_t n)
{
    double tb = 0, tt = 0;
    for (size_t i = 0; i + 1 < n && i < 99; i++) {      /* Zipf exponent from the most probable tokens */
        double t = pm_log((double)(i + 2) / (double)(i + 1)), b = pm_log(c[i].p / c[i + 1].p);
        tb += t * b;
        tt += t * t;
    }
    double exponent = tt > 0 ? tb / tt : 1, e = exponent - 1;
    if (!(exponent > 0)) return 1;
    double denominator = 1 - pm_pow((double)s->n_vocab, -e), ratio = e * pm_pow(2, s->mu) / denominator;
    if (!(ratio > 0)) return 1;
    double k = pm_pow(ratio, 1 / exponent);
    return k < 1 ? 1 : k > (double)n ? n : (size_t)k;
}

static size_t mirostat_2(const struct pm_sampler *s, const struct pm_candidate *c, size_t n)
{
    size_t k = 1;
    while (k < n && -pm_log(c[k].p) / LN2 <= s->mu) k++;
    return k;
}

static int32_t mirostat(struct pm_sampler *s, const pm_sampling_params *p, size_t n)
{
    double tau = p->mirostat_tau > 0 ? (double)p->mirostat_tau : 5, eta = p->mirostat_eta > 0 ? (double)p->mirostat_eta : 0.1;
    if (s->mu <= 0) s->mu = 2 * tau;
    size_t k = p->mirostat == 1 ? mirostat_1(s, s->c, n) : mirostat_2(s, s->c, n);
    double kept = 0;
    for (size_t i = 0; i < k; i++) kept += s->c[i].p;
    size_t i = draw(s, s->c, k, p->seed);
    s->mu -= eta * (-pm_log(s->c[i].p / kept) / LN2 - tau);
    return s->c[i].id;
}

int32_t pm_sampler_next(struct pm_sampler *s, const pm_sampling_params *p, const float *logits, const int32_t *history, size_t n)
{
    bool penalties = (p->repeat_penalty > 0 && p->repeat_penalty != 1) || p->frequency_penalty != 0 || p->presence_penalty != 0;
    if (!(p->temperature > 0) && !penalties) return pm_argmax(logits, s->n_vocab);
    penalise(s, p, logits, history, n);
    struct pm_candidate *c = s->c;
    size_t best = 0;
    for (size_t i = 1; i < s->n_vocab; i++)
        if (better(&c[i], &c[best])) best = i;
    if (!(p->temperature > 0)) return c[best].id;
    float floor_logit = c[best].logit - SPAN * p->temperature;
    size_t kept = 0;
    for (size_t i = 0; i < s->n_vocab; i++)
        if (c[i].logit >= floor_logit) c[kept++] = c[i];
    if (!kept) return c[best].id;
    size_t k = p->top_k > 0 && !p->mirostat ? (size_t)p->top_k : kept;
    k = order(c, kept, k);
    softmax(c, k, (double)p->temperature);
    if (p->mirostat) return mirostat(s, p, k);
    if (p->top_p > 0 && p->top_p < 1) {     /* the fewest whose share reaches top_p */
        double sum = 0;
        size_t m = 0;
        while (m < k && sum < (double)p->top_p) sum += c[m++].p;
        k = m ? m : 1;
    }
    if (p->min_p > 0) {
        size_t m = 1;
        while (m < k && c[m].p >= (double)p->min_p * c[0].p) m++;
        k = m;
    }
    return c[draw(s, c, k, p->seed)].id;
}
