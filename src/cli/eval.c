/*
 * Owns: `pumice eval`: perplexity of a text, and how far models are from a reference.
 * The text is cut into windows of --ctx tokens that do not overlap; each window starts with the BOS token where the model has one that its tokenizer adds. The first
 * token of a window is not scored. KL(REF || FILE) = sum p_ref log(p_ref/p), in nats, mean over the scored positions.
 *
 * All models go through the text together, BLOCK positions at a time: the reference's logits of a block are kept while each file is compared with them.
 */
#include "cli/common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64    /* positions whose logits of the reference are kept at a time */

struct file {
    struct opened o;
    const char *path;
    double nll, kl, kl_max;
    size_t n, same, in_five;
    double *layer;              /* [n_layer] sums of squared relative errors, with --layers */
};

struct eval {
    struct file *file;          /* [n_file], owned */
    size_t n_file;
    struct opened ref;
    bool against, layers, json;
    size_t ctx;
    const int32_t *ids;         /* the window */
    size_t n_ids, base;         /* base: position in the window of the block's first token */
    struct file *at;            /* the file at work */
    double ref_nll;
    size_t ref_n;
    float *kept;                /* [BLOCK][n_vocab] of the reference */
    double kept_z[BLOCK];       /* log of the sum of exponentials */
    size_t kept_top[BLOCK];
    float *hidden;              /* [n_layer][BLOCK][n_embd] of the reference, with --layers */
};

/* e^x for x <= 0, good to a few units in the last place of a float, in a form that compilers turn into vectors. */
static inline float exp_down(float x)
{
    x = x > -87.0f ? x : -87.0f;
    float n = x * 1.44269504f + 12582912.0f;
    union { float f; uint32_t u; } bits = { .f = n }, p;
    n -= 12582912.0f;
    float r = x - n * 0.693359375f + n * 2.12194440e-4f;
    p.f = 1 + r + r * r * (0.5f + r * (1.6666665e-1f + r * (4.1665795e-2f + r * (8.3334519e-3f + r * (1.3981999e-3f + r * 1.9875691e-4f)))));
    p.u += bits.u << 23;
    return p.f;
}

#define LANES 16
#define RUN 2048    /* values that are added up as floats */

static double log_sum_exp(const float *x, size_t n, size_t *best)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    double sum = 0;
    for (size_t at = 0; at < n; at += RUN) {
        float lane[LANES] = { 0 };
        size_t end = n - at < RUN ? n : at + RUN, i = at;
        for (; i + LANES <= end; i += LANES)
            for (size_t l = 0; l < LANES; l++) lane[l] += exp_down(x[i + l] - x[top]);
        for (; i < end; i++) lane[0] += exp_down(x[i] - x[top]);
        for (size_t l = 0; l < LANES; l++) sum += (double)lane[l];
    }
    *best = top;
    return (double)x[top] + log(sum);
}

/* sum p (log p - log q), p from the logits a with logarithmic sum za, q from b. */
static double divergence(const float *a, double za, const float *b, double zb, size_t n)
{
    double sum = 0, mass = 0;
    float z = (float)za;
    for (size_t at = 0; at < n; at += RUN) {
        float lane[LANES] = { 0 }, p[LANES] = { 0 };
        size_t end = n - at < RUN ? n : at + RUN, i = at;
        for (; i + LANES <= end; i += LANES)
            for (size_t l = 0; l < LANES; l++) {
                float d = a[i + l] - z, e = exp_down(d < 0 ? d : 0);
                p[l] += e;
                lane[l] += e * (a[i + l] - b[i + l]);
            }
        for (; i < end; i++) {
            float d = a[i] - z, e = exp_down(d < 0 ? d : 0);
            p[0] += e;
            lane[0] += e * (a[i] - b[i]);
        }
        for (size_t l = 0; l < LANES; l++) {
            sum += (double)lane[l];
            mass += (double)p[l];
        }
    }
    double kl = sum / mass + zb - za;
    return kl > 0 ? kl : 0;     /* of equal logits it is exactly 0; rounding may make a tiny one negative */
}

/* ---- the reference ---- */

static int keep(void *user, size_t position, const float *logits, size_t n)
{
    struct eval *e = user;
    size_t i = position - e->base;
    memcpy(e->kept + i * n, logits, n * sizeof *logits);
    e->kept_z[i] = log_sum_exp(logits, n, &e->kept_top[i]);
    if (position + 1 < e->n_ids) {
        e->ref_nll += e->kept_z[i] - (double)logits[e->ids[position + 1]];
        e->ref_n++;
    }
    return interrupted();
}

static void keep_layer(void *user, uint32_t layer, const float *x, size_t n_tok, size_t n_embd, size_t ld)
{
    struct eval *e = user;
    for (size_t t = 0; t < n_tok; t++) memcpy(e->hidden + ((size_t)layer * BLOCK + t) * n_embd, x + t * ld, n_embd * sizeof *x);
}

/* ---- a file ---- */

static int score(void *user, size_t position, const float *logits, size_t n)
{
    struct eval *e = user;
    struct file *f = e->at;
    if (position + 1 >= e->n_ids) return interrupted();
    size_t best, i = position - e->base;
    double z = log_sum_exp(logits, n, &best);
    f->nll += z - (double)logits[e->ids[position + 1]];
    f->n++;
    if (e->against) {
        double kl = divergence(e->kept + i * n, e->kept_z[i], logits, z, n);
        float top = logits[e->kept_top[i]];
        size_t above = 0;
        for (size_t k = 0; k < n; k++) above += logits[k] > top || (logits[k] == top && k < e->kept_top[i]);
        f->kl += kl;
        f->kl_max = fmax(f->kl_max, kl);
        f->same += above == 0;
        f->in_five += above < 5;
    }
    return interrupted();
}

static void score_layer(void *user, uint32_t layer, const float *x, size_t n_tok, size_t n_embd, size_t ld)
{
    struct eval *e = user;
    for (size_t t = 0; t < n_tok; t++) {
        const float *r = e->hidden + ((size_t)layer * BLOCK + t) * n_embd, *v = x + t * ld;
        double diff = 0, whole = 0;
        for (size_t i = 0; i < n_embd; i++) {
            double d = (double)v[i] - (double)r[i];
            diff += d * d;
            whole += (double)r[i] * (double)r[i];
        }
        if (e->base + t + 1 < e->n_ids) e->at->layer[layer] += whole > 0 ? diff / whole : 0;
    }
}

/* ---- the text ---- */

static pm_status window(struct eval *e, pm_error *err)
{
    pm_status st = e->against ? pm_session_truncate(e->ref.session, 0, err) : PM_OK;
    for (size_t i = 0; i < e->n_file && !st; i++) st = pm_session_truncate(e->file[i].o.session, 0, err);
    for (e->base = 0; e->base < e->n_ids && !st; e->base += BLOCK) {
        size_t n = e->n_ids - e->base < BLOCK ? e->n_ids - e->base : BLOCK;
        if (e->against) {
            pm_session_watch(e->ref.session, e->layers ? keep_layer : NULL, e);
            st = pm_session_feed_logits(e->ref.session, e->ids + e->base, n, keep, e, err);
        }
        for (size_t i = 0; i < e->n_file && !st; i++) {
            e->at = &e->file[i];
            pm_session_watch(e->at->o.session, e->layers ? score_layer : NULL, e);
            st = pm_session_feed_logits(e->at->o.session, e->ids + e->base, n, score, e, err);
        }
    }
    return st;
}

static int eval_text(struct eval *e, const char *text, size_t len)
{
    int32_t *ids = NULL, *probe = NULL, *win = malloc(e->ctx * sizeof *win);
    size_t n = 0, n_probe = 0, lead;
    pm_error err = { 0 };
    const struct opened *o = &e->file[0].o;
    pm_status st = pm_tokenize(o->model, text, len, 0, &ids, &n, &err);
    if (!st) st = pm_tokenize(o->model, "", 0, PM_TOKENIZE_ADD_SPECIAL, &probe, &n_probe, &err);
    lead = n_probe && o->info.bos_id >= 0 && probe[0] == o->info.bos_id ? 1 : 0;
    int rc = -1;
    if (!st && n < 2) rc = complain(EXIT_INPUT, "the text has fewer than two tokens: nothing to score");
    if (!win) rc = complain(EXIT_SPACE, "out of memory");
    for (size_t at = 0; !st && rc < 0 && !interrupted() && at + 1 < n; at += e->ctx - lead) {
        size_t m = n - at < e->ctx - lead ? n - at : e->ctx - lead;
        if (lead) win[0] = o->info.bos_id;
        memcpy(win + lead, ids + at, m * sizeof *win);
        e->ids = win;
        e->n_ids = m + lead;
        st = window(e, &err);
        progress_bar(NULL, "eval", "", at + m, n);
    }
    progress_end();
    if (rc < 0) rc = interrupted() ? complain(interrupt_code(), "interrupted") : st ? report(&err) : EXIT_OK;
    pm_free(ids);
    pm_free(probe);
    free(win);
    return rc;
}

/* ---- results ---- */

/* Bits per weight that a decoding step reads, scales included. */
static double bits(const pm_model_info *i)
{
    double n = (double)i->prefill_macs + (double)i->head_macs;
    return n > 0 ? 8 * (double)i->decode_bytes / n : 0;
}

static double layer_error(const struct file *f, uint32_t layer)
{
    return sqrt(f->layer[layer] / (double)f->n);
}

static void print_json(const struct eval *e, const struct file *f)
{
    double n = (double)f->n;
    printf("{\"model\": ");
    put_json(f->o.info.name, strlen(f->o.info.name));
    printf(", \"dtype\": \"%s\", \"ctx\": %zu, \"positions\": %zu, ", f->o.info.dtype, e->ctx, f->n);
    put_json_number("bits_per_weight", bits(&f->o.info));
    fputs(", ", stdout);
    put_json_number("perplexity", exp(f->nll / n));
    fputs(", ", stdout);
    put_json_number("nll", f->nll / n);
    if (e->against) {
        const struct { const char *key; double v; } more[] = { { "against_perplexity", exp(e->ref_nll / (double)e->ref_n) }, { "kl", f->kl / n }, { "kl_max", f->kl_max },
                                                               { "top1", (double)f->same / n }, { "top5", (double)f->in_five / n } };
        printf(", \"against_dtype\": \"%s\"", e->ref.info.dtype);
        for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
            fputs(", ", stdout);
            put_json_number(more[i].key, more[i].v);
        }
    }
    if (e->layers) {
        fputs(", \"layers\": [", stdout);
        for (uint32_t i = 0; i < f->o.info.n_layer; i++) printf("%s%.6g", i ? ", " : "", layer_error(f, i));
        putchar(']');
    }
    putchar('}');
}

static void print_one(const struct eval *e, const struct file *f)
{
    char name[128];
    double n = (double)f->n;
    printf("%s %s: perplexity %.4f over %zu positions in windows of %zu\n", clean(f->o.info.name, name, sizeof name), f->o.info.dtype, exp(f->nll / n), f->n, e->ctx);
    if (e->against)
        printf("against %s (perplexity %.4f): KL %.5f nats (largest %.3f), top-1 agreement %.2f %%, in the top 5 %.2f %%\n", e->ref.info.dtype, exp(e->ref_nll / (double)e->ref_n), f->kl / n, f->kl_max,
               100 * (double)f->same / n, 100 * (double)f->in_five / n);
}

static void print_table(const struct eval *e)
{
    char name[128];
    printf("%s: %zu positions in windows of %zu", clean(e->file[0].o.info.name, name, sizeof name), e->file[0].n, e->ctx);
    if (e->against) printf(", against %s (perplexity %.4f)", e->ref.info.dtype, exp(e->ref_nll / (double)e->ref_n));
    printf("\n%-12s %9s %11s", "dtype", "bits", "perplexity");
    if (e->against) printf(" %10s %10s %8s %8s", "KL", "largest", "top-1 %", "top-5 %");
    putchar('\n');
    for (size_t i = 0; i < e->n_file; i++) {
        const struct file *f = &e->file[i];
        double n = (double)f->n;
        printf("%-12s %9.3f %11.4f", f->o.info.dtype, bits(&f->o.info), exp(f->nll / n));
        if (e->against) printf(" %10.5f %10.3f %8.2f %8.2f", f->kl / n, f->kl_max, 100 * (double)f->same / n, 100 * (double)f->in_five / n);
        putchar('\n');
    }
}

static void print_layers(const struct eval *e)
{
    printf("\nrelative error after each layer\n%-7s", "layer");
    for (size_t i = 0; i < e->n_file; i++) printf(" %12s", e->file[i].o.info.dtype);
    putchar('\n');
    for (uint32_t l = 0; l < e->ref.info.n_layer; l++) {
        printf("%-7u", l);
        for (size_t i = 0; i < e->n_file; i++) printf(" %12.5f", layer_error(&e->file[i], l));
        putchar('\n');
    }
}

static void print(const struct eval *e)
{
    if (e->json && e->n_file > 1) puts("[");
    for (size_t i = 0; e->json && i < e->n_file; i++) {
        print_json(e, &e->file[i]);
        puts(i + 1 < e->n_file ? "," : "");
    }
    if (e->json && e->n_file > 1) puts("]");
    if (e->json) return;
    if (e->n_file > 1) print_table(e);
    else print_one(e, &e->file[0]);
    if (e->layers) print_layers(e);
}

/* ---- the command ---- */

static int open_reference(struct eval *e, const char *path, const struct run_options *r)
{
    int rc;
    struct run_options own = *r;
    if (r->kv && strcmp(r->kv, "int8") == 0) own.kv = NULL;     /* the reference is not what is to be measured */
    if ((rc = open_model(&e->ref, path)) >= 0 || (rc = open_session(&e->ref, &own)) >= 0) return rc;
    const pm_model_info *ref = &e->ref.info;
    for (size_t i = 0; i < e->n_file; i++) {
        const pm_model_info *f = &e->file[i].o.info;
        if (e->layers && (f->n_layer != ref->n_layer || f->n_embd != ref->n_embd))
            return complain(EXIT_INPUT, "the layers cannot be compared: %s has %u of width %u, %s %u of width %u", e->file[i].path, f->n_layer, f->n_embd, path, ref->n_layer, ref->n_embd);
    }
    e->kept = malloc((size_t)BLOCK * ref->n_vocab * sizeof *e->kept);
    if (e->layers) e->hidden = malloc((size_t)ref->n_layer * BLOCK * ref->n_embd * sizeof *e->hidden);
    return e->kept && (e->hidden || !e->layers) ? -1 : complain(EXIT_SPACE, "out of memory");
}

static int open_files(struct eval *e, const struct positional *pos, const char *against, const struct run_options *r)
{
    int rc = -1;
    e->file = calloc(pos->n, sizeof *e->file);
    if (!e->file) return complain(EXIT_SPACE, "out of memory");
    for (size_t i = 0; i < pos->n && rc < 0; i++) {
        struct file *f = &e->file[e->n_file++];
        f->path = pos->v[i];
        if ((rc = open_model(&f->o, f->path)) >= 0 || (rc = open_session(&f->o, r)) >= 0) break;
        f->layer = calloc(f->o.info.n_layer, sizeof *f->layer);
        if (!f->layer) rc = complain(EXIT_SPACE, "out of memory");
    }
    if (rc < 0 && against) rc = open_reference(e, against, r);
    const pm_model_info *first = against ? &e->ref.info : &e->file[0].o.info;
    for (size_t i = 0; i < e->n_file && rc < 0; i++)
        if (e->file[i].o.info.n_vocab != first->n_vocab)
            rc = complain(EXIT_INPUT, "the models cannot be compared: their vocabularies have %u and %u ids", e->file[i].o.info.n_vocab, first->n_vocab);
    return rc;
}

static int eval(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { .ctx = 512 };
    const char *file = NULL, *against = NULL;
    struct eval e = { 0 };
    const struct arg table[] = {
        { "--text", ARG_TEXT, &file, 0, 0, "F", "the text file to score (- is standard input)" },
        { "--against", ARG_TEXT, &against, 0, 0, "REF", "the model to compare with, of the same vocabulary: KL(REF || FILE), top-1 and top-5 agreement" },
        { "--layers", ARG_FLAG, &e.layers, 0, 0, NULL, "also the relative error of the activations after each layer; needs --against" },
        { "--ctx", ARG_INT, &r.ctx, 2, 1 << 20, "N", "tokens of a window (default 512)" },
        { "--json", ARG_FLAG, &e.json, 0, 0, NULL, "print a JSON object, or an array of them where there are several files" },
        ARG_THREADS(r), ARG_ISA(r), ARG_KV(r), ARG_END,
    };
    int rc = args_parse(&cmd_eval, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n < 1) return args_usage(&cmd_eval, "give at least one .pumice file");
    if (!file) return args_usage(&cmd_eval, "--text F is missing: the text to score");
    if (e.layers && !against) return args_usage(&cmd_eval, "--layers compares with a reference: give --against REF");
    size_t len;
    char *text = read_file(file, &len, &rc);
    if (!text) return rc;
    e.against = against != NULL;
    e.ctx = (size_t)r.ctx;
    rc = open_files(&e, &pos, against, &r);
    if (rc < 0) {
        catch_interrupt(e.file[0].o.session);
        rc = eval_text(&e, text, len);
        if (rc == EXIT_OK) print(&e);
    }
    free(e.kept);
    free(e.hidden);
    free(text);
    for (size_t i = 0; i < e.n_file; i++) {
        close_all(&e.file[i].o);
        free(e.file[i].layer);
    }
    free(e.file);
    close_all(&e.ref);
    return rc;
}

const struct command cmd_eval = {
    "eval", "perplexity of a text, and distance to another model", "eval FILE... --text F [--against REF] [options]",
    "The text is cut into windows that do not overlap. Perplexity is over all tokens but the first of each window. With --against, how far each FILE is from REF on the same text: the mean "
    "Kullback-Leibler divergence of their predictions, in nats, the largest one, how often both would choose the same token, and how often REF's choice is among the five likeliest of FILE. "
    "Several files make a table, with the bits per weight of each.",
    "pumice eval m.pumice --text book.txt\n"
    "pumice eval m-w8a8.pumice m-w4a16.pumice --text book.txt --against m-f16.pumice",
    eval
};
