/* Owns: option parsing and the help texts made from the tables. */
#include "cli/args.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int args_usage(const struct command *c, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "pumice %s: ", c->name);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fprintf(stderr, "\nusage: pumice %s\nTry \"pumice %s --help\".\n", c->usage, c->name);
    return EXIT_USAGE;
}

static void help(const struct command *c, const struct arg *table)
{
    printf("usage: pumice %s\n\n%s\n\noptions:\n", c->usage, c->help);
    for (const struct arg *a = table; a->name; a++) {
        char left[64];
        snprintf(left, sizeof left, "  %s%s%s", a->name, a->meta ? " " : "", a->meta ? a->meta : "");
        printf("%-28s %s\n", left, a->help);
    }
    printf("%-28s %s\n", "  --help", "this text");
}

/* Edit distance, for "did you mean". */
static size_t distance(const char *a, const char *b)
{
    size_t row[64], n = strlen(b);
    if (n >= 63) return 99;
    for (size_t j = 0; j <= n; j++) row[j] = j;
    for (size_t i = 1; *a; a++, i++) {
        size_t left_up = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t up = row[j], best = left_up + (*a != b[j - 1]);
            if (up + 1 < best) best = up + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            left_up = up;
            row[j] = best;
        }
    }
    return row[n];
}

static int unknown(const struct command *c, const struct arg *table, const char *name)
{
    const char *near = NULL;
    size_t best = 4;
    for (const struct arg *a = table; a->name; a++)
        if (distance(name, a->name) < best) {
            best = distance(name, a->name);
            near = a->name;
        }
    return near ? args_usage(c, "unknown option \"%s\"; did you mean \"%s\"?", name, near) : args_usage(c, "unknown option \"%s\"", name);
}

static int set(const struct command *c, const struct arg *a, const char *value)
{
    char *end;
    errno = 0;
    if (a->type == ARG_TEXT) {
        *(const char **)a->out = value;
        return -1;
    }
    if (a->type == ARG_LIST) {
        struct arg_list *l = a->out;
        if (l->n == ARG_LIST_MAX) return args_usage(c, "%s is given more than %d times", a->name, ARG_LIST_MAX);
        l->v[l->n++] = value;
        return -1;
    }
    double d = a->type == ARG_REAL ? strtod(value, &end) : (double)strtoll(value, &end, 10);
    if (!*value || *end || errno || d != d) return args_usage(c, "%s needs a %s, not \"%s\"", a->name, a->type == ARG_REAL ? "number" : "whole number", value);
    if ((a->min != 0 || a->max != 0) && (d < a->min || d > a->max)) return args_usage(c, "%s must be from %g to %g, not %s", a->name, a->min, a->max, value);
    if (a->type == ARG_REAL) *(double *)a->out = d;
    else *(int64_t *)a->out = strtoll(value, NULL, 10);
    return -1;
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
        snprintf(name, sizeof name, "%.*s", (int)(eq ? eq - s : (long)strlen(s)), s);
        const struct arg *a = table;
        while (a->name && strcmp(a->name, name) != 0) a++;
        if (!a->name) return unknown(c, table, name);
        if (a->type == ARG_FLAG) {
            if (eq) return args_usage(c, "%s takes no value", name);
            *(bool *)a->out = true;
            continue;
        }
        if (!eq && i + 1 >= argc) return args_usage(c, "%s needs a value", name);
        int rc = set(c, a, eq ? eq + 1 : argv[++i]);
        if (rc >= 0) return rc;
    }
    return -1;
}
