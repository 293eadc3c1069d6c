/* Any bytes as the JSON of a conversation, of tools and of variables (cut at bytes 0xFF), through a template that shows all of it. */
#include "fuzz_input.h"

#include <stdlib.h>
#include <string.h>

static const char source[] =
    "{% for t in tools or [] %}{{ t | tojson }}{{ t.function.name if t.function }}{% endfor %}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.tool_calls %}{% for c in m.tool_calls %}{{ c.function.arguments | tojson(indent=2) }}{% endfor %}{% endif %}{{ m['thinking'] or '' }}{{ m | tojson }}\n{% endfor %}"
    "{% if enable_thinking is defined %}{{ enable_thinking | string | upper }}{% endif %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

/* A NUL-terminated copy of the next part. */
static char *part(const uint8_t **at, const uint8_t *end)
{
    const uint8_t *cut = *at < end ? memchr(*at, 0xFF, (size_t)(end - *at)) : NULL;
    char *s = strndup((const char *)*at, (size_t)((cut ? cut : end) - *at));
    *at = cut ? cut + 1 : end;
    return s;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *at = data, *end = data + size;
    char *messages = part(&at, end), *tools = part(&at, end), *variables = part(&at, end), *text = NULL;
    size_t len;
    pm_error err = { 0 };
    if (messages && tools && variables) {
        pm_template_params p = { .source = source, .messages_json = messages, .tools_json = *tools ? tools : NULL, .variables_json = *variables ? variables : NULL, .now_unix = 1 };
        pm_status st = pm_template_render(NULL, &p, &text, &len, &err);
        fuzz_check(st, &err);
        pm_free(text);
    }
    free(messages);
    free(tools);
    free(variables);
    return 0;
}
