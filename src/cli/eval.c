/*
 * Owns: `pumice eval`: perplexity of a text, and how far one model is from another.
 * The text is cut into windows of --ctx tokens that do not overlap; each window starts with the BOS token where the model has one that its tokenizer adds. The first
 * token of a window is not scored. KL(FILE2 || FILE) = sum p2 log(p2/p1), in nats, mean over the scored positions.
 */
#include "cli/common.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK 64    /* positions whose logits of FILE2 are kept at a time */

struct totals { double nll, nll2, kl, kl_max; size_t n, same; };

struct eval {
    struct opened a, b;         /* FILE, FILE2 */
    bool against;
    const int32_t *ids;         /* the window */
    size_t n_ids, base;         /* base: position in the window of the block's first token */
    float *kept;                /* [BLOCK][n_vocab] of FILE2 */
    struct totals t;
};

static double log_sum_exp(const float *x, size_t n, size_t *best)
{
    size_t top = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[top]) top = i;
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp((double)x[i] - (double)x[top]);
    *best = top;
    return (double)x[top] + log(sum);
}

static int keep(void *user, size_t position, const float *logits, size_t n)
{
    struct eval *e = user;
    memcpy(e->kept + (position - e->base) * n, logits, n * sizeof *logits);
    return interrupted();
}

static int score(void *user, size_t position, const float *logits, size_t n)
{
    struct eval *e = user;
    if (position + 1 >= e->n_ids) return interrupted();
    size_t best, best2;
    double z = log_sum_exp(logits, n, &best);
    int32_t next = e->ids[position + 1];
    e->t.nll += z - (double)logits[next];
    e->t.n++;
    if (e->against) {
        const float *l2 = e->kept + (position - e->base) * n;
        double z2 = log_sum_exp(l2, n, &best2), kl = 0;
        for (size_t i = 0; i < n; i++) {
            double q = (double)l2[i] - z2;
            if (q > -60) kl += exp(q) * (q - ((double)logits[i] - z));
        }
        e->t.kl += kl;
        e->t.kl_max = fmax(e->t.kl_max, kl);
        e->t.nll2 += z2 - (double)l2[next];
        e->t.same += best == best2;
    }
    return interrupted();
}

static pm_status window(struct eval *e, pm_error *err)
{
    pm_status st = pm_session_truncate(e->a.session, 0, err);
    if (!st && e->against) st = pm_session_truncate(e->b.session, 0, err);
    for (e->base = 0; e->base < e->n_ids && !st; e->base += BLOCK) {
        size_t n = e->n_ids - e->base < BLOCK ? e->n_ids - e->base : BLOCK;
        if (e->against) st = pm_session_feed_logits(e->b.session, e->ids + e->base, n, keep, e, err);
        if (!st) st = pm_session_feed_logits(e->a.session, e->ids + e->base, n, score, e, err);
    }
    return st;
}

static void print(const struct eval *e, bool json, size_t ctx)
{
    const struct totals *t = &e->t;
    double n = (double)t->n, ppl = exp(t->nll / n);
    if (json) {
        printf("{\"model\": ");
        put_json(e->a.info.name, strlen(e->a.info.name));
        printf(", \"dtype\": \"%s\", \"ctx\": %zu, \"positions\": %zu, ", e->a.info.dtype, ctx, t->n);
        put_json_number("perplexity", ppl);
        fputs(", ", stdout);
        put_json_number("nll", t->nll / n);
        if (e->against) {
            const struct { const char *key; double v; } more[] = { { "against_perplexity", exp(t->nll2 / n) }, { "kl", t->kl / n }, { "kl_max", t->kl_max }, { "top1", (double)t->same / n } };
            printf(", \"against_dtype\": \"%s\"", e->b.info.dtype);
            for (size_t i = 0; i < sizeof more / sizeof *more; i++) {
                fputs(", ", stdout);
                put_json_number(more[i].key, more[i].v);
            }
        }
        puts("}");
        return;
    }
    char name[128];
    printf("%s %s: perplexity %.4f over %zu positions in windows of %zu\n", clean(e->a.info.name, name, sizeof name), e->a.info.dtype, ppl, t->n, ctx);
    if (e->against)
        printf("against %s (perplexity %.4f): KL %.5f nats (largest %.3f), top-1 agreement %.2f %%\n", e->b.info.dtype, exp(t->nll2 / n), t->kl / n, t->kl_max, 100 * (double)t->same / n);
}

static int eval_text(struct eval *e, const char *text, size_t len, size_t ctx, bool json)
{
    int32_t *ids = NULL, *probe = NULL, *win = malloc(ctx * sizeof *win);
    size_t n = 0, n_probe = 0, lead;
    pm_error err = { 0 };
    pm_status st = pm_tokenize(e->a.model, text, len, 0, &ids, &n, &err);
    if (!st) st = pm_tokenize(e->a.model, "", 0, PM_TOKENIZE_ADD_SPECIAL, &probe, &n_probe, &err);
    lead = n_probe && e->a.info.bos_id >= 0 && probe[0] == e->a.info.bos_id ? 1 : 0;
    int rc = -1;
    if (!st && n < 2) rc = complain(EXIT_INPUT, "the text has fewer than two tokens: nothing to score");
    if (!win) rc = complain(EXIT_SPACE, "out of memory");
    for (size_t at = 0; !st && rc < 0 && !interrupted() && at + 1 < n; at += ctx - lead) {
        size_t m = n - at < ctx - lead ? n - at : ctx - lead;
        if (lead) win[0] = e->a.info.bos_id;
        memcpy(win + lead, ids + at, m * sizeof *win);
        e->ids = win;
        e->n_ids = m + lead;
        st = window(e, &err);
        progress_bar(NULL, "eval", "", at + m, n);
    }
    progress_end();
    if (rc < 0) rc = interrupted() ? complain(interrupt_code(), "interrupted") : st ? report(&err) : EXIT_OK;
    if (rc == EXIT_OK) print(e, json, ctx);
    pm_free(ids);
    pm_free(probe);
    free(win);
    return rc;
}

static int eval(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { .ctx = 512 };
    const char *file = NULL, *against = NULL;
    bool json = false;
    const struct arg table[] = {
        { "--text", ARG_TEXT, &file, 0, 0, "F", "the text file to score (- is standard input)" },
        { "--against", ARG_TEXT, &against, 0, 0, "FILE2", "a second model of the same vocabulary: KL(FILE2 || FILE) and top-1 agreement" },
        { "--ctx", ARG_INT, &r.ctx, 2, 1 << 20, "N", "tokens of a window (default 512)" },
        { "--json", ARG_FLAG, &json, 0, 0, NULL, "print one JSON object" },
        ARG_THREADS(r), ARG_ISA(r), ARG_KV(r), ARG_END,
    };
    int rc = args_parse(&cmd_eval, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_eval, "give one .pumice file");
    if (!file) return args_usage(&cmd_eval, "--text F is missing: the text to score");
    struct eval e = { .against = against != NULL };
    size_t len;
    char *text = read_file(file, &len, &rc);
    if (!text) return rc;
    if ((rc = open_model(&e.a, pos.v[0])) >= 0 || (rc = open_session(&e.a, &r)) >= 0) goto done;
    if (against) {
        if ((rc = open_model(&e.b, against)) >= 0 || (rc = open_session(&e.b, &r)) >= 0) goto done;
        if (e.a.info.n_vocab != e.b.info.n_vocab) {
            rc = complain(EXIT_INPUT, "the two models cannot be compared: their vocabularies have %u and %u ids", e.a.info.n_vocab, e.b.info.n_vocab);
            goto done;
        }
        e.kept = malloc((size_t)BLOCK * e.a.info.n_vocab * sizeof *e.kept);
        if (!e.kept) {
            rc = complain(EXIT_SPACE, "out of memory");
            goto done;
        }
    }
    catch_interrupt(e.a.session);
    rc = eval_text(&e, text, len, (size_t)r.ctx, json);
done:
    free(e.kept);
    free(text);
    close_all(&e.a);
    close_all(&e.b);
    return rc;
}

const struct command cmd_eval = {
    "eval", "perplexity of a text, and distance to another model", "eval FILE --text F [--against FILE2] [options]",
    "The text is cut into windows that do not overlap. Perplexity is over all tokens but the first of each window. With --against, how far FILE is from FILE2 on the same text: the mean "
    "Kullback-Leibler divergence of their predictions, in nats, and how often both would choose the same token.",
    "pumice eval m.pumice --text book.txt\n"
    "pumice eval m-w8a8.pumice --text book.txt --against m-f16.pumice --json",
    eval
};
