/* SmolLM3: Llama, but some layers (every fourth, or as no_rope_layers says: 0 there means none) have no positions at all. */
#include "convert/families/families.h"

#include <string.h>

static uint32_t interval_of(const json_t *c)
{
    const json_t *v = json_object_get(c, "no_rope_layer_interval");
    json_int_t n = !v || json_is_null(v) ? 4 : json_is_integer(v) ? json_integer_value(v) : 0;
    return n >= 1 && n <= PM_MAX_LAYERS ? (uint32_t)n : 0;
}

static void each(const json_t *config, uint32_t i, struct pm_layer_desc *l)
{
    const json_t *listed = json_array_get(json_object_get(config, "no_rope_layers"), i);
    const char *type = json_string_value(json_array_get(json_object_get(config, "layer_types"), i));
    bool rope = listed ? json_integer_value(listed) != 0 : (i + 1) % interval_of(config) != 0;
    bool windows = json_is_true(json_object_get(config, "use_sliding_window")) && json_is_integer(json_object_get(config, "sliding_window"));
    l->rope = rope ? 0 : -1;
    l->window = (type ? strcmp(type, "sliding_attention") == 0 : windows && !rope) ? (uint32_t)json_integer_value(json_object_get(config, "sliding_window")) : 0;
}

static pm_status check_layers(const json_t *c, uint32_t n_layer, pm_error *err)
{
    const json_t *list = json_object_get(c, "no_rope_layers"), *types = json_object_get(c, "layer_types"), *v;
    size_t i;
    pm_status st = pm_dense_layer_types(c, n_layer, err);
    if (st) return st;
    if (!json_object_get(c, "no_rope_layers") && !json_object_get(c, "no_rope_layer_interval"))
        return pm_fail(err, PM_ERR_MISSING, "%s: fields \"no_rope_layers\" and \"no_rope_layer_interval\" are missing: which layers have positions?", pm_config_name(c));
    if (!interval_of(c)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"no_rope_layer_interval\" must be from 1 to %d", pm_config_name(c), PM_MAX_LAYERS);
    if (list && !json_is_null(list) && (!json_is_array(list) || json_array_size(list) < n_layer))
        return pm_fail(err, PM_ERR_FORMAT, "%s: field \"no_rope_layers\" has %zu entries; num_hidden_layers is %u", pm_config_name(c), json_array_size(list), n_layer);
    json_array_foreach(list, i, v)
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > 1)
            return pm_fail(err, PM_ERR_FORMAT, "%s: field \"no_rope_layers\" must hold 0 and 1 only; entry %zu is something else", pm_config_name(c), i);
    bool window = json_is_integer(json_object_get(c, "sliding_window"));
    json_array_foreach(types, i, v)
        if (!window && strcmp(json_string_value(v), "sliding_attention") == 0) return pm_fail(err, PM_ERR_MISSING, "%s: field \"sliding_window\" is missing, but layer %zu has a window", pm_config_name(c), i);
    return PM_OK;
}

static pm_status describe(struct pm_source *s, struct pm_plan *plan, pm_error *err)
{
    struct pm_dense m;
    bool attention_bias = false, mlp_bias = false;
    pm_status st;
    pm_dense_defaults(&m, "smollm3");
    m.each = each;
    if (!json_object_get(s->config, "rope_theta") && json_object_set_new(s->config, "rope_theta", json_real(2e6))) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    if ((st = pm_dense_read(s, &m, err)) || (st = check_layers(s->config, m.n_layer, err)) || (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "attention_bias", &attention_bias, err)) ||
        (st = pm_json_opt_bool(s->config, pm_config_name(s->config), "mlp_bias", &mlp_bias, err)))
        return st;
    m.q_bias = m.kv_bias = m.o_bias = attention_bias;
    m.gate_up_bias = m.down_bias = mlp_bias;
    return pm_dense_plan(s, &m, plan, err);
}

static const char *const architectures[] = { "SmolLM3ForCausalLM", NULL };
static const char *const gguf[] = { "smollm3", NULL };
const struct pm_family pm_family_smollm3 = { "smollm3", architectures, gguf, describe };
