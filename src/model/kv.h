/*
 * What a sequence remembers: the KV cache of its attention layers, and the state of its recurrent ones.
 *
 * The KV cache: pages of PM_KV_PAGE tokens that hold all layers and heads, in reserved address space that costs memory only when a
 * page is first written. kernel.h has the layout inside a page's blocks.
 *
 * The state of recurrent layers has one size whatever the length of the sequence, and cannot be taken back: a timeline goes on from where it is, or starts anew.
 */
#ifndef PM_MODEL_KV_H
#define PM_MODEL_KV_H

#include "kernel/kernel.h"
#include "model/desc.h"

struct pm_kv {
    enum pm_kv_kind kind;
    uint8_t *base;                  /* mapping of n_page * page_bytes, owned */
    size_t page_bytes, n_page;
    uint32_t *page;                 /* [n_page] page table, owned */
    struct pm_kv_layer {
        struct pm_kv_layout layout;
        size_t off;                 /* of head 0 in a page; head h: + h * layout.block_bytes */
        size_t d_k, d_v, n_kv;
        size_t window;              /* keys that a query sees; 0 = all */
        size_t state, shift, ffn_shift;     /* where a recurrent layer's parts begin in pm_kv.state, in floats */
        size_t released;            /* tokens at the front whose memory was given back, a multiple of PM_KV_PAGE */
    } *layer;                       /* [n_layer], owned */
    size_t n_layer;
    size_t n_ctx;                   /* tokens that fit */
    float *state;                   /* [n_state] of all recurrent layers, owned; NULL when there are none. Zero at the start of a timeline */
    size_t n_state;
};

/* The state of one layer; what it does not have is not to be touched. */
struct pm_kv_state {
    float *heads;                   /* rwkv7: [n_head][d_head][d_head], keys by values */
    float *shift, *ffn_shift;       /* [n_embd] what the mixer and the ffn saw of the last token */
};
struct pm_kv_state pm_kv_state_at(const struct pm_kv *kv, size_t layer);

#define PM_KV_SLACK 16      /* tokens that a timeline may be cut by at any time: drafts that were not accepted */

pm_status pm_kv_create(struct pm_kv *kv, const struct pm_desc *d, enum pm_kv_kind kind, size_t n_ctx, pm_error *err);
void pm_kv_free(struct pm_kv *kv);
/* Gives the memory of pages beyond n tokens back to the system. */
void pm_kv_trim(struct pm_kv *kv, size_t n);
/* n tokens are there: gives back what lies before every attention window of the tokens to come. */
void pm_kv_release(struct pm_kv *kv, size_t n);
/* Whether the timeline can be cut to n tokens, fewer than it has, and go on: not when a window would reach into what was given back, nor with recurrent layers. */
bool pm_kv_can_rewind(const struct pm_kv *kv, size_t n);
/* An empty timeline. */
void pm_kv_clear(struct pm_kv *kv);
/* Bytes that n_ctx tokens take at most when they are fed in chunks of n_chunk, the state included. Not counted: the ends of int8 blocks that a window passed, which are no
   multiple of the system's pages; up to 8 KiB of each stay. */
uint64_t pm_kv_bytes(const struct pm_desc *d, enum pm_kv_kind kind, size_t n_ctx, size_t n_chunk);
/* The block of one layer and KV head that holds position pos; a mla layer has one head, and its block is one for latent_put. */
struct pm_kv_block pm_kv_block_at(const struct pm_kv *kv, size_t layer, size_t head, size_t pos);
/* Block of the rotation that int8 caches apply to d values of q and k after rope: it leaves q.k as it is and spreads outlier channels. 0 = none. */
static inline size_t pm_kv_rotation(enum pm_kv_kind kind, size_t d)
{
    size_t block = d & (~d + 1);
    return kind == PM_KV_KIND_INT8 && block >= 16 ? block : 0;
}
/* Bytes of a page. */
size_t pm_kv_page_bytes(const struct pm_desc *d, enum pm_kv_kind kind);

#endif
