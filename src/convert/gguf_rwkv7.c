/*
 * Owns: the names that GGUF files of architecture rwkv7 have for their tensors, as names of fla's layout. Low-rank matrices lie there as fla has them, the six mixes as one
 * tensor, and layer 0 carries a copy that nobody reads of a low-rank part that it does not have.
 */
#include "convert/gguf_arch.h"

#include <stdio.h>
#include <string.h>

static const struct { const char *gguf, *fla; } parts[] = {
    { "attn_norm.weight", "attn_norm.weight" },             { "attn_norm.bias", "attn_norm.bias" },
    { "attn_norm_2.weight", "ffn_norm.weight" },            { "attn_norm_2.bias", "ffn_norm.bias" },
    { "time_mix_receptance.weight", "attn.r_proj.weight" }, { "time_mix_key.weight", "attn.k_proj.weight" },
    { "time_mix_value.weight", "attn.v_proj.weight" },      { "time_mix_output.weight", "attn.o_proj.weight" },
    { "time_mix_ln.weight", "attn.g_norm.weight" },         { "time_mix_ln.bias", "attn.g_norm.bias" },
    { "time_mix_lerp_fused.weight", "attn.x_x" },           { "time_mix_k_k.weight", "attn.k_k" },
    { "time_mix_k_a.weight", "attn.k_a" },                  { "time_mix_r_k.weight", "attn.r_k" },
    { "channel_mix_lerp_k.weight", "ffn.x_k" },             { "channel_mix_key.weight", "ffn.key.weight" },
    { "channel_mix_value.weight", "ffn.value.weight" },
};
static const struct { const char *gguf, *fla; } tops[] = {
    { "token_embd.weight", "model.embeddings.weight" },
    { "token_embd_norm.weight", "model.layers.0.pre_norm.weight" },
    { "token_embd_norm.bias", "model.layers.0.pre_norm.bias" },
    { "output_norm.weight", "model.norm.weight" },
    { "output_norm.bias", "model.norm.bias" },
    { "output.weight", "lm_head.weight" },
};

/* "time_mix_w1.weight" -> "attn.w_lora.lora.0.weight" */
static bool low_rank_name(const char *rest, char *out, size_t cap)
{
    static const char *const fla[] = { "2.bias", "0.weight", "2.weight" };
    char letter[2], which[2];
    int end = 0;
    if (sscanf(rest, "time_mix_%1[wavg]%1[012].weight%n", letter, which, &end) != 2 || !end || rest[end]) return false;
    snprintf(out, cap, "attn.%c_lora.lora.%s", letter[0], fla[which[0] - '0']);
    return true;
}

bool pm_gguf_rwkv7_name(const char *name, char *out, size_t cap)
{
    unsigned layer;
    char prefix[24], low[64];
    for (size_t i = 0; i < sizeof tops / sizeof *tops; i++)
        if (strcmp(name, tops[i].gguf) == 0) return snprintf(out, cap, "%s", tops[i].fla) > 0;
    if (sscanf(name, "blk.%5u.", &layer) != 1) return false;
    size_t n = (size_t)snprintf(prefix, sizeof prefix, "blk.%u.", layer);
    if (strncmp(name, prefix, n) != 0) return false;    /* what scanf skipped makes it another name */
    if (low_rank_name(name + n, low, sizeof low)) return snprintf(out, cap, "model.layers.%u.%s", layer, low) > 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strcmp(name + n, parts[i].gguf) == 0) return snprintf(out, cap, "model.layers.%u.%s", layer, parts[i].fla) > 0;
    return false;
}
