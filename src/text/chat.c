/*
 * Owns: the way from a chat in JSON to a rendered prompt: which variables a template sees, as transformers' apply_chat_template sets them.
 *   messages; tools and documents (None when absent); add_generation_prompt; bos_token and eos_token (undefined when the model has none); then the caller's own.
 *   reasoning_content of a message is also given as thinking, and the other way round.
 */
#include "text/chat.h"

#include "text/jinja.h"

#include <stdlib.h>
#include <string.h>

/* Parses one of the JSON texts into the context. */
static pm_status put(json_t *context, const char *key, const char *text, bool array, pm_error *err)
{
    if (!text) return json_object_set_new(context, key, json_null()) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
    json_t *j = pm_json_parse(text, strlen(text), false, key, err);
    if (!j) return PM_ERR_FORMAT;
    if (array && !json_is_array(j)) {
        json_decref(j);
        return pm_fail(err, PM_ERR_FORMAT, "%s is not a JSON array", key);
    }
    return json_object_set_new(context, key, j) ? pm_fail(err, PM_ERR_MEMORY, "out of memory") : PM_OK;
}

static pm_status check_messages(json_t *messages, pm_error *err)
{
    size_t i;
    json_t *m;
    json_array_foreach(messages, i, m) {
        if (!json_is_object(m)) return pm_fail(err, PM_ERR_FORMAT, "messages[%zu] is not an object", i);
        if (!json_is_string(json_object_get(m, "role"))) return pm_fail(err, PM_ERR_FORMAT, "messages[%zu] has no \"role\"", i);
        json_t *reasoning = json_object_get(m, "reasoning_content"), *thinking = json_object_get(m, "thinking");
        if (reasoning && !thinking) json_object_set(m, "thinking", reasoning);
        if (thinking && !reasoning) json_object_set(m, "reasoning_content", thinking);
    }
    return PM_OK;
}

static pm_status put_variables(json_t *context, const char *text, pm_error *err)
{
    if (!text) return PM_OK;
    json_t *j = pm_json_parse(text, strlen(text), false, "variables", err);
    if (!j) return PM_ERR_FORMAT;
    pm_status st = json_is_object(j) ? PM_OK : pm_fail(err, PM_ERR_FORMAT, "variables is not a JSON object");
    if (!st) json_object_update(context, j);
    json_decref(j);
    return st;
}

pm_status pm_chat_render(const char *source, size_t source_len, const char *bos, const char *eos, const pm_template_params *params, char **text, size_t *len, pm_error *err)
{
    *text = NULL;
    *len = 0;
    if (!params->messages_json) return pm_fail(err, PM_ERR_ARGUMENT, "no messages");
    json_t *context = json_object();
    struct pm_buf out = { 0 };
    if (!context) return pm_fail(err, PM_ERR_MEMORY, "out of memory");
    pm_status st;
    if ((st = put(context, "messages", params->messages_json, true, err)) || (st = check_messages(json_object_get(context, "messages"), err)) ||
        (st = put(context, "tools", params->tools_json, true, err)) || (st = put(context, "documents", params->documents_json, true, err)))
        goto done;
    json_object_set_new(context, "add_generation_prompt", json_boolean(!params->no_generation_prompt));
    if (bos) json_object_set_new(context, "bos_token", json_string(bos));
    if (eos) json_object_set_new(context, "eos_token", json_string(eos));
    if ((st = put_variables(context, params->variables_json, err))) goto done;
    struct pm_jinja_params p = { .context = context, .now_unix = params->now_unix };
    st = pm_jinja_render(source, source_len, &p, &out, err);
    if (!st && !(*text = pm_buf_take(&out, len, err))) st = PM_ERR_MEMORY;
done:
    pm_buf_free(&out);
    json_decref(context);
    return st;
}
