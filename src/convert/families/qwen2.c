/* Qwen2, Qwen2.5 and the Qwen distillations of DeepSeek-R1: biases on q, k and v, none elsewhere. Sliding windows are off in every released text model. */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    pm_dense_defaults(&m, "qwen2");
    m.q_bias = m.kv_bias = true;
    pm_status st = pm_dense_read(s, &m, err);
    return st ? st : pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "Qwen2ForCausalLM", NULL };
static const char *const gguf[] = { "qwen2", NULL };
const struct pm_family pm_family_qwen2 = { "qwen2", architectures, gguf, describe };
