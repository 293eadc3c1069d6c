/* Owns: the list of families. A new one adds a file and a line. */
#include "convert/families/families.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

static const struct pm_family *const families[] = { &pm_family_llama, &pm_family_qwen2, &pm_family_qwen3, &pm_family_phi3, &pm_family_internlm2, &pm_family_telechat2,
                                                  &pm_family_chatglm3, &pm_family_minicpm, &pm_family_minicpm3, &pm_family_gemma, &pm_family_gemma2, &pm_family_gemma3, &pm_family_smollm3,
                                                  &pm_family_phi, &pm_family_rwkv7 };
#define N_FAMILY (sizeof families / sizeof *families)

pm_status pm_family_find(const json_t *config, const struct pm_family **out, pm_error *err)
{
    const json_t *list = json_object_get(config, "architectures"), *v;
    size_t i;
    if (list && !json_is_null(list) && !json_is_array(list)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"architectures\" must be a list of names", pm_config_name(config));
    json_array_foreach(list, i, v) {
        if (!json_is_string(v)) return pm_fail(err, PM_ERR_FORMAT, "%s: field \"architectures\" must be a list of names", pm_config_name(config));
        for (size_t f = 0; f < N_FAMILY; f++)
            for (const char *const *a = families[f]->architectures; *a; a++)
                if (strcmp(json_string_value(v), *a) == 0) {
                    *out = families[f];
                    return PM_OK;
                }
    }
    struct pm_buf known = { 0 };
    for (size_t f = 0; f < N_FAMILY; f++) pm_buf_printf(&known, NULL, "%s%s", f ? ", " : "", families[f]->name);
    const char *got = json_string_value(json_array_get(list, 0));
    pm_status st = got ? pm_fail(err, PM_ERR_UNSUPPORTED, "%s: architecture \"%.60s\" is not known; known families are %s", pm_config_name(config), got, known.data ? known.data : "")
                       : pm_fail(err, PM_ERR_MISSING, "%s: field \"architectures\" is missing; known families are %s", pm_config_name(config), known.data ? known.data : "");
    pm_buf_free(&known);
    return st;
}
