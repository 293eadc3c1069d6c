/*
 * Owns: timelines as bytes: saving a session and putting it back.
 *
 *   struct state_head | ids i32 [n] | logits f32 [n_vocab], hidden f32 [n_embd]: when they are ready | recurrent state f32 [n_state] | KV pages | SHA-256 of all before it
 *
 * Little-endian, no padding. The head holds a digest of everything that gives the remembered numbers their meaning: the model's description, the hashes of its tensors,
 * and the session's ropes. A buffer comes from a stranger: all of it is checked before the session is touched.
 */
#include "engine/session.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC "PMSTATE"
#define VERSION 1
#define READY 1u

struct state_head {
    char magic[8];
    uint32_t version, flags, kv_kind, n_vocab, n_embd, reserved;
    uint64_t n, n_state, n_page, page_bytes;
    uint8_t model[32];
};
_Static_assert(sizeof(struct state_head) == 96, "no padding");

static void hash_text(pm_sha256 *h, const struct pm_model *m, const char *key)
{
    size_t len = 0;
    const char *text = pm_container_meta(&m->file, key, &len);
    pm_sha256_update(h, &len, sizeof len);
    if (text) pm_sha256_update(h, text, len);
}

static void fingerprint(const pm_session *s, uint8_t digest[32])
{
    pm_sha256 h;
    pm_sha256_init(&h);
    hash_text(&h, s->model, PM_META_MODEL);
    hash_text(&h, s->model, PM_META_HASHES);
    for (uint32_t i = 0; i < s->model->desc.n_rope; i++) {
        const struct pm_rope *r = &s->ropes.r[i];
        pm_sha256_update(&h, &r->scale, sizeof r->scale);
        pm_sha256_update(&h, r->inv_freq, r->n_rot / 2 * sizeof *r->inv_freq);
    }
    pm_sha256_final(&h, digest);
}

static struct state_head head_of(const pm_session *s)
{
    const struct pm_desc *d = &s->model->desc;
    struct state_head h = { .magic = MAGIC, .version = VERSION, .flags = s->ready ? READY : 0, .kv_kind = s->kv.kind, .n_vocab = d->n_vocab, .n_embd = d->n_embd, .n = s->n,
                            .n_state = s->kv.n_state, .n_page = s->kv.page_bytes ? (s->n + PM_KV_PAGE - 1) / PM_KV_PAGE : 0, .page_bytes = s->kv.page_bytes };
    fingerprint(s, h.model);
    return h;
}

/* Bytes of a whole buffer; false when they overflow. */
static bool total_of(const struct state_head *h, size_t *total)
{
    size_t ids, state, pages, logits = h->flags & READY ? ((size_t)h->n_vocab + h->n_embd) * sizeof(float) : 0;
    return pm_size_mul(h->n, sizeof(int32_t), &ids) && pm_size_mul(h->n_state, sizeof(float), &state) && pm_size_mul(h->n_page, h->page_bytes, &pages) &&
           pm_size_add(sizeof *h + 32 + logits, ids, total) && pm_size_add(*total, state, total) && pm_size_add(*total, pages, total);
}

static uint8_t *put(uint8_t *to, const void *from, size_t len)
{
    if (len) memcpy(to, from, len);
    return to + len;
}

static uint8_t *page_at(const struct pm_kv *kv, size_t i)
{
    return kv->base + kv->page[i] * kv->page_bytes;
}

pm_status pm_session_state_save(const pm_session *s, void **data, size_t *len, pm_error *err)
{
    struct state_head h = head_of(s);
    *data = NULL;
    *len = 0;
    size_t total;
    if (!total_of(&h, &total)) return pm_fail(err, PM_ERR_MEMORY, "the state of %zu tokens does not fit into memory addresses", s->n);
    uint8_t *p = malloc(total), *at = p;
    if (!p) return pm_fail(err, PM_ERR_MEMORY, "out of memory: the state has %zu bytes", total);
    at = put(at, &h, sizeof h);
    at = put(at, s->ids, s->n * sizeof *s->ids);
    if (s->ready) {
        at = put(at, s->logits, h.n_vocab * sizeof *s->logits);
        at = put(at, s->hidden, h.n_embd * sizeof *s->hidden);
    }
    at = put(at, s->kv.state, s->kv.n_state * sizeof *s->kv.state);
    for (size_t i = 0; i < h.n_page; i++) at = put(at, page_at(&s->kv, i), h.page_bytes);
    pm_sha256 hash;
    pm_sha256_init(&hash);
    pm_sha256_update(&hash, p, (size_t)(at - p));
    pm_sha256_final(&hash, at);
    *data = p;
    *len = total;
    return PM_OK;
}

/* ---- putting it back ---- */

static pm_status check_head(const pm_session *s, const struct state_head *h, size_t len, pm_error *err)
{
    static const char *const kinds[] = { "f16", "f32", "int8" };
    struct state_head want = head_of(s);
    size_t total = 0;
    if (memcmp(h->magic, MAGIC, sizeof h->magic) != 0) return pm_fail_at(err, PM_ERR_FORMAT, 0, "this is not a saved session (it does not begin with \"" MAGIC "\")");
    if (h->version != VERSION || h->flags & ~READY || h->reserved)
        return pm_fail_at(err, PM_ERR_UNSUPPORTED, 8, "the session was saved in format version %u, flags %u; this is version %d", h->version, h->flags, VERSION);
    if (memcmp(h->model, want.model, sizeof h->model) != 0 || h->n_vocab != want.n_vocab || h->n_embd != want.n_embd || h->n_state != want.n_state)
        return pm_fail_at(err, PM_ERR_MISMATCH, 64, "the session was saved with another model, or with a context on the other side of where its ropes switch");
    if (want.page_bytes && h->kv_kind != want.kv_kind)
        return pm_fail_at(err, PM_ERR_MISMATCH, 16, "the session was saved with KV type %s; this one has %s", h->kv_kind < 3 ? kinds[h->kv_kind] : "unknown", kinds[want.kv_kind]);
    if (h->n > s->n_ctx) return pm_fail_at(err, PM_CONTEXT_FULL, 32, "the saved session has %llu tokens, the context only %zu: use a larger --ctx", (unsigned long long)h->n, s->n_ctx);
    if (h->page_bytes != want.page_bytes || h->n_page != (h->page_bytes ? (h->n + PM_KV_PAGE - 1) / PM_KV_PAGE : 0) || (h->flags & READY && !h->n))
        return pm_fail_at(err, PM_ERR_FORMAT, 48, "the saved session is damaged: its sizes contradict each other");
    if (!total_of(h, &total) || total != len) return pm_fail_at(err, PM_ERR_FORMAT, len, "the saved session has %zu bytes; its sizes say %zu: it is cut off or damaged", len, total);
    return PM_OK;
}

static pm_status check_finite(const uint8_t *p, size_t n, const char *what, pm_error *err)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + 4 * i, 4);
        if ((bits & 0x7F800000u) == 0x7F800000u) return pm_fail(err, PM_ERR_VALUE, "the saved session holds a value that is not finite in its %s", what);
    }
    return PM_OK;
}

pm_status pm_session_state_load(pm_session *s, const void *data, size_t len, pm_error *err)
{
    struct state_head h;
    const uint8_t *p = data, *ids, *logits, *state;
    uint8_t digest[32];
    if (!data || len < sizeof h + 32) return pm_fail_at(err, PM_ERR_FORMAT, 0, "a saved session has at least %zu bytes, this has %zu", sizeof h + 32, data ? len : 0);
    memcpy(&h, p, sizeof h);
    pm_status st = check_head(s, &h, len, err);
    if (st) return st;
    pm_sha256 hash;
    pm_sha256_init(&hash);
    pm_sha256_update(&hash, p, len - 32);
    pm_sha256_final(&hash, digest);
    if (memcmp(digest, p + len - 32, 32) != 0) return pm_fail_at(err, PM_ERR_MISMATCH, len - 32, "the saved session is damaged: its hash is another one");
    size_t n_logits = h.flags & READY ? h.n_vocab : 0, n_hidden = h.flags & READY ? h.n_embd : 0;
    ids = p + sizeof h;
    logits = ids + h.n * sizeof *s->ids;
    state = logits + (n_logits + n_hidden) * sizeof *s->logits;
    for (size_t i = 0; i < h.n; i++) {
        int32_t id;
        memcpy(&id, ids + i * sizeof id, sizeof id);
        if (id < 0 || (uint32_t)id >= h.n_vocab) return pm_fail_at(err, PM_ERR_FORMAT, (uint64_t)(ids - p) + i * sizeof id, "token %zu of the saved session has id %d; ids are from 0 to %u", i, id, h.n_vocab - 1);
    }
    if ((st = check_finite(logits, n_logits + n_hidden, "logits", err)) || (st = check_finite(state, s->kv.n_state, "state", err))) return st;
    pm_kv_clear(&s->kv);
    if (h.n) memcpy(s->ids, ids, h.n * sizeof *s->ids);
    if (h.flags & READY) {
        memcpy(s->logits, logits, n_logits * sizeof *s->logits);
        memcpy(s->hidden, logits + n_logits * sizeof *s->logits, n_hidden * sizeof *s->hidden);
    }
    if (s->kv.n_state) memcpy(s->kv.state, state, s->kv.n_state * sizeof *s->kv.state);
    state += s->kv.n_state * sizeof *s->kv.state;
    for (size_t i = 0; i < h.n_page; i++) memcpy(page_at(&s->kv, i), state + i * h.page_bytes, h.page_bytes);
    s->n = h.n;
    s->ready = h.flags & READY;
    pm_kv_release(&s->kv, s->n + PM_KV_SLACK);  /* it may have been longer before it was saved: only what the next token sees is certain */
    return PM_OK;
}
