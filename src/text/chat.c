/*
 * Owns: the way from a chat in JSON to a rendered prompt: which variables a template sees, as transformers' apply_chat_template sets them.
 *   messages; tools and documents (None when absent); add_generation_prompt; bos_token and eos_token (undefined when the model has none); then the caller's own.
 *   A key of a message whose value is null is dropped. The reasoning of a message, under whichever of its three names, is given as reasoning_content, and as thinking where that is not set.
 */
#include "text/chat.h"

#include "text/jinja.h"

#include <stdlib.h>
#include <string.h>

static pm_status no_memory(pm_error *err)
{
    return pm_fail(err, PM_ERR_MEMORY, "out of memory");
}

/* Parses one of the JSON texts into the context. */
static pm_status put(json_t *context, const char *key, const char *text, pm_error *err)
{
    if (!text) return json_object_set_new(context, key, json_null()) ? no_memory(err) : PM_OK;
    json_t *j = pm_json_parse(text, strlen(text), false, key, err);
    if (!j) return PM_ERR_FORMAT;
    if (!json_is_array(j)) {
        json_decref(j);
        return pm_fail(err, PM_ERR_FORMAT, "%s is not a JSON array", key);
    }
    size_t i;
    json_t *v;
    json_array_foreach(j, i, v) if (!json_is_object(v)) {
        json_decref(j);
        return pm_fail(err, PM_ERR_FORMAT, "%s[%zu] is not an object", key, i);
    }
    return json_object_set_new(context, key, j) ? no_memory(err) : PM_OK;
}

/* One message as the template sees it; owned. The order of its keys is transformers': a template may print them all. */
static json_t *seen_message(json_t *m)
{
    static const char *const names[] = { "reasoning_content", "thinking", "reasoning" };
    json_t *out = json_object(), *reasoning = NULL, *v;
    const char *key;
    bool bad = !out;
    for (size_t i = 0; i < 3 && !reasoning; i++)
        if ((v = json_object_get(m, names[i])) && !json_is_null(v)) reasoning = v;
    if (reasoning) bad = bad || json_object_set(out, "thinking", reasoning);
    json_object_foreach(m, key, v) if (!json_is_null(v)) bad = bad || json_object_set(out, key, v);
    if (reasoning) bad = bad || json_object_set(out, "reasoning_content", reasoning);
    if (!bad) return out;
    json_decref(out);
    return NULL;
}

static pm_status normalise_messages(json_t *messages, pm_error *err)
{
    if (!json_array_size(messages)) return pm_fail(err, PM_ERR_FORMAT, "messages is empty: a conversation has at least one message");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        json_t *m = json_array_get(messages, i);
        if (!json_is_string(json_object_get(m, "role"))) return pm_fail(err, PM_ERR_FORMAT, "messages[%zu] has no \"role\"", i);
        json_t *seen = seen_message(m);
        if (!seen || json_array_set_new(messages, i, seen)) return no_memory(err);
    }
    return PM_OK;
}

static pm_status put_variables(json_t *context, const char *text, pm_error *err)
{
    if (!text) return PM_OK;
    json_t *j = pm_json_parse(text, strlen(text), false, "variables", err);
    if (!j) return PM_ERR_FORMAT;
    pm_status st = json_is_object(j) ? PM_OK : pm_fail(err, PM_ERR_FORMAT, "variables is not a JSON object");
    if (!st && json_object_update(context, j)) st = no_memory(err);
    json_decref(j);
    return st;
}

static pm_status put_new(json_t *context, const char *key, json_t *value, pm_error *err)
{
    return json_object_set_new(context, key, value) ? no_memory(err) : PM_OK;
}

pm_status pm_chat_render(const char *source, size_t source_len, const char *bos, const char *eos, const pm_template_params *params, char **text, size_t *len, pm_error *err)
{
    *text = NULL;
    *len = 0;
    if (!params->messages_json) return pm_fail(err, PM_ERR_ARGUMENT, "no messages");
    json_t *context = json_object();
    struct pm_buf out = { 0 };
    if (!context) return no_memory(err);
    pm_status st;
    if ((st = put(context, "messages", params->messages_json, err)) || (st = normalise_messages(json_object_get(context, "messages"), err)) ||
        (st = put(context, "tools", params->tools_json, err)) || (st = put(context, "documents", params->documents_json, err)) ||
        (st = put_new(context, "add_generation_prompt", json_boolean(!params->no_generation_prompt), err)) ||
        (bos && (st = put_new(context, "bos_token", json_string(bos), err))) || (eos && (st = put_new(context, "eos_token", json_string(eos), err))) ||
        (st = put_variables(context, params->variables_json, err)))
        goto done;
    struct pm_jinja_params p = { .context = context, .now_unix = params->now_unix };
    st = pm_jinja_render(source, source_len, &p, &out, err);
    if (!st && !(*text = pm_buf_take(&out, len, err))) st = PM_ERR_MEMORY;
done:
    pm_buf_free(&out);
    json_decref(context);
    return st;
}
