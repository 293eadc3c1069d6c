/* Owns: `pumice logits`: every position's logits as a NumPy file, and their hash. */
#include "cli/common.h"

#include <stdlib.h>
#include <string.h>

struct sink { FILE *f; bool hash; pm_sha256 sha; };

static int take(void *user, size_t position, const float *logits, size_t n)
{
    struct sink *s = user;
    (void)position;
    if (s->hash) pm_sha256_update(&s->sha, logits, n * sizeof *logits);
    if (s->f && fwrite(logits, sizeof *logits, n, s->f) != n) return 1;
    return interrupted();
}

/* NumPy's format, version 1: magic, header length, a Python dict padded to 64 bytes. */
static void npy_header(FILE *f, size_t rows, size_t cols)
{
    char dict[118];
    int n = snprintf(dict, sizeof dict, "{'descr': '<f4', 'fortran_order': False, 'shape': (%zu, %zu), }", rows, cols);
    memset(dict + n, ' ', sizeof dict - (size_t)n);
    dict[sizeof dict - 1] = '\n';
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
    fwrite(dict, 1, sizeof dict, f);
}

static int32_t *get_ids(const struct opened *o, const char *ids, const char *ids_file, const char *text, size_t *n, int *code)
{
    if (ids) return parse_ids(ids, n, code);
    if (ids_file) {
        size_t len;
        char *data = read_text(ids_file, &len, code);
        int32_t *out = data ? parse_ids(data, n, code) : NULL;
        free(data);
        return out;
    }
    int32_t *out = NULL;
    pm_error err = { 0 };
    if (pm_tokenize(o->model, text, strlen(text), PM_TOKENIZE_ADD_SPECIAL, &out, n, &err)) *code = report(&err);
    else if (*n == 0) {
        *code = complain(EXIT_USAGE, "the text is empty: it has no tokens");
        pm_free(out);
        return NULL;
    }
    return out;
}

/* Feeds the ids and writes what the sink wants. */
static int compute(struct opened *o, const int32_t *ids, size_t n, const char *path, struct sink *sink)
{
    struct output out = { 0 };
    pm_error err = { 0 };
    int rc = path ? output_open(&out, path) : -1;
    if (rc >= 0) return rc;
    sink->f = out.f;
    if (sink->f) npy_header(sink->f, n, o->info.n_vocab);
    pm_sha256_init(&sink->sha);
    catch_interrupt(o->session);
    pm_status st = pm_session_feed_logits(o->session, ids, n, take, sink, &err);
    if (st && !(out.f && ferror(out.f))) rc = report(&err);
    else if (out.f) rc = output_commit(&out);       /* says so when the disk was full */
    output_discard(&out);
    return rc < 0 ? EXIT_OK : rc;
}

static int logits(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    const char *ids = NULL, *ids_file = NULL, *text = NULL, *output = NULL;
    struct sink sink = { 0 };
    const struct arg table[] = {
        { "--ids", ARG_TEXT, &ids, 0, 0, "IDS", "token ids, as in --ids \"1 2 3\"" },
        { "--ids-file", ARG_TEXT, &ids_file, 0, 0, "F", "a file with ids (- is standard input)" },
        { "--text", ARG_TEXT, &text, 0, 0, "S", "text, with what the tokenizer adds (BOS)" },
        { "-o", ARG_TEXT, &output, 0, 0, "OUT.npy", "write float32 [tokens, vocabulary] in NumPy's format (- is standard output)" },
        { "--hash", ARG_FLAG, &sink.hash, 0, 0, NULL, "print the SHA-256 of those floats: the same on every machine" },
        ARG_CTX(r), ARG_CHUNK(r), ARG_KV(r), ARG_THREADS(r), ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_logits, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_logits, "give one .pumice file");
    if ((ids != NULL) + (ids_file != NULL) + (text != NULL) != 1) return args_usage(&cmd_logits, "give one of --ids, --ids-file and --text");
    if (!output && !sink.hash) return args_usage(&cmd_logits, "nothing to do with the logits: give -o OUT.npy, --hash, or both");
    if (output && strcmp(output, "-") == 0 && sink.hash) return args_usage(&cmd_logits, "-o - and --hash would both write to standard output");
    struct opened o = { 0 };
    size_t n = 0;
    int32_t *list = NULL;
    if ((rc = open_model(&o, pos.v[0])) >= 0) return rc;
    if (!(list = get_ids(&o, ids, ids_file, text, &n, &rc))) goto done;
    if (!r.ctx && n > 4096) r.ctx = (int64_t)n;
    if ((rc = open_session(&o, &r)) >= 0) goto done;
    rc = compute(&o, list, n, output, &sink);
    if (rc == EXIT_OK && sink.hash) {
        uint8_t digest[32];
        pm_sha256_final(&sink.sha, digest);
        for (int i = 0; i < 32; i++) printf("%02x", digest[i]);
        putchar('\n');
    }
done:
    free(list);
    close_all(&o);
    return rc;
}

const struct command cmd_logits = {
    "logits", "logits of every position, and their hash", "logits FILE (--ids IDS | --ids-file F | --text S) [-o OUT.npy] [--hash] [options]",
    "The same file and tokens give the same hash on every machine, for any --threads, --chunk and --isa. The KV cache's type changes it.",
    "pumice logits m.pumice --text \"Once upon a time\" --hash\n"
    "pumice logits m.pumice --ids \"1 2 3\" -o logits.npy",
    logits
};
