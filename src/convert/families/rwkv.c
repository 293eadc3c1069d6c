/*
 * RWKV-7 "Goose" (World and G1 models). One model, three layouts: fla's (what the hub holds; low-rank parts as pairs of linears), the original names (blocks.N.att.*;
 * low-rank parts as plain matrices, transposed; with or without the prefix rwkv7. of transformers), and GGUF, whose reader gives fla's names.
 * The low-rank part of layer 0's values is in some files and never used: its values are the ones that the others mix with.
 */
#include "convert/families/families.h"

#include "base/mem.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH "hidden_size"

/* The World models' chat, as their makers write it: no blank line inside of a turn, one after it. */
static const char chat_template[] =
    "{%- macro tidy(text) -%}\n"
    "{%- for line in (text or '').replace('\\r\\n', '\\n').strip().split('\\n') if line -%}\n"
    "{{- line + ('' if loop.last else '\\n') -}}\n"
    "{%- endfor -%}\n"
    "{%- endmacro -%}\n"
    "{%- for message in messages -%}\n"
    "{%- set name = {'system': 'System', 'user': 'User', 'assistant': 'Assistant'}.get(message.role) -%}\n"
    "{%- if not name -%}{{ raise_exception('the World chat has no role \"' + message.role + '\"') }}{%- endif -%}\n"
    "{{- name + ': ' + tidy(message.content) + '\\n\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}{{- 'Assistant:' -}}{%- endif -%}\n";

struct model {
    struct pm_source *s;
    struct pm_plan *plan;
    const char *top;        /* in front of the names of the original layout; NULL: fla's */
    uint32_t n_embd, n_layer, n_vocab, n_ctx, n_head, d_head, n_ff;
    uint32_t rank[4];       /* w, a, v, g */
    double eps;
    bool norm_first, tied;
};

/* The tensors of a layer in both layouts, behind "model.layers.N." and "blocks.N.". */
static const struct { enum pm_slot_id id; const char *fla, *native; } vectors[] = {
    { PM_SLOT_attn_norm, "attn_norm.weight", "ln1.weight" },      { PM_SLOT_attn_norm_bias, "attn_norm.bias", "ln1.bias" },
    { PM_SLOT_ffn_norm, "ffn_norm.weight", "ln2.weight" },        { PM_SLOT_ffn_norm_bias, "ffn_norm.bias", "ln2.bias" },
    { PM_SLOT_k_k, "attn.k_k", "att.k_k" },                       { PM_SLOT_k_a, "attn.k_a", "att.k_a" },
    { PM_SLOT_r_k, "attn.r_k", "att.r_k" },                       { PM_SLOT_head_norm, "attn.g_norm.weight", "att.ln_x.weight" },
    { PM_SLOT_head_norm_bias, "attn.g_norm.bias", "att.ln_x.bias" }, { PM_SLOT_ffn_mix, "ffn.x_k", "ffn.x_k" },
};
static const struct { enum pm_slot_id id; const char *fla, *native; } squares[] = {
    { PM_SLOT_receptance, "attn.r_proj.weight", "att.receptance.weight" }, { PM_SLOT_key, "attn.k_proj.weight", "att.key.weight" },
    { PM_SLOT_value, "attn.v_proj.weight", "att.value.weight" },           { PM_SLOT_o, "attn.o_proj.weight", "att.output.weight" },
};
static const struct { char letter; const char *field, *old_field; enum pm_slot_id down, up; } low_ranks[4] = {
    { 'w', "decay_low_rank_dim", "lora_rank_decay", PM_SLOT_w_down, PM_SLOT_w_up },
    { 'a', "a_low_rank_dim", "lora_rank_iclr", PM_SLOT_a_down, PM_SLOT_a_up },
    { 'v', "v_low_rank_dim", "lora_rank_value_residual_mix", PM_SLOT_v_gate_down, PM_SLOT_v_gate_up },
    { 'g', "gate_low_rank_dim", "lora_rank_gate", PM_SLOT_g_down, PM_SLOT_g_up },
};

static struct pm_part part(const struct model *m, uint32_t layer, const char *fla, const char *native, size_t rows)
{
    struct pm_part p = { .rows = rows };
    if (m->top) snprintf(p.name, sizeof p.name, "%sblocks.%u.%s", m->top, layer, native);
    else snprintf(p.name, sizeof p.name, "model.layers.%u.%s", layer, fla);
    return p;
}

/* Part number `which` of a low-rank pair: 0 the bias, 1 down, 2 up; rows and columns are those of the linear. */
static struct pm_part low_rank_part(const struct model *m, uint32_t layer, char letter, int which, size_t rows, size_t cols)
{
    static const char *const fla[] = { "lora.2.bias", "lora.0.weight", "lora.2.weight" };
    char a[40], b[24];
    snprintf(a, sizeof a, "attn.%c_lora.%s", letter, fla[which]);
    snprintf(b, sizeof b, "att.%c%d", letter, which);
    struct pm_part p = part(m, layer, a, b, rows);
    p.flat = !which;
    if (m->top && which) {      /* lies transposed: one block of it all */
        p.turned = true;
        p.pad = 1;
        p.block = cols;
        p.columns = rows;
    }
    return p;
}

/* ---- the config ---- */

/* A field under either of two names. */
static pm_status either(const json_t *c, const char *name, const char *old, uint32_t min, uint32_t max, uint32_t *out, pm_error *err)
{
    pm_status st = pm_json_opt_u32(c, pm_config_name(c), old, min, max, out, err);
    return st ? st : pm_json_opt_u32(c, pm_config_name(c), name, min, max, out, err);
}

/* What fla's config can say and this family does not do. */
static pm_status refuse_extras(const json_t *c, const struct model *m, pm_error *err)
{
    const json_t *act = json_object_get(c, "hidden_act"), *dims = json_object_get(c, "value_dim"), *v;
    bool bias = true, deep = false;
    size_t i;
    pm_status st;
    if ((st = pm_json_opt_bool(c, pm_config_name(c), "norm_bias", &bias, err)) || (st = pm_json_opt_bool(c, pm_config_name(c), "use_deep_embed", &deep, err))) return st;
    if (json_is_string(act) && strcmp(json_string_value(act), "sqrelu") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"hidden_act\" is \"%.40s\"; this family has \"sqrelu\"", pm_config_name(c), json_string_value(act));
    if (!bias) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"norm_bias\" is false: norms without a bias are not supported by this family", pm_config_name(c));
    if (deep) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"use_deep_embed\" is true: deep embeddings are not supported", pm_config_name(c));
    if (json_is_object(json_object_get(c, "attn"))) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"attn\" asks for attention layers among the recurrent ones: not supported by this family", pm_config_name(c));
    json_array_foreach(dims, i, v)
        if (json_integer_value(v) != (json_int_t)m->n_embd)
            return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"value_dim\" is %lld at %zu; only hidden_size, %u, is supported", pm_config_name(c), (long long)json_integer_value(v), i, m->n_embd);
    return PM_OK;
}

static pm_status read_heads(const json_t *c, struct model *m, pm_error *err)
{
    uint32_t n_head = 0;
    pm_status st;
    if ((st = either(c, "head_dim", "head_size", 16, PM_MAX_HEAD_DIM, &m->d_head, err)) || (st = pm_json_opt_u32(c, pm_config_name(c), "num_heads", 1, PM_MAX_HEADS, &n_head, err))) return st;
    if (!m->d_head) m->d_head = n_head && m->n_embd % n_head == 0 ? m->n_embd / n_head : 64;
    if (m->d_head % 16) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: head_dim is %u; it must be a multiple of 16", pm_config_name(c), m->d_head);
    if (m->n_embd % m->d_head) return pm_fail(err, PM_ERR_FORMAT, "%s: head_dim %u does not divide hidden_size %u", pm_config_name(c), m->d_head, m->n_embd);
    m->n_head = m->n_embd / m->d_head;
    if (n_head && n_head != m->n_head) return pm_fail(err, PM_ERR_FORMAT, "%s: num_heads is %u, but hidden_size and head_dim say %u", pm_config_name(c), n_head, m->n_head);
    return PM_OK;
}

static pm_status read_config(struct model *m, pm_error *err)
{
    const json_t *c = m->s->config;
    double ratio = 4;
    pm_status st;
    m->eps = 1e-5;
    m->n_ctx = 4096;
    m->norm_first = true;
    if ((st = pm_json_u32(c, pm_config_name(c), "hidden_size", 16, PM_MAX_EMBD, &m->n_embd, err)) || (st = pm_json_u32(c, pm_config_name(c), "num_hidden_layers", 1, PM_MAX_LAYERS, &m->n_layer, err)) ||
        (st = pm_json_u32(c, pm_config_name(c), "vocab_size", 1, PM_MAX_VOCAB, &m->n_vocab, err)) || (st = pm_json_opt_u32(c, pm_config_name(c), "max_position_embeddings", 1, PM_MAX_CTX, &m->n_ctx, err)) ||
        (st = pm_json_opt_u32(c, pm_config_name(c), "intermediate_size", 1, PM_MAX_K, &m->n_ff, err)) || (st = pm_json_opt_f64(c, pm_config_name(c), "hidden_ratio", &ratio, err)) ||
        (st = pm_json_opt_f64(c, pm_config_name(c), "layer_norm_epsilon", &m->eps, err)) || (st = pm_json_opt_f64(c, pm_config_name(c), "norm_eps", &m->eps, err)) ||
        (st = pm_json_opt_bool(c, pm_config_name(c), "norm_first", &m->norm_first, err)) || (st = pm_json_opt_bool(c, pm_config_name(c), "tie_word_embeddings", &m->tied, err)) || (st = read_heads(c, m, err)) ||
        (st = refuse_extras(c, m, err)))
        return st;
    if (!(m->eps > 0 && m->eps * m->d_head < 1)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"norm_eps\" is %g", pm_config_name(c), m->eps);
    if (!m->n_ff && !(ratio > 0 && ratio * m->n_embd < PM_MAX_K)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"hidden_ratio\" is %g", pm_config_name(c), ratio);
    if (!m->n_ff) m->n_ff = ((uint32_t)(ratio * m->n_embd) + 31) / 32 * 32;
    return PM_OK;
}

/* Ranks: from the config; where it has none, as the tensors are. */
static pm_status read_ranks(struct model *m, pm_error *err)
{
    for (int i = 0; i < 4; i++) {
        pm_status st = either(m->s->config, low_ranks[i].field, low_ranks[i].old_field, 1, PM_MAX_EMBD, &m->rank[i], err);
        if (st) return st;
        if (m->rank[i] || (low_ranks[i].letter == 'v' && m->n_layer == 1)) continue;
        struct pm_part p = low_rank_part(m, low_ranks[i].letter == 'v' ? 1 : 0, low_ranks[i].letter, 1, 0, 0);
        const struct pm_source_tensor *t = pm_source_find(m->s, p.name);
        size_t rank = !t ? 0 : m->top ? t->cols : t->rows;
        if (!rank || rank > PM_MAX_EMBD) return pm_fail(err, PM_ERR_MISSING, "tensor \"%s\" is missing from the checkpoint, and %s has no field \"%s\"", p.name, pm_config_name(m->s->config), low_ranks[i].field);
        m->rank[i] = (uint32_t)rank;
    }
    return PM_OK;
}

/* ---- the plan ---- */

static pm_status fill(const struct model *m, enum pm_slot_id id, uint32_t i, const struct pm_part *weight, size_t n_weight, const struct pm_part *bias, size_t k, const char *because, pm_error *err)
{
    struct pm_slot_spec spec = { .id = id, .index = i, .weight = weight, .bias = bias, .n_weight = n_weight, .n_bias = bias != NULL, .k = k, .because = because };
    return pm_plan_slot(m->s, m->plan, &spec, err);
}

static pm_status low_rank(const struct model *m, uint32_t i, int k, pm_error *err)
{
    char because[64];
    uint32_t rank = m->rank[k];
    if (low_ranks[k].letter == 'v' && i == 0) {
        for (int w = 0; w < 3; w++) pm_source_find(m->s, low_rank_part(m, 0, 'v', w, 0, 0).name);      /* there or not, it is not used */
        return PM_OK;
    }
    snprintf(because, sizeof because, WIDTH " and %s", low_ranks[k].field);
    struct pm_part down = low_rank_part(m, i, low_ranks[k].letter, 1, rank, m->n_embd), up = low_rank_part(m, i, low_ranks[k].letter, 2, m->n_embd, rank),
                   bias = low_rank_part(m, i, low_ranks[k].letter, 0, m->n_embd, 1);
    pm_status st = fill(m, low_ranks[k].down, i, &down, 1, NULL, m->n_embd, because, err);
    return st ? st : fill(m, low_ranks[k].up, i, &up, 1, low_ranks[k].letter == 'g' ? NULL : &bias, rank, because, err);
}

/* Six vectors; older files of fla's layout hold them as one. */
static pm_status mix(const struct model *m, uint32_t i, pm_error *err)
{
    static const char letters[] = "rwkvag";
    struct pm_part p[6] = { part(m, i, "attn.x_x", "", 6 * (size_t)m->n_embd) };
    p[0].flat = true;
    if (!m->top && pm_source_find(m->s, p[0].name)) return fill(m, PM_SLOT_mix, i, p, 1, NULL, 1, "six times " WIDTH, err);
    for (int k = 0; k < 6; k++) {
        char fla[16], native[16];
        snprintf(fla, sizeof fla, "attn.x_%c", letters[k]);
        snprintf(native, sizeof native, "att.x_%c", letters[k]);
        p[k] = part(m, i, fla, native, m->n_embd);
        p[k].flat = true;
    }
    return fill(m, PM_SLOT_mix, i, p, 6, NULL, 1, WIDTH, err);
}

static pm_status layer(const struct model *m, uint32_t i, pm_error *err)
{
    const struct pm_source_tensor *r_k = pm_source_find(m->s, part(m, i, "attn.r_k", "att.r_k", 0).name);
    pm_status st = mix(m, i, err);
    if (!st && r_k && r_k->rank == 2 && (r_k->rows != m->n_head || r_k->cols != m->d_head))     /* the one tensor that shows heads */
        return pm_fail(err, PM_ERR_MISMATCH, "tensor \"%s\" has shape [%zu, %zu]; num_heads and head_dim say [%u, %u]", r_k->name, r_k->rows, r_k->cols, m->n_head, m->d_head);
    for (size_t k = 0; k < sizeof vectors / sizeof *vectors && !st; k++) {
        struct pm_part p = part(m, i, vectors[k].fla, vectors[k].native, m->n_embd);
        p.flat = true;
        st = fill(m, vectors[k].id, i, &p, 1, NULL, 1, vectors[k].id == PM_SLOT_r_k ? "num_heads and head_dim" : WIDTH, err);
    }
    for (size_t k = 0; k < sizeof squares / sizeof *squares && !st; k++) {
        struct pm_part p = part(m, i, squares[k].fla, squares[k].native, m->n_embd);
        st = fill(m, squares[k].id, i, &p, 1, NULL, m->n_embd, WIDTH, err);
    }
    for (int k = 0; k < 4 && !st; k++) st = low_rank(m, i, k, err);
    struct pm_part key = part(m, i, "ffn.key.weight", "ffn.key.weight", m->n_ff), value = part(m, i, "ffn.value.weight", "ffn.value.weight", m->n_embd);
    if (!st) st = fill(m, PM_SLOT_gate_up, i, &key, 1, NULL, m->n_embd, WIDTH " and intermediate_size", err);
    return st ? st : fill(m, PM_SLOT_down, i, &value, 1, NULL, m->n_ff, WIDTH " and intermediate_size", err);
}

/* A tensor at the top: `native` behind the prefix. */
static pm_status top(const struct model *m, enum pm_slot_id id, const char *fla, const char *native, bool prefix, size_t rows, size_t k, pm_error *err)
{
    struct pm_part p = { .rows = rows };
    snprintf(p.name, sizeof p.name, "%s%s", m->top && prefix ? m->top : "", m->top ? native : fla);
    return fill(m, id, 0, &p, 1, NULL, k, k == 1 ? WIDTH : "vocab_size and " WIDTH, err);
}

static pm_status tops(const struct model *m, pm_error *err)
{
    struct pm_desc *d = &m->plan->desc;
    pm_status st = top(m, PM_SLOT_embed, "model.embeddings.weight", "emb.weight", true, m->n_vocab, m->n_embd, err);
    if (!st && m->norm_first) st = top(m, PM_SLOT_embed_norm, "model.layers.0.pre_norm.weight", "blocks.0.ln0.weight", true, m->n_embd, 1, err);
    if (!st && m->norm_first) st = top(m, PM_SLOT_embed_norm_bias, "model.layers.0.pre_norm.bias", "blocks.0.ln0.bias", true, m->n_embd, 1, err);
    if (!st) st = top(m, PM_SLOT_norm, "model.norm.weight", "ln_out.weight", true, m->n_embd, 1, err);
    if (!st) st = top(m, PM_SLOT_norm_bias, "model.norm.bias", "ln_out.bias", true, m->n_embd, 1, err);
    d->tied = m->tied && !pm_source_find(m->s, m->top ? "head.weight" : "lm_head.weight");
    if (st) return st;
    if (d->tied) return top(m, PM_SLOT_head, "model.embeddings.weight", "emb.weight", true, m->n_vocab, m->n_embd, err);
    return top(m, PM_SLOT_head, "lm_head.weight", "head.weight", false, m->n_vocab, m->n_embd, err);
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct model m = { .s = s, .plan = plan };
    pm_status st;
    if (!pm_source_find(s, "model.embeddings.weight")) m.top = pm_source_find(s, "emb.weight") ? "" : pm_source_find(s, "rwkv7.emb.weight") ? "rwkv7." : NULL;
    if ((st = read_config(&m, err)) || (st = read_ranks(&m, err))) return st;
    plan->desc = (struct pm_desc){ .n_layer = m.n_layer, .n_embd = m.n_embd, .n_vocab = m.n_vocab, .n_ctx_max = m.n_ctx, .norm = PM_NORM_LAYER, .norm_eps = (float)m.eps, .embed_norm = m.norm_first };
    struct pm_layer_desc shape = { .mixer = PM_MIX_RWKV7, .n_head = m.n_head, .d_head = m.d_head, .rope = -1, .attn_scale = 1, .rwkv7 = { m.rank[0], m.rank[1], m.rank[2], m.rank[3], (float)(m.eps * m.d_head) },
                                   .ffn = PM_FFN_RWKV7, .n_ff = m.n_ff };
    if ((st = pm_plan_init(plan, "rwkv7", &shape, err))) return st;
    plan->desc.layer[0].rwkv7.rank_v = 0;
    for (uint32_t i = 0; i < m.n_layer; i++)
        if ((st = layer(&m, i, err))) return st;
    return (st = tops(&m, err)) ? st : pm_plan_leftovers(s, err);
}

static const char *const architectures[] = { "RWKV7ForCausalLM", "Rwkv7ForCausalLM", NULL };
static const char *const gguf[] = { "rwkv7", NULL };
static const char *const turn_ends[] = { "\n\n", NULL };
static const struct pm_family_text text = { .chat_template = chat_template, .turn_ends = turn_ends, .ends_of_template = true };
const struct pm_family pm_family_rwkv7 = { "rwkv7", architectures, gguf, describe, &text };
