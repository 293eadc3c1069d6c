/*
 * Owns: the frequencies of rotary embeddings. Formulas: RoPE (Su et al., RoFormer, 2021); llama3 scaling as in Meta's llama-models and transformers'
 * modeling_rope_utils. The runtime only sees the finished list.
 */
#include "convert/family.h"

#include "base/detmath.h"

#include <string.h>

static pm_status llama3(const json_t *r, uint32_t n, float *inv_freq, pm_error *err)
{
    double factor, low, high, original;
    pm_status st;
    if ((st = pm_json_f64(r, "rope_scaling", "factor", &factor, err)) || (st = pm_json_f64(r, "rope_scaling", "low_freq_factor", &low, err)) ||
        (st = pm_json_f64(r, "rope_scaling", "high_freq_factor", &high, err)) ||
        (st = pm_json_f64(r, "rope_scaling", "original_max_position_embeddings", &original, err)))
        return st;
    if (!(factor > 0) || !(low > 0) || !(high > low) || !(original > 0))
        return pm_fail(err, PM_ERR_FORMAT, "rope_scaling: factor, low_freq_factor < high_freq_factor and original_max_position_embeddings must be positive");
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

pm_status pm_rope_frequencies(const json_t *config, uint32_t n_rot, float *inv_freq, pm_error *err)
{
    /* 5.x: rope_parameters {rope_type, rope_theta, ...}; 4.x: rope_theta beside rope_scaling {rope_type or type, ...} */
    const json_t *params = json_object_get(config, "rope_parameters"), *scaling = json_is_object(params) ? params : json_object_get(config, "rope_scaling");
    double theta = 10000, factor = 1;
    const char *type = NULL;
    pm_status st;
    if ((st = pm_json_opt_f64(config, "config.json", "rope_theta", &theta, err)) || (st = pm_json_opt_f64(params, "config.json: rope_parameters", "rope_theta", &theta, err)) ||
        (st = pm_json_opt_str(scaling, "rope_scaling", "type", &type, err)) || (st = pm_json_opt_str(scaling, "rope_scaling", "rope_type", &type, err)))
        return st;
    if (!(theta > 1 && theta < 1e12)) return pm_fail(err, PM_ERR_FORMAT, "config.json: field \"rope_theta\" is %g", theta);
    for (uint32_t i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)(1.0 / pm_pow(theta, (double)(float)(2 * i) / (double)n_rot));
    if (!type || strcmp(type, "default") == 0) return PM_OK;
    if (strcmp(type, "llama3") == 0) return llama3(scaling, n_rot / 2, inv_freq, err);
    if (strcmp(type, "linear") == 0) {
        if ((st = pm_json_f64(scaling, "rope_scaling", "factor", &factor, err))) return st;
        if (!(factor > 0)) return pm_fail(err, PM_ERR_FORMAT, "rope_scaling: field \"factor\" is %g", factor);
        for (uint32_t i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)((double)inv_freq[i] / factor);
        return PM_OK;
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "config.json: rope scaling \"%.40s\" is not supported; known are default, linear, llama3", type);
}
