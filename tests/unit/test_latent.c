/*
 * What is particular to latent attention: what its description refuses, how much its cache takes, and what an observer sees of the linears that work inside of a task.
 * That the arithmetic is right is test_forward's business, that it is the same everywhere test_contract's.
 */
#include <setjmp.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "../model_builder.h"
#include "engine/session.h"

#define N_TOK 37

static char path[64];

static void open_model(const struct builder_options *o, struct pm_model *m)
{
    pm_error err = { 0 };
    if (builder_write(path, o, &err) || pm_model_load(m, path, &err)) fail_msg("%s", err.msg);
}

/* ---- the description ---- */

static json_t *at(json_t *j, const char *where)     /* names separated by a slash */
{
    char part[64];
    while (*where) {
        size_t n = strcspn(where, "/");
        snprintf(part, sizeof part, "%.*s", (int)n, where);
        j = json_object_get(j, part);
        assert_non_null(j);
        where += n + (where[n] == '/');
    }
    return j;
}

static void test_description(void **state)
{
    (void)state;
    static const struct { const char *where, *field, *value, *says; } cases[] = {
        { "attn", "mla", "null", "layers[0].attn.mla is missing" },
        { "attn", "kind", "\"mlb\"", "layers[0].attn.kind \"mlb\" is not known" },
        { "attn", "kind", "\"attention\"", "layers[0].attn.qkv is missing" },
        { "attn", "d_head", "37", "layers[0].attn.d_head is 37; the other fields say 38" },
        { "attn", "n_kv", "5", "layers[0].attn.n_kv is 5; the other fields say 1" },
        { "attn", "n_head", "6", "layers[0].attn.q_b.n is 190; the other fields say 228" },
        { "attn", "window", "9", "window and softcap are not known to this version with kind \"mla\"" },
        { "attn", "softcap", "9.0", "window and softcap are not known to this version with kind \"mla\"" },
        { "attn", "qk_norm", "true", "qk_norm, window and softcap are not known" },
        { "attn/mla", "q_rank", "0", "layers[0].attn.mla: field \"q_rank\" is 0" },
        { "attn/mla", "q_rank", "41", "layers[0].attn.qkv_a.n is 82; the other fields say 83" },
        { "attn/mla", "kv_rank", "1025", "layers[0].attn.mla: field \"kv_rank\" is 1025" },
        { "attn/mla", "kv_rank", "1010", "layers[0].attn.mla.kv_rank 1010 and d_rope 18: together they may be 1024" },
        { "attn/mla", "kv_rank", "25", "layers[0].attn.qkv_a.n is 82; the other fields say 83" },
        { "attn/mla", "d_nope", "21", "layers[0].attn.d_head is 38; the other fields say 39" },
        { "attn/mla", "d_rope", "257", "layers[0].attn.mla: field \"d_rope\" is 257" },
        { "attn/mla", "d_v", "17", "layers[0].attn.v_up.n is 80; the other fields say 160" },
        { "attn/mla", "d_v", "13", "layers[0].attn.o.k is 60; the other fields say 65" },
        { "attn/mla", "latent_eps", "-1.0", "layers[0].attn.mla: field \"latent_eps\" is -1" },
        { "attn/mla", "latent_eps", "\"small\"", "field \"latent_eps\"" },
        { "linears", "attn.k_up", "null", "layers[0].attn.k_up is missing" },
        { "linears/attn.k_up", "n", "120", "layers[0].attn.k_up.n is 120; the other fields say 160" },
        { "linears/attn.k_up", "k", "24", "layers[0].attn.k_up.k is 24; the other fields say 20" },
        { "linears/attn.k_up", "bias", "true", "layers[0]: attn.k_up and attn.v_up cannot have a bias" },
        { "linears/attn.v_up", "k", "20", "layers[0].attn.v_up.k is 20; the other fields say 24" },
    };
    struct pm_model m;
    pm_error err = { 0 };
    open_model(&(struct builder_options){ .dtype = "f16", .tied = true, .mla = true, .seed = 1 }, &m);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct pm_desc d;
        json_t *j = pm_desc_to_json(&m.desc, &err), *layer = json_array_get(json_object_get(j, "layers"), 0), *value = json_loads(cases[i].value, JSON_DECODE_ANY, NULL);
        assert_int_equal(pm_desc_from_json(j, &d, &err), PM_OK);
        pm_desc_free(&d);
        json_object_set_new(at(layer, cases[i].where), cases[i].field, value);
        err = (pm_error){ 0 };
        if (pm_desc_from_json(j, &d, &err) == PM_OK) fail_msg("%s.%s = %s is accepted", cases[i].where, cases[i].field, cases[i].value);
        if (!strstr(err.msg, cases[i].says)) fail_msg("%s.%s = %s: \"%s\" does not say \"%s\"", cases[i].where, cases[i].field, cases[i].value, err.msg, cases[i].says);
        json_decref(j);
    }
    /* the rope must fit into what is rotated, not into the head */
    json_t *j = pm_desc_to_json(&m.desc, &err);
    struct pm_desc d;
    json_object_set_new(json_array_get(json_object_get(j, "ropes"), 0), "n_rot", json_integer(20));
    err = (pm_error){ 0 };
    assert_int_equal(pm_desc_from_json(j, &d, &err), PM_ERR_FORMAT);
    assert_non_null(strstr(err.msg, "ropes[0].n_rot 20 is larger than layers[0].attn.mla.d_rope 18"));
    json_decref(j);
    pm_model_unload(&m);
}

/* ---- memory ---- */

static void test_cache(void **state)
{
    (void)state;
    static const struct { pm_kv_type kv; size_t first, second; } cases[] = {     /* bytes of a token in both layers of the round model */
        { PM_KV_F16, (256 + 32) * 2, (128 + 16) * 2 }, { PM_KV_F32, (256 + 32) * 4, (128 + 16) * 4 }, { PM_KV_INT8, 256 + 32 + 8, 128 + 16 + 8 },
    };
    pm_model *m;
    pm_error err = { 0 };
    assert_int_equal(builder_write(path, &(struct builder_options){ .dtype = "w8a8", .round = true, .mla = true, .seed = 2 }, &err), PM_OK);
    assert_int_equal(pm_model_open(path, &m, &err), PM_OK);
    for (size_t i = 0; i < 3; i++) {
        pm_memory_plan plan;
        assert_int_equal(pm_memory_plan_get(m, 256, cases[i].kv, &plan, &err), PM_OK);
        assert_int_equal(plan.kv_per_token, cases[i].first + cases[i].second);
        assert_int_equal(plan.kv, 256 * (cases[i].first + cases[i].second));
    }
    pm_model_close(m);
}

/* ---- observers ---- */

#define MOST_HEADS 32

struct seen {
    const struct pm_model *m;
    enum pm_slot_id last;                   /* enough is seen then; PM_SLOT_PER_LAYER: never */
    atomic_int n_wrong;
    /* for every token and head: how often it was seen, and its sum of squares */
    uint8_t times[2][PM_SLOT_PER_LAYER][N_TOK][MOST_HEADS];
    double sum[2][PM_SLOT_PER_LAYER][N_TOK][MOST_HEADS];
};

static bool observe(void *ctx, const struct pm_observed *o)
{
    struct seen *s = ctx;
    struct pm_layer_desc d = s->m->desc.layer[o->layer];
    if (o->linear >= PM_SLOT_PER_LAYER || o->k != pm_layer_linear(&d, o->linear)->k || o->ldx < o->k + (o->n_head - 1) * o->step || o->row0 + o->m > N_TOK || o->head0 + o->n_head > MOST_HEADS) {
        s->n_wrong++;
        return false;
    }
    for (size_t r = 0; r < o->m; r++)
        for (size_t h = 0; h < o->n_head; h++) {
            const float *x = o->x + r * o->ldx + h * o->step;
            s->times[o->layer][o->linear][o->row0 + r][o->head0 + h]++;
            for (size_t i = 0; i < o->k; i++) s->sum[o->layer][o->linear][o->row0 + r][o->head0 + h] += (double)x[i] * (double)x[i];
        }
    return o->linear == s->last;
}

static size_t count(const struct seen *s, uint32_t layer, enum pm_slot_id id)
{
    size_t n = 0;
    for (size_t t = 0; t < N_TOK; t++)
        for (size_t h = 0; h < MOST_HEADS; h++) n += s->times[layer][id][t][h];
    return n;
}

/* The stream after both layers of the round model, [N_TOK][n_embd]. */
static void forward(struct pm_exec *e, const struct pm_model *m, float *out)
{
    pm_error err = { 0 };
    struct pm_kv kv;
    struct pm_ropes ropes;
    int32_t ids[N_TOK];
    for (int i = 0; i < N_TOK; i++) ids[i] = i * 5;
    pm_model_ropes(m, 64, &ropes);
    assert_int_equal(pm_exec_reserve(e, &m->desc, N_TOK, &err), PM_OK);
    assert_int_equal(pm_kv_create(&kv, &m->desc, PM_KV_KIND_F16, 64, &err), PM_OK);
    struct pm_run run = { .kv = &kv, .ropes = &ropes, .n = N_TOK, .ids = ids };
    assert_int_equal(pm_decoder_forward(e, m, &run, 1), PM_OK);
    for (size_t t = 0; t < N_TOK; t++) memcpy(out + t * m->desc.n_embd, e->x + t * e->ld_embd, m->desc.n_embd * sizeof *out);
    pm_kv_free(&kv);
}

static void test_observer(void **state)
{
    (void)state;
    static float plain[N_TOK * 128], seen_by[N_TOK * 128];
    static struct seen one, three, stop;
    struct pm_model m;
    pm_error err = { 0 };
    open_model(&(struct builder_options){ .dtype = "w8a8", .round = true, .rotate = true, .mla = true, .seed = 3 }, &m);
    struct seen *results[] = { &one, &three };
    for (int k = 0; k < 2; k++) {
        struct pm_exec e;
        assert_int_equal(pm_exec_init(&e, pm_kernels_best(), k ? 3 : 1, 0, &err), PM_OK);
        forward(&e, &m, plain);
        results[k]->m = stop.m = &m;
        results[k]->last = PM_SLOT_PER_LAYER;
        e.observe = observe;
        e.observe_ctx = results[k];
        forward(&e, &m, seen_by);
        assert_memory_equal(plain, seen_by, sizeof plain);      /* looking changes nothing */
        /* what comes after the last one is left out */
        e.observe_ctx = &stop;
        const enum pm_slot_id last[] = { PM_SLOT_q_b, PM_SLOT_k_up, PM_SLOT_v_up };
        for (int i = 0; i < 3; i++) {
            memset(stop.times, 0, sizeof stop.times);
            stop.last = last[i];
            forward(&e, &m, seen_by);
            assert_true(e.skip);
            e.skip = false;
            assert_int_equal(count(&stop, 0, last[i]), N_TOK * (i ? m.desc.layer[0].n_head : 1));
            assert_int_equal(count(&stop, 0, i < 2 ? last[i + 1] : PM_SLOT_o), 0);
        }
        pm_exec_free(&e);
    }
    assert_int_equal(one.n_wrong + three.n_wrong + stop.n_wrong, 0);
    for (uint32_t l = 0; l < 2; l++) {
        uint64_t heads = m.desc.layer[l].n_head;
        assert_int_equal(count(&one, l, PM_SLOT_qkv_a), N_TOK);
        assert_int_equal(count(&one, l, PM_SLOT_q_b), N_TOK);
        assert_int_equal(count(&one, l, PM_SLOT_k_up), N_TOK * heads);     /* every token and head */
        assert_int_equal(count(&one, l, PM_SLOT_v_up), N_TOK * heads);
        assert_int_equal(count(&one, l, PM_SLOT_o), N_TOK);
        for (size_t i = 0; i < sizeof one.times; i++) assert_true(((uint8_t *)one.times)[i] <= 1);
        for (size_t i = 0; i < sizeof one.sum / sizeof(double); i++) assert_true((((double *)one.sum)[i] > 0) == (((uint8_t *)one.times)[i] > 0));
    }
    assert_memory_equal(one.times, three.times, sizeof one.times);      /* whatever the threads */
    assert_memory_equal(one.sum, three.sum, sizeof one.sum);
    pm_model_unload(&m);
}

/* A profile tells its jobs from those of the linear before them. */
static void test_profile(void **state)
{
    (void)state;
    static const char *const names[] = { "rope, cache", "attention" };
    struct pm_model m;
    pm_engine *engine;
    pm_session *s;
    pm_error err = { 0 };
    int32_t ids[N_TOK] = { 1, 2, 3 };
    size_t n, seen[2] = { 0 };
    open_model(&(struct builder_options){ .dtype = "w8a8", .round = true, .mla = true, .seed = 2 }, &m);
    assert_int_equal(pm_engine_create(&(pm_engine_params){ .n_threads = 1 }, &engine, &err), PM_OK);
    assert_int_equal(pm_session_create(engine, &m, &(pm_session_params){ .n_ctx = 64 }, &s, &err), PM_OK);
    assert_int_equal(pm_engine_profile(engine, 1000, &err), PM_OK);
    assert_int_equal(pm_session_feed(s, ids, N_TOK, &err), PM_OK);
    const pm_profile_event *e = pm_engine_profile_events(engine, 0, &n);
    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < 2; k++) seen[k] += strcmp(e[i].name, names[k]) == 0;
    assert_int_equal(seen[0], m.desc.n_layer);
    assert_int_equal(seen[1], m.desc.n_layer);
    pm_session_free(s);
    pm_engine_free(engine);
    pm_model_unload(&m);
}

int main(void)
{
    strcpy(path, "/tmp/pumice-latent-XXXXXX");
    int fd = mkstemp(path);
    if (fd < 0) return 1;
    close(fd);
    const struct CMUnitTest tests[] = { cmocka_unit_test(test_description), cmocka_unit_test(test_cache), cmocka_unit_test(test_observer), cmocka_unit_test(test_profile) };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(path);
    return failed;
}
