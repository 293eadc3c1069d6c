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

pm_status pm_rope_frequencies(const json_t *config, const char *what, uint32_t n_rot, float *inv_freq, pm_error *err)
{
    /* 5.x: rope_parameters {rope_type, rope_theta, ...}; 4.x: rope_theta beside rope_scaling {rope_type or type, ...} */
    const json_t *params = NULL, *scaling = NULL;
    double theta = 10000, factor = 1;
    const char *type = NULL;
    char inner[64];
    pm_status st;
    if ((st = pm_json_opt_obj(config, what, "rope_parameters", &params, err)) || (st = pm_json_opt_obj(config, what, "rope_scaling", &scaling, err))) return st;
    snprintf(inner, sizeof inner, "%s: %s", what, params ? "rope_parameters" : "rope_scaling");
    if (params) scaling = params;
    if ((st = pm_json_opt_f64(config, what, "rope_theta", &theta, err)) || (st = pm_json_opt_f64(params, inner, "rope_theta", &theta, err)) ||
        (st = pm_json_opt_str(scaling, inner, "type", &type, err)) || (st = pm_json_opt_str(scaling, inner, "rope_type", &type, err)))
        return st;
    if (!(theta > 1 && theta < 1e12)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"rope_theta\" is %g; it must be above 1 and below 1e12", params ? inner : what, theta);
    for (uint32_t i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)(1.0 / pm_pow(theta, (double)(float)(2 * i) / (double)n_rot));
    if (!type || strcmp(type, "default") == 0) return PM_OK;
    if (strcmp(type, "llama3") == 0) return llama3(scaling, inner, n_rot / 2, inv_freq, err);
    if (strcmp(type, "linear") == 0) {
        if ((st = pm_json_f64(scaling, inner, "factor", &factor, err))) return st;
        if (!(factor >= 1 && factor < 1e6)) return pm_fail(err, PM_ERR_LIMIT, "%s: field \"factor\" is %g; it must be from 1 to 1e6", inner, factor);
        for (uint32_t i = 0; i < n_rot / 2; i++) inv_freq[i] = (float)((double)inv_freq[i] / factor);
        return PM_OK;
    }
    return pm_fail(err, PM_ERR_UNSUPPORTED, "%s: field \"rope_type\" is \"%.40s\", a scaling that is not supported; known are default, linear, llama3", inner, type);
}
