/*
 * Owns: the calibration text on its way to windows of tokens, the checks that it is one, and spilled memory.
 *
 * A text is a list of documents: the whole file, or each line of a file of JSON lines. Chats are rendered with the model's own template, because the tokens between turns are
 * those that a chat model sees most. The documents are tokenized, laid end to end and cut into windows; of those, as many as asked for are taken, evenly.
 */
#include "convert/calibrate.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "convert/conversion.h"
#include "text/chat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MAX_TEXT ((size_t)1 << 30)

struct reader {
    struct pm_conversion *c;
    const struct pm_tokenizer *tok;
    const char *what;           /* the file's name, for messages; NULL: the built-in text, which may be in any script */
    struct pm_ids ids;
    size_t n_char;
};

static size_t count_chars(const char *text, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) n += ((unsigned char)text[i] & 0xC0) != 0x80;
    return n;
}

static pm_status add_text(struct reader *r, const char *text, size_t len, pm_error *err)
{
    r->n_char += count_chars(text, len);
    return pm_tokenizer_encode(r->tok, text, len, 0, &r->ids, err);
}

/* The content of a special token for the template, or NULL. */
static char *special(const struct reader *r, int32_t id, pm_error *err)
{
    size_t len;
    const char *s = id >= 0 ? pm_tokenizer_content(r->tok, id, &len) : NULL;
    return s ? pm_strndup(s, len, err) : NULL;
}

static pm_status add_chat(struct reader *r, const json_t *messages, pm_error *err)
{
    const struct pm_desc *d = &r->c->plan.desc;
    const struct pm_source *s = &r->c->source;
    char *json = json_dumps(messages, JSON_COMPACT), *text = NULL, *bos = special(r, d->bos_id, err), *eos = special(r, d->n_eos ? d->eos_id[0] : -1, err);
    size_t len = 0;
    pm_status st = json ? PM_OK : pm_fail(err, PM_ERR_MEMORY, "out of memory");
    const pm_template_params p = { .messages_json = json, .no_generation_prompt = true, .now_unix = 1735689600 };
    if (!st) st = pm_chat_render(s->chat_template, s->chat_template_len, bos, eos, &p, &text, &len, err);
    if (!st) st = add_text(r, text, len, err);
    free(json);
    free(text);
    free(bos);
    free(eos);
    return st;
}

/* A chat for a model without a template: its contents, one after the other. */
static pm_status add_contents(struct reader *r, const json_t *messages, pm_error *err)
{
    size_t i;
    const json_t *m;
    pm_status st = PM_OK;
    json_array_foreach(messages, i, m) {
        const json_t *content = json_object_get(m, "content");
        if (!st && json_is_string(content)) st = add_text(r, json_string_value(content), json_string_length(content), err);
        if (!st) st = add_text(r, "\n", 1, err);
    }
    return st;
}

static pm_status add_line(struct reader *r, const char *line, size_t len, size_t number, pm_error *err)
{
    char what[64];
    snprintf(what, sizeof what, "line %zu", number);
    json_t *j = pm_json_parse(line, len, false, what, err);
    if (!j) return PM_ERR_FORMAT;
    const json_t *messages = json_object_get(j, "messages"), *text = json_object_get(j, "text");
    pm_status st;
    if (json_is_array(messages)) {
        st = r->c->source.chat_template ? add_chat(r, messages, err) : add_contents(r, messages, err);
        if (st && !r->what) {       /* a template that wants other chats than ours is no reason to fail */
            if (err) *err = (pm_error){ 0 };
            st = add_contents(r, messages, err);
        }
    } else if (json_is_string(text)) st = add_text(r, json_string_value(text), json_string_length(text), err);
    else st = pm_fail(err, PM_ERR_FORMAT, "line %zu has neither \"messages\" (an array) nor \"text\" (a string)", number);
    if (st) pm_error_prefix(err, "line %zu", number);
    json_decref(j);
    return st;
}

static pm_status add_lines(struct reader *r, const char *text, size_t len, pm_error *err)
{
    size_t number = 1;
    for (const char *p = text, *end = text + len; p < end; number++) {
        const char *stop = memchr(p, '\n', (size_t)(end - p)), *next = stop ? stop + 1 : end;
        if (!stop) stop = end;
        size_t blank = 0;
        while (p + blank < stop && strchr(" \t\r", p[blank])) blank++;
        pm_status st = blank < (size_t)(stop - p) ? add_line(r, p, (size_t)(stop - p), number, err) : PM_OK;
        if (st) return st;
        p = next;
    }
    return PM_OK;
}

static pm_status check_text(const char *text, size_t len, pm_error *err)
{
    if (len == 0) return pm_fail(err, PM_ERR_FORMAT, "it is empty; give a text of some ten thousand words, or leave --calibrate out for the built-in text");
    if (memchr(text, 0, len)) return pm_fail(err, PM_ERR_FORMAT, "it holds NUL bytes: this is not a text");
    size_t bad = 0;
    for (size_t at = 0; at < len;) {
        size_t n;
        bad += pm_utf8_decode(text + at, len - at, &n) == PM_UTF8_BAD;
        at += n;
    }
    if (bad > len / 100) return pm_fail(err, PM_ERR_FORMAT, "%zu of its %zu bytes are not UTF-8: this is not a text, or in another encoding", bad, len);
    return PM_OK;
}

static pm_status read_user_text(struct reader *r, uint64_t *bytes, pm_error *err)
{
    char *text;
    size_t len;
    pm_status st = pm_file_read(r->what, MAX_TEXT, &text, &len, err);
    if (st) return st;
    *bytes = len;
    st = check_text(text, len, err);
    if (!st) st = text[strspn(text, " \t\r\n")] == '{' ? add_lines(r, text, len, err) : add_text(r, text, len, err);
    if (!st && r->ids.n < PM_CALIBRATE_LEAST)
        st = pm_fail(err, PM_ERR_FORMAT, "it has %zu tokens; at least %d are needed, and some ten thousand are better. Leave --calibrate out for the built-in text", r->ids.n, PM_CALIBRATE_LEAST);
    /* bytes or unknown tokens instead of words: the statistics would be those of nothing that the model can read */
    if (!st && r->ids.n > r->n_char + r->n_char / 2)
        st = pm_fail(err, PM_ERR_FORMAT, "its %zu characters are %zu tokens: the model's tokenizer does not know this script", r->n_char, r->ids.n);
    free(text);
    if (st) pm_error_prefix(err, "calibration text %.100s", r->what);
    return st;
}

/* Every (n/m)th window. With BOS in front where the tokenizer wants one. */
static pm_status cut(struct pm_calibration *cal, const struct reader *r, pm_error *err)
{
    struct pm_ids probe = { 0 };
    const struct pm_desc *d = &r->c->plan.desc;
    pm_status st = pm_tokenizer_encode(r->tok, "", 0, PM_TOKENIZE_ADD_SPECIAL, &probe, err);
    if (st) return st;
    size_t lead = probe.n && d->bos_id >= 0 && probe.id[0] == d->bos_id ? 1 : 0;
    free(probe.id);
    cal->window = pm_min_size(PM_CALIBRATE_WINDOW, pm_max_size(d->n_ctx_max, 2));
    const struct pm_dtype_choice *dtype = &r->c->dtype;
    size_t most = dtype->type == PM_W_W4 && dtype->group && dtype->group <= 64 ? PM_CALIBRATE_SMALL : PM_CALIBRATE_MOST;
    size_t have = r->ids.n / (cal->window - lead), want = pm_max_size(1, pm_min_size(have, most / cal->window));
    if (!have) return pm_fail(err, PM_ERR_FORMAT, "the calibration text is shorter than one window of %zu tokens", cal->window);
    cal->ids = pm_calloc(want, cal->window * sizeof *cal->ids, err);
    if (!cal->ids) return PM_ERR_MEMORY;
    cal->n_window = want;
    for (size_t i = 0; i < want; i++) {
        int32_t *row = cal->ids + i * cal->window;
        if (lead) row[0] = d->bos_id;
        memcpy(row + lead, r->ids.id + i * have / want * (cal->window - lead), (cal->window - lead) * sizeof *row);
    }
    for (size_t i = 0; i < want * cal->window; i++)
        if (cal->ids[i] < 0 || (uint32_t)cal->ids[i] >= d->n_vocab) return pm_fail(err, PM_ERR_MISMATCH, "the tokenizer gives id %d, but the model has %u", cal->ids[i], d->n_vocab);
    return PM_OK;
}

pm_status pm_calibration_open(struct pm_calibration *cal, struct pm_conversion *c, pm_error *err)
{
    *cal = (struct pm_calibration){ 0 };
    struct pm_tokenizer *tok = NULL;
    struct reader r = { .c = c, .what = c->params->calibrate };
    void *blob = pm_calloc(1, c->tokenizer.len, err);
    if (!blob) return PM_ERR_MEMORY;
    memcpy(blob, c->tokenizer.data, c->tokenizer.len);
    pm_status st = pm_tokenizer_open(blob, c->tokenizer.len, &tok, err);
    r.tok = tok;
    if (!st && r.what) st = read_user_text(&r, &cal->text_bytes, err);
    else if (!st) {
        cal->text_bytes = pm_builtin_text_len + pm_builtin_chats_len;
        if (!(st = add_text(&r, pm_builtin_text, pm_builtin_text_len, err))) st = add_lines(&r, pm_builtin_chats, pm_builtin_chats_len, err);
    }
    if (!st) st = cut(cal, &r, err);
    if (st) pm_calibration_free(cal);
    free(r.ids.id);
    pm_tokenizer_free(tok);
    free(blob);
    return st;
}

void pm_calibration_free(struct pm_calibration *cal)
{
    free(cal->ids);
    *cal = (struct pm_calibration){ 0 };
}

/* ---- memory that spills ---- */

static pm_status map_file(struct pm_spill *s, const char *beside, pm_error *err)
{
    const char *slash = strrchr(beside, '/');
    size_t len = slash ? (size_t)(slash - beside) + 1 : 0;
    char *path = pm_calloc(1, len + 32, err);
    if (!path) return PM_ERR_MEMORY;
    memcpy(path, beside, len);
    memcpy(path + len, "pumice-XXXXXX", 14);
    int fd = mkstemp(path), why;
    pm_status st = PM_OK;
    if (fd < 0) st = pm_fail(err, PM_ERR_IO, "cannot create a temporary file beside %s: %s", beside, strerror(errno));
    else {
        unlink(path);
        /* taken now, so that a full disk is an error here and not a signal later */
        if ((why = posix_fallocate(fd, 0, (off_t)s->bytes)) != 0) st = pm_fail(err, PM_ERR_IO, "no room for %zu MiB of activations beside %s: %s", s->bytes >> 20, beside, strerror(why));
        void *p = st ? MAP_FAILED : mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (!st && p == MAP_FAILED) st = pm_fail(err, errno == ENOMEM ? PM_ERR_MEMORY : PM_ERR_IO, "cannot map %zu MiB of activations: %s", s->bytes >> 20, strerror(errno));
        else if (!st) s->data = p;
        close(fd);
    }
    free(path);
    return st;
}

pm_status pm_spill_open(struct pm_spill *s, size_t n_float, const char *beside, pm_error *err)
{
    *s = (struct pm_spill){ 0 };
    if (!pm_size_mul(n_float, sizeof(float), &s->bytes)) return pm_fail(err, PM_ERR_LIMIT, "too many activations");
    if (s->bytes > PM_SPILL_BYTES) return map_file(s, beside, err);
    void *p = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) return pm_fail(err, PM_ERR_MEMORY, "out of memory: %zu MiB of activations", s->bytes >> 20);
    s->data = p;
    return PM_OK;
}

void pm_spill_drop(const struct pm_spill *s, size_t first, size_t n)
{
    const size_t page = 4096;
    size_t from = first * sizeof(float) / page * page, to = pm_round_up((first + n) * sizeof(float), page);
    if (s->bytes > PM_SPILL_BYTES) madvise((char *)s->data + from, to - from, MADV_DONTNEED);
}

void pm_spill_close(struct pm_spill *s)
{
    if (s->data) munmap(s->data, s->bytes);
    *s = (struct pm_spill){ 0 };
}
