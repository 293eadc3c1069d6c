/* Owns: `pumice tokenize` and `pumice template`. */
#include "cli/common.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int decode(const struct opened *o, const char *text)
{
    size_t n, len;
    int code;
    int32_t *ids = parse_ids(text, &n, &code);
    char *out;
    pm_error err = { 0 };
    if (!ids) return code;
    pm_status st = pm_detokenize(o->model, ids, n, 0, &out, &len, &err);
    free(ids);
    if (st) return report(&err);
    fwrite(out, 1, len, stdout);
    putchar('\n');
    pm_free(out);
    return EXIT_OK;
}

static int encode(const struct opened *o, const char *text, size_t len, unsigned flags, bool json)
{
    int32_t *ids;
    size_t n;
    pm_error err = { 0 };
    if (pm_tokenize(o->model, text, len, flags, &ids, &n, &err)) return report(&err);
    if (json) fputs("{\"ids\": [", stdout);
    for (size_t i = 0; i < n; i++) printf("%s%d", i ? json ? ", " : " " : "", ids[i]);
    fputs(json ? "], \"pieces\": [" : "\n", stdout);
    for (size_t i = 0; json && i < n; i++) {
        char *piece;
        size_t piece_len;
        if (i) fputs(", ", stdout);
        if (pm_detokenize(o->model, &ids[i], 1, 0, &piece, &piece_len, &err)) break;
        put_json(piece, piece_len);
        pm_free(piece);
    }
    if (json) fputs("]}\n", stdout);
    pm_free(ids);
    return err.code ? report(&err) : EXIT_OK;
}

static int tokenize(int argc, char **argv)
{
    struct positional pos = { 0 };
    const char *text = NULL, *file = NULL, *ids = NULL;
    bool add_special = false, rendered = false, as_ids = false, json = false;
    const struct arg table[] = {
        { "--text", ARG_TEXT, &text, 0, 0, "S", "the text (default: standard input)" },
        { "--file", ARG_TEXT, &file, 0, 0, "F", "a file with the text (- is standard input)" },
        { "--add-special", ARG_FLAG, &add_special, 0, 0, NULL, "add what the post-processor adds (BOS and the like)" },
        { "--rendered", ARG_FLAG, &rendered, 0, 0, NULL, "a chat template rendered the text: parse the tokens that are kept for templates, too" },
        { "--ids", ARG_FLAG, &as_ids, 0, 0, NULL, "print ids on one line (default)" },
        { "--json", ARG_FLAG, &json, 0, 0, NULL, "print ids and pieces as JSON" },
        { "--decode", ARG_TEXT, &ids, 0, 0, "IDS", "print the text of these ids, as in --decode \"1 2 3\"" },
        ARG_END,
    };
    int rc = args_parse(&cmd_tokenize, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_tokenize, "give one .pumice file");
    if ((text != NULL) + (file != NULL) + (ids != NULL) > 1) return args_usage(&cmd_tokenize, "--text, --file and --decode exclude each other");
    if (as_ids && json) return args_usage(&cmd_tokenize, "--ids and --json exclude each other");
    if (ids && (add_special || rendered || as_ids || json)) return args_usage(&cmd_tokenize, "--decode prints text: it takes no --add-special, --rendered, --ids or --json");
    unsigned flags = (add_special ? PM_TOKENIZE_ADD_SPECIAL : 0) | (rendered ? PM_TOKENIZE_TEMPLATE : 0);
    struct opened o = { 0 };
    if ((rc = open_model(&o, pos.v[0])) >= 0) return rc;
    if (ids) rc = decode(&o, ids);
    else if (text) rc = encode(&o, text, strlen(text), flags, json);
    else {
        size_t len;
        if (!file && isatty(STDIN_FILENO)) fputs("reading the text from the terminal; end it with Ctrl-D\n", stderr);
        char *data = read_file(file ? file : "-", &len, &rc);
        if (data) rc = encode(&o, data, len, flags, json);
        free(data);
    }
    close_all(&o);
    return rc;
}

/* "name=JSON" pairs to one JSON object; a value that is not JSON is taken as a string. Owned (free). NULL after reporting. */
static char *variables(const struct arg_list *set, int *code)
{
    json_t *all = json_object();
    char *out = NULL;
    for (size_t i = 0; i < set->n; i++) {
        const char *v = strchr(set->v[i], '=');
        if (!v || v == set->v[i]) {
            *code = args_usage(&cmd_template, "--set needs NAME=JSON, not \"%s\"", set->v[i]);
            goto done;
        }
        json_error_t je;
        bool broken = v[1] == '{' || v[1] == '[' || v[1] == '"';    /* meant to be JSON */
        json_t *value = json_loads(v + 1, JSON_DECODE_ANY, &je);
        if (!value && broken) {
            *code = complain(EXIT_USAGE, "--set %s: not valid JSON: %s", set->v[i], je.text);
            goto done;
        }
        if (!value) value = json_string(v + 1);
        if (json_object_setn_new(all, set->v[i], (size_t)(v - set->v[i]), value) != 0) {
            *code = complain(EXIT_USAGE, "--set %s: not valid UTF-8", set->v[i]);
            goto done;
        }
    }
    if (!(out = json_dumps(all, JSON_COMPACT))) *code = complain(EXIT_SPACE, "out of memory");
done:
    json_decref(all);
    return out;
}

/* "2026-01-02T03:04:05" to seconds since 1970. -1, or an exit code. */
static int parse_now(const char *text, int64_t *out)
{
    struct tm tm = { 0 };
    const char *end = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
    struct tm given = tm;
    time_t t = timegm(&tm);
    /* timegm() makes 2 March of 30 February; what it changed was no date. 1970's first second stands for the clock. */
    if (!end || *end || tm.tm_mday != given.tm_mday || tm.tm_min != given.tm_min || t == 0) return args_usage(&cmd_template, "--now needs a time such as 2026-01-02T03:04:05, not \"%s\"", text);
    *out = (int64_t)t;
    return -1;
}

static int template(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct arg_list set = { 0 };
    const char *messages = NULL, *tools = NULL, *documents = NULL, *source = NULL, *now = NULL;
    pm_template_params p = { 0 };
    const struct arg table[] = {
        { "--messages", ARG_TEXT, &messages, 0, 0, "M.json", "the conversation: a JSON array of {role, content} (- is standard input)" },
        { "--tools", ARG_TEXT, &tools, 0, 0, "T.json", "a JSON array of tools" },
        { "--documents", ARG_TEXT, &documents, 0, 0, "D.json", "a JSON array of documents" },
        { "--set", ARG_LIST, &set, 0, 0, "NAME=JSON", "a template variable, as enable_thinking=false; a value that is not JSON is a string (may be given several times)" },
        { "--no-generation-prompt", ARG_FLAG, &p.no_generation_prompt, 0, 0, NULL, "do not open the assistant's turn" },
        { "--template", ARG_TEXT, &source, 0, 0, "X.jinja", "a template in place of the file's own" },
        { "--now", ARG_TEXT, &now, 0, 0, "TIME", "what strftime_now sees, as 2026-01-02T03:04:05" },
        ARG_END,
    };
    int rc = args_parse(&cmd_template, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_template, "give one .pumice file");
    if (!messages) return args_usage(&cmd_template, "--messages M.json is missing (- reads it from standard input)");
    if (now && (rc = parse_now(now, &p.now_unix)) >= 0) return rc;
    struct opened o = { 0 };
    char *text[4] = { 0 }, *vars = NULL, *out = NULL;
    const char *const files[4] = { messages, tools, documents, source };
    size_t len;
    pm_error err = { 0 };
    if ((rc = open_model(&o, pos.v[0])) >= 0) return rc;
    rc = source || o.info.chat_template ? -1 : complain(EXIT_INPUT, "the model has no chat template; give one with --template X.jinja");
    for (int i = 0; i < 4 && rc < 0; i++)
        if (files[i]) {
            int code;
            text[i] = read_text(files[i], &len, &code);
            if (!text[i]) rc = code;
        }
    int code;
    if (rc < 0 && set.n && !(vars = variables(&set, &code))) rc = code;
    if (rc < 0) {
        p.messages_json = text[0];
        p.tools_json = text[1];
        p.documents_json = text[2];
        p.source = text[3];
        p.variables_json = vars;
        rc = pm_template_render(o.model, &p, &out, &len, &err) ? report(&err) : EXIT_OK;
    }
    if (out) fwrite(out, 1, len, stdout);
    pm_free(out);
    free(vars);
    for (int i = 0; i < 4; i++) free(text[i]);
    close_all(&o);
    return rc;
}

const struct command cmd_tokenize = {
    "tokenize", "text to token ids and back", "tokenize FILE [--text S | --file F] [options] [< text]\ntokenize FILE --decode IDS",
    "Prints the ids of a text on one line. Without --add-special they are what encode(text, add_special_tokens=False) of the official tokenizer gives. The text may hold NULs and invalid UTF-8.",
    "pumice tokenize m.pumice --text \"Hello, world\"\n"
    "pumice tokenize m.pumice --json < book.txt\n"
    "pumice tokenize m.pumice --decode \"9707 11 1879\"",
    tokenize
};
const struct command cmd_template = {
    "template", "render a conversation with the chat template", "template FILE --messages M.json [options]",
    "Prints the prompt that the model would see, exactly as transformers' apply_chat_template renders it.",
    "echo '[{\"role\": \"user\", \"content\": \"Hi\"}]' | pumice template m.pumice --messages -\n"
    "pumice template m.pumice --messages chat.json --set enable_thinking=false",
    template
};
