/*
 * A real model against the official implementation: check_smollm2 MODEL.pumice GOLDEN-FOLDER
 *
 * The goldens (tools/oracle/smollm2.py) hold a text, its ids, the top-1 of transformers' float32 after each of them in windows of 512, and greedy chat answers.
 * Passes when the ids are equal, the top-1 agrees on at least 99.8 % of the positions (F32 cache), and every answer is equal (F16 cache).
 * The model is fetched, so this is a program of its own and not one of the tests: `make smollm2-check`.
 */
#include <pumice.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 512, ANSWER = 40 };

static char *slurp(const char *folder, const char *name, size_t *len)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) {
        perror(path);
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    *len = (size_t)ftell(f);
    rewind(f);
    char *data = malloc(*len + 1);
    if (!data || fread(data, 1, *len, f) != *len) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    data[*len] = 0;
    fclose(f);
    return data;
}

static void must(pm_status st, const pm_error *err)
{
    if (st) {
        fprintf(stderr, "%s: %s\n", pm_status_name(st), err->msg);
        exit(1);
    }
}

struct top1 { const int32_t *want; size_t same; };

static int on_logits(void *user, size_t position, const float *logits, size_t n)
{
    struct top1 *t = user;
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (logits[i] > logits[best]) best = i;
    t->same += t->want[position] == (int32_t)best;
    return 0;
}

static bool check_text(pm_engine *engine, const pm_model *model, const char *golden)
{
    size_t text_len, ids_len, top_len, n;
    char *text = slurp(golden, "text.txt", &text_len), *ids = slurp(golden, "ids.i32", &ids_len), *top = slurp(golden, "top1.i32", &top_len);
    int32_t *ours;
    pm_error err = { 0 };
    must(pm_tokenize(model, text, text_len, 0, &ours, &n, &err), &err);
    bool ok = n * sizeof *ours == ids_len && top_len == ids_len && !memcmp(ours, ids, ids_len);
    printf("tokenizer: %zu ids of %zu bytes: %s\n", n, text_len, ok ? "equal" : "NOT EQUAL");
    static const struct { pm_kv_type kv; const char *name; } caches[] = { { PM_KV_F32, "F32" }, { PM_KV_F16, "F16" } };
    for (size_t k = 0; k < 2 && ok; k++) {
        pm_session *session;
        must(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = WINDOW, .kv = caches[k].kv }, &session, &err), &err);
        size_t same = 0;
        for (size_t at = 0; at < n; at += WINDOW) {
            struct top1 t = { .want = (const int32_t *)(const void *)top + at };
            must(pm_session_truncate(session, 0, &err), &err);
            must(pm_session_feed_logits(session, ours + at, n - at < WINDOW ? n - at : WINDOW, on_logits, &t, &err), &err);
            same += t.same;
        }
        printf("top-1, %s cache: %zu of %zu positions equal (%.2f %%)\n", caches[k].name, same, n, 100 * (double)same / (double)n);
        if (caches[k].kv == PM_KV_F32) ok = (double)same >= 0.998 * (double)n;
        pm_session_free(session);
    }
    pm_free(ours);
    free(text);
    free(ids);
    free(top);
    return ok;
}

struct answer { char text[2048]; size_t len; };

static int on_token(void *user, int32_t id, const char *text, size_t len)
{
    (void)id;
    struct answer *a = user;
    for (size_t i = 0; i < len && a->len + 2 < sizeof a->text; i++) {
        if (text[i] == '\n') a->text[a->len++] = '\\';
        a->text[a->len++] = text[i] == '\n' ? 'n' : text[i];
    }
    a->text[a->len] = 0;
    return 0;
}

static bool check_answer(pm_session *session, const pm_model *model, const char *question, const char *want)
{
    pm_error err = { 0 };
    json_t *messages = json_pack("[{s:s, s:s}]", "role", "user", "content", question);
    char *json = json_dumps(messages, 0), *prompt;
    size_t len, n;
    int32_t *ids;
    must(pm_template_render(model, &(pm_template_params){ .messages_json = json }, &prompt, &len, &err), &err);
    must(pm_tokenize(model, prompt, len, 0, &ids, &n, &err), &err);
    must(pm_session_prompt(session, ids, n, NULL, &err), &err);
    struct answer a = { .len = 0 };
    pm_generate_result result;
    must(pm_session_generate(session, &(pm_generate_params){ .max_tokens = ANSWER, .on_token = on_token, .user = &a }, &result, &err), &err);
    bool ok = strcmp(a.text, want) == 0;
    printf("%s %s\n", ok ? "equal    " : "NOT EQUAL", question);
    if (!ok) printf("    want %s\n    got  %s\n", want, a.text);
    pm_free(prompt);
    pm_free(ids);
    free(json);
    json_decref(messages);
    return ok;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s MODEL.pumice tests/golden/smollm2\n", argv[0]);
        return 2;
    }
    pm_error err = { 0 };
    pm_engine *engine;
    pm_model *model;
    pm_session *session;
    must(pm_engine_create(&(pm_engine_params){ 0 }, &engine, &err), &err);
    must(pm_model_open(argv[1], &model, &err), &err);
    must(pm_session_create(engine, model, &(pm_session_params){ .n_ctx = 256 }, &session, &err), &err);
    bool ok = check_text(engine, model, argv[2]);
    size_t len;
    char *questions = slurp(argv[2], "questions.txt", &len), *answers = slurp(argv[2], "answers.txt", &len), *q_at, *a_at;
    for (char *q = strtok_r(questions, "\n", &q_at), *a = strtok_r(answers, "\n", &a_at); q && a; q = strtok_r(NULL, "\n", &q_at), a = strtok_r(NULL, "\n", &a_at))
        ok = check_answer(session, model, q, a) && ok;
    free(questions);
    free(answers);
    pm_session_free(session);
    pm_model_close(model);
    pm_engine_free(engine);
    puts(ok ? "PASS" : "FAIL");
    return ok ? 0 : 1;
}
