/* Owns: the small things that all commands need. */
#include "cli/common.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

int exit_code(pm_status s)
{
    switch (s) {
    case PM_OK: case PM_END: return EXIT_OK;
    case PM_ABORTED: return EXIT_INTERRUPT;
    case PM_ERR_ARGUMENT: return EXIT_USAGE;
    case PM_ERR_FORMAT: case PM_ERR_UNSUPPORTED: case PM_ERR_MISSING: case PM_ERR_MISMATCH: case PM_ERR_VALUE: case PM_ERR_TEMPLATE: return EXIT_INPUT;
    case PM_ERR_MEMORY: case PM_ERR_LIMIT: case PM_CONTEXT_FULL: return EXIT_SPACE;
    case PM_ERR_IO: case PM_ERR_DEVICE: break;
    }
    return EXIT_RUN;
}

int report(const pm_error *err)
{
    fprintf(stderr, "pumice: %s", err->msg[0] ? err->msg : pm_status_name(err->code));
    if (err->byte_offset != PM_NO_OFFSET && err->code) fprintf(stderr, " (at byte %llu)", (unsigned long long)err->byte_offset);
    fputc('\n', stderr);
    return exit_code(err->code);
}

int open_model(struct opened *o, const char *path)
{
    pm_error err = { 0 };
    if (pm_model_open(path, &o->model, &err)) {
        if (!strstr(err.msg, path)) fprintf(stderr, "pumice: %s: ", path), fprintf(stderr, "%s\n", err.msg);
        else return report(&err);
        return exit_code(err.code);
    }
    pm_model_get_info(o->model, &o->info);
    return -1;
}

int open_engine(struct opened *o, const struct run_options *r)
{
    pm_error err = { 0 };
    pm_engine_params p = { .n_threads = (int)r->threads, .isa = r->isa };
    return pm_engine_create(&p, &o->engine, &err) ? report(&err) : -1;
}

int parse_kv(const char *text, pm_kv_type *out)
{
    static const char *const names[] = { "f16", "f32", "int8" };
    *out = PM_KV_F16;
    if (!text) return -1;
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (pm_kv_type)i;
            return -1;
        }
    fprintf(stderr, "pumice: --kv must be f16, f32 or int8, not \"%s\"\n", text);
    return EXIT_USAGE;
}

int open_session(struct opened *o, const struct run_options *r)
{
    pm_error err = { 0 };
    pm_session_params p = { .n_ctx = (uint32_t)r->ctx, .n_chunk = (uint32_t)r->chunk };
    int rc = parse_kv(r->kv, &p.kv);
    if (rc >= 0) return rc;
    if (!o->engine && (rc = open_engine(o, r)) >= 0) return rc;
    return pm_session_create(o->engine, o->model, &p, &o->session, &err) ? report(&err) : -1;
}

void close_all(struct opened *o)
{
    pm_session_free(o->session);
    pm_engine_free(o->engine);
    pm_model_close(o->model);
    *o = (struct opened){ 0 };
}

char *read_file(const char *path, size_t *len, int *code)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *data = NULL;
    size_t cap = 0;
    *len = 0;
    *code = EXIT_INPUT;
    if (!f) {
        fprintf(stderr, "pumice: cannot open %s: %s\n", path, strerror(errno));
        return NULL;
    }
    for (;;) {
        if (*len + 65536 + 1 > cap) {
            char *p = realloc(data, cap = (cap ? cap * 2 : 1 << 17));
            if (!p) {
                fprintf(stderr, "pumice: %s is too large for memory\n", path);
                *code = EXIT_SPACE;
                goto fail;
            }
            data = p;
        }
        size_t n = fread(data + *len, 1, 65536, f);
        *len += n;
        if (n == 0) break;
    }
    if (ferror(f)) {
        fprintf(stderr, "pumice: cannot read %s: %s\n", path, strerror(errno));
        goto fail;
    }
    if (f != stdin) fclose(f);
    data[*len] = '\0';
    return data;
fail:
    free(data);
    if (f != stdin) fclose(f);
    return NULL;
}

int32_t *parse_ids(const char *text, size_t *n, int *code)
{
    size_t cap = strlen(text) / 2 + 2;
    int32_t *ids = calloc(cap, sizeof *ids);
    *n = 0;
    *code = EXIT_USAGE;
    if (!ids) {
        *code = EXIT_SPACE;
        return NULL;
    }
    for (const char *p = text; *p;) {
        if (strchr(" ,\t\r\n", *p)) {
            p++;
            continue;
        }
        char *end;
        errno = 0;
        long long v = strtoll(p, &end, 10);
        if (end == p || errno || v < INT32_MIN || v > INT32_MAX) {
            fprintf(stderr, "pumice: ids must be whole numbers; at character %zu stands \"%.20s\"\n", (size_t)(p - text), p);
            free(ids);
            return NULL;
        }
        ids[(*n)++] = (int32_t)v;
        p = end;
    }
    return ids;
}

double now_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double peak_memory(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    double kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lf", &kib) == 1) break;
    if (f) fclose(f);
    return kib * 1024;
}

int progress_bar(void *user, const char *stage, const char *tensor, uint64_t done, uint64_t total)
{
    static double last;
    (void)user;
    if (interrupted()) return 1;
    if (!isatty(2) || !total) return 0;
    double t = now_seconds();
    if (t - last < 0.1 && done != total) return 0;
    last = t;
    int width = 30, filled = (int)((double)width * (double)done / (double)total);
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %-36.36s", stage, filled, "##############################", width - filled, "", 100.0 * (double)done / (double)total, tensor ? tensor : "");
    return 0;
}

void progress_end(void)
{
    if (isatty(2)) fprintf(stderr, "\r%*s\r", 90, "");
}

static pm_session *volatile session_to_stop;
static volatile sig_atomic_t was_interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    was_interrupted = 1;
    pm_session *s = session_to_stop;
    if (s) pm_session_abort(s);
}

void catch_interrupt(pm_session *session)
{
    session_to_stop = session;
    was_interrupted = 0;
    struct sigaction sa = { .sa_handler = on_interrupt };
    sigaction(SIGINT, &sa, NULL);
}

bool interrupted(void)
{
    return was_interrupted != 0;
}

void put_json(const char *s, size_t len)
{
    putchar('"');
    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)s[i];
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c == '\n') fputs("\\n", stdout);
        else if (c < 0x20 || c == 0x7F) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}
