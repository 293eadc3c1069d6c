/*
 * Owns: the frequencies of rotary embeddings. Formulas: RoPE (Su et al., RoFormer, 2021); llama3 scaling as in Meta's llama-models and transformers'
 * modeling_rope_utils. The runtime only sees the finished list.
 */
#include "convert/family.h"

#include "base/detmath.h"

#include <stdio.h>
#include <string.h>

static pm_status llama3(const json_t *r, const char *what, uint32_t n, float *inv_freq, pm_error *err)
{
    double factor, low, high, original;
    pm_status st;
    if ((st = pm_json_f64(r, what, "factor", &factor, err)) || (st = pm_json_f64(r, what, "low_freq_factor", &low, err)) ||
        (st = pm_json_f64(r, what, "high_freq_factor", &high, err)) || (st = pm_json_f64(r, what, "original_max_position_embeddings", &original, err)))
        return st;
    if (!(factor >= 1 && factor < 1e6) || !(low > 0) || !(high > low && high < 1e6) || !(original >= 1 && original < 1e9))
        return pm_fail(err, PM_ERR_FORMAT, "%s: factor %g, low_freq_factor %g, high_freq_factor %g and original_max_position_embeddings %g make no sense together", what, factor, low, high,
                       original);
    for (uint32_t i = 0; i < n; i++) {
        double f = (double)inv_freq[i], wavelength = 2 * 3.14159265358979323846 / f;
        if (wavelength > original / low) f = f / factor;
        else if (wavelength >= original / high) {
            double smooth = (original / wavelength - low) / (high - low);
            f = (1 - smooth) * f / factor + smooth * f;
        }
        inv_freq[i] = (float)f;
    }
    return PM_OK;
}

/* factor_i of longrope, one per frequency */
static pm_status factors(const json_t *r, const char *what, const char *key, uint32_t n, const float *base, float *out, pm_error *err)
{
    const json_t *list = json_object_get(r, key);
    if (!json_is_array(list) || json_array_size(list) != n)
        return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" has %zu numbers; the head size says %u", what, key, json_array_size(list), n);
    for (uint32_t i = 0; i < n; i++) {
        double f = json_number_value(json_array_get(list, i));
        if (!(f > 0 && f < 1e6)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" has %g at %u; it must be positive", what, key, f, i);
        out[i] = (float)((double)base[i] / (double)(float)f);     /* as float, as the official code and GGUF have them */
    }
    return PM_OK;
}

/* Ding et al., LongRoPE, 2024; the magnitude sqrt(1 + ln(factor) / ln(original)) as in transformers, where factor is max/original unless the config says it. */
static pm_status longrope(const json_t *config, const json_t *r, const char *what, struct pm_plan *p, uint32_t index, pm_error *err)
{
    struct pm_rope_desc *d = &p->desc.rope[index];
    uint32_t n = d->n_rot / 2, original = 0;
    double magnitude = 0, ratio = 0;
    pm_status st;
    if ((st = pm_json_opt_u32(config, pm_config_name(config), "original_max_position_embeddings", 2, PM_MAX_CTX, &original, err)) ||
        (st = pm_json_opt_u32(r, what, "original_max_position_embeddings", 2, PM_MAX_CTX, &original, err)) ||
        (st = pm_json_opt_f64(r, what, "factor", &ratio, err)) || (st = pm_json_opt_f64(r, what, "attention_factor", &magnitude, err)))
        return st;
    if (!(ratio >= 0 && ratio < 1e6)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"factor\" is %g; it must be from 0 to 1e6", what, ratio);
    if (magnitude != 0 && !(magnitude >= 0.01 && magnitude <= 100)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"attention_factor\" is %g; it must be from 0.01 to 100", what, magnitude);
    if (!original) original = p->desc.n_ctx_max;
    if (original < 2) return pm_fail(err, PM_ERR_LIMIT, "%s: a context of %u is too short for longrope", what, original);
    float *base = p->inv_freq[index];
    if ((st = factors(r, what, "long_factor", n, base, p->inv_freq_long[index], err)) || (st = factors(r, what, "short_factor", n, base, base, err))) return st;
    if (!(ratio > 0)) ratio = (double)p->desc.n_ctx_max / original;
    if (!(magnitude > 0)) magnitude = ratio > 1 ? sqrt(1 + pm_log(ratio) / pm_log((double)original)) : 1;
    d->scale = d->long_scale = (float)magnitude;
    if (memcmp(base, p->inv_freq_long[index], n * sizeof *base) == 0) return PM_OK;
    d->kind = PM_ROPE_LONG;
    d->switch_ctx = original;
    return PM_OK;
}

static pm_status read_type(const json_t *r, const char *what, const char **type, pm_error *err)
{
    pm_status st = pm_json_opt_str(r, what, "type", type, err);
    return st ? st : pm_json_opt_str(r, what, "rope_type", type, err);
}

pm_status pm_rope_agree(const json_t *config, const json_t *params, pm_error *err)
{
    const char *name = pm_config_name(config), *type[2] = { "default", "default" };
    char what[2][64];
    const json_t *scaling = NULL;
    double factor[2] = { 0, 0 };
    pm_status st = pm_json_opt_obj(config, name, "rope_scaling", &scaling, err);
    if (st || !params || !scaling) return st;
    snprintf(what[0], sizeof what[0], "%s: rope_parameters", name);
    snprintf(what[1], sizeof what[1], "%s: rope_scaling", name);
    if ((st = read_type(params, what[0], &type[0], err)) || (st = read_type(scaling, what[1], &type[1], err)) || (st = pm_json_opt_f64(params, what[0], "factor", &factor[0], err)) ||
        (st = pm_json_opt_f64(scaling, what[1], "factor", &factor[1], err)))
        return st;
    if (strcmp(type[0], type[1]) == 0 && factor[0] == factor[1]) return PM_OK;
    return pm_fail(err, PM_ERR_FORMAT, "%s: field \"rope_scaling\" (\"%.40s\", factor %g) contradicts \"rope_parameters\" (\"%.40s\", factor %g): keep one of them", name, type[1], factor[1], type[0],
                   factor[0]);
}

pm_status pm_rope_unscaled(const json_t *config, pm_error *err)
{
    static const char *const fields[] = { "rope_scaling", "rope_parameters" };
    for (int i = 0; i < 2; i++) {
        const json_t *r = NULL;
        const char *type = "default";
        pm_status st = pm_json_opt_obj(config, pm_config_name(config), fields[i], &r, err);
        if (st || (st = read_type(r, fields[i], &type, err))) return st;
        if (strcmp(type, "default") != 0) return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"%s\" asks for \"%.40s\": this family scales its rope by other fields", pm_config_name(config), fields[i], type);
    }
    return PM_OK;
}

/* Where the rope's fields lie besides the config itself, and how messages call it. 5.x: rope_parameters {rope_type, rope_theta, ...}; 4.x: rope_theta beside rope_scaling
   {rope_type or type, ...}. NULL when there is neither. */
static pm_status find_inner(const json_t *config, const json_t **inner, char what[64], pm_error *err)
{
    const json_t *params = NULL, *scaling = NULL;
    const char *name = pm_config_name(config);
    pm_status st;
    if ((st = pm_json_opt_obj(config, name, "rope_parameters", &params, err)) || (st = pm_json_opt_obj(config, name, "rope_scaling", &scaling, err)) || (st = pm_rope_agree(config, params, err)))
        return st;
    snprintf(what, 64, "%s: %s", name, params ? "rope_parameters" : "rope_scaling");
    *inner = params ? params : scaling;
    return PM_OK;
}

pm_status pm_plan_plain_rope(const json_t *config, const char *theta_key, struct pm_plan *p, uint32_t r, pm_error *err)
{
    double theta = 10000;
    uint32_t n_rot = p->desc.rope[r].n_rot;
    const json_t *inner = NULL;
    char what[64];
    pm_status st;
    if ((st = find_inner(config, &inner, what, err)) || (st = pm_json_opt_f64(config, pm_config_name(config), theta_key, &theta, err))) return st;
    bool own = inner && inner == json_object_get(config, "rope_parameters") && json_object_get(inner, "rope_theta");
    if (own && (st = pm_json_opt_f64(inner, what, "rope_theta", &theta, err))) return st;
    if (!(theta > 1 && theta < 1e12)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"%s\" is %g; it must be above 1 and below 1e12", own ? what : pm_config_name(config), own ? "rope_theta" : theta_key, theta);
    p->desc.rope[r].theta = theta;
    for (uint32_t i = 0; i < n_rot / 2; i++) p->inv_freq[r][i] = (float)(1.0 / pm_pow(theta, (double)(float)(2 * i) / (double)n_rot));
    return PM_OK;
}

pm_status pm_plan_rope(const json_t *config, const char *theta_key, struct pm_plan *p, uint32_t r, pm_error *err)
{
    const json_t *scaling = NULL;
    char what[64];
    struct pm_rope_desc *d = &p->desc.rope[r];
    float *inv_freq = p->inv_freq[r];
    const char *type = NULL;
    double factor = 1;
    pm_status st;
    if ((st = pm_plan_plain_rope(config, theta_key, p, r, err)) || (st = find_inner(config, &scaling, what, err)) || (st = read_type(scaling, what, &type, err))) return st;
    if (!type || strcmp(type, "default") == 0) return PM_OK;
    if (strcmp(type, "llama3") == 0) return llama3(scaling, what, d->n_rot / 2, inv_freq, err);
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) return longrope(config, scaling, what, p, r, err);
    bool linear = strcmp(type, "linear") == 0;
    if (!linear && strcmp(type, "dynamic") != 0)
        return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"rope_type\" is \"%.40s\", a scaling that is not supported; known are default, linear, dynamic, llama3 and longrope", what, type);
    if ((st = pm_json_f64(scaling, what, "factor", &factor, err))) return st;
    if (!(factor >= 1 && factor < 1e6)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"factor\" is %g; it must be from 1 to 1e6", what, factor);
    for (uint32_t i = 0; linear && i < d->n_rot / 2; i++) inv_freq[i] = (float)((double)inv_freq[i] / factor);
    if (linear) return PM_OK;
    d->kind = PM_ROPE_DYNAMIC;
    d->switch_ctx = p->desc.n_ctx_max;
    d->factor = factor;
    return PM_OK;
}
