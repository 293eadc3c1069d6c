/* Owns: `pumice run`: one prompt, one answer. */
#include "cli/answer.h"

#include <stdlib.h>
#include <string.h>

struct request {
    const char *prompt;         /* [len], borrowed */
    size_t len;
    const char *system;
    bool raw;
};

/* The prompt as ids (pm_free); NULL after reporting. */
static int32_t *to_ids(const struct opened *o, const struct request *q, size_t *n, int *code)
{
    int32_t *ids = NULL;
    pm_error err = { 0 };
    if (q->raw) {
        if (pm_tokenize(o->model, q->prompt, q->len, PM_TOKENIZE_ADD_SPECIAL, &ids, n, &err)) *code = report(&err);
    } else {
        json_t *messages = json_array();
        if ((!q->system || (*code = append_message(messages, "system", q->system, strlen(q->system))) < 0) && (*code = append_message(messages, "user", q->prompt, q->len)) < 0)
            ids = chat_ids(o, messages, n, code);
        json_decref(messages);
    }
    if (!ids || *n) return ids;
    *code = complain(EXIT_USAGE, "the prompt is empty: there is nothing to continue");
    pm_free(ids);
    return NULL;
}

static void print_answer_json(const struct answer *a, const struct timing *t)
{
    static const char *const reasons[] = { "length", "eos", "stop", "context", "abort" };
    fputs("{\"text\": ", stdout);
    put_json(a->text ? a->text : "", a->len);
    printf(", \"prompt_tokens\": %zu, \"new_tokens\": %zu, \"stop\": \"%s\", \"ttft_ms\": %.3f, \"prefill_tok_s\": %.3f, \"decode_tok_s\": %.3f, \"peak_memory_mib\": %.2f}\n", t->prompt, t->made,
           reasons[t->reason], t->ttft * 1e3, prefill_speed(t), decode_speed(t), peak_memory() / 1048576);
}

static int run(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    struct sampling_args s = { 0 };
    struct arg_list stop = { 0 };
    struct request q = { 0 };
    int64_t max = 0;
    bool perf = false, json = false;
    const struct arg table[] = {
        { "-n", ARG_INT, &max, 0, 1 << 24, "N", "at most N new tokens (default 0: until the model ends or the context is full)" },
        { "--raw", ARG_FLAG, &q.raw, 0, 0, NULL, "continue the text as it is, without the chat template" },
        { "--system", ARG_TEXT, &q.system, 0, 0, "S", "a system message before the prompt" },
        { "--stop", ARG_LIST, &stop, 0, 0, "S", "end before this text would appear (may be given several times)" },
        SAMPLING_ARGS(s),
        { "--perf", ARG_FLAG, &perf, 0, 0, NULL, "print time to first token, speeds and peak memory to standard error" },
        { "--json", ARG_FLAG, &json, 0, 0, NULL, "print one JSON object at the end in place of streaming" },
        ARG_CTX(r), ARG_CHUNK(r), ARG_KV(r), ARG_THREADS(r), ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_run, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n < 2) return args_usage(&cmd_run, "give a .pumice file and a prompt (- reads the prompt from standard input)");
    if (pos.n > 2) return args_usage(&cmd_run, "the prompt must be one argument: put it in quotes");
    if (q.raw && q.system) return args_usage(&cmd_run, "--raw has no place for --system");
    struct opened o = { 0 };
    struct answer a = { .quiet = json, .trim = !q.raw };
    struct timing t = { 0 };
    int32_t *ids = NULL;
    size_t n = 0;
    char *owned = NULL;
    q.prompt = pos.v[1];
    q.len = strlen(q.prompt);
    if ((rc = open_model(&o, pos.v[0])) >= 0 || (!q.raw && (rc = needs_template(&o)) >= 0)) goto done;
    if (strcmp(q.prompt, "-") == 0) {
        if (!(owned = read_file("-", &q.len, &rc))) goto done;
        q.prompt = owned;
    }
    if ((rc = open_session(&o, &r)) >= 0) goto done;
    if (!json) warn_long_context(&o);
    if (!(ids = to_ids(&o, &q, &n, &rc))) goto done;
    rc = answer_ids(&o, ids, n, &s, &stop, max, &a, &t);
    bool answered = rc == EXIT_OK || t.reason == PM_STOP_ABORT;
    if (answered && json) print_answer_json(&a, &t);
    else if (answered || a.len) putchar('\n');
    fflush(stdout);
    if (rc == EXIT_OK && t.reason == PM_STOP_CONTEXT) complain(0, "stopped because the context of %u tokens is full; a larger --ctx lets it go on", pm_session_context(o.session));
    if (perf && answered) print_perf(&t);
done:
    pm_free(ids);
    free(owned);
    free(a.text);
    close_all(&o);
    return rc;
}

const struct command cmd_run = {
    "run", "answer a prompt, or continue a text", "run FILE \"PROMPT\" [options]\nrun FILE - [options] < prompt.txt",
    "Puts the prompt through the model's chat template and streams the answer to standard output. With --raw the text is continued as it is. Without --temp the likeliest token is taken "
    "each time: the same file and prompt give the same answer on every machine.",
    "pumice run m.pumice \"What is the capital of France?\"\n"
    "pumice run m.pumice --raw \"Once upon a time\" -n 100 --temp 0.7 --seed 7 --perf\n"
    "pumice run m.pumice --system \"Answer in French.\" \"Who are you?\"",
    run
};
