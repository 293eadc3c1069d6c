/* Owns: `pumice run` and `pumice chat`. */
#include "cli/common.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef PM_HAVE_EDIT
#include <editline/readline.h>
#endif

struct sampling_args { double temp, top_p, min_p, repeat, frequency, presence, tau, eta; int64_t top_k, last_n, mirostat, seed; };
#define SAMPLING_ARGS(s) \
    { "--temp", ARG_REAL, &(s).temp, 0, 0, "T", "temperature; 0 (default) takes the likeliest token, so answers repeat exactly" }, \
    { "--top-k", ARG_INT, &(s).top_k, 0, 1 << 22, "K", "only the K likeliest tokens" }, { "--top-p", ARG_REAL, &(s).top_p, 0, 1, "P", "only the likeliest tokens that share P" }, \
    { "--min-p", ARG_REAL, &(s).min_p, 0, 1, "P", "only tokens at least P times as likely as the likeliest" }, \
    { "--repeat-penalty", ARG_REAL, &(s).repeat, 0, 100, "X", "divides the logits of tokens that occurred" }, \
    { "--frequency-penalty", ARG_REAL, &(s).frequency, -100, 100, "X", "subtracted per occurrence" }, { "--presence-penalty", ARG_REAL, &(s).presence, -100, 100, "X", "subtracted once" }, \
    { "--penalty-last-n", ARG_INT, &(s).last_n, -1, 1 << 24, "N", "tokens that penalties look back at (64; -1 = all)" }, \
    { "--mirostat", ARG_INT, &(s).mirostat, 0, 2, "V", "1 or 2: Mirostat instead of top-k, top-p, min-p" }, { "--mirostat-tau", ARG_REAL, &(s).tau, 0, 100, "X", "its target surprise (5)" }, \
    { "--mirostat-eta", ARG_REAL, &(s).eta, 0, 10, "X", "its learning rate (0.1)" }, { "--seed", ARG_INT, &(s).seed, 0, 0, "S", "of the sampling (0)" }

static pm_sampling_params to_params(const struct sampling_args *s)
{
    return (pm_sampling_params){ .temperature = (float)s->temp, .top_k = (int32_t)s->top_k, .top_p = (float)s->top_p, .min_p = (float)s->min_p, .repeat_penalty = (float)s->repeat,
                                 .frequency_penalty = (float)s->frequency, .presence_penalty = (float)s->presence, .penalty_last_n = (int32_t)s->last_n,
                                 .mirostat = (int32_t)s->mirostat, .mirostat_tau = (float)s->tau, .mirostat_eta = (float)s->eta, .seed = (uint64_t)s->seed };
}

/* ---- one answer ---- */

struct answer {
    bool quiet, trim;           /* trim: leading blanks of an answer are dropped */
    char *text;
    size_t len, cap;
};

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
        if (!p) return 1;
        a->text = p;
    }
    memcpy(a->text + a->len, text, len);
    a->text[a->len += len] = '\0';
    if (!a->quiet) {
        fwrite(text, 1, len, stdout);
        fflush(stdout);
    }
    return 0;
}

struct timing { size_t prompt, reused, made; double ttft, decode; pm_stop_reason reason; };

static int answer_ids(struct opened *o, const int32_t *ids, size_t n, const struct sampling_args *s, const struct arg_list *stop, int64_t max, struct answer *a, struct timing *t)
{
    pm_error err = { 0 };
    pm_generate_params g = { .max_tokens = (uint32_t)max, .sampling = to_params(s), .stop = stop->v, .n_stop = stop->n, .on_token = show, .user = a };
    pm_generate_result result = { 0 };
    *t = (struct timing){ .prompt = n };
    double start = now_seconds();
    catch_interrupt(o->session);
    pm_status st = pm_session_prompt(o->session, ids, n, &t->reused, &err);
    t->ttft = now_seconds() - start;
    if (!st) st = pm_session_generate(o->session, &g, &result, &err);
    catch_interrupt(NULL);
    t->made = result.n_tokens;
    t->decode = result.seconds;
    t->reason = result.reason;
    if (st == PM_ABORTED) return EXIT_INTERRUPT;
    return st ? report(&err) : EXIT_OK;
}

static void print_perf(const struct timing *t)
{
    size_t fed = t->prompt - t->reused;
    fprintf(stderr, "prompt %zu tokens (%zu reused), TTFT %.1f ms, prefill %.1f tok/s; %zu new tokens, decode %.1f tok/s; peak memory %.1f MiB\n", t->prompt, t->reused, t->ttft * 1e3,
            t->ttft > 0 ? (double)fed / t->ttft : 0, t->made, t->decode > 0 ? (double)t->made / t->decode : 0, peak_memory() / 1048576);
}

/* A list of messages through the template to ids. Owned. */
static int32_t *chat_ids(const struct opened *o, const json_t *messages, size_t *n, int *code)
{
    char *json = json_dumps(messages, JSON_COMPACT), *text = NULL;
    size_t len;
    int32_t *ids = NULL;
    pm_error err = { 0 };
    pm_template_params p = { .messages_json = json };
    *code = EXIT_SPACE;
    if (!json) return NULL;
    if (pm_template_render(o->model, &p, &text, &len, &err) || pm_tokenize(o->model, text, len, 0, &ids, n, &err)) *code = report(&err);
    pm_free(text);
    free(json);
    return ids;
}

static int append_message(json_t *messages, const char *role, const char *text, size_t len)
{
    json_t *content = json_stringn(text, len);
    if (!content) {
        fputs("pumice: the text is not valid UTF-8; only --raw takes it\n", stderr);
        return EXIT_INPUT;
    }
    json_array_append_new(messages, json_pack("{s:s, s:o}", "role", role, "content", content));
    return -1;
}

static int run(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    struct sampling_args s = { 0 };
    struct arg_list stop = { 0 };
    const char *system = NULL;
    int64_t max = 0;
    bool raw = false, perf = false, json = false;
    const struct arg table[] = {
        { "-n", ARG_INT, &max, 0, 1 << 24, "N", "at most N new tokens; 0 (default): until the model ends" },
        { "--raw", ARG_FLAG, &raw, 0, 0, NULL, "continue the text as it is, without the chat template" },
        { "--system", ARG_TEXT, &system, 0, 0, "S", "system message" }, { "--stop", ARG_LIST, &stop, 0, 0, "S", "stop before this text (repeatable)" }, SAMPLING_ARGS(s),
        { "--perf", ARG_FLAG, &perf, 0, 0, NULL, "print TTFT, speeds and peak memory to stderr" }, { "--json", ARG_FLAG, &json, 0, 0, NULL, "print one JSON object instead of streaming" },
        ARG_CTX(r), ARG_CHUNK(r), ARG_KV(r), ARG_THREADS(r), ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_run, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 2) return args_usage(&cmd_run, "give a .pumice file and a prompt (- reads it from standard input)");
    if (raw && system) return args_usage(&cmd_run, "--raw has no place for --system");
    struct opened o = { 0 };
    struct answer a = { .quiet = json, .trim = !raw };
    struct timing t = { 0 };
    pm_error err = { 0 };
    int32_t *ids = NULL;
    size_t n = 0, len = strlen(pos.v[1]);
    char *owned = NULL;
    const char *prompt = pos.v[1];
    json_t *messages = json_array();
    if (strcmp(prompt, "-") == 0) {
        if (!(owned = read_file("-", &len, &rc))) goto done;
        prompt = owned;
    }
    if ((rc = open_model(&o, pos.v[0])) >= 0) goto done;
    if (!raw && !o.info.chat_template) {
        fputs("pumice: the model has no chat template; use --raw to continue a text\n", stderr);
        rc = EXIT_INPUT;
        goto done;
    }
    if ((rc = open_session(&o, &r)) >= 0) goto done;
    if (raw) {
        if (pm_tokenize(o.model, prompt, len, PM_TOKENIZE_ADD_SPECIAL, &ids, &n, &err)) {
            rc = report(&err);
            goto done;
        }
    } else {
        if ((system && (rc = append_message(messages, "system", system, strlen(system))) >= 0) || (rc = append_message(messages, "user", prompt, len)) >= 0) goto done;
        if (!(ids = chat_ids(&o, messages, &n, &rc))) goto done;
    }
    if (n == 0) {
        fputs("pumice: the prompt is empty\n", stderr);
        rc = EXIT_USAGE;
        goto done;
    }
    rc = answer_ids(&o, ids, n, &s, &stop, max, &a, &t);
    if (json && (rc == EXIT_OK || rc == EXIT_INTERRUPT)) {
        static const char *const reasons[] = { "length", "eos", "stop", "context", "abort" };
        printf("{\"text\": ");
        put_json(a.text ? a.text : "", a.len);
        printf(", \"prompt_tokens\": %zu, \"new_tokens\": %zu, \"stop\": \"%s\", \"ttft_ms\": %.2f, \"decode_tok_s\": %.2f}\n", t.prompt, t.made, reasons[t.reason], t.ttft * 1e3,
               t.decode > 0 ? (double)t.made / t.decode : 0);
    } else if (!json) {
        putchar('\n');
    }
    if (rc == EXIT_OK && t.reason == PM_STOP_CONTEXT) fputs("pumice: stopped: the context is full (use a larger --ctx)\n", stderr);
    if (perf && t.ttft > 0) print_perf(&t);
done:
    json_decref(messages);
    pm_free(ids);
    free(owned);
    free(a.text);
    close_all(&o);
    return rc;
}

/* ---- chat ---- */

static const char chat_help[] =
    "/help            this text\n/system TEXT     sets the system message and starts anew\n/reset           forgets the conversation\n/undo            forgets the last question and answer\n"
    "/save FILE       writes the conversation as JSON\n/load FILE       reads one\n/temp X          sets the temperature\n/tokens          tokens on the timeline\n"
    "/stats           speeds of the last answer\n/quit            ends (so does Ctrl-D)\nA line that ends with \\ goes on in the next one. Ctrl-C stops an answer.\n";

struct chat {
    struct opened o;
    json_t *messages;
    struct sampling_args s;
    struct timing last;
    int64_t max;
};

/* A line without its end; NULL at the end of input. Owned. */
static char *read_line(const char *prompt)
{
#ifdef PM_HAVE_EDIT
    if (isatty(0) && isatty(1)) {
        char *line = readline(prompt);
        if (line && *line) add_history(line);
        return line;
    }
#endif
    char *line = NULL;
    size_t cap = 0;
    if (isatty(0)) {
        fputs(prompt, stdout);
        fflush(stdout);
    }
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 0) {
        free(line);
        return NULL;
    }
    if (n && line[n - 1] == '\n') line[n - 1] = '\0';
    return line;
}

static char *read_question(void)
{
    char *all = read_line("> ");
    while (all && *all && all[strlen(all) - 1] == '\\') {
        char *more = read_line("  ");
        if (!more) break;
        char *both = malloc(strlen(all) + strlen(more) + 2);
        if (both) {
            all[strlen(all) - 1] = '\0';
            sprintf(both, "%s\n%s", all, more);
        }
        free(all);
        free(more);
        all = both;
    }
    return all;
}

static void forget(struct chat *c, size_t keep)
{
    while (json_array_size(c->messages) > keep) json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

static size_t first_turn(const struct chat *c)
{
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, 0), "role"));
    return role && strcmp(role, "system") == 0 ? 1 : 0;
}

/* Asks with what is in `messages`; the oldest turns go when the context is too small. */
static int ask(struct chat *c)
{
    struct arg_list none = { 0 };
    for (;;) {
        size_t n;
        int code;
        int32_t *ids = chat_ids(&c->o, c->messages, &n, &code);
        if (!ids) return code;
        size_t room = pm_session_context(c->o.session);
        if (n + 16 > room && json_array_size(c->messages) > first_turn(c) + 2) {
            fputs("[the context is full: the oldest turn is forgotten]\n", stderr);
            json_array_remove(c->messages, first_turn(c));
            json_array_remove(c->messages, first_turn(c));
            pm_free(ids);
            continue;
        }
        struct answer a = { .trim = true };
        int rc = answer_ids(&c->o, ids, n, &c->s, &none, c->max, &a, &c->last);
        pm_free(ids);
        putchar('\n');
        if (rc == EXIT_OK && c->last.reason == PM_STOP_CONTEXT) fputs("[the context is full]\n", stderr);
        if (rc == EXIT_OK || rc == EXIT_INTERRUPT) append_message(c->messages, "assistant", a.text ? a.text : "", a.len);
        else forget(c, json_array_size(c->messages) - 1);
        free(a.text);
        return rc;
    }
}

static void load_or_save(struct chat *c, const char *line)
{
    bool save = line[1] == 's';
    const char *path = line + 6;
    if (save) {
        if (json_dump_file(c->messages, path, JSON_INDENT(1)) != 0) fprintf(stderr, "[cannot write %s]\n", path);
        return;
    }
    json_error_t je;
    json_t *j = json_load_file(path, 0, &je);
    if (!json_is_array(j)) {
        fprintf(stderr, "[%s is not a saved conversation]\n", path);
        json_decref(j);
        return;
    }
    json_decref(c->messages);
    c->messages = j;
}

/* Returns false when the chat ends. */
static bool command(struct chat *c, const char *line)
{
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/help") == 0) fputs(chat_help, stdout);
    else if (strcmp(line, "/reset") == 0) forget(c, first_turn(c));
    else if (strcmp(line, "/undo") == 0) forget(c, json_array_size(c->messages) >= first_turn(c) + 2 ? json_array_size(c->messages) - 2 : first_turn(c));
    else if (strcmp(line, "/tokens") == 0) printf("%zu of %u tokens\n", pm_session_length(c->o.session), pm_session_context(c->o.session));
    else if (strcmp(line, "/stats") == 0) print_perf(&c->last);
    else if (strncmp(line, "/system ", 8) == 0) {
        forget(c, 0);
        append_message(c->messages, "system", line + 8, strlen(line + 8));
    } else if (strncmp(line, "/temp ", 6) == 0) c->s.temp = strtod(line + 6, NULL);
    else if (strncmp(line, "/save ", 6) == 0 || strncmp(line, "/load ", 6) == 0) load_or_save(c, line);
    else fprintf(stderr, "[unknown command; /help lists them]\n");
    return true;
}

static int chat(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    struct chat c = { 0 };
    const char *system = NULL;
    const struct arg table[] = {
        { "--system", ARG_TEXT, &system, 0, 0, "S", "system message" }, { "-n", ARG_INT, &c.max, 0, 1 << 24, "N", "at most N tokens an answer" }, SAMPLING_ARGS(c.s),
        ARG_CTX(r), ARG_CHUNK(r), ARG_KV(r), ARG_THREADS(r), ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_chat, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_chat, "give one .pumice file");
    if ((rc = open_model(&c.o, pos.v[0])) >= 0 || (rc = open_session(&c.o, &r)) >= 0) goto done;
    c.messages = json_array();
    rc = EXIT_OK;
    if (!c.o.info.chat_template) {
        fputs("pumice: the model has no chat template: it cannot chat; use \"pumice run --raw\"\n", stderr);
        rc = EXIT_INPUT;
        goto done;
    }
    if (system && append_message(c.messages, "system", system, strlen(system)) >= 0) goto done;
    if (isatty(1)) printf("%s, %s. /help lists the commands.\n", c.o.info.name, c.o.info.dtype);
    for (char *line; (line = read_question());) {
        bool go_on = true;
        if (*line == '/') go_on = command(&c, line);
        else if (*line && append_message(c.messages, "user", line, strlen(line)) < 0) {
            rc = ask(&c);
            if (rc == EXIT_INTERRUPT) rc = EXIT_OK;
        }
        free(line);
        if (!go_on) break;
    }
done:
    json_decref(c.messages);
    close_all(&c.o);
    return rc;
}

const struct command cmd_run = {
    "run", "answer a prompt, or continue a text", "run FILE \"PROMPT\" [-n N] [--raw] [options]",
    "Puts the prompt through the model's chat template and streams the answer. With --raw the text is continued as it is.\n"
    "Without --temp the likeliest token is taken each time: the same file and prompt give the same answer on every machine.\n\n"
    "  pumice run m.pumice \"What is the capital of France?\"\n"
    "  pumice run m.pumice --raw \"Once upon a time\" -n 100 --temp 0.7 --seed 7 --perf",
    run
};
const struct command cmd_chat = {
    "chat", "a conversation, with line editing and /commands", "chat FILE [--system S] [options]",
    "What was said before is not computed again. /help lists the commands inside.\n\n  pumice chat m.pumice --system \"Answer in one sentence.\"", chat
};
