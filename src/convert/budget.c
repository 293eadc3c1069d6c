/*
 * Owns: a budget of bits per weight: which of the layers' linears get more bits than the dtype gives them.
 *
 * Every linear has a ladder of types, from that of the dtype up. What a rung costs is known to the byte; what it gains is measured: one linear after the other is rounded by itself while all
 * others stay floats, and the error is what that does to the residual stream after the layer, relative to it, over the tokens of one batch. So an error in the queries counts as far as
 * attention cares, and errors of different linears and layers can be compared. Where nothing is calibrated, the relative error of the weights stands for it.
 *
 * Then bytes are spent where they gain most: again and again the step with the largest gain per byte that still fits.
 */
#include "convert/best.h"
#include "convert/exact.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_STEPS 6

struct step {
    enum pm_wtype type;
    uint32_t group;
    uint64_t bytes;
    double error;
};

struct choice {
    uint32_t layer;
    size_t i;                       /* in pm_best_order */
    struct step step[MOST_STEPS];   /* the dtype's first */
    size_t n, at;
};

struct budget {
    struct pm_conversion *c;
    struct choice *choice;          /* [n], owned */
    size_t n;
    uint64_t weights, bytes, most;  /* of all linears of the layers: as the dtype has them, and at the top of their ladders */
};

static struct pm_linear_desc *linear_of(const struct budget *b, const struct choice *x)
{
    return pm_best_desc(&b->c->plan.desc.layer[x->layer], x->i);
}

static uint64_t bytes_of(const struct pm_linear_desc *l)
{
    return pm_linear_weight_bytes(l) + pm_linear_scale_count(l) * sizeof(float);
}

static void make_ladder(struct budget *b, struct choice *x)
{
    static const struct { enum pm_wtype type; uint32_t group; } rungs[] = { { PM_W_W4, 128 }, { PM_W_W4, 64 }, { PM_W_W4, 32 }, { PM_W_W8, 0 }, { PM_W_W8, 512 }, { PM_W_W8, 256 }, { PM_W_W8, 128 },
                                                                             { PM_W_W8, 64 }, { PM_W_W8, 32 } };
    struct pm_linear_desc l = *linear_of(b, x);
    bool fixed = pm_slot_low_rank(pm_best_order[x->i]) || pm_exact_is(b->c, &l, pm_plan_parts(&b->c->plan, pm_best_order[x->i], x->layer));
    x->step[x->n++] = (struct step){ .type = l.type, .group = l.group, .bytes = bytes_of(&l) };
    for (size_t r = 0; r < sizeof rungs / sizeof *rungs && !fixed; r++) {
        if ((b->c->dtype.type == PM_W_W4) != (r < 4) || (rungs[r].group && l.k % rungs[r].group)) continue;
        l.type = rungs[r].type;
        l.group = rungs[r].group;
        if (bytes_of(&l) > x->step[x->n - 1].bytes) x->step[x->n++] = (struct step){ .type = l.type, .group = l.group, .bytes = bytes_of(&l) };
    }
    b->weights += (uint64_t)l.n * l.k;
    b->bytes += x->step[0].bytes;
    b->most += x->step[x->n - 1].bytes;
}

static pm_status make_ladders(struct budget *b, pm_error *err)
{
    const struct pm_desc *d = &b->c->plan.desc;
    b->choice = pm_calloc((size_t)d->n_layer * PM_BEST_LINEARS, sizeof *b->choice, err);
    if (!b->choice) return PM_ERR_MEMORY;
    for (uint32_t layer = 0; layer < d->n_layer; layer++)
        for (size_t i = 0; i < PM_BEST_LINEARS; i++) {
            if (!pm_best_desc(&d->layer[layer], i)->k) continue;
            struct choice *x = &b->choice[b->n++];
            *x = (struct choice){ .layer = layer, .i = i };
            make_ladder(b, x);
        }
    return PM_OK;
}

static double bits(const struct budget *b, uint64_t bytes)
{
    return 8.0 * (double)bytes / (double)b->weights;
}

/* ---- measuring ---- */

/* The relative squared error of the weights. */
static pm_status measure_weights(struct budget *b, pm_error *err)
{
    struct best s = { .c = b->c, .stage = "budget", .total = b->n };
    pm_status st = PM_OK;
    for (size_t k = 0; k < b->n && !st; k++) {
        struct choice *x = &b->choice[k];
        for (size_t j = 0; j < x->n && x->n > 1 && !st; j++) {
            struct pm_linear_desc l = *linear_of(b, x);
            struct held h = { 0 };
            double err2 = 0, sum2 = 0;
            l.type = x->step[j].type;
            l.group = x->step[j].group;
            st = pm_held_load(&s, &h, &l, pm_best_parts(&s, x->layer, x->i), &err2, &sum2, err);
            pm_held_free(&h);
            x->step[j].error = sum2 > 0 ? err2 / sum2 : 0;
        }
        if (!st) st = pm_best_advance(&s, pm_slot_title(pm_best_order[x->i]), 1, err);
    }
    return st;
}

/* The mean over tokens of |a - b|^2 / |b|^2. */
static double stream_error(const struct best *s, const float *a, const float *b, size_t tokens)
{
    double sum = 0;
    for (size_t t = 0; t < tokens; t++) {
        double d2 = 0, b2 = 0;
        for (size_t i = t * s->ld; i < t * s->ld + s->one.n_embd; i++) {
            double d = (double)a[i] - (double)b[i];
            d2 += d * d;
            b2 += (double)b[i] * (double)b[i];
        }
        if (b2 > 0) sum += d2 / b2;
    }
    return sum / (double)tokens;
}

/* All rungs of one linear of the layer at work; before: the residual stream that the layer reads. */
static pm_status measure_linear(struct best *s, struct choice *x, const float *before, size_t tokens, pm_error *err)
{
    struct pm_linear_desc *l = pm_best_desc(s->one.layer, x->i), was = *l;
    pm_status st = PM_OK;
    for (size_t j = 0; j < x->n && x->n > 1 && !st; j++) {
        l->type = x->step[j].type;
        l->group = x->step[j].group;
        st = pm_exec_reserve(&s->exec, &s->one, s->tokens, err);
        if (!st) st = pm_held_load(s, &s->q[x->i], l, pm_best_parts(s, x->layer, x->i), NULL, NULL, err);
        if (!st) {
            memcpy(s->xq.data, before, tokens * s->ld * sizeof *before);
            pm_best_pass(s, true);
            x->step[j].error = stream_error(s, s->xq.data, s->x.data, tokens);
        }
        pm_held_free(&s->q[x->i]);
    }
    *l = was;
    return st;
}

static pm_status measure_stream(struct budget *b, pm_error *err)
{
    struct best s;
    float *before = NULL;
    pm_status st = pm_best_open(&s, b->c, true, err);
    size_t tokens = s.cal.n_window * s.cal.window;
    s.stage = "budget";
    s.total = b->n;
    if (!st && !(before = pm_calloc(tokens, s.ld * sizeof *before, err))) st = PM_ERR_MEMORY;
    for (size_t k = 0; k < b->n && !st;) {
        uint32_t layer = b->choice[k].layer;
        if (!(st = pm_best_enter(&s, layer, err))) {
            memcpy(before, s.x.data, tokens * s.ld * sizeof *before);
            pm_best_pass(&s, false);
        }
        for (; k < b->n && b->choice[k].layer == layer && !st; k++) {
            st = measure_linear(&s, &b->choice[k], before, tokens, err);
            if (!st) st = pm_best_advance(&s, pm_slot_title(pm_best_order[b->choice[k].i]), 1, err);
        }
        if (s.first.data) memcpy(s.first_q.data, s.first.data, tokens * s.ld_first * sizeof *before);
        pm_best_leave(&s);
    }
    free(before);
    pm_best_close(&s);
    return st;
}

/* ---- spending ---- */

static uint64_t spend(struct budget *b, uint64_t most)
{
    uint64_t bytes = b->bytes;
    for (;;) {
        struct choice *best = NULL;
        size_t to = 0;
        double gain = 0;
        for (size_t k = 0; k < b->n; k++) {
            struct choice *x = &b->choice[k];
            for (size_t j = x->at + 1; j < x->n; j++) {
                uint64_t more = x->step[j].bytes - x->step[x->at].bytes;
                double g = (x->step[x->at].error - x->step[j].error) / (double)more;
                if (bytes + more > most || !(g > gain)) continue;
                best = x;
                to = j;
                gain = g;
            }
        }
        if (!best) return bytes;
        bytes += best->step[to].bytes - best->step[best->at].bytes;
        best->at = to;
    }
}

static const char *type_name(const struct step *s, char *out, size_t size)
{
    snprintf(out, size, s->group ? "%s_g%u" : "%s", pm_wtype_name(s->type), s->group);
    return out;
}

/* Sets the types, and says so in the provenance and in a note. */
static pm_status settle(struct budget *b, uint64_t bytes, pm_error *err)
{
    struct pm_conversion *c = b->c;
    const char *by = c->best ? "error in the residual stream" : "error of the weights";
    size_t n_type[PM_W_COUNT][513] = { 0 }, n = 0;
    struct pm_buf line = { 0 };
    char name[64], type[16];
    json_t *raised = json_object();
    for (size_t k = 0; k < b->n; k++) {
        const struct choice *x = &b->choice[k];
        const struct step *s = &x->step[x->at];
        if (!x->at) continue;
        linear_of(b, x)->type = s->type;
        linear_of(b, x)->group = s->group;
        n_type[s->type][s->group]++;
        n++;
        snprintf(name, sizeof name, "layers.%u.%s", x->layer, pm_slot_title(pm_best_order[x->i]));
        json_object_set_new(raised, name, json_string(type_name(s, type, sizeof type)));
    }
    pm_status st = pm_buf_printf(&line, err, "budget %g: %.3f bits per weight; by the %s, %zu of %zu linears have more than %s:", c->params->budget, bits(b, bytes), by, n, b->n, c->dtype.name);
    for (int t = 0; t < PM_W_COUNT; t++)
        for (uint32_t g = 0; g <= 512 && !st; g++)
            if (n_type[t][g]) st = pm_buf_printf(&line, err, " %zu %s", n_type[t][g], type_name(&(struct step){ .type = (enum pm_wtype)t, .group = g }, type, sizeof type));
    if (!st && c->params->on_note) c->params->on_note(c->params->user, line.data);
    pm_buf_free(&line);
    c->budget = json_pack("{s:f, s:f, s:s, s:o}", "given", c->params->budget, "bits", bits(b, bytes), "by", by, "raised", raised);
    return st ? st : c->budget ? PM_OK : pm_fail(err, PM_ERR_MEMORY, "out of memory");
}

pm_status pm_budget_spend(struct pm_conversion *c, pm_error *err)
{
    struct budget b = { .c = c };
    double want = c->params->budget;
    if (c->dtype.type != PM_W_W4 && c->dtype.type != PM_W_W8) return pm_fail(err, PM_ERR_ARGUMENT, "a budget of bits per weight needs an integer dtype, not %s", c->dtype.name);
    pm_status st = make_ladders(&b, err);
    if (!st && b.most == b.bytes) st = pm_fail(err, PM_ERR_ARGUMENT, "budget %g: no linear of this model can have more bits than %s gives it", want, c->dtype.name);
    if (!st && !(want >= bits(&b, b.bytes) && want <= bits(&b, b.most)))
        st = pm_fail(err, PM_ERR_ARGUMENT, "budget %g: with %s, the linears of the layers can have from %.2f to %.2f bits per weight, their scales included", want, c->dtype.name,
                     ceil(bits(&b, b.bytes) * 100) / 100, floor(bits(&b, b.most) * 100) / 100);
    if (!st) st = c->best ? measure_stream(&b, err) : measure_weights(&b, err);
    if (!st) st = settle(&b, spend(&b, (uint64_t)(want * (double)b.weights / 8)), err);
    free(b.choice);
    return st;
}
