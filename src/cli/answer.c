/*
 * Owns: one answer: messages to text through the template, text to ids, ids to text on the screen, and how long it took.
 * Does not know: where questions come from (run.c, cmd_chat.c).
 */
#include "cli/answer.h"

#include <stdlib.h>
#include <string.h>

static pm_sampling_params to_params(const struct sampling_args *s)
{
    return (pm_sampling_params){ .temperature = (float)s->temp, .top_k = (int32_t)s->top_k, .top_p = (float)s->top_p, .min_p = (float)s->min_p, .repeat_penalty = (float)s->repeat,
                                 .frequency_penalty = (float)s->frequency, .presence_penalty = (float)s->presence, .penalty_last_n = (int32_t)s->last_n,
                                 .mirostat = (int32_t)s->mirostat, .mirostat_tau = (float)s->tau, .mirostat_eta = (float)s->eta, .seed = s->seed };
}

/* For pm_token_fn: shows and keeps a piece. Stops the generation when nobody can read it any more. */
static int show(void *user, int32_t id, const char *text, size_t len)
{
    struct answer *a = user;
    (void)id;
    while (a->trim && len && (*text == ' ' || *text == '\n')) {
        text++;
        len--;
    }
    if (!len) return 0;
    a->trim = false;
    if (a->len + len + 1 > a->cap) {
        char *p = realloc(a->text, a->cap = (a->len + len + 1) * 2);
        if (!p) return a->failed = true;
        a->text = p;
    }
    memcpy(a->text + a->len, text, len);
    a->text[a->len += len] = '\0';
    if (!a->quiet && (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0)) a->failed = true;
    return a->failed;
}

int answer_ids(struct opened *o, const int32_t *ids, size_t n, const struct sampling_args *s, const struct arg_list *stop, int64_t max, struct answer *a, struct timing *t)
{
    pm_error err = { 0 };
    pm_generate_params g = { .max_tokens = (uint32_t)max, .sampling = to_params(s), .stop = stop->v, .n_stop = stop->n, .speculate = s->speculate ? 15 : 0, .on_token = show, .user = a };
    pm_generate_result result = { 0 };
    *t = (struct timing){ .prompt = n };
    double start = now_seconds();
    catch_interrupt(o->session);
    pm_status st = pm_session_prompt(o->session, ids, n, &t->reused, &err);
    t->ttft = now_seconds() - start;
    if (!st) st = pm_session_generate(o->session, &g, &result, &err);
    t->made = result.n_tokens;
    t->decode = result.seconds;
    t->drafted = result.n_drafted;
    t->accepted = result.n_accepted;
    t->reason = st == PM_ABORTED ? PM_STOP_ABORT : result.reason;
    if (a->failed) return a->quiet ? EXIT_SPACE : EXIT_RUN;     /* main() says that the output cannot be written */
    if (st == PM_ABORTED) return interrupt_code();
    return st ? report(&err) : EXIT_OK;
}

double prefill_speed(const struct timing *t)
{
    return t->ttft > 0 ? (double)(t->prompt - t->reused) / t->ttft : 0;
}

double decode_speed(const struct timing *t)
{
    return t->decode > 0 ? (double)t->made / t->decode : 0;
}

void print_perf(const struct timing *t)
{
    fprintf(stderr, "prompt %zu tokens (%zu reused), TTFT %.1f ms, prefill %.1f tokens/s; %zu new tokens, decode %.1f tokens/s", t->prompt, t->reused, t->ttft * 1e3, prefill_speed(t), t->made,
            decode_speed(t));
    if (t->drafted) fprintf(stderr, ", %zu of %zu guesses right", t->accepted, t->drafted);
    fprintf(stderr, "; peak memory %.1f MiB\n", peak_memory() / 1048576);
}

int32_t *chat_ids(const struct opened *o, const json_t *messages, size_t *n, int *code)
{
    char *json = json_dumps(messages, JSON_COMPACT), *text = NULL;
    size_t len;
    int32_t *ids = NULL;
    pm_error err = { 0 };
    pm_template_params p = { .messages_json = json };
    if (!json) {
        *code = complain(EXIT_SPACE, "out of memory");
        return NULL;
    }
    if (pm_template_render(o->model, &p, &text, &len, &err)) *code = err.code == PM_ERR_TEMPLATE ? complain(EXIT_INPUT, "chat template: %s", err.msg) : report(&err);
    else if (pm_tokenize(o->model, text, len, PM_TOKENIZE_TEMPLATE, &ids, n, &err)) *code = report(&err);
    pm_free(text);
    free(json);
    return ids;
}

int append_message(json_t *messages, const char *role, const char *text, size_t len)
{
    json_t *content = json_stringn(text, len);
    if (!content) return complain(EXIT_INPUT, "the text is not valid UTF-8; only \"pumice run --raw\" takes it");
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content));
    return -1;
}

int needs_template(const struct opened *o)
{
    if (o->info.chat_template) return -1;
    return complain(EXIT_INPUT, "the model has no chat template: it cannot answer; \"pumice run --raw\" lets it continue a text");
}

void warn_long_context(const struct opened *o)
{
    uint32_t n = pm_session_context(o->session), most = o->info.n_ctx_max;
    if (n > most) complain(EXIT_OK, "--ctx %u is more than the %u tokens that the model was trained for: beyond them it may write nonsense", n, most);
}
