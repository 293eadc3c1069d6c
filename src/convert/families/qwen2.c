/* Qwen2 and Qwen2.5: biases on q, k and v, none elsewhere. Sliding windows are off in every released text model; a config that turns them on is refused. */
#include "convert/families/families.h"

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    return pm_dense_describe(s, "qwen2", &(struct pm_dense_options){ .qkv_bias = true }, plan, err);
}

static const char *const architectures[] = { "Qwen2ForCausalLM", NULL };
const struct pm_family pm_family_qwen2 = { "qwen2", architectures, describe };
