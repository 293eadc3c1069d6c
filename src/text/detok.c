/*
 * Owns: ids to text. Decoding of many ids is the streaming decode of each, so both give the same text.
 *
 * What is dropped at the start: STRIP_SPACE one space (Strip), STRIP_FIRST every sign of the first token (Metaspace), STRIP_SIGN one sign at the start of the first piece
 * (sentencepiece with a dummy prefix), STRIP_SIGNS one per piece until there is text (sentencepiece that removes extra spaces).
 *
 * What is held back: byte-level vocabularies: the bytes of a character that is not complete; byte-fallback ones: a run of byte tokens until it ends,
 * because `tokenizers` decides about the run as a whole (valid UTF-8, or one U+FFFD per byte).
 */
#include "text/tokenizer_internal.h"

#include "base/utf8.h"

#include <string.h>

void pm_detok_init(struct pm_detok *d, const struct pm_tokenizer *t, unsigned flags)
{
    *d = (struct pm_detok){ .t = t, .flags = flags };
}

void pm_detok_free(struct pm_detok *d)
{
    if (d) pm_buf_free(&d->held);
}

/* Text that is certain: drops the one leading space where the decoder says so. */
static pm_status put(struct pm_detok *d, const char *s, size_t len, struct pm_buf *out, pm_error *err)
{
    if (len && !d->started) {
        d->started = true;
        if (d->t->dec_strip == STRIP_SPACE && s[0] == ' ') {
            s++;
            len--;
        }
    }
    return pm_buf_add(out, s, len, err);
}

/* Byte-level: everything up to an incomplete character, invalid parts as U+FFFD. final: the rest too. */
static pm_status flush_bytes(struct pm_detok *d, bool final, struct pm_buf *out, pm_error *err)
{
    size_t n = final ? d->held.len : pm_utf8_complete(d->held.data ? d->held.data : "", d->held.len);
    pm_status st = PM_OK;
    for (size_t i = 0, used; i < n && !st; i += used) {
        uint32_t c = pm_utf8_decode(d->held.data + i, n - i, &used);
        st = c == PM_UTF8_BAD ? put(d, "\xEF\xBF\xBD", 3, out, err) : put(d, d->held.data + i, used, out, err);
    }
    if (n) {
        memmove(d->held.data, d->held.data + n, d->held.len - n);
        d->held.len -= n;
    }
    return st;
}

/* Byte fallback: the end of a run of byte tokens. `tokenizers` judges the run as a whole, sentencepiece each byte. */
static pm_status flush_run(struct pm_detok *d, struct pm_buf *out, pm_error *err)
{
    pm_status st = PM_OK;
    bool valid = d->held.len && pm_utf8_valid(d->held.data, d->held.len);
    for (size_t i = 0, n; i < d->held.len && !st; i += n) {
        bool good = pm_utf8_decode(d->held.data + i, d->held.len - i, &n) != PM_UTF8_BAD;
        if (good && (valid || d->t->spm)) st = put(d, d->held.data + i, n, out, err);
        else {
            n = 1;
            st = put(d, "\xEF\xBF\xBD", 3, out, err);
        }
    }
    d->held.len = 0;
    return st;
}

static pm_status put_replaced(struct pm_detok *d, const char *s, size_t len, struct pm_buf *out, pm_error *err)
{
    const struct pm_tokenizer *t = d->t;
    size_t n = t->dec_from ? strlen(t->dec_from) : 0;
    pm_status st = PM_OK;
    bool drop = t->dec_strip == STRIP_FIRST && !d->started;     /* every sign of the first token */
    if (drop) d->started = true;
    if ((t->dec_strip == STRIP_SIGN || t->dec_strip == STRIP_SIGNS) && !d->started && n && len >= n && memcmp(s, t->dec_from, n) == 0) {
        s += n;
        len -= n;
        d->started = t->dec_strip == STRIP_SIGN;
    }
    while (len && !st) {
        const char *hit = n ? memmem(s, len, t->dec_from, n) : NULL;
        size_t part = hit ? (size_t)(hit - s) : len;
        st = put(d, s, part, out, err);
        if (!st && hit && !drop) st = put(d, t->dec_to, strlen(t->dec_to), out, err);
        s += part + (hit ? n : 0);
        len -= part + (hit ? n : 0);
    }
    return st;
}

pm_status pm_detok_push(struct pm_detok *d, int32_t id, struct pm_buf *out, pm_error *err)
{
    const struct pm_tokenizer *t = d->t;
    size_t len;
    if (id < 0 || (uint32_t)id >= t->h.n_vocab) return PM_OK;       /* rows of the embedding without a token: no text */
    uint8_t flags = t->flags[id];
    if ((d->flags & PM_DETOKENIZE_SKIP_SPECIAL) && (flags & TOK_SPECIAL)) return PM_OK;
    const char *s = pm_tok_content(t, (uint32_t)id, &len);
    if (!s) return PM_OK;
    pm_status st;
    for (size_t i = 0; (flags & TOK_ADDED) && i < t->n_renamed; i++)
        if (t->renamed[i].id == id) {
            s = t->normalized_names.data + t->renamed[i].off;
            len = t->renamed[i].len;
        }
    if (t->byte_level) {
        size_t at = d->held.len, n;
        st = pm_buf_add(&d->held, s, len, err);
        if (!st && t->n_renamed && s >= t->normalized_names.data && s < t->normalized_names.data + t->normalized_names.len && pm_tok_unspell(s, len, d->held.data + at, &n)) d->held.len = at + n;
        return st ? st : flush_bytes(d, false, out, err);
    }
    if (t->spm && (flags & TOK_CONTROL)) return flush_run(d, out, err);
    if (t->dec_bytes && (flags & TOK_BYTE) && len == 6) {
        for (int b = 0; b < 256; b++)
            if (t->byte_id[b] == id) return pm_buf_putc(&d->held, (char)b, err);
    }
    st = flush_run(d, out, err);
    if (!st && t->dec_join && d->started) st = put(d, t->dec_join, strlen(t->dec_join), out, err);
    if (!st && t->spm && (flags & TOK_UNKNOWN)) return put(d, " \xE2\x81\x87 ", 5, out, err);
    return st ? st : put_replaced(d, s, len, out, err);
}

pm_status pm_detok_finish(struct pm_detok *d, struct pm_buf *out, pm_error *err)
{
    return d->t->byte_level ? flush_bytes(d, true, out, err) : flush_run(d, out, err);
}

pm_status pm_tokenizer_decode(const struct pm_tokenizer *t, const int32_t *ids, size_t n, unsigned flags, struct pm_buf *out, pm_error *err)
{
    struct pm_detok d;
    pm_detok_init(&d, t, flags);
    pm_status st = PM_OK;
    for (size_t i = 0; i < n && !st; i++) {
        if (ids[i] < 0) st = pm_fail(err, PM_ERR_ARGUMENT, "id %d at index %zu is negative", ids[i], i);
        else st = pm_detok_push(&d, ids[i], out, err);
    }
    if (!st) st = pm_detok_finish(&d, out, err);
    pm_detok_free(&d);
    return st;
}
