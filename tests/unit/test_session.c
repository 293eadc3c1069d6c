/* Sessions: prefix reuse, truncation, limits, abort, generation and stop strings, and files whose header lies. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/session.h"

#define V BUILDER_VOCAB

static char path[64], bad_path[64];
static pm_engine *engine;
static pm_model *model;

static pm_session *open_session(uint32_t n_ctx, uint32_t n_chunk)
{
    pm_error err = { 0 };
    pm_session *s;
    pm_session_params sp = { .n_ctx = n_ctx, .n_chunk = n_chunk };
    assert_int_equal(pm_session_create(engine, model, &sp, &s, &err), PM_OK);
    return s;
}

static void make_ids(int32_t *ids, size_t n, size_t seed)
{
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)((i * 31 + i * i * seed + seed) % 256);
}

/* The logits after these ids in a session of its own. */
static void fresh(const int32_t *ids, size_t n, float *logits)
{
    pm_error err = { 0 };
    pm_session *s = open_session(512, 0);
    assert_int_equal(pm_session_feed(s, ids, n, &err), PM_OK);
    memcpy(logits, pm_session_logits(s), V * sizeof(float));
    pm_session_free(s);
}

static void test_prefix_and_truncate(void **state)
{
    (void)state;
    pm_error err = { 0 };
    int32_t a[150], b[140];
    float want[V];
    size_t reused = 99;
    make_ids(a, 150, 3);
    make_ids(b, 140, 3);
    for (size_t i = 100; i < 140; i++) b[i] = (b[i] + 1) % 256;
    pm_session *s = open_session(256, 32);
    assert_null(pm_session_logits(s));
    assert_null(pm_session_hidden(s));
    assert_int_equal(pm_session_prompt(s, a, 150, &reused, &err), PM_OK);
    assert_int_equal(reused, 0);
    assert_int_equal(pm_session_prompt(s, b, 140, &reused, &err), PM_OK);   /* another end */
    assert_int_equal(reused, 100);
    assert_int_equal(pm_session_length(s), 140);
    fresh(b, 140, want);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    assert_int_equal(pm_session_prompt(s, b, 140, &reused, &err), PM_OK);   /* the same: one token is fed again */
    assert_int_equal(reused, 139);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    assert_int_equal(pm_session_truncate(s, 70, &err), PM_OK);
    assert_null(pm_session_logits(s));
    assert_int_equal(pm_session_truncate(s, 71, &err), PM_ERR_ARGUMENT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed(s, a + 70, 80, &err), PM_OK);          /* over old pages and past them */
    fresh(a, 150, want);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    assert_int_equal(pm_session_truncate(s, 0, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, b, 140, &err), PM_OK);
    fresh(b, 140, want);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    pm_session_free(s);
}

/* Where keys behind a window were given back, the timeline can still be cut anywhere: the kept tokens are read again. */
static void test_windows(void **state)
{
    (void)state;
    static const struct { uint32_t window; size_t cut; bool reads_again; } cases[] = { { 10, 149, false }, { 10, 73, false }, { 10, 72, true }, { 10, 60, true }, { 10, 1, true }, { 10, 0, true }, { 100, 90, false } };
    int32_t a[150], b[150];
    float want[V];
    pm_model *whole = model;
    make_ids(a, 150, 3);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pm_error err = { 0 };
        char file[80];
        snprintf(file, sizeof file, "%s.w", path);
        assert_int_equal(builder_write(file, &(struct builder_options){ .dtype = "w8a8", .tied = true, .window = cases[i].window, .caps = true, .seed = 32 }, &err), PM_OK);
        assert_int_equal(pm_model_open(file, &model, &err), PM_OK);
        size_t cut = cases[i].cut, reused = 99;
        pm_session *s = open_session(512, 16);
        assert_int_equal(pm_session_feed(s, a, 150, &err), PM_OK);
        fresh(a, 150, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        assert_int_equal(pm_session_truncate(s, cut, &err), PM_OK);
        assert_int_equal(pm_session_length(s), cut);
        if (cut) assert_int_equal(pm_session_logits(s) != NULL, cases[i].reads_again);
        assert_int_equal(pm_session_feed(s, a + cut, 150 - cut, &err), PM_OK);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        make_ids(b, 150, 4);
        memcpy(b, a, cut * sizeof *a);
        assert_int_equal(pm_session_prompt(s, b, 150, &reused, &err), PM_OK);
        assert_int_equal(reused, cases[i].reads_again ? 0 : cut);
        fresh(b, 150, want);
        assert_memory_equal(pm_session_logits(s), want, sizeof want);
        pm_session_free(s);
        pm_model_close(model);
        unlink(file);
    }
    model = whole;
}

static void test_limits(void **state)
{
    (void)state;
    int32_t ids[70];
    float want[V];
    make_ids(ids, 70, 5);
    pm_session *s = open_session(64, 16);
    pm_error err = { 0 };
    assert_int_equal(pm_session_feed(s, ids, 65, &err), PM_CONTEXT_FULL);
    assert_non_null(strstr(err.msg, "64"));
    assert_int_equal(pm_session_length(s), 0);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed(s, ids, 60, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, 5, &err), PM_CONTEXT_FULL);
    assert_int_equal(pm_session_length(s), 60);
    assert_non_null(pm_session_logits(s));      /* nothing was appended: the old logits stand */
    const int32_t outside[] = { -1, V, INT32_MAX, INT32_MIN };
    for (size_t i = 0; i < 4; i++) {
        int32_t two[] = { 1, outside[i] };
        err = (pm_error){ 0 };
        assert_int_equal(pm_session_feed(s, two, 2, &err), PM_ERR_ARGUMENT);
        assert_non_null(strstr(err.msg, "token 1"));
        err = (pm_error){ 0 };
        assert_int_equal(pm_session_prompt(s, two, 2, NULL, &err), PM_ERR_ARGUMENT);
        assert_int_equal(pm_session_length(s), 60);
    }
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed(s, ids, 0, &err), PM_ERR_ARGUMENT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed(s, ids + 60, 4, &err), PM_OK);
    fresh(ids, 64, want);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    assert_int_equal(pm_session_feed(s, ids, 1, &err), PM_CONTEXT_FULL);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_prompt(s, ids, 65, NULL, &err), PM_CONTEXT_FULL);
    assert_int_equal(pm_session_length(s), 64);
    pm_session_free(s);
}

static void test_batch_is_all_or_nothing(void **state)
{
    (void)state;
    int32_t ids[40], wrong[] = { V };
    make_ids(ids, 40, 2);
    pm_session *a = open_session(64, 32), *b = open_session(8, 32);
    pm_session *both[] = { a, b }, *twice[] = { a, a };
    const int32_t *what[] = { ids, ids }, *bad[] = { ids, wrong };
    size_t fits[] = { 4, 8 }, too_long[] = { 4, 9 }, one[] = { 1, 1 };
    pm_error err = { 0 };
    assert_int_equal(pm_session_feed_batch(both, what, too_long, 2, &err), PM_CONTEXT_FULL);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed_batch(both, bad, one, 2, &err), PM_ERR_ARGUMENT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed_batch(twice, what, one, 2, &err), PM_ERR_ARGUMENT);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed_batch(both, what, fits, 2, &err), PM_ERR_LIMIT);     /* 12 tokens, b's chunk is its context of 8 */
    assert_int_equal(pm_session_length(a), 0);
    assert_int_equal(pm_session_length(b), 0);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed_batch(both, what, one, 2, &err), PM_OK);
    assert_int_equal(pm_session_length(a) + pm_session_length(b), 2);
    pm_session_free(a);
    pm_session_free(b);
}

/* ---- abort ---- */

static void *abort_later(void *arg)
{
    struct timespec wait = { .tv_nsec = 20000000 };
    nanosleep(&wait, NULL);
    pm_session_abort(arg);
    return NULL;
}

static void test_abort(void **state)
{
    (void)state;
    enum { LONG = 60000 };
    pm_error err = { 0 };
    int32_t *ids = malloc(LONG * sizeof *ids);
    float want[V];
    pthread_t thread;
    make_ids(ids, LONG, 7);
    pm_session *s = open_session(LONG, 16);
    assert_int_equal(pthread_create(&thread, NULL, abort_later, s), 0);
    assert_int_equal(pm_session_feed(s, ids, LONG, &err), PM_ABORTED);
    pthread_join(thread, NULL);
    assert_int_equal(err.code, PM_ABORTED);
    size_t n = pm_session_length(s);
    assert_true(n < LONG);
    assert_int_equal(n % 16, 0);                /* whole chunks */
    err = (pm_error){ 0 };
    size_t keep = pm_min_size(n, 32);
    assert_int_equal(pm_session_truncate(s, keep, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids + keep, 100 - keep, &err), PM_OK);     /* the abort was used up */
    fresh(ids, 100, want);
    assert_memory_equal(pm_session_logits(s), want, sizeof want);
    pm_session_abort(s);                        /* the next call stops, the one after it does not */
    assert_int_equal(pm_session_feed(s, ids, 4, &err), PM_ABORTED);
    assert_int_equal(pm_session_length(s), 100);
    err = (pm_error){ 0 };
    assert_int_equal(pm_session_feed(s, ids, 4, &err), PM_OK);
    pm_session_free(s);
    free(ids);
}

/* ---- generation ---- */

struct text {
    char data[4096];
    size_t len, calls;
    size_t stop_after;      /* calls; 0 = never */
};

static int collect(void *user, int32_t id, const char *piece, size_t len)
{
    struct text *t = user;
    assert_true(id >= 0 && id < V);
    assert_true(t->len + len < sizeof t->data);
    memcpy(t->data + t->len, piece, len);
    t->len += len;
    return ++t->calls == t->stop_after;
}

/* Generates from the same prompt; returns the status. */
static pm_status generate(pm_generate_params p, struct text *t, pm_generate_result *r, pm_session *s)
{
    pm_error err = { 0 };
    int32_t ids[20];
    make_ids(ids, 20, 11);
    assert_int_equal(pm_session_prompt(s, ids, 20, NULL, &err), PM_OK);
    memset(t->data, 0, sizeof t->data);
    t->len = t->calls = 0;
    p.on_token = collect;
    p.user = t;
    return pm_session_generate(s, &p, r, &err);
}

static void test_generate(void **state)
{
    (void)state;
    pm_session *s = open_session(256, 0);
    pm_error err = { 0 };
    pm_generate_result r;
    pm_generate_params p = { .max_tokens = 60, .ignore_eos = true, .sampling = { .temperature = 1.5f, .seed = 5 } };
    static struct text whole, again, part;
    assert_int_equal(pm_session_generate(s, &p, &r, &err), PM_ERR_ARGUMENT);    /* nothing was fed */
    assert_int_equal(generate(p, &whole, &r, s), PM_OK);
    assert_int_equal(r.n_tokens, 60);
    assert_int_equal(r.reason, PM_STOP_LENGTH);
    assert_int_equal(pm_session_length(s), 80);
    pm_session *other = open_session(256, 0);
    assert_int_equal(generate(p, &again, &r, other), PM_OK);
    assert_int_equal(again.len, whole.len);
    assert_memory_equal(again.data, whole.data, whole.len);
    /* every piece of the text as a stop string, whatever token borders it crosses */
    for (size_t len = 1; len <= 9; len += 4)
        for (size_t at = 0; at + len <= whole.len; at += 11) {
            char stop[16] = { 0 };
            memcpy(stop, whole.data + at, len);
            if (memchr(stop, 0, len)) continue;     /* stop strings are C strings */
            const char *stops[] = { "never to be seen", stop };
            pm_generate_params q = p;
            q.stop = stops;
            q.n_stop = 2;
            pm_session *fresh_session = open_session(256, 0);
            assert_int_equal(generate(q, &part, &r, fresh_session), PM_OK);
            const char *first = memmem(whole.data, whole.len, stop, len);
            assert_int_equal(r.reason, PM_STOP_STRING);
            assert_int_equal(part.len, first - whole.data);
            assert_memory_equal(part.data, whole.data, part.len);
            pm_session_free(fresh_session);
        }
    const char *almost[] = { "\x01\x02\x03 never", "" };    /* an empty stop string never stops */
    pm_generate_params q = p;
    q.stop = almost;
    q.n_stop = 2;
    pm_session *third = open_session(256, 0);
    assert_int_equal(generate(q, &part, &r, third), PM_OK);
    assert_int_equal(part.len, whole.len);
    pm_session_free(third);
    third = open_session(256, 0);
    part.stop_after = 3;
    assert_int_equal(generate(p, &part, &r, third), PM_ABORTED);
    assert_int_equal(r.reason, PM_STOP_ABORT);
    assert_int_equal(r.n_tokens, 3);
    pm_session_free(third);
    third = open_session(32, 0);
    part.stop_after = 0;
    assert_int_equal(generate(p, &part, &r, third), PM_OK);
    assert_int_equal(r.reason, PM_STOP_CONTEXT);
    assert_int_equal(pm_session_length(third), 32);
    pm_session_free(third);
    pm_session_free(s);
    pm_session_free(other);
}

/*
 * A clock under which a plain step takes a second and a step with drafts `draft_takes`: what it times is a plain step if the session has grown by one token meanwhile. Drafts are made as long as they
 * do not cost too much, so with the real clock it would depend on the machine how many there are.
 */
static struct { pm_session *s; double now, draft_takes; size_t length, steps, slow_step; bool running; } simulated;    /* slow_step: one that takes 60 times longer; 0 = none */
static double simulated_clock(void)
{
    if (simulated.running) simulated.now += (pm_session_length(simulated.s) - simulated.length == 1 ? 1 : simulated.draft_takes) * (++simulated.steps == simulated.slow_step ? 60 : 1);
    simulated.running = !simulated.running;
    simulated.length = pm_session_length(simulated.s);
    return simulated.now;
}

static void simulate_clock(pm_session *s, double draft_takes)
{
    simulated.s = s;
    simulated.now = 0;
    simulated.steps = simulated.slow_step = 0;
    simulated.draft_takes = draft_takes;
    simulated.running = false;
    s->engine->clock = simulated_clock;
}

/* Speculation changes nothing but the number of steps: same ids, same logits and hidden state at the end, for greedy and random sampling, with penalties, in a model that
   loops (greedy) and in one that does not, up to a full context. */
static void test_speculate(void **state)
{
    (void)state;
    static const pm_sampling_params sampling[] = { { 0 }, { .temperature = 0.6f, .seed = 3 }, { .temperature = 0.3f, .top_k = 5, .repeat_penalty = 1.1f, .frequency_penalty = 0.2f, .seed = 4 },
                                                   { .temperature = 0.9f, .mirostat = 2, .mirostat_tau = 2, .seed = 5 } };
    static struct text plain, fast;
    size_t accepted = 0, rejected = 0;
    for (size_t i = 0; i < sizeof sampling / sizeof *sampling; i++)
        for (uint32_t max = 1; max <= 15; max += 7) {
            pm_generate_result a, b;
            pm_session *s = open_session(260, 0), *q = open_session(260, 0);
            pm_generate_params p = { .max_tokens = i ? 150 : 0, .sampling = sampling[i], .ignore_eos = true, .keep_special = true };
            plain.stop_after = fast.stop_after = 0;
            assert_int_equal(generate(p, &plain, &a, s), PM_OK);
            p.speculate = max;
            simulate_clock(q, 1);
            assert_int_equal(generate(p, &fast, &b, q), PM_OK);
            assert_int_equal(a.n_tokens, b.n_tokens);
            assert_int_equal(a.reason, b.reason);
            assert_int_equal(plain.len, fast.len);
            assert_memory_equal(plain.data, fast.data, plain.len);
            assert_int_equal(pm_session_length(s), pm_session_length(q));
            assert_memory_equal(pm_session_logits(s), pm_session_logits(q), V * sizeof(float));
            assert_memory_equal(pm_session_hidden(s), pm_session_hidden(q), 96 * sizeof(float));
            accepted += b.n_accepted;
            rejected += b.n_drafted - b.n_accepted;
            assert_true(b.n_accepted <= b.n_drafted);
            pm_session_free(s);
            pm_session_free(q);
        }
    print_message("%zu guesses right, %zu wrong\n", accepted, rejected);
    assert_true(accepted > 100 && rejected > 20);
    engine->clock = pm_seconds;
}

/* However dear drafts are, and however often they are wrong, they cost at most 1.5 % of the time and the draft that found it out. */
static void test_dear_speculation(void **state)
{
    (void)state;
    for (double takes = 1; takes <= 32; takes *= 2)
        for (uint32_t seed = 1; seed <= 4; seed++) {
            static struct text text;
            pm_generate_result r;
            pm_session *s = open_session(260, 0);
            pm_generate_params p = { .max_tokens = 200, .sampling = { .temperature = 0.6f, .seed = seed }, .ignore_eos = true, .keep_special = true, .speculate = 15 };
            text.stop_after = 0;
            simulate_clock(s, takes);
            assert_int_equal(generate(p, &text, &r, s), PM_OK);
            print_message("a draft takes %2.0f steps: %3zu tokens in %5.1f steps, %zu of %zu guesses right\n", takes, r.n_tokens, simulated.now, r.n_accepted, r.n_drafted);
            assert_true(simulated.now <= 1.016 * (double)r.n_tokens + takes);
            assert_true(r.n_drafted > 0);
            pm_session_free(s);
        }
    /* a step that somebody else made slow, plain or with a draft, does not turn it off for good, nor make it blind */
    for (int dear = 0; dear < 2; dear++) {
        static const size_t at[] = { 0, 1, 2, 30, 31, 32, 33, 34 };
        double quiet = 0;
        for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
            size_t slow = at[i];
            static struct text text;
            pm_generate_result r;
            pm_session *s = open_session(260, 0);
            pm_generate_params p = { .max_tokens = 230, .ignore_eos = true, .keep_special = true, .speculate = 15 };
            text.stop_after = 0;
            simulate_clock(s, dear ? 6 : 1.3);
            simulated.slow_step = slow;
            assert_int_equal(generate(p, &text, &r, s), PM_OK);
            if (!slow) quiet = simulated.now;
            print_message("a draft takes %.1f steps, step %2zu is slow: %5.1f steps\n", simulated.draft_takes, slow, simulated.now);
            assert_true(simulated.now <= quiet + 60 * simulated.draft_takes + 0.12 * quiet);
            pm_session_free(s);
        }
    }
    engine->clock = pm_seconds;
}

struct stopper {
    pm_session *s;
    int32_t id[64];
    size_t n, at;       /* pm_session_abort is called with the at-th token */
};

static int abort_at(void *user, int32_t id, const char *piece, size_t len)
{
    struct stopper *t = user;
    (void)piece, (void)len;
    t->id[t->n++] = id;
    if (t->n == t->at) pm_session_abort(t->s);
    return 0;
}

/* Stopped anywhere, before a step with drafts or among tokens that were drafted, a session has the logits and the hidden state of its last token. */
static void test_abort_speculation(void **state)
{
    (void)state;
    size_t accepted = 0, late = 0;
    for (size_t at = 1; at <= 40; at++) {
        pm_error err = { 0 };
        pm_generate_result r;
        int32_t ids[100];
        pm_session *s = open_session(260, 0), *t = open_session(260, 0);
        struct stopper stop = { .s = s, .at = at };
        make_ids(ids, 20, 11);
        assert_int_equal(pm_session_feed(s, ids, 20, &err), PM_OK);
        pm_generate_params p = { .max_tokens = 60, .ignore_eos = true, .keep_special = true, .speculate = 8, .on_token = abort_at, .user = &stop };
        simulate_clock(s, 1);
        assert_int_equal(pm_session_generate(s, &p, &r, &err), PM_ABORTED);
        assert_int_equal(r.reason, PM_STOP_ABORT);
        size_t n = pm_session_length(s);
        assert_true(n >= 20 + at - 1 && n < 20 + stop.n);
        memcpy(ids + 20, stop.id, (n - 20) * sizeof *ids);
        err = (pm_error){ 0 };
        assert_int_equal(pm_session_feed(t, ids, n, &err), PM_OK);
        assert_memory_equal(pm_session_logits(s), pm_session_logits(t), V * sizeof(float));
        assert_memory_equal(pm_session_hidden(s), pm_session_hidden(t), 96 * sizeof(float));
        accepted += r.n_accepted;
        late += stop.n > at;    /* the drafted tokens behind it needed no feed that could stop */
        pm_session_free(s);
        pm_session_free(t);
    }
    print_message("%zu guesses right, %zu times went on for some drafted tokens\n", accepted, late);
    assert_true(accepted > 100 && late > 5 && late < 40);
    engine->clock = pm_seconds;
}

static void test_eos(void **state)
{
    (void)state;
    static struct text t;
    pm_generate_result r;
    size_t ends = 0;
    for (uint64_t seed = 0; seed < 12; seed++) {    /* at this temperature the draw is nearly even: an end comes soon */
        pm_session *s = open_session(1000, 0);
        pm_generate_params p = { .max_tokens = 900, .sampling = { .temperature = 50, .seed = seed } };
        assert_int_equal(generate(p, &t, &r, s), PM_OK);
        if (r.reason == PM_STOP_EOS) {
            ends++;
            assert_int_equal(pm_session_length(s), 20 + r.n_tokens - 1);    /* the end itself is not on the timeline */
        }
        pm_session_free(s);
    }
    assert_true(ends >= 8);
}

/* ---- files that lie ---- */

static char *load(size_t *len)
{
    FILE *f = fopen(path, "rb");
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*len);
    assert_int_equal(fread(data, 1, *len, f), *len);
    fclose(f);
    return data;
}

static void store(const char *data, size_t len)
{
    FILE *f = fopen(bad_path, "wb");
    assert_int_equal(fwrite(data, 1, len, f), len);
    fclose(f);
}

static void test_lies(void **state)
{
    (void)state;
    static const struct { const char *old, *new, *says; pm_status st; } cases[] = {
        { "\\\"n_kv\\\":2", "\\\"n_kv\\\":5", "n_kv", PM_ERR_FORMAT },
        { "\\\"n_head\\\":6", "\\\"n_head\\\":4", "attn.qkv.n", PM_ERR_MISMATCH },
        { "\\\"n_embd\\\":96", "\\\"n_embd\\\":95", "95", PM_ERR_MISMATCH },
        { "\\\"n_rot\\\":16", "\\\"n_rot\\\":15", "n_rot", PM_ERR_FORMAT },
        { "\\\"n_rot\\\":16", "\\\"n_rot\\\":98", "n_rot", PM_ERR_FORMAT },
        { "\\\"n_vocab\\\":275", "\\\"n_vocab\\\":274", "274", PM_ERR_LIMIT },
        { "\"layers.1.attn.o.weight\":{", "\"layers.1.attn.o.weighs\":{", "layers.1.attn.o.weight", PM_ERR_MISSING },
        { "\\\"kind\\\":\\\"glu\\\"", "\\\"kind\\\":\\\"gla\\\"", "layers[0].ffn.kind \"gla\"", PM_ERR_UNSUPPORTED },
        { "\\\"act\\\":\\\"silu\\\"", "\\\"act\\\":\\\"siLu\\\"", "layers[0].ffn.act", PM_ERR_UNSUPPORTED },
        { "\\\"rope\\\":0", "\\\"rope\\\":3", "layers[0].attn.rope is 3", PM_ERR_FORMAT },
        { "\\\"kind\\\":\\\"fixed\\\"", "\\\"kind\\\":\\\"fixe!\\\"", "ropes[0].kind", PM_ERR_UNSUPPORTED },
        { "\\\"norm\\\":\\\"rms\\\"", "\\\"norm\\\":\\\"rmz\\\"", "model.norm", PM_ERR_UNSUPPORTED },
        { "\"dtype\":\"I8\"", "\"dtype\":\"U8\"", "must be I8", PM_ERR_MISMATCH },
        { "\"pumice.format\":\"1\"", "\"pumice.format\":\"7\"", "version \"7\"", PM_ERR_UNSUPPORTED },
        { "\"shape\":[6,48,16,4]", "\"shape\":[48,6,16,4]", "[48, 6, 16, 4]", PM_ERR_MISMATCH },
        { "\"pumice.format\"", "\"pumice.farmat\"", "not a .pumice", PM_ERR_FORMAT },
    };
    size_t len;
    char *good = load(&len), *bad = malloc(len);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        memcpy(bad, good, len);
        char *at = memmem(bad, len, cases[i].old, strlen(cases[i].old));
        if (!at) fail_msg("the header has no %s", cases[i].old);
        assert_int_equal(strlen(cases[i].old), strlen(cases[i].new));
        memcpy(at, cases[i].new, strlen(cases[i].new));
        store(bad, len);
        pm_model *m = NULL;
        pm_error err = { 0 };
        pm_status st = pm_model_open(bad_path, &m, &err);
        if (st != cases[i].st || !strstr(err.msg, cases[i].says)) fail_msg("%s: status %d, \"%s\"", cases[i].new, st, err.msg);
        assert_null(m);
    }
    free(bad);
    free(good);
}

/* Whatever bytes change: an error, or a model that runs without harm. */
static void test_damage(void **state)
{
    (void)state;
    size_t len;
    char *good = load(&len), *bad = malloc(len);
    uint64_t rng = 77, header;
    size_t opened = 0;
    memcpy(&header, good, 8);
    for (int round = 0; round < 400; round++) {
        memcpy(bad, good, len);
        size_t limit = round % 3 ? (size_t)header + 8 : len;
        for (uint64_t n = pm_rng_next(&rng) % 3 + 1; n; n--) {
            size_t at = pm_rng_next(&rng) % limit;
            bad[at] = round % 2 ? (char)pm_rng_next(&rng) : (char)('0' + pm_rng_next(&rng) % 10);
        }
        store(bad, round % 7 == 6 ? pm_rng_next(&rng) % len : len);
        pm_model *m;
        pm_session *s;
        pm_error err = { 0 };
        if (pm_model_open(bad_path, &m, &err)) {
            assert_true(err.code != PM_OK && err.msg[0]);
            continue;
        }
        opened++;
        pm_session_params sp = { .n_ctx = 80 };
        int32_t ids[70];
        make_ids(ids, 70, 1);
        for (int i = 0; i < 70; i++) ids[i] %= 100;
        pm_generate_params p = { .max_tokens = 5, .sampling = { .temperature = 1, .mirostat = round % 3, .repeat_penalty = 1.3f } };
        if (!pm_session_create(engine, m, &sp, &s, &err)) {
            if (!pm_session_feed(s, ids, 70, &err)) pm_session_generate(s, &p, NULL, &err);
            pm_session_free(s);
        }
        pm_model_close(m);
    }
    assert_true(opened > 12 && opened < 350);
    free(bad);
    free(good);
}

/* Every job of a step is told, in order of time, on the threads that the engine has; when the room is used up the rest is dropped. */
static void test_profile(void **state)
{
    (void)state;
    pm_error err = { 0 };
    int32_t ids[40];
    size_t n, n_qkv = 0;
    make_ids(ids, 40, 6);
    pm_session *s = open_session(64, 0);
    assert_null(pm_engine_profile_events(engine, 0, &n));
    assert_int_equal(pm_engine_profile(engine, 1000, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, 40, &err), PM_OK);
    for (int t = 0; t < pm_engine_threads(engine); t++) {
        const pm_profile_event *e = pm_engine_profile_events(engine, t, &n);
        assert_non_null(e);
        for (size_t i = 0; i < n; i++) {
            assert_true(e[i].begin_ns <= e[i].end_ns && e[i].chunks > 0);
            if (i) assert_true(e[i - 1].end_ns <= e[i].begin_ns);
            if (strcmp(e[i].name, "attn.qkv") == 0) n_qkv += e[i].chunks;
        }
    }
    assert_true(n_qkv >= 2);        /* two layers */
    assert_null(pm_engine_profile_events(engine, 99, &n));
    assert_int_equal(pm_engine_profile(engine, 3, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, 1, &err), PM_OK);
    assert_non_null(pm_engine_profile_events(engine, 0, &n));
    assert_int_equal(n, 3);
    assert_int_equal(pm_engine_profile(engine, 0, &err), PM_OK);
    assert_null(pm_engine_profile_events(engine, 0, &n));
    pm_session_free(s);
}

static void test_inspect(void **state)
{
    (void)state;
    char *json = NULL;
    pm_error err = { 0 };
    assert_int_equal(pm_inspect(path, true, engine, &json, &err), PM_OK);
    assert_non_null(strstr(json, "layers.1.ffn.down.weight"));
    assert_non_null(strstr(json, "gemm_w8"));
    pm_free(json);
    size_t len;
    char *data = load(&len);
    data[len - 8] ^= 1;
    store(data, len);
    assert_int_equal(pm_inspect(bad_path, false, NULL, &json, &err), PM_OK);
    pm_free(json);
    assert_int_equal(pm_inspect(bad_path, true, NULL, &json, &err), PM_ERR_MISMATCH);
    assert_non_null(strstr(err.msg, "head"));
    free(data);
}

int main(void)
{
    strcpy(path, "/tmp/pumice-session-XXXXXX");
    strcpy(bad_path, "/tmp/pumice-damaged-XXXXXX");
    int fd = mkstemp(path), fd2 = mkstemp(bad_path);
    if (fd < 0 || fd2 < 0) return 1;
    close(fd);
    close(fd2);
    struct builder_options o = { .dtype = "w8a8", .tied = true, .bias = true, .rotate = true, .seed = 31 };
    pm_engine_params ep = { .n_threads = 2 };
    pm_error err = { 0 };
    if (builder_write(path, &o, &err) || pm_engine_create(&ep, &engine, &err) || pm_model_open(path, &model, &err)) return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prefix_and_truncate), cmocka_unit_test(test_windows), cmocka_unit_test(test_limits), cmocka_unit_test(test_batch_is_all_or_nothing), cmocka_unit_test(test_abort),
        cmocka_unit_test(test_generate), cmocka_unit_test(test_speculate), cmocka_unit_test(test_dear_speculation), cmocka_unit_test(test_abort_speculation), cmocka_unit_test(test_eos), cmocka_unit_test(test_lies), cmocka_unit_test(test_damage), cmocka_unit_test(test_profile), cmocka_unit_test(test_inspect),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_model_close(model);
    pm_engine_free(engine);
    unlink(path);
    unlink(bad_path);
    return failed;
}
