/*
 * Chat templates: what Python's jinja2 gave, replayed; what transformers does to a chat before it renders it; hostile templates; messages of errors.
 *
 * Goldens (tools/oracle/text/templates.py): expressions.json is [template, text or null] over variables.json; renders.json is {template file: {conversation: text or null}}
 * over conversations.json. null is an error.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <jansson.h>

#include "pumice.h"
#include "text/jinja.h"

#define NOW 1767323045      /* 2026-01-02T03:04:05 */

static const char *folder;

static json_t *load(const char *name)
{
    char path[4096];
    json_error_t e;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j) fail_msg("%s: %s at line %d", path, e.text, e.line);
    return j;
}

static char *dump(const json_t *j)
{
    return j && !json_is_null(j) ? json_dumps(j, JSON_COMPACT) : NULL;
}

/* Renders a conversation as the goldens have it. *text is NULL on an error. */
static pm_status render(const char *source, const json_t *conversation, char **text, size_t *len, pm_error *err)
{
    json_t *variables = json_pack("{s:s, s:s}", "bos_token", "<s>", "eos_token", "</s>");
    json_object_update(variables, json_object_get(conversation, "variables"));
    char *messages = dump(json_object_get(conversation, "messages")), *tools = dump(json_object_get(conversation, "tools")), *documents = dump(json_object_get(conversation, "documents"));
    char *vars = dump(variables);
    const pm_template_params p = { .source = source, .messages_json = messages, .tools_json = tools, .documents_json = documents, .variables_json = vars, .now_unix = NOW,
                                   .no_generation_prompt = json_is_false(json_object_get(conversation, "add_generation_prompt")) };
    pm_status st = pm_template_render(NULL, &p, text, len, err);
    free(messages);
    free(tools);
    free(documents);
    free(vars);
    json_decref(variables);
    return st;
}

static size_t check(const char *name, const char *source, const json_t *conversation, const json_t *want)
{
    char *text = NULL;
    size_t len = 0;
    pm_error err = { 0 };
    pm_status st = render(source, conversation, &text, &len, &err);
    bool same = json_is_null(want) ? st != PM_OK : st == PM_OK && len == json_string_length(want) && memcmp(text, json_string_value(want), len) == 0;
    if (st && (!err.msg[0] || err.code != st)) {
        print_error("%s: an error without a message\n", name);
        same = false;
    }
    if (!same) print_error("%s\n  want: %s\n  got:  %s\n", name, json_is_null(want) ? "an error" : json_string_value(want), st ? err.msg : text);
    pm_free(text);
    return !same;
}

static void replay_expressions(void **state)
{
    (void)state;
    json_t *all = load("expressions.json"), *variables = load("variables.json"), *pair;
    json_t *conversation = json_pack("{s:[{s:s, s:s}], s:o}", "messages", "role", "user", "content", "x", "variables", variables);
    size_t i, bad = 0;
    json_array_foreach(all, i, pair) {
        const char *source = json_string_value(json_array_get(pair, 0));
        bad += check(source, source, conversation, json_array_get(pair, 1));
    }
    assert_true(json_array_size(all) > 500);
    assert_int_equal(bad, 0);
    json_decref(all);
    json_decref(conversation);
}

static char *read_file(const char *name)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "rb");
    if (!f) fail_msg("no file %s", path);
    char *text = calloc(1, 1 << 16);
    size_t n = fread(text, 1, (1 << 16) - 1, f);
    assert_true(n > 0 && feof(f));
    fclose(f);
    return text;
}

static void replay_renders(void **state)
{
    (void)state;
    json_t *all = load("renders.json"), *conversations = load("conversations.json"), *texts, *want;
    const char *file, *name;
    size_t bad = 0;
    json_object_foreach(all, file, texts) {
        char *source = read_file(file);
        json_object_foreach(texts, name, want) {
            char label[200];
            snprintf(label, sizeof label, "%s over %s", file, name);
            bad += check(label, source, json_object_get(conversations, name), want);
        }
        free(source);
    }
    assert_true(json_object_size(all) >= 30);
    assert_int_equal(bad, 0);
    json_decref(all);
    json_decref(conversations);
}

/* ---- the chat ---- */

/* The text of a template over messages, or the message of the error. */
static const char *simple(const char *source, const char *messages, const char *variables)
{
    static char out[4096];
    char *text = NULL;
    size_t len;
    pm_error err = { 0 };
    const pm_template_params p = { .source = source, .messages_json = messages, .variables_json = variables, .now_unix = NOW };
    pm_status st = pm_template_render(NULL, &p, &text, &len, &err);
    snprintf(out, sizeof out, "%s%s", st ? "ERROR " : "", st ? err.msg : text);
    pm_free(text);
    return out;
}

static void chat_is_normalised(void **state)
{
    (void)state;
    const char *all = "{{ messages[0] }}";
    assert_string_equal(simple(all, "[{\"role\":\"user\",\"content\":null,\"x\":{\"y\":null}}]", NULL), "{'role': 'user', 'x': {'y': None}}");
    assert_string_equal(simple(all, "[{\"role\":\"a\",\"reasoning_content\":\"r\"}]", NULL), "{'thinking': 'r', 'role': 'a', 'reasoning_content': 'r'}");
    assert_string_equal(simple(all, "[{\"role\":\"a\",\"thinking\":\"t\"}]", NULL), "{'thinking': 't', 'role': 'a', 'reasoning_content': 't'}");
    assert_string_equal(simple(all, "[{\"role\":\"a\",\"reasoning\":\"x\",\"thinking\":\"t\",\"reasoning_content\":null}]", NULL),
                        "{'thinking': 't', 'role': 'a', 'reasoning': 'x', 'reasoning_content': 't'}");
    assert_string_equal(simple("{{ tools is none }}{{ documents is none }}{{ add_generation_prompt }}{{ bos_token }}", "[{\"role\":\"a\"}]", NULL), "TrueTrueTrue");
    assert_string_equal(simple("{{ tools }}{{ x }}", "[{\"role\":\"a\"}]", "{\"tools\":5,\"x\":\"y\"}"), "5y");
    assert_string_equal(simple(all, "[]", NULL), "ERROR messages is empty: a conversation has at least one message");
    assert_string_equal(simple(all, "[{\"content\":\"x\"}]", NULL), "ERROR messages[0] has no \"role\"");
    assert_string_equal(simple(all, "[5]", NULL), "ERROR messages[0] is not an object");
    assert_string_equal(simple(all, "{}", NULL), "ERROR messages is not a JSON array");
    assert_string_equal(simple(all, "[{\"role\":\"a\"}]", "[]"), "ERROR variables is not a JSON object");
}

/* Where the program's locale has a decimal comma, numbers keep their point. */
static void locale_does_not_matter(void **state)
{
    (void)state;
    static const char *const names[] = { "de_DE.UTF-8", "fr_FR.UTF-8", "es_ES.UTF-8", "ru_RU.UTF-8", "de_DE" };
    const char *found = NULL;
    for (size_t i = 0; !found && i < sizeof names / sizeof *names; i++) found = setlocale(LC_ALL, names[i]);
    if (!found) skip();     /* this machine has none */
    assert_string_equal(simple("{{ 1.5 }} {{ '2.5'|float }} {{ '%.1f' % 3.5 }} {{ strftime_now('%B') }}", "[{\"role\":\"a\"}]", NULL), "1.5 2.5 3.5 January");
    setlocale(LC_ALL, "C");
}

static void clock_is_used_without_now(void **state)
{
    (void)state;
    const pm_template_params p = { .source = "{{ strftime_now('%Y') }}", .messages_json = "[{\"role\":\"a\"}]" };
    char *text = NULL;
    size_t len;
    assert_int_equal(pm_template_render(NULL, &p, &text, &len, NULL), PM_OK);
    assert_true(len == 4 && atoi(text) >= 2024);
    pm_free(text);
}

/* ---- errors say where and what ---- */

static void errors_are_clear(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "a\nb\n{% for x in %}", "line 3: syntax error at byte 16: expected an expression, got the end of the tag" },
        { "{{ 1 +\n}}", "line 2: syntax error at byte 7: expected an expression, got the end of the tag" },
        { "\n\n{{ x.y }}", "line 3: 'x' is undefined" },
        { "{{ messages[0].nope.deeper }}", "line 1: 'dict object' has no attribute 'nope'" },
        { "{{ none.x.y }}", "line 1: None has no attribute 'x'" },
        { "{{ messages[5].x }}", "line 1: list object has no element 5" },
        { "{{ messages.append(1) }}", "line 1: access to attribute 'append' of 'list' object is unsafe" },
        { "{% if 1 %}\n{{ 'a' + 1 }}\n{% endif %}", "line 2: can only concatenate str (not \"int\") to str" },
        { "{{ 1 + 'a' }}", "line 1: unsupported operand type(s) for +: 'int' and 'str'" },
        { "x\n{{ 'a'|nope }}", "line 2: no filter named 'nope'" },
        { "{{ 'a' is nope }}", "line 1: no test named 'nope'" },
        { "{% if true %}{{ 'a'|nope }}{% endif %}", "line 1: no filter named 'nope'" },
        { "{% if 1 %}\n\n", "line 2: syntax error at byte 11: the template ends, 'elif' is missing" },
        { "{% for x in y %}{% endif %}", "line 1: syntax error at byte 19: unknown tag 'endif'; 'endfor' is missing" },
        { "{% frob %}", "line 1: syntax error at byte 3: unknown tag 'frob'" },
        { "{% block x %}{% endblock %}", "line 1: syntax error at byte 3: the tag 'block' is not supported" },
        { "{{ 'abc }}", "line 1: syntax error at byte 3: a string does not end" },
        { "{{ 1", "line 1: syntax error at byte 4: a tag does not end" },
        { "{# x", "line 1: syntax error at byte 2: a comment does not end" },
        { "{% raw %} x", "line 1: syntax error at byte 9: \"endraw\" is missing" },
        { "{{ (1] }}", "line 1: syntax error at byte 5: unexpected ']', expected ')'" },
        { "{{ 9223372036854775808 }}", "line 1: syntax error at byte 3: an integer does not fit into 64 bits" },
        { "{{ 9223372036854775807 + 1 }}", "line 1: an integer does not fit into 64 bits" },
        { "{% include 'x' %}", "line 1: a chat template stands alone: include, import and extends have nothing to load from" },
        { "{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "line 1: macro 'm' takes not more than 1 argument(s)" },
        { "{{ 'x'|trim(nope=1) }}", "line 1: trim() got an unexpected keyword argument 'nope'" },
        { "{{ 'x'|replace('a') }}", "line 1: replace() is missing the argument 'new'" },
        { "{{ 'x'.encode() }}", "line 1: the method str.encode is not supported" },
        { "{{ 'x'|pprint }}", "line 1: this filter of jinja2 is not supported" },
        { "{{ 'x'.upper }}", "line 1: a method has no text that is the same in every run" },
        { "{{ raise_exception('Two\nlines') }}", "the template refuses: Two lines" },
        { "{{ missing|tojson }}", "line 1: Object of type Undefined is not JSON serializable" },
        { "{% for a, b in [1] %}{% endfor %}", "line 1: cannot unpack non-iterable int object" },
        { "{{ [][1:2](3) }}", "line 1: 'list' object is not callable" },
        { "{% set n = 5 %}{% set n.a = 1 %}", "line 1: cannot assign attribute on non-namespace object" },
    };
    size_t bad = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *got = simple(cases[i][0], "[{\"role\":\"a\"}]", NULL);
        if (strncmp(got, "ERROR ", 6) == 0 && strcmp(got + 6, cases[i][1]) == 0) continue;
        print_error("%s\n  want: ERROR %s\n  got:  %s\n", cases[i][0], cases[i][1], got);
        bad++;
    }
    assert_int_equal(bad, 0);
    pm_error err = { 0 };
    const pm_template_params p = { .source = "ab\n{{ ) }}", .messages_json = "[{\"role\":\"a\"}]" };
    char *text;
    size_t len;
    assert_int_equal(pm_template_render(NULL, &p, &text, &len, &err), PM_ERR_TEMPLATE);
    assert_int_equal(err.byte_offset, 6);
    assert_null(text);
    err = (pm_error){ 0 };
    const pm_template_params crlf = { .source = "a\r\nb\r\n\r{{ ) }}", .messages_json = p.messages_json };
    assert_int_equal(pm_template_render(NULL, &crlf, &text, &len, &err), PM_ERR_TEMPLATE);
    assert_int_equal(err.byte_offset, 10);
    assert_string_equal(err.msg, "line 4: syntax error at byte 10: unexpected ')'");
    /* checking finds the same without running anything */
    err = (pm_error){ 0 };
    assert_int_equal(pm_template_check(NULL, crlf.source, &err), PM_ERR_TEMPLATE);
    assert_string_equal(err.msg, "line 4: syntax error at byte 10: unexpected ')'");
    assert_int_equal(pm_template_check(NULL, "{{ 'a'|frob }}", NULL), PM_ERR_TEMPLATE);
    assert_int_equal(pm_template_check(NULL, "{{ raise_exception('no') }}{{ nothing.at.all }}", NULL), PM_OK);
    assert_int_equal(pm_template_check(NULL, NULL, NULL), PM_ERR_MISSING);
    /* a long name is cut at a character, never inside of one */
    const char *cut = simple("{{ raise_exception('é' * 500) }}", "[{\"role\":\"a\"}]", NULL);
    assert_true(strlen(cut) < 260 && strlen(cut) > 100);
    for (const char *c = strstr(cut, "é"); *c; c += 2) assert_memory_equal(c, "é", 2);
}

/* ---- hostile templates: an error within a second, in bounded memory ---- */

/* Of the processor, so that a busy machine does not fail the test. */
static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A second where the machine is a desktop; sanitizers, small and emulated machines take their share. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__x86_64__)
#define PATIENCE 30.0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PATIENCE 30.0
#endif
#endif
#ifndef PATIENCE
#define PATIENCE 3.0
#endif

static size_t n_wrong;

static void must_fail(const char *label, const char *source, size_t len, const char *want)
{
    json_t *context = json_pack("{s:[{s:s}], s:s}", "messages", "role", "user", "s", "0123456789abcdef");
    struct pm_buf out = { 0 };
    struct pm_jinja_params p = { .context = context, .now_unix = NOW };
    pm_error err = { 0 };
    double start = seconds();
    pm_status st = pm_jinja_render(source, len, &p, &out, &err);
    double took = seconds() - start;
    bool wrong = st == PM_OK || !strstr(err.msg, want) || took > PATIENCE || out.len;
    if (wrong) print_error("%s\n  %.2f s, %zu bytes, \"%s\" (want \"%s\")\n", label, took, out.len, err.msg, want);
    if (getenv("PM_TEST_TIMES")) print_message("%.3f s  %s  [%.60s]\n", took, err.msg, label);
    n_wrong += wrong;
    pm_buf_free(&out);
    json_decref(context);
}

static void hostile_values(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        { "{{ 'x' * 1000000000 }}", "bytes of memory" },
        { "{{ 'x' * 9223372036854775807 }}", "bytes of memory" },
        { "{{ 'xy' * 9223372036854775807 }}", "bytes of memory" },
        { "{{ [1] * 9223372036854775807 }}", "memory" },
        { "{{ [1] * 100000000 }}", "steps" },
        { "{% set ns = namespace(x='0123456789') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}", "longer than" },
        { "{% set ns = namespace(x='0123456789') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "bytes of memory" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "memory" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "longer than" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x == ns.x }}", "steps" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x|tojson|length }}", "longer than" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x in [1, ns.x] }}", "steps" },
        { "{% set ns = namespace(x=(1,)) %}{% for i in range(100) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}{{ {ns.x: 1} }}", "steps" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "nests deeper" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == ns.x[0] }}", "nests deeper" },
        { "{% set ns = namespace(x=[1]) %}{% for i in range(1000) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x|tojson }}", "nests deeper" },
        { "{% set ns = namespace(x=['a']) %}{% for i in range(1000) %}{% set ns.x = ns.x|map('upper') %}{% endfor %}{{ ns.x|list }}", "nests deeper" },
        { "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", "" },
        { "{% for i in range(100000) %}{% for j in range(100000) %}{{ i }}{% endfor %}{% endfor %}", "" },
        { "{{ range(100001)|list }}", "Range too big" },
        { "{{ range(-9223372036854775807, 9223372036854775807)|length }}", "Range too big" },
        { "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nests deeper" },
        { "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('x') }}", "" },
        { "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}", "nests deeper" },
        { "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}x{% endmacro %}{{ m(40) }}", "" },
        { "{% macro m() %}{% call m() %}{{ caller() }}{% endcall %}{% endmacro %}{{ m() }}", "" },
        { "{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}", "nests deeper" },
        { "{{ 2 ** 100 }}", "64 bits" },
        { "{{ 2 ** 9223372036854775807 }}", "64 bits" },
        { "{{ '%999999999d' % 1 }}", "too large" },
        { "{{ '%*d' % (9223372036854775807, 1) }}", "too large" },
        { "{{ '%.999999999f' % 1.0 }}", "too large" },
        { "{{ '{:999999999}'.format(1) }}", "too large" },
        { "{{ '{:16000000}'.format(1)|length + '{:16000000}'.format(1)|length }}{{ '{:16777216}'.format('x') * 20 }}", "" },
        { "{{ 'x'.center(9223372036854775807) }}", "steps" },
        { "{{ 'x'.ljust(100000000) }}", "steps" },
        { "{{ 'x'.zfill(100000000) }}", "steps" },
        { "{{ '\t'.expandtabs(9223372036854775807) }}", "steps" },
        { "{{ ('x' * 100000).replace('', 'y' * 1000) }}", "longer than" },
        { "{{ ('x' * 100000).replace('x', 'y' * 1000)|length }}", "longer than" },
        { "{{ ('x' * 1000)|indent('y' * 9000000, true)|indent('y' * 9000000, true) }}", "longer than" },
        { "{{ [1]|tojson(indent=100000000) }}", "longer than" },
        { "{{ ('ab' * 100000).split('b')|join('x' * 1000) }}", "longer than" },
        { "{{ strftime_now('%Y' * 1000) }}", "too long" },
        { "{{ strftime_now('%999999999Y') }}", "too long" },
        { "{% set ns = namespace(x=0) %}{% for i in range(100000) %}{% set ns.x = s * 1000 %}{% for j in range(100) %}{% if ns.x == s * 1000 %}{% endif %}{% endfor %}{% endfor %}", "memory" },
        { "{% set a = 'a' * 10000000 %}{% set b = 'a' * 10000000 %}{% for i in range(100000) %}{{ '' if a == b }}{% endfor %}", "steps" },
        { "{% set a = 'a' * 10000000 %}{% for i in range(100000) %}{{ '' if 'b' in a }}{% endfor %}", "steps" },
        { "{% set a = 'a' * 10000000 %}{% for i in range(100000) %}{{ '' if a.find('ab') > 0 }}{% endfor %}", "steps" },
        { "{% set a = 'a' * 1000000 %}{% set b = 'a' * 500000 ~ 'b' %}{{ a.rfind(b) }}{{ a.rsplit(b) }}", "steps" },
        { "{% set a = 'é' * 1000000 %}{% for i in range(100000) %}{% set c = a[999999] %}{% endfor %}", "steps" },
        { "{% set a = ' ' * 10000000 ~ 'x' %}{% for i in range(100000) %}{{ a.strip()[:0] }}{% endfor %}", "steps" },
        { "{% set a = 'a' * 10000000 %}{% for i in range(100000) %}{{ '' if a is lower }}{% endfor %}", "steps" },
        { "{% set a = ('a,' * 1000000).split(',') %}{% for i in range(100000) %}{{ a|unique|list|length }}{% endfor %}", "" },
        { "{% set ns = namespace(d={}) %}{% for i in range(100000) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}", "" },
        { "{{ (range(100000)|list * 100)|sort|length }}", "" },
        { "{{ range(100000)|map('string')|sort|join|length }}{% for i in range(1000) %}{{ (range(100000)|list)[::-1]|sort|length }}{% endfor %}", "" },
    };
    n_wrong = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) must_fail(cases[i][0], cases[i][0], strlen(cases[i][0]), cases[i][1]);
    assert_int_equal(n_wrong, 0);
}

static char *repeated(const char *before, const char *what, size_t n, const char *after, size_t *len)
{
    size_t a = strlen(before), w = strlen(what), b = strlen(after);
    char *s = malloc(a + n * w + b + 1);
    assert_non_null(s);
    memcpy(s, before, a);
    for (size_t i = 0; i < n; i++) memcpy(s + a + i * w, what, w);
    memcpy(s + a + n * w, after, b + 1);
    *len = a + n * w + b;
    return s;
}

static void hostile_sources(void **state)
{
    (void)state;
    static const struct { const char *before, *what; size_t n; const char *after, *want; } cases[] = {
        { "{{ ", "(", 100000, "", "nests deeper" }, { "{{ ", "[", 100000, "", "nests deeper" }, { "{{ ", "{1:", 100000, "", "nests deeper" }, { "{{ ", "-", 100000, "1 }}", "nests deeper" },
        { "{{ ", "not ", 100000, "1 }}", "nests deeper" }, { "{{ 1 ", "if 1 else 1 ", 50000, "}}", "nests deeper" }, { "{{ 1", "+1", 100000, " }}", "nests deeper" }, { "{{ 1", "**1", 100000, " }}", "nests deeper" },
        { "{{ x", ".x", 100000, " }}", "nests deeper" }, { "{{ x", "[0]", 100000, " }}", "nests deeper" }, { "{{ x", "()", 100000, " }}", "nests deeper" }, { "{{ x", "|upper", 100000, " }}", "nests deeper" },
        { "{{ x", " is defined", 50000, " }}", "chained" }, { "", "{% if 1 %}", 50000, "", "nests deeper" }, { "", "{% for x in y %}", 50000, "", "nests deeper" }, { "", "{% macro m() %}", 50000, "", "nests deeper" },
        { "", "{% set x %}", 50000, "", "nests deeper" }, { "", "{% filter upper %}", 50000, "", "nests deeper" }, { "", "{% call x() %}", 50000, "", "nests deeper" }, { "", "{% generation %}", 50000, "", "nests deeper" },
        { "{% set ", "(", 100000, "", "nests deeper" }, { "{{ ", ")", 100000, "", "unexpected ')'" }, { "{# ", "{# ", 100000, "", "comment" }, { "{% raw %}", "{% endra %}", 80000, "", "endraw" },
        { "{{ '", "\\", 100001, "", "string" }, { "{{ '", "\\x", 1, "'}}", "escape" }, { "", "{{ 1 }}", 149000, "{{ x.y }}", "" }, { "", "x", 2000000, "", "longer than 1048576 bytes" }, { "{{ ", "'a' ", 200000, "}} {{ x.y }}", "x" },
        { "{{ 1", "0", 500, " }}", "number" }, { "{{ 1.", "0", 500, " }}", "number" }, { "{% macro m(", "a,", 100000, "b) %}", "repeated" }, { "{{ f(", "a=1,", 100000, ") }}", "repeated" },
        { "{% set ", "a,", 100000, "b = 1 %}", "unpack" }, { "{% if 0 %}", "{% elif 0 %}", 50000, "{% endif %}{{ x.y }}", "undefined" }, { "", "{{", 100000, "", "" }, { "", "{%", 100000, "", "" }, { "", "{#", 100000, "", "comment" },
        { "{{ x.y }}", "\n", 1000000, "", "undefined" },
    };
    n_wrong = 0;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t len;
        char label[100], *s = repeated(cases[i].before, cases[i].what, cases[i].n, cases[i].after, &len);
        snprintf(label, sizeof label, "%s%s...", cases[i].before, cases[i].what);
        must_fail(label, s, len, cases[i].want);
        free(s);
    }
    assert_int_equal(n_wrong, 0);
}

static void bytes_that_are_no_text(void **state)
{
    (void)state;
    n_wrong = 0;
    must_fail("invalid UTF-8", "{{ '\xff' }}", 10, "not valid UTF-8");
    must_fail("cut UTF-8", "abc\xe2\x82", 5, "not valid UTF-8");
    must_fail("a surrogate", "\xed\xa0\x80", 3, "not valid UTF-8");
    must_fail("a NUL in a tag", "{{ 1 \0 }}", 9, "unexpected character");
    must_fail("a NUL in a name", "{{ a\0b }}", 9, "unexpected character");
    assert_int_equal(n_wrong, 0);
    /* in text and in strings a NUL is a character like others */
    json_t *context = json_object();
    struct pm_buf out = { 0 };
    struct pm_jinja_params p = { .context = context };
    static const char source[] = "a\0b{{ 'c\0d' }}{{ 'x\\0y'|length }}{{ ['\0'] }}{{ '\0' in 'a\0b' }}";
    static const char want[] = "a\0bc\0d3['\\x00']True";
    assert_int_equal(pm_jinja_render(source, sizeof source - 1, &p, &out, NULL), PM_OK);
    assert_int_equal(out.len, sizeof want - 1);
    assert_memory_equal(out.data, want, out.len);
    pm_buf_free(&out);
    json_decref(context);
}

/* A deep JSON value in the context is no template's fault, and no crash either. */
static void deep_context(void **state)
{
    (void)state;
    size_t len;
    char *deep = repeated("{\"x\":", "[", 1500, "", &len), *all = malloc(len + 1600);
    memcpy(all, deep, len);
    memset(all + len, ']', 1500);
    strcpy(all + len + 1500, "}");
    assert_string_equal(simple("{{ x }}", "[{\"role\":\"a\"}]", all), "ERROR line 1: the template nests deeper than 400");
    free(deep);
    free(all);
}

static void limits_can_be_set(void **state)
{
    (void)state;
    static const struct { struct pm_jinja_limits limits; const char *source, *want; } cases[] = {
        { { .max_source = 5 }, "{{ 1 }}", "the template is longer than 5 bytes" }, { { .max_output = 10 }, "0123456789x", "the output is longer than 10 bytes" },
        { { .max_steps = 100 }, "{% for i in range(1000) %}{% endfor %}", "the template takes more than 100 steps" }, { { .max_depth = 20 }, "{{ ((((((((((1)))))))))) }}", "the template nests deeper than 20" },
        { { .max_memory = 200000 }, "{{ 'x' * 200000 }}", "the template needs more than 200000 bytes of memory" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *context = json_object();
        struct pm_buf out = { 0 };
        struct pm_jinja_params p = { .context = context, .limits = cases[i].limits };
        pm_error err = { 0 };
        assert_int_equal(pm_jinja_render(cases[i].source, strlen(cases[i].source), &p, &out, &err), PM_ERR_TEMPLATE);
        if (!strstr(err.msg, cases[i].want)) fail_msg("\"%s\" lacks \"%s\"", err.msg, cases[i].want);
        pm_buf_free(&out);
        json_decref(context);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    folder = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_expressions), cmocka_unit_test(replay_renders), cmocka_unit_test(chat_is_normalised), cmocka_unit_test(locale_does_not_matter),
        cmocka_unit_test(clock_is_used_without_now), cmocka_unit_test(errors_are_clear), cmocka_unit_test(hostile_values), cmocka_unit_test(hostile_sources),
        cmocka_unit_test(bytes_that_are_no_text), cmocka_unit_test(deep_context), cmocka_unit_test(limits_can_be_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
