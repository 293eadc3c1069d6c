/* Every family that the converter knows. */
#ifndef PM_CONVERT_FAMILIES_H
#define PM_CONVERT_FAMILIES_H

#include "convert/families/dense.h"

extern const struct pm_family pm_family_llama, pm_family_qwen2, pm_family_qwen3, pm_family_phi3, pm_family_internlm2, pm_family_telechat2, pm_family_chatglm3,
    pm_family_minicpm, pm_family_minicpm3, pm_family_gemma, pm_family_gemma2, pm_family_gemma3, pm_family_smollm3, pm_family_phi, pm_family_rwkv7;

#endif
