/*
 * Owns: the public functions that are not an engine's or a session's own: models, text, memory plans.
 * Each is a thin wrapper: arguments are checked here, work is done in the rooms below.
 */
#include "engine/session.h"
#include "text/chat.h"
#include "text/jinja.h"

#include <stdlib.h>
#include <string.h>

pm_status pm_model_open(const char *path, pm_model **out, pm_error *err)
{
    *out = NULL;
    pm_model *m = pm_calloc(1, sizeof *m, err);
    if (!m) return PM_ERR_MEMORY;
    pm_status st = pm_model_load(m, path, err);
    if (st) {
        free(m);
        return st;
    }
    *out = m;
    return PM_OK;
}

void pm_model_close(pm_model *m)
{
    if (!m) return;
    pm_model_unload(m);
    free(m);
}

void pm_model_get_info(const pm_model *m, pm_model_info *out)
{
    const struct pm_desc *d = &m->desc;
    *out = (pm_model_info){
        .name = d->name, .dtype = d->dtype, .has_weights = d->has_weights, .n_layer = d->n_layer, .n_embd = d->n_embd, .n_vocab = d->n_vocab, .n_ctx_max = d->n_ctx_max,
        .n_param = pm_model_params(d), .file_bytes = m->file.map.len, .decode_bytes = pm_model_decode_bytes(m), .prefill_macs = pm_model_body_macs(d),
        .head_macs = (uint64_t)d->head.n * d->head.k, .bos_id = d->bos_id, .eos_ids = d->eos_id, .n_eos = d->n_eos, .chat_template = m->chat_template,
        .temperature = d->temperature, .top_p = d->top_p, .top_k = d->top_k,
    };
    if (d->has_weights) out->planes = d->layer[0].down.type == PM_W_W4 ? 2 : d->layer[0].down.type == PM_W_W8 ? 1 : 0;
}

pm_status pm_memory_plan_get(const pm_model *m, uint32_t n_ctx, pm_kv_type kv, pm_memory_plan *out, pm_error *err)
{
    const struct pm_desc *d = &m->desc;
    *out = (pm_memory_plan){ 0 };
    if (!d->has_weights) return pm_fail(err, PM_ERR_UNSUPPORTED, "this file has no weights");
    if (kv > PM_KV_INT8) return pm_fail(err, PM_ERR_ARGUMENT, "KV type %d is not known", (int)kv);
    if (n_ctx > PM_MAX_CTX) return pm_fail(err, PM_ERR_LIMIT, "a context of %u tokens is beyond the limit of %u", n_ctx, PM_MAX_CTX);
    if (!n_ctx) n_ctx = (uint32_t)pm_min_size(4096, d->n_ctx_max);
    uint64_t page = pm_kv_page_bytes(d, (enum pm_kv_kind)kv);
    out->weights = m->file.map.len;
    out->kv = pm_kv_bytes(d, (enum pm_kv_kind)kv, n_ctx, pm_min_size(512, n_ctx));
    out->kv_per_token = page / PM_KV_PAGE;
    out->scratch = pm_exec_scratch_bytes(d, pm_min_size(512, n_ctx), pm_cpu_count() < PM_MAX_THREADS ? pm_cpu_count() : PM_MAX_THREADS) + (uint64_t)d->n_vocab * (sizeof(float) + sizeof(struct pm_candidate) + sizeof(int32_t));
    return PM_OK;
}

pm_status pm_tokenize(const pm_model *m, const char *text, size_t len, unsigned flags, int32_t **ids, size_t *n, pm_error *err)
{
    struct pm_ids out = { 0 };
    *ids = NULL;
    *n = 0;
    pm_status st = pm_grow(&out.id, &out.cap, 1, sizeof *out.id, err);
    if (!st) st = pm_tokenizer_encode(m->tokenizer, text, len, flags, &out, err);
    if (st) {
        free(out.id);
        return st;
    }
    *ids = out.id;
    *n = out.n;
    return PM_OK;
}

pm_status pm_detokenize(const pm_model *m, const int32_t *ids, size_t n, unsigned flags, char **text, size_t *len, pm_error *err)
{
    struct pm_buf out = { 0 };
    *text = NULL;
    *len = 0;
    pm_status st = PM_OK;
    for (size_t i = 0; i < n && !st; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= m->desc.n_vocab) st = pm_fail(err, PM_ERR_ARGUMENT, "token %zu has id %d; ids are from 0 to %u", i, ids[i], m->desc.n_vocab - 1);
    if (!st) st = pm_tokenizer_decode(m->tokenizer, ids, n, flags, &out, err);
    if (!st && !(*text = pm_buf_take(&out, len, err))) st = PM_ERR_MEMORY;
    pm_buf_free(&out);
    return st;
}

/* The content of an id as a NUL-terminated string, or NULL. */
static char *content_of(const pm_model *m, int32_t id, pm_error *err)
{
    size_t len = 0;
    const char *s = m ? pm_tokenizer_content(m->tokenizer, id, &len) : NULL;
    return s ? pm_strndup(s, len, err) : NULL;
}

static pm_status no_template(pm_error *err)
{
    return pm_fail(err, PM_ERR_MISSING, "the model has no chat template, and none was given");
}

pm_status pm_template_check(const pm_model *m, const char *source, pm_error *err)
{
    if (source) return pm_jinja_check(source, strlen(source), err);
    return m && m->chat_template ? pm_jinja_check(m->chat_template, m->chat_template_len, err) : no_template(err);
}

pm_status pm_template_render(const pm_model *m, const pm_template_params *params, char **text, size_t *len, pm_error *err)
{
    *text = NULL;
    *len = 0;
    const char *source = params->source ? params->source : m ? m->chat_template : NULL;
    if (!source) return no_template(err);
    char *bos = content_of(m, m ? m->desc.bos_id : -1, err), *eos = content_of(m, m && m->desc.n_eos ? m->desc.eos_id[0] : -1, err);
    pm_status st = pm_chat_render(source, params->source ? strlen(source) : m->chat_template_len, bos, eos, params, text, len, err);
    free(bos);
    free(eos);
    return st;
}
