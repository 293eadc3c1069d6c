/* A chat as JSON, rendered with a template as transformers' apply_chat_template does. */
#ifndef PM_TEXT_CHAT_H
#define PM_TEXT_CHAT_H

#include "base/error.h"

/* bos, eos: contents of the tokens, or NULL (then undefined in the template). *text: owned by the caller (pm_free). Errors name the JSON text that is wrong. */
pm_status pm_chat_render(const char *source, size_t source_len, const char *bos, const char *eos, const pm_template_params *params, char **text, size_t *len,
                         pm_error *err);

#endif
