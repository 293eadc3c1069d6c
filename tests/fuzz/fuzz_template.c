/* Any bytes as a chat template over a fixed conversation; behind a NUL, JSON that is the context instead. Small limits, so that one input takes little time. */
#include "fuzz_input.h"

#include <string.h>

#include "base/utf8.h"
#include "text/jinja.h"

static const char conversation[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"Be <brief> & \\\"kind\\\".\\n\"}, {\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"H\\u00e9llo \\ud83d\\ude00\"}, {\"type\": \"image\"}]},"
    " {\"role\": \"assistant\", \"content\": null, \"thinking\": \"hm\", \"tool_calls\": [{\"id\": \"abcdefghi\", \"type\": \"function\", \"function\": {\"name\": \"f\", \"arguments\": {\"x\": 1.5, \"y\": [true, null]}}}]},"
    " {\"role\": \"tool\", \"content\": \"{}\", \"name\": \"f\"}, {\"role\": \"user\", \"content\": \"  a,b c\\t \"}], \"tools\": [{\"type\": \"function\", \"function\": {\"name\": \"f\", \"parameters\": {\"type\": \"object\","
    " \"properties\": {\"x\": {\"type\": \"number\"}}}}}], \"documents\": null, \"add_generation_prompt\": true, \"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"enable_thinking\": false, \"i\": 7, \"big\": 9223372036854775807, \"f\": -0.5}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *nul = memchr(data, 0, size);
    size_t len = nul ? (size_t)(nul - data) : size;
    const char *json = nul ? (const char *)nul + 1 : conversation;
    json_t *context = pm_json_parse(json, nul ? size - len - 1 : strlen(json), false, "context", NULL);
    if (!json_is_object(context)) {
        json_decref(context);
        return 0;
    }
    struct pm_buf out = { 0 };
    struct pm_jinja_params p = { .context = context, .now_unix = 1767323045, .limits = { .max_output = 1 << 20, .max_steps = 300000, .max_memory = 32 << 20 } };
    pm_error err = { 0 };
    pm_status st = pm_jinja_render((const char *)data, len, &p, &out, &err);
    fuzz_check(st, &err);
    if (st && out.len) __builtin_trap();
    if (st && !pm_utf8_valid(err.msg, strlen(err.msg))) __builtin_trap();
    if (!st && !pm_utf8_valid(out.data ? out.data : "", out.len)) __builtin_trap();      /* valid text in, valid text out */
    pm_buf_free(&out);
    json_decref(context);
    return 0;
}
