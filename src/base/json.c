/* Owns: the way from Jansson's results to pm_error. */
#include "base/json.h"

#include "base/filemap.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Integers that 64 bits cannot hold, as reals: ".0" after every run of 19 digits or more outside of strings. Checkpoints have them: tokenizer_config.json says
 * "model_max_length": 1000000000000000019884624838656 for "no limit".
 */
static json_t *parse_huge(const char *text, size_t len, size_t flags, json_error_t *je)
{
    size_t n = 0, cap = len + len / 19 * 2 + 2;
    char *copy = cap > len ? malloc(cap) : NULL;
    if (!copy) return NULL;
    bool in_string = false;
    for (size_t i = 0; i < len;) {
        size_t digits = 0;
        while (!in_string && i + digits < len && text[i + digits] >= '0' && text[i + digits] <= '9') digits++;
        if (!digits) {
            if (in_string && text[i] == '\\' && i + 1 < len) copy[n++] = text[i++];
            else if (text[i] == '"') in_string = !in_string;
            copy[n++] = text[i++];
            continue;
        }
        char before = i ? text[i - 1] : ' ', after = i + digits < len ? text[i + digits] : ' ';
        bool part = before == '.' || before == '+' || before == 'e' || before == 'E' || (i > 1 && before == '-' && (text[i - 2] == 'e' || text[i - 2] == 'E'));
        memcpy(copy + n, text + i, digits);
        n += digits;
        i += digits;
        if (digits >= 19 && !part && after != '.' && after != 'e' && after != 'E') {
            memcpy(copy + n, ".0", 2);
            n += 2;
        }
    }
    json_t *j = json_loadb(copy, n, flags, je);
    free(copy);
    return j;
}

json_t *pm_json_parse(const char *text, size_t len, bool reject_dup, const char *what, pm_error *err)
{
    json_error_t je;
    size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL | (reject_dup ? JSON_REJECT_DUPLICATES : 0);
    json_t *j = json_loadb(text, len, flags, &je);
    if (!j && json_error_code(&je) == json_error_numeric_overflow) {
        json_error_t first = je;
        j = parse_huge(text, len, flags, &je);
        if (!j) je = first;
    }
    if (!j)
        pm_fail_at(err, PM_ERR_FORMAT, je.position < 0 ? 0 : (uint64_t)je.position, "%s is not valid JSON: %s (line %d, byte %d)", what, je.text,
                   je.line, je.position);
    return j;
}

pm_status pm_json_load(const char *path, size_t max, json_t **out, pm_error *err)
{
    char *text;
    size_t len;
    *out = NULL;
    pm_status st = pm_file_read(path, max, &text, &len, err);
    if (st) return st;
    const char *base = strrchr(path, '/');
    *out = pm_json_parse(text, len, false, base ? base + 1 : path, err);
    free(text);
    return *out ? PM_OK : PM_ERR_FORMAT;
}

static const json_t *field(const json_t *obj, const char *key)
{
    const json_t *v = json_object_get(obj, key);
    return v && !json_is_null(v) ? v : NULL;
}

static pm_status missing(const char *what, const char *key, pm_error *err)
{
    return pm_fail(err, PM_ERR_MISSING, "%s: field \"%s\" is missing", what, key);
}

pm_status pm_json_opt_u32(const json_t *obj, const char *what, const char *key, uint32_t min, uint32_t max, uint32_t *out, pm_error *err)
{
    const json_t *v = field(obj, key);
    if (!v) return PM_OK;
    double d = json_is_integer(v) ? (double)json_integer_value(v) : json_is_real(v) ? json_real_value(v) : -1.0;
    if (!json_is_number(v) || d != floor(d))
        return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be a whole number", what, key);
    if (d < (double)min || d > (double)max)
        return pm_fail(err, PM_ERR_LIMIT, "%s: field \"%s\" is %.15g; it must be from %u to %u", what, key, d, min, max);
    *out = (uint32_t)d;
    return PM_OK;
}

pm_status pm_json_u32(const json_t *obj, const char *what, const char *key, uint32_t min, uint32_t max, uint32_t *out, pm_error *err)
{
    if (!field(obj, key)) return missing(what, key, err);
    return pm_json_opt_u32(obj, what, key, min, max, out, err);
}

pm_status pm_json_opt_f64(const json_t *obj, const char *what, const char *key, double *out, pm_error *err)
{
    const json_t *v = field(obj, key);
    if (!v) return PM_OK;
    if (!json_is_number(v)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be a number", what, key);
    *out = json_number_value(v);
    return PM_OK;
}

pm_status pm_json_opt_obj(const json_t *obj, const char *what, const char *key, const json_t **out, pm_error *err)
{
    const json_t *v = field(obj, key);
    if (!v) return PM_OK;
    if (!json_is_object(v)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be an object", what, key);
    *out = v;
    return PM_OK;
}

pm_status pm_json_f64(const json_t *obj, const char *what, const char *key, double *out, pm_error *err)
{
    if (!field(obj, key)) return missing(what, key, err);
    return pm_json_opt_f64(obj, what, key, out, err);
}

pm_status pm_json_opt_bool(const json_t *obj, const char *what, const char *key, bool *out, pm_error *err)
{
    const json_t *v = field(obj, key);
    if (!v) return PM_OK;
    if (!json_is_boolean(v)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be true or false", what, key);
    *out = json_is_true(v);
    return PM_OK;
}

pm_status pm_json_opt_str(const json_t *obj, const char *what, const char *key, const char **out, pm_error *err)
{
    const json_t *v = field(obj, key);
    if (!v) return PM_OK;
    if (!json_is_string(v)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" must be a string", what, key);
    if (strlen(json_string_value(v)) != json_string_length(v))
        return pm_fail(err, PM_ERR_FORMAT, "%s: field \"%s\" contains a NUL", what, key);
    *out = json_string_value(v);
    return PM_OK;
}

pm_status pm_json_str(const json_t *obj, const char *what, const char *key, const char **out, pm_error *err)
{
    if (!field(obj, key)) return missing(what, key, err);
    return pm_json_opt_str(obj, what, key, out, err);
}
