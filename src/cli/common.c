/*
 * Owns: the small things that all commands need.
 *
 * Signals: the handler only sets a flag and asks the session to stop, which is one atomic store; the command notices, tidies up and returns 128 + the signal's number.
 */
#include "cli/common.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAX_TEXT (256 << 20)    /* bytes: beyond it there is no text, but an endless pipe */

int exit_code(pm_status s)
{
    switch (s) {
    case PM_OK: case PM_END: return EXIT_OK;
    case PM_ABORTED: return EXIT_INTERRUPT;
    case PM_ERR_ARGUMENT: return EXIT_USAGE;
    case PM_ERR_FORMAT: case PM_ERR_UNSUPPORTED: case PM_ERR_MISSING: case PM_ERR_MISMATCH: case PM_ERR_VALUE: case PM_ERR_TEMPLATE: case PM_ERR_LIMIT: return EXIT_INPUT;
    case PM_ERR_MEMORY: case PM_CONTEXT_FULL: return EXIT_SPACE;
    case PM_ERR_IO: case PM_ERR_DEVICE: break;
    }
    return EXIT_RUN;
}

int report(const pm_error *err)
{
    if (err->code == PM_ABORTED) return complain(interrupt_code(), "interrupted");
    const char *msg = err->msg[0] ? err->msg : pm_status_name(err->code);
    if (err->byte_offset != PM_NO_OFFSET && err->code && !strstr(msg, "byte ")) return complain(exit_code(err->code), "%s (at byte %llu)", msg, (unsigned long long)err->byte_offset);
    return complain(exit_code(err->code), "%s", msg);
}

int complain(int code, const char *fmt, ...)
{
    va_list ap;
    fflush(stdout);     /* what was said before stands before */
    fputs("pumice: ", stderr);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return code;
}

/* What to do about a file that is no .pumice file but could become one; NULL when there is nothing to advise. */
static const char *advice(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0) return NULL;
    if (S_ISDIR(st.st_mode)) return "a checkpoint folder? Make a .pumice file of it first";
    const char *dot = strrchr(path, '.');
    char magic[4] = { 0 };
    FILE *f = S_ISREG(st.st_mode) ? fopen(path, "rb") : NULL;
    size_t n = f ? fread(magic, 1, 4, f) : 0;
    if (f) fclose(f);
    if (n == 4 && memcmp(magic, "GGUF", 4) == 0) return "this is a GGUF file. Make a .pumice file of it first";
    if (dot && strcmp(dot, ".safetensors") == 0) return "this is a checkpoint's weights. Make a .pumice file of its folder first";
    return NULL;
}

int open_model(struct opened *o, const char *path)
{
    pm_error err = { 0 };
    pm_status st = pm_model_open(path, &o->model, &err);
    if (!st) {
        pm_model_get_info(o->model, &o->info);
        return -1;
    }
    const char *hint = advice(path);
    if (hint) return complain(EXIT_INPUT, "%s: %s: pumice convert SOURCE -o FILE", path, hint);
    if (strstr(err.msg, path)) return report(&err);
    fprintf(stderr, "pumice: %s: %s\n", path, err.msg);
    return exit_code(err.code);
}

int open_engine(struct opened *o, const struct run_options *r)
{
    pm_error err = { 0 };
    pm_engine_params p = { .n_threads = (int)r->threads, .isa = r->isa };
    return pm_engine_create(&p, &o->engine, &err) ? report(&err) : -1;
}

pm_kv_type kv_type(const struct run_options *r)
{
    return !r->kv || strcmp(r->kv, "f16") == 0 ? PM_KV_F16 : strcmp(r->kv, "f32") == 0 ? PM_KV_F32 : PM_KV_INT8;
}

int open_session(struct opened *o, const struct run_options *r)
{
    pm_error err = { 0 };
    pm_session_params p = { .n_ctx = (uint32_t)r->ctx, .n_chunk = (uint32_t)r->chunk, .kv = kv_type(r) };
    int rc;
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

/* As read_file; where `text` is set, the first NUL ends it: /dev/zero and the like fail at once. */
static char *read_all(const char *path, bool text, size_t *len, int *code)
{
    FILE *f = strcmp(path, "-") == 0 ? stdin : fopen(path, "rb");
    char *data = NULL;
    size_t cap = 0, n = 0;
    *len = 0;
    *code = EXIT_INPUT;
    if (!f) {
        complain(EXIT_INPUT, "cannot open %s: %s", path, strerror(errno));
        return NULL;
    }
    const char *name = f == stdin ? "standard input" : path;
    do {
        if (*len + 65536 + 1 > cap) {
            char *p = realloc(data, cap = (cap ? cap * 2 : 1 << 17));
            if (!p) {
                *code = complain(EXIT_SPACE, "%s is too large for memory", name);
                goto fail;
            }
            data = p;
        }
        n = fread(data + *len, 1, 65536, f);
        const char *nul = text ? memchr(data + *len, 0, n) : NULL;
        if (nul) {
            complain(EXIT_INPUT, "%s holds a NUL at byte %zu: it is not a text file", name, (size_t)(nul - data));
            goto fail;
        }
        if ((*len += n) > MAX_TEXT) {
            complain(EXIT_INPUT, "%s has more than %d MiB, the most that is read as a text", name, MAX_TEXT >> 20);
            goto fail;
        }
    } while (n);
    if (ferror(f)) {
        complain(EXIT_INPUT, "cannot read %s: %s", name, strerror(errno));
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

char *read_file(const char *path, size_t *len, int *code)
{
    return read_all(path, false, len, code);
}

char *read_text(const char *path, size_t *len, int *code)
{
    return read_all(path, true, len, code);
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
        if (end == p || (*end && !strchr(" ,\t\r\n", *end)) || errno || v < INT32_MIN || v > INT32_MAX) {
            complain(EXIT_USAGE, "ids must be whole numbers; at character %zu stands \"%.20s\"", (size_t)(p - text), p);
            free(ids);
            return NULL;
        }
        ids[(*n)++] = (int32_t)v;
        p = end;
    }
    if (*n) return ids;
    complain(EXIT_USAGE, "there are no ids; give some, such as \"1 2 3\"");
    free(ids);
    return NULL;
}

/* ---- output files ---- */

int output_open(struct output *o, const char *path)
{
    struct stat st;
    *o = (struct output){ .path = path };
    if (strcmp(path, "-") == 0) {
        o->f = stdout;
        return -1;
    }
    bool there = lstat(path, &st) == 0;     /* a link, such as /dev/stdout, stays one: it is written through */
    if (there && S_ISDIR(st.st_mode)) return complain(EXIT_RUN, "cannot write %s: it is a folder; give the name of a file", path);
    if (!there || S_ISREG(st.st_mode)) {
        size_t room = strlen(path) + 32;
        if (!(o->tmp = malloc(room))) return complain(EXIT_SPACE, "out of memory");
        snprintf(o->tmp, room, "%s.tmp-%ld", path, (long)getpid());
    }
    if ((o->f = fopen(o->tmp ? o->tmp : path, "wb"))) return -1;
    complain(EXIT_RUN, "cannot create %s: %s", path, strerror(errno));
    free(o->tmp);
    o->tmp = NULL;
    return EXIT_RUN;
}

int output_commit(struct output *o)
{
    bool failed = ferror(o->f);
    if (o->f == stdout) failed = fflush(stdout) != 0 || failed;
    else failed = fclose(o->f) != 0 || failed;
    o->f = NULL;
    if (!failed && o->tmp && rename(o->tmp, o->path) != 0) failed = true;
    if (failed) {
        complain(EXIT_RUN, "cannot write %s: %s", o->path, strerror(errno));
        output_discard(o);
        return EXIT_RUN;
    }
    free(o->tmp);
    *o = (struct output){ 0 };
    return -1;
}

void output_discard(struct output *o)
{
    if (!o) return;
    if (o->f && o->f != stdout) fclose(o->f);
    if (o->tmp) remove(o->tmp);
    free(o->tmp);
    *o = (struct output){ 0 };
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
    static double last, start;
    (void)user;
    if (interrupted()) return 1;
    if (!isatty(2) || !total) return 0;
    double t = now_seconds(), part = (double)done / (double)total;
    if (start == 0) start = t;
    if (t - last < 0.1 && done != total) return 0;
    last = t;
    int width = 30, filled = (int)(width * part);
    char left[24] = "";
    if (t - start > 5 && part > 0.005) {    /* before that, nobody can know */
        double s = (t - start) * (1 - part) / part;
        snprintf(left, sizeof left, "%d:%02d left ", (int)(s / 60), (int)s % 60);
    }
    fprintf(stderr, "\r%s [%.*s%*s] %3.0f %%  %s%-24.24s", stage, filled, "##############################", width - filled, "", 100 * part, left, tensor ? tensor : "");
    return 0;
}

void progress_end(void)
{
    if (isatty(2)) fprintf(stderr, "\r%*s\r", 90, "");
}

/* ---- signals ---- */

static pm_session *volatile session_to_stop;
static volatile sig_atomic_t last_signal, was_interrupted;

static void on_interrupt(int sig)
{
    last_signal = sig;
    was_interrupted = 1;
    pm_session *s = session_to_stop;
    if (s) pm_session_abort(s);
}

void catch_interrupt(pm_session *session)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGHUP };
    session_to_stop = session;
    if (last_signal == SIGINT) was_interrupted = 0;     /* who asked us to end is not forgotten: only Ctrl-C is about one answer */
    if (was_interrupted && session) pm_session_abort(session);
    struct sigaction sa = { .sa_handler = on_interrupt };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &sa, NULL);
}

bool interrupted(void)
{
    return was_interrupted != 0;
}

int interrupt_code(void)
{
    return last_signal ? 128 + last_signal : EXIT_INTERRUPT;
}

/* ---- text for others ---- */

/* Bytes of the UTF-8 character at s, 0 when it is not one. */
static size_t character(const unsigned char *s, size_t len)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;
    if (n == 0 || n > len) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    bool overlong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xF0 && s[1] < 0x90), beyond = (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF4 && s[1] > 0x8F);
    return overlong || beyond ? 0 : n;
}

void put_json(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s;
    putchar('"');
    for (size_t i = 0, n; i < len; i += n) {
        n = character(p + i, len - i);
        if (n == 0) {
            fputs("\\ufffd", stdout);
            n = 1;
        } else if (p[i] == '"' || p[i] == '\\') printf("\\%c", p[i]);
        else if (p[i] == '\n') fputs("\\n", stdout);
        else if (p[i] < 0x20 || p[i] == 0x7F) printf("\\u%04x", p[i]);
        else fwrite(p + i, 1, n, stdout);
    }
    putchar('"');
}

void put_json_number(const char *key, double v)
{
    if (v - v == 0) printf("\"%s\": %.6g", key, v);
    else printf("\"%s\": null", key);
}

const char *clean(const char *s, char *buf, size_t room)
{
    size_t n = 0;
    for (; s && s[n] && n + 1 < room; n++) buf[n] = (unsigned char)s[n] < 0x20 || s[n] == 0x7F ? '?' : s[n];
    buf[n] = '\0';
    return buf;
}
