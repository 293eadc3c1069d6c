/*
 * Owns: option parsing and the help texts made from the tables.
 *
 * Idea: a command describes each option once, in its table; what it parses, what it checks and what --help says cannot drift apart. The man pages in docs/man are
 * compared with the help by tests/cli/man.sh.
 */
#include "cli/args.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMNS 80
#define HELP_AT 26      /* column where the explanation of an option begins */

int args_usage(const struct command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "pumice %s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nTry \"pumice %s --help\".\n", c->name);
    return EXIT_USAGE;
}

/* ---- help ---- */

void print_wrapped(const char *text, int at, int indent)
{
    const char *p = text;
    while (*p) {
        int word = (int)strcspn(p, " \n");
        if (at > indent && at + 1 + word > COLUMNS) {
            printf("\n%*s", indent, "");
            at = indent;
        } else if (at < indent) {
            printf("%*s", indent - at, "");
            at = indent;
        } else if (at > indent) {
            putchar(' ');
            at++;
        }
        printf("%.*s", word, p);
        at += word;
        p += word;
        for (; *p == ' ' || *p == '\n'; p++)
            if (*p == '\n') {
                printf("\n%*s", indent, "");
                at = indent;
            }
    }
    putchar('\n');
}

static void print_lines(const char *head, const char *lines)
{
    for (const char *p = lines; *p;) {
        int n = (int)strcspn(p, "\n");
        printf("%s%.*s\n", head, n, p);
        p += n + (p[n] == '\n');
    }
}

static void print_option(const char *name, const char *meta, const char *text)
{
    int n = printf("  %s%s%s", name, meta ? " " : "", meta ? meta : "");
    if (n >= HELP_AT - 1) {
        putchar('\n');
        n = 0;
    }
    print_wrapped(text, n, HELP_AT);
}

static void help(const struct command *c, const struct arg *table)
{
    printf("pumice %s: %s\n\nusage:\n", c->name, c->summary);
    print_lines("  pumice ", c->usage);
    putchar('\n');
    print_wrapped(c->about, 0, 0);
    puts("\noptions:");
    for (const struct arg *a = table; a->name; a++) print_option(a->name, a->meta, a->help);
    print_option("--help", NULL, "print this text");
    puts("\nexamples:");
    print_lines("  ", c->examples);
    putchar('\n');
    print_wrapped("exit codes: " EXIT_HELP, 0, 0);
}

/* ---- what was probably meant ---- */

/* Edit distance, where two neighbours that changed places count once; 99 when a name is too long to be a mistyped one. */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][64], *row = rows[0], *above = rows[1], *above2 = rows[2], n = strlen(b);
    if (n >= 63 || strlen(a) >= 63) return 99;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t *oldest = above2;
        above2 = above;
        above = row;
        row = oldest;
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = above[j - 1] + (a[i - 1] != b[j - 1]);
            if (above[j] + 1 < best) best = above[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && above2[j - 2] + 1 < best) best = above2[j - 2] + 1;
            row[j] = best;
        }
    }
    return row[n];
}

const char *nearest_name(const char *typed, const char *const *names, size_t n)
{
    const char *best = NULL, *t = typed + strspn(typed, "-");
    size_t len = strlen(t), limit = len <= 2 ? 1 : len <= 5 ? 2 : 3;    /* a distance below the limit is near */
    for (size_t i = 0; i < n; i++) {
        const char *name = names[i] + strspn(names[i], "-");
        size_t d = distance(t, name), m = strlen(name);
        if (len >= 3 && m >= 3 && strncmp(t, name, len < m ? len : m) == 0) d = d ? 1 : 0;  /* one begins with the other */
        if (d < limit) {
            limit = d;
            best = names[i];
        }
        if (!d) break;
    }
    return best;
}

static int unknown(const struct command *c, const struct arg *table, const char *name)
{
    const char *names[64] = { "--help" };
    size_t n = 1;
    for (const struct arg *a = table; a->name && n < 64; a++) names[n++] = a->name;
    const char *near = nearest_name(name, names, n);
    return near ? args_usage(c, "there is no option \"%s\"; did you mean \"%s\"?", name, near) : args_usage(c, "there is no option \"%s\"", name);
}

/* ---- parsing ---- */

static int set_number(const struct command *c, const struct arg *a, const char *value)
{
    bool real = a->type == ARG_REAL;
    char *end = NULL;
    errno = 0;
    long long whole = real ? 0 : strtoll(value, &end, 10);
    double d = real ? strtod(value, &end) : (double)whole;
    bool huge = errno == ERANGE || d - d != 0;      /* out of the type's range, infinite or not a number */
    if (!*value || *end || strchr(" \t\n\v\f\r+", *value)) return args_usage(c, "%s needs a %s, not \"%s\"", a->name, real ? "number" : "whole number", value);
    if ((a->min != 0 || a->max != 0) && (huge || d < a->min || d > a->max))
        return real ? args_usage(c, "%s must be from %g to %g, not %s", a->name, a->min, a->max, value) : args_usage(c, "%s must be from %.0f to %.0f, not %s", a->name, a->min, a->max, value);
    if (huge) return args_usage(c, "%s is too large: %s", a->name, value);
    if (real) *(double *)a->out = d;
    else *(int64_t *)a->out = whole;
    return -1;
}

static int set_seed(const struct command *c, const struct arg *a, const char *value)
{
    char *end;
    errno = 0;
    uint64_t seed = *value == '-' ? (uint64_t)strtoll(value, &end, 10) : strtoull(value, &end, 10);
    if (!*value || *end || strchr(" \t\n\v\f\r+", *value)) return args_usage(c, "%s needs a whole number, not \"%s\"", a->name, value);
    if (errno == ERANGE) return args_usage(c, "%s must be from %lld to %llu, not %s", a->name, LLONG_MIN, ULLONG_MAX, value);
    *(uint64_t *)a->out = seed;
    return -1;
}

/* The names that a value of this type may be; a tier may be one that this machine lacks. Returns their number, at most max. */
static size_t names_of(enum arg_type type, const char **names, size_t max)
{
    static const char *const kv[] = { "f16", "f32", "int8" }, *const tiers[] = { "scalar", "avx2", "avxvnni", "avx512vnni", "neon", "dotprod" };
    if (type == ARG_DTYPE) {
        size_t n = pm_dtype_list(names, max);
        return n < max ? n : max;
    }
    const char *const *from = type == ARG_KV_TYPE ? kv : tiers;
    size_t n = type == ARG_KV_TYPE ? sizeof kv / sizeof *kv : sizeof tiers / sizeof *tiers;
    for (size_t i = 0; i < n; i++) names[i] = from[i];
    return n;
}

static int set_name(const struct command *c, const struct arg *a, const char *value)
{
    const char *names[32];
    char all[320] = "";
    size_t n = names_of(a->type, names, sizeof names / sizeof *names), at = 0;
    for (size_t i = 0; i < n; i++) {
        if (strcmp(value, names[i]) == 0) {
            *(const char **)a->out = value;
            return -1;
        }
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " or ", names[i]);
        if (at >= sizeof all) at = sizeof all - 1;
    }
    return args_usage(c, "%s must be %s, not \"%s\"", a->name, all, value);
}

static int set(const struct command *c, const struct arg *a, const char *value)
{
    if (a->type >= ARG_DTYPE) return set_name(c, a, value);
    if (a->type == ARG_TEXT) {
        *(const char **)a->out = value;
        return -1;
    }
    if (a->type == ARG_LIST) {
        struct arg_list *l = a->out;
        if (!*value) return args_usage(c, "%s needs a text that is not empty", a->name);
        if (l->n == ARG_LIST_MAX) return args_usage(c, "%s is given more than %d times", a->name, ARG_LIST_MAX);
        l->v[l->n++] = value;
        return -1;
    }
    return a->type == ARG_SEED ? set_seed(c, a, value) : set_number(c, a, value);
}

int args_parse(const struct command *c, const struct arg *table, int argc, char **argv, struct positional *pos)
{
    bool only_positional = false;
    for (int i = 0; i < argc; i++) {
        const char *s = argv[i];
        if (only_positional || s[0] != '-' || !s[1]) {
            if (pos->n == ARGS_MAX_POSITIONAL) return args_usage(c, "too many arguments");
            pos->v[pos->n++] = s;
            continue;
        }
        if (strcmp(s, "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(s, "--help") == 0 || strcmp(s, "-h") == 0) {
            help(c, table);
            return EXIT_OK;
        }
        const char *eq = strncmp(s, "--", 2) == 0 ? strchr(s, '=') : NULL;
        char name[64];
        snprintf(name, sizeof name, "%.*s", (int)(eq ? (size_t)(eq - s) : strnlen(s, sizeof name)), s);
        const struct arg *a = table;
        while (a->name && strcmp(a->name, name) != 0) a++;
        if (!a->name) return unknown(c, table, name);
        if (a->type == ARG_FLAG) {
            if (eq) return args_usage(c, "%s takes no value", name);
            *(bool *)a->out = true;
            continue;
        }
        if (!eq && i + 1 >= argc) return args_usage(c, "%s needs a value: %s", name, a->meta);
        int rc = set(c, a, eq ? eq + 1 : argv[++i]);
        if (rc >= 0) return rc;
    }
    return -1;
}
