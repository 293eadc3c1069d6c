/*
 * Owns: the memory of the KV cache and of the recurrent state.
 * Idea: address space for the whole context is reserved at creation, so growing allocates nothing; the system gives memory page by page as it is touched.
 * The page table makes it possible to share pages between sequences without touching the kernels.
 */
#include "model/kv.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define SYSTEM_PAGE 4096     /* or a multiple: madvise then refuses what is not aligned, and the memory stays */

static struct pm_kv_layout layout_of(const struct pm_layer_desc *l, enum pm_kv_kind kind)
{
    return l->mixer == PM_MIX_MLA ? pm_kv_latent_layout(kind, pm_latent_width(l)) : pm_kv_layout_of(kind, l->d_head, l->d_head);
}

size_t pm_kv_page_bytes(const struct pm_desc *d, enum pm_kv_kind kind)
{
    size_t sum = 0;
    for (uint32_t i = 0; i < d->n_layer; i++) sum += d->layer[i].n_kv * layout_of(&d->layer[i], kind).block_bytes;
    return sum;
}

/* Where the parts of the recurrent layers' state begin, each at a multiple of 64 bytes; returns the floats of all. `layer` may be NULL. */
static size_t lay_out_state(const struct pm_desc *d, struct pm_kv_layer *layer)
{
    size_t at = 0, row = pm_round_up(d->n_embd, 16);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        size_t heads = l->mixer == PM_MIX_RWKV7 ? (size_t)l->n_head * l->d_head * l->d_head : 0, shift = at + heads, ffn_shift = shift + (heads ? row : 0);
        if (layer) layer[i].state = at, layer[i].shift = shift, layer[i].ffn_shift = ffn_shift;
        at = ffn_shift + (l->ffn == PM_FFN_RWKV7 ? row : 0);
    }
    return at;
}

pm_status pm_kv_create(struct pm_kv *kv, const struct pm_desc *d, enum pm_kv_kind kind, size_t n_ctx, pm_error *err)
{
    memset(kv, 0, sizeof *kv);
    kv->kind = kind;
    kv->n_layer = d->n_layer;
    kv->n_ctx = n_ctx;
    kv->n_page = (n_ctx + PM_KV_PAGE - 1) / PM_KV_PAGE;
    kv->page_bytes = pm_kv_page_bytes(d, kind);
    kv->layer = pm_calloc(d->n_layer, sizeof *kv->layer, err);
    kv->page = pm_calloc(kv->n_page, sizeof *kv->page, err);
    size_t bytes, off = 0;
    if (!kv->layer || !kv->page) goto fail;
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        bool mla = l->mixer == PM_MIX_MLA;
        kv->layer[i] = (struct pm_kv_layer){ .layout = layout_of(l, kind), .off = off, .d_k = mla ? pm_latent_width(l) : l->d_head, .d_v = mla ? l->mla.kv_rank : l->d_head,
                                             .n_kv = l->n_kv, .window = l->window };
        off += l->n_kv * kv->layer[i].layout.block_bytes;
    }
    for (size_t i = 0; i < kv->n_page; i++) kv->page[i] = (uint32_t)i;
    kv->n_state = lay_out_state(d, kv->layer);
    if (kv->n_state && !(kv->state = pm_calloc(kv->n_state, sizeof *kv->state, err))) goto fail;
    if (!kv->page_bytes) return PM_OK;      /* no layer has keys */
    if (!pm_size_mul(kv->n_page, kv->page_bytes, &bytes)) {
        pm_fail(err, PM_ERR_MEMORY, "a context of %zu tokens does not fit into memory addresses", n_ctx);
        goto fail;
    }
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        pm_fail(err, PM_ERR_MEMORY, "cannot reserve %zu bytes for a context of %zu tokens", bytes, n_ctx);
        goto fail;
    }
    kv->base = p;
    return PM_OK;
fail:
    pm_kv_free(kv);
    return err && err->code ? err->code : PM_ERR_MEMORY;
}

void pm_kv_free(struct pm_kv *kv)
{
    if (!kv) return;
    if (kv->base) munmap(kv->base, kv->n_page * kv->page_bytes);
    free(kv->page);
    free(kv->layer);
    free(kv->state);
    memset(kv, 0, sizeof *kv);
}

static void give_back(const struct pm_kv *kv, size_t off, size_t len)
{
    size_t first = pm_round_up(off, SYSTEM_PAGE), last = (off + len) / SYSTEM_PAGE * SYSTEM_PAGE;
    if (first < last) madvise(kv->base + first, last - first, MADV_DONTNEED);
}

void pm_kv_trim(struct pm_kv *kv, size_t n)
{
    size_t first = (n + PM_KV_PAGE - 1) / PM_KV_PAGE;
    if (first >= kv->n_page || !kv->base) return;
    give_back(kv, first * kv->page_bytes, (kv->n_page - first) * kv->page_bytes);
}

/* First position that the next token of a timeline of n still sees. */
static size_t horizon(const struct pm_kv_layer *l, size_t n)
{
    return l->window && n + 1 > l->window ? n + 1 - l->window : 0;
}

void pm_kv_release(struct pm_kv *kv, size_t n)
{
    for (size_t i = 0; i < kv->n_layer; i++) {
        struct pm_kv_layer *l = &kv->layer[i];
        size_t end = horizon(l, n > PM_KV_SLACK ? n - PM_KV_SLACK : 0) / PM_KV_PAGE * PM_KV_PAGE;
        for (; l->released < end; l->released += PM_KV_PAGE)
            give_back(kv, kv->page[l->released / PM_KV_PAGE] * kv->page_bytes + l->off, l->n_kv * l->layout.block_bytes);
    }
}

bool pm_kv_can_rewind(const struct pm_kv *kv, size_t n)
{
    if (kv->state) return false;
    for (size_t i = 0; i < kv->n_layer; i++)
        if (kv->layer[i].released > horizon(&kv->layer[i], n)) return false;
    return true;
}

void pm_kv_clear(struct pm_kv *kv)
{
    for (size_t i = 0; i < kv->n_layer; i++) kv->layer[i].released = 0;
    if (kv->state) memset(kv->state, 0, kv->n_state * sizeof *kv->state);
    pm_kv_trim(kv, 0);
}

uint64_t pm_kv_bytes(const struct pm_desc *d, enum pm_kv_kind kind, size_t n_ctx, size_t n_chunk)
{
    uint64_t sum = lay_out_state(d, NULL) * sizeof(float);
    for (uint32_t i = 0; i < d->n_layer; i++) {
        const struct pm_layer_desc *l = &d->layer[i];
        size_t pages = (n_ctx + PM_KV_PAGE - 1) / PM_KV_PAGE;
        size_t span = (size_t)l->window + PM_KV_SLACK - 1 + n_chunk;    /* tokens from the first that is kept to the last of a chunk; they may begin at any place of a page */
        if (l->window) pages = pm_min_size(pages, (span + PM_KV_PAGE - 2) / PM_KV_PAGE + 1);
        sum += (uint64_t)pages * l->n_kv * layout_of(l, kind).block_bytes;
    }
    return sum;
}

struct pm_kv_block pm_kv_block_at(const struct pm_kv *kv, size_t layer, size_t head, size_t pos)
{
    const struct pm_kv_layer *l = &kv->layer[layer];
    uint8_t *b = kv->base + kv->page[pos / PM_KV_PAGE] * kv->page_bytes + l->off + head * l->layout.block_bytes;
    return (struct pm_kv_block){ .kind = kv->kind, .d_k = l->d_k, .d_v = l->d_v, .k = b, .v = b + l->layout.v_off,
                                 .k_scale = (float *)(b + l->layout.k_scale_off), .v_scale = (float *)(b + l->layout.v_scale_off) };
}

struct pm_kv_state pm_kv_state_at(const struct pm_kv *kv, size_t layer)
{
    const struct pm_kv_layer *l = &kv->layer[layer];
    return (struct pm_kv_state){ .heads = kv->state + l->state, .shift = kv->state + l->shift, .ffn_shift = kv->state + l->ffn_shift };
}
