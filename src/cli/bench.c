/*
 * Owns: `pumice bench`: time to first token, tokens per second and memory, in the form of RKLLM's benchmark page, with the limits of the machine measured in the same run.
 * Each model is measured in a process of its own, so that its peak memory is its own.
 */
#include "cli/bench.h"
#include "cli/profile.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* Prompt ids that are the same in every run and never special. */
static void make_prompt(int32_t *ids, size_t n, uint32_t n_vocab)
{
    uint64_t x = 1;
    for (size_t i = 0; i < n; i++) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        ids[i] = (int32_t)((x >> 33) % (n_vocab > 1000 ? n_vocab - 600 : n_vocab));
    }
}

/* In lanes, so that the compiler may use vectors: the vocabulary is long. */
static int32_t likeliest(const float *l, size_t n)
{
    float lane[16], best;
    size_t i = 0;
    for (int k = 0; k < 16; k++) lane[k] = l[0];
    for (; i + 16 <= n; i += 16)
        for (size_t k = 0; k < 16; k++) lane[k] = l[i + k] > lane[k] ? l[i + k] : lane[k];
    best = lane[0];
    for (int k = 1; k < 16; k++) best = lane[k] > best ? lane[k] : best;
    for (; i < n; i++) best = l[i] > best ? l[i] : best;
    for (i = 0; i < n; i++)
        if (l[i] == best) return (int32_t)i;
    return 0;
}

/* Bytes of the KV cache that a step of decoding reads, at the mean length. */
static double cache_read(const struct opened *o, const struct bench_plan *p)
{
    pm_memory_plan m;
    int64_t n = p->n_prompt + p->n_new / 2;
    if (pm_memory_plan_get(o->model, (uint32_t)n, kv_type(&p->r), &m, NULL)) return 0;
    double all = (double)m.kv_per_token * (double)n;
    return all > 0 && all < (double)m.kv ? all : (double)m.kv;      /* a window, or a state */
}

/* In a child: signals that the parent catches end it. */
static void end_at_signals(void)
{
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
}

#define MAX_BATCH 64

/* Sessions that are decoded together; the first is that of struct opened. */
struct batch {
    size_t n;
    pm_session *session[MAX_BATCH];
    int32_t id[MAX_BATCH];          /* the token that each has chosen */
};

static pm_status batch_open(struct batch *b, const struct opened *o, const struct run_options *r, pm_error *err)
{
    pm_session_params p = { .n_ctx = (uint32_t)r->ctx, .n_chunk = (uint32_t)r->chunk, .kv = kv_type(r) };
    pm_status st = PM_OK;
    b->session[0] = o->session;
    for (size_t i = 1; i < b->n && !st; i++) st = pm_session_create(o->engine, o->model, &p, &b->session[i], err);
    return st;
}

static void batch_close(struct batch *b)
{
    for (size_t i = 1; i < b->n; i++) pm_session_free(b->session[i]);
}

/* The prompt, into each; *ttft is the first one's. */
static pm_status batch_prompt(struct batch *b, const struct opened *o, const int32_t *ids, size_t n, double *ttft, pm_error *err)
{
    pm_status st = PM_OK;
    for (size_t i = 0; i < b->n && !st; i++) {
        st = pm_session_truncate(b->session[i], 0, err);
        double start = now_seconds();
        if (!st) st = pm_session_feed(b->session[i], ids, n, err);
        if (st) break;
        b->id[i] = likeliest(pm_session_logits(b->session[i]), o->info.n_vocab);
        if (!i) *ttft = now_seconds() - start;
    }
    return st;
}

static pm_status batch_step(struct batch *b, const struct opened *o, pm_error *err)
{
    const int32_t *ids[MAX_BATCH];
    size_t n[MAX_BATCH];
    for (size_t i = 0; i < b->n; i++) ids[i] = &b->id[i], n[i] = 1;
    pm_status st = b->n == 1 ? pm_session_feed(b->session[0], b->id, 1, err) : pm_session_feed_batch(b->session, ids, n, b->n, err);
    for (size_t i = 0; i < b->n && !st; i++) b->id[i] = likeliest(pm_session_logits(b->session[i]), o->info.n_vocab);
    return st;
}

static int measure(const void *what, const struct bench_plan *p, void *result)
{
    const char *path = what;
    struct bench_row *out = result;
    end_at_signals();
    struct opened o = { 0 };
    pm_error err = { 0 };
    struct run_options r = p->r;
    int32_t *ids = calloc((size_t)p->n_prompt, sizeof *ids);
    double *ttft = calloc((size_t)p->repeats, sizeof *ttft), *decode = calloc((size_t)p->repeats, sizeof *decode);
    struct batch b = { .n = (size_t)p->batch };
    int rc = EXIT_SPACE;
    pm_status st = PM_OK;
    if (!ids || !ttft || !decode || (rc = open_model(&o, path)) >= 0) goto done;
    if (!r.ctx) r.ctx = p->n_prompt + p->n_new;
    if ((rc = open_session(&o, &r)) >= 0) goto done;
    make_prompt(ids, (size_t)p->n_prompt, o.info.n_vocab);
    st = batch_open(&b, &o, &r, &err);
    for (int64_t i = -1; i < p->repeats && !st; i++) {      /* the first round is a warm-up and does not count */
        double first = 0, start;
        st = batch_prompt(&b, &o, ids, (size_t)p->n_prompt, &first, &err);
        start = now_seconds();
        for (int64_t k = 1; k < p->n_new && !st; k++) st = batch_step(&b, &o, &err);
        if (i < 0) continue;
        ttft[i] = first;
        decode[i] = p->n_new > 1 ? (double)(p->n_new - 1) / (now_seconds() - start) : 0;    /* steps */
    }
    rc = st ? report(&err) : EXIT_OK;
    if (!st) {
        double steps = median(decode, (size_t)p->repeats);
        clean(o.info.name, out->model, sizeof out->model);
        snprintf(out->dtype, sizeof out->dtype, "%s", o.info.dtype);
        out->threads = pm_engine_threads(o.engine);
        out->ttft = median(ttft, (size_t)p->repeats);
        out->decode = steps * (double)b.n;
        out->prefill = (double)p->n_prompt / out->ttft;
        out->memory = peak_memory();
        /* as units of work; divided by the limits in the parent */
        out->prefill_pct = 2.0 * ((double)o.info.prefill_macs * (double)p->n_prompt + (double)o.info.head_macs) * (o.info.planes ? o.info.planes : -1) / out->ttft;
        out->decode_pct = ((double)o.info.decode_bytes + (double)b.n * cache_read(&o, p)) * steps;
    }
done:
    batch_close(&b);
    free(ids);
    free(ttft);
    free(decode);
    close_all(&o);
    return rc;
}

static int profile(const void *what, const struct bench_plan *p, void *out)
{
    (void)out;
    struct opened o = { 0 };
    struct run_options r = p->r;
    size_t n = (size_t)(p->n_prompt > p->n_new ? p->n_prompt : p->n_new);
    int32_t *ids = calloc(n, sizeof *ids);
    int rc = EXIT_SPACE;
    end_at_signals();
    if (!r.ctx) r.ctx = p->n_prompt + p->n_new;
    if (!ids || (rc = open_model(&o, what)) >= 0 || (rc = open_session(&o, &r)) >= 0) goto done;
    make_prompt(ids, n, o.info.n_vocab);
    pm_session_feed(o.session, ids, (size_t)p->n_prompt, NULL);     /* a warm-up */
    rc = profile_run(&o, ids, (size_t)p->n_prompt, (size_t)p->n_new, p->trace);
done:
    free(ids);
    close_all(&o);
    return rc;
}

static int limits(const void *what, const struct bench_plan *p, void *out)
{
    (void)what;
    end_at_signals();
    struct opened o = { 0 };
    pm_error err = { 0 };
    int rc = open_engine(&o, &p->r);
    if (rc < 0) rc = pm_engine_measure(o.engine, 0.5, out, &err) ? report(&err) : EXIT_OK;
    close_all(&o);
    return rc;
}

int bench_in_child(bench_job job, const void *what, const struct bench_plan *p, void *out, size_t size)
{
    int fd[2], status = 0;
    if (pipe(fd) != 0) return complain(EXIT_RUN, "cannot make a pipe: %s", strerror(errno));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);
        close(fd[0]);
        int rc = job(what, p, out);
        if (rc == EXIT_OK && size && write(fd[1], out, size) != (ssize_t)size) rc = EXIT_RUN;
        fflush(stdout);
        _exit(rc);
    }
    close(fd[1]);
    ssize_t got;
    while ((got = pid > 0 && size ? read(fd[0], out, size) : pid > 0 ? 0 : -1) < 0 && errno == EINTR && pid > 0)
        if (interrupted()) kill(pid, SIGTERM);
    close(fd[0]);
    pid_t ended;
    while ((ended = pid > 0 ? waitpid(pid, &status, 0) : -1) < 0 && errno == EINTR && pid > 0) kill(pid, SIGTERM);
    if (ended < 0) return complain(EXIT_RUN, "cannot start a measurement: %s", strerror(errno));
    if (interrupted()) return interrupt_code();
    if (!WIFEXITED(status)) return complain(EXIT_RUN, "the measurement was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) == EXIT_OK && got != (ssize_t)size ? EXIT_RUN : WEXITSTATUS(status);
}

/* Best of what was measured before and after. */
static void widen(pm_limits *l, const pm_limits *also)
{
    if (also->int8_tops > l->int8_tops) l->int8_tops = also->int8_tops;
    if (also->f32_gflops > l->f32_gflops) l->f32_gflops = also->f32_gflops;
    if (also->read_gb_s > l->read_gb_s) l->read_gb_s = also->read_gb_s;
}

int bench_measure(const char *path, const struct bench_plan *p, pm_limits *l, struct bench_row *r)
{
    pm_limits after;
    int rc = EXIT_OK;
    if (l->read_gb_s <= 0) rc = bench_in_child(limits, NULL, p, l, sizeof *l);
    if (rc != EXIT_OK || (rc = bench_in_child(measure, path, p, r, sizeof *r)) != EXIT_OK || (rc = bench_in_child(limits, NULL, p, &after, sizeof after)) != EXIT_OK) return rc;
    r->limit = *l;
    widen(&r->limit, &after);
    *l = after;
    r->peak_tops = r->prefill_pct < 0 ? r->limit.f32_gflops / 1e3 : r->limit.int8_tops;
    r->prefill_pct = 100 * (r->prefill_pct < 0 ? -r->prefill_pct : r->prefill_pct) / (r->peak_tops * 1e12);
    r->decode_pct = 100 * r->decode_pct / (r->limit.read_gb_s * 1e9);
    return EXIT_OK;
}

/* ---- the table ---- */

static void print_peer_json(const char *key, const struct bench_peer *b)
{
    if (b->ttft_ms > 0) printf(", \"%s\": {\"ttft_ms\": %.2f, \"decode_tok_s\": %.2f, \"memory_mb\": %.2f}", key, b->ttft_ms, b->decode_tok_s, b->memory_mb);
    else printf(", \"%s\": null", key);
}

static void print_row_json(const struct bench_row *r, const struct bench_plan *p, const struct bench_peers *peers)
{
    fputs(" {\"model\": ", stdout);
    put_json(r->model, strlen(r->model));
    printf(", \"dtype\": \"%s\", \"threads\": %d, \"batch\": %lld, \"prompt_tokens\": %lld, \"new_tokens\": %lld, \"ttft_ms\": %.3f, \"prefill_tok_s\": %.3f, \"decode_tok_s\": %.3f, "
           "\"peak_memory_mib\": %.2f, \"limit_int8_tops\": %.4f, \"limit_read_gb_s\": %.3f, \"prefill_pct\": %.2f, \"decode_pct\": %.2f",
           r->dtype, r->threads, (long long)p->batch, (long long)p->n_prompt, (long long)p->n_new, r->ttft * 1e3, r->prefill, r->decode, r->memory / 1048576, r->limit.int8_tops,
           r->limit.read_gb_s, r->prefill_pct, r->decode_pct);
    if (peers) {
        print_peer_json("rk3588", &peers->rk3588);
        print_peer_json("rk3576", &peers->rk3576);
        fputs(", \"peer_source\": \"" BENCH_PEER_SOURCE "\"", stdout);
    }
    putchar('}');
}

static void print_peer(const struct bench_peer *b, bool markdown)
{
    if (b->ttft_ms > 0) printf(markdown ? " %.1f | %.2f | %.0f |" : " %9.1f %8.2f %6.0f", b->ttft_ms, b->decode_tok_s, b->memory_mb);
    else fputs(markdown ? " | | |" : "         -        -      -", stdout);
}

static void print_row(const struct bench_row *r, const struct bench_plan *p, const struct bench_peers *peers)
{
    const char *format = p->markdown ? "| %*s | %s | %lld | %lld | %.1f | %.2f | %.1f | %.1f | %.1f | %.1f | %.2f | %.1f |"
                                     : "%*s %-11s %6lld %6lld %10.1f %9.2f %10.1f %8.1f %7.1f %%%7.1f %%%9.2f%6.1f";
    printf(format, p->markdown ? 0 : -p->name_width, r->model, r->dtype, (long long)p->n_prompt, (long long)p->n_new, r->ttft * 1e3, r->decode, r->prefill, r->memory / 1048576, r->prefill_pct,
           r->decode_pct, r->peak_tops, r->limit.read_gb_s);
    if (peers) {
        print_peer(&peers->rk3588, p->markdown);
        print_peer(&peers->rk3576, p->markdown);
    }
    putchar('\n');
}

static void print_head(const struct bench_plan *p, int threads, bool peers)
{
    if (p->batch > 1) printf("%lld sequences are decoded together: tokens/s is their sum, memory that of all\n", (long long)p->batch);
    printf("%d threads; median of %lld; TOPS and GB/s are what the machine multiplied (int8; f16 and bf16: FMA) and read beside each model\n", threads, (long long)p->repeats);
    if (peers) puts("RK3588, RK3576: RKLLM on those boards, 128 and 64 tokens: TTFT (ms), tokens/s, memory (MB); " BENCH_PEER_SOURCE);
    if (p->markdown) {
        fputs("\n| model | dtype | seqlen | new tokens | TTFT (ms) | tokens/s | prefill tokens/s | memory (MiB) | prefill % of peak | decode % of read | TOPS | GB/s |", stdout);
        puts(peers ? " RK3588 TTFT (ms) | tokens/s | memory (MB) | RK3576 TTFT (ms) | tokens/s | memory (MB) |" : "");
        printf("|---|---|---|---|---|---|---|---|---|---|---|---|%s\n", peers ? "---|---|---|---|---|---|" : "");
        return;
    }
    printf("%*s %-11s %6s %6s %10s %9s %10s %8s %9s %8s %8s %5s", -p->name_width, "model", "dtype", "seqlen", "new", "TTFT (ms)", "tokens/s", "prefill/s", "MiB", "prefill", "decode", "TOPS",
           "GB/s");
    puts(peers ? " | RK3588 tokens/s     MB | RK3576 tokens/s     MB" : "");
}

void bench_print(const struct bench_row *r, size_t i, const struct bench_plan *p, const struct bench_peers *peers)
{
    if (p->json) {
        puts(i ? "," : "[");
        print_row_json(r, p, peers);
    } else {
        if (!i) print_head(p, r->threads, peers != NULL);
        print_row(r, p, peers);
    }
    fflush(stdout);
}

void bench_print_end(size_t n_rows, const struct bench_plan *p)
{
    if (p->json && n_rows) puts("\n]");
}

/* ---- the command ---- */

/* A file that fails ends it; what was printed before stays, and JSON is closed. */
static int measure_files(const struct positional *files, const struct bench_plan *p)
{
    pm_limits limit = { 0 };
    size_t i = 0;
    int rc = EXIT_OK;
    for (; i < files->n && rc == EXIT_OK; i++) {
        struct bench_row r = { 0 };
        if ((rc = bench_measure(files->v[i], p, &limit, &r)) != EXIT_OK) break;
        bench_print(&r, i, p, NULL);
        if (p->profile) rc = bench_in_child(profile, files->v[i], p, NULL, 0);
    }
    bench_print_end(i, p);
    return rc;
}

/* A wrong name is told before the measuring begins. */
static int open_names(const struct positional *files, struct bench_plan *p)
{
    int rc = -1;
    for (size_t i = 0; i < files->n && rc < 0; i++) {
        struct opened o = { 0 };
        if ((rc = open_model(&o, files->v[i])) < 0) {
            int width = (int)strnlen(o.info.name, sizeof ((struct bench_row *)0)->model - 1);
            if (width > p->name_width) p->name_width = width;
        }
        close_all(&o);
    }
    return rc;
}

static int bench(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct bench_plan p = { .n_prompt = 128, .n_new = 64, .repeats = 5, .batch = 1, .name_width = 18 };
    struct bench_all_options o = { 0 };
    bool all = false;
    const struct arg table[] = {
        { "-p", ARG_INT, &p.n_prompt, 1, 1 << 22, "N", "prompt tokens (default 128)" },
        { "-n", ARG_INT, &p.n_new, 1, 1 << 22, "N", "new tokens (default 64)" },
        { "-r", ARG_INT, &p.repeats, 1, 1000, "N", "repeats, of which the median is printed (default 5)" },
        { "--batch", ARG_INT, &p.batch, 1, MAX_BATCH, "N", "decode N sequences together; tokens/s is their sum (default 1)" },
        { "--profile", ARG_FLAG, &p.profile, 0, 0, NULL, "after each model: where the time of the prompt and of a token goes" },
        { "--trace", ARG_TEXT, &p.trace, 0, 0, "F", "with --profile: every job of every thread as Chrome trace JSON, for chrome://tracing or ui.perfetto.dev" },
        { "--json", ARG_FLAG, &p.json, 0, 0, NULL, "print a JSON array" },
        { "--markdown", ARG_FLAG, &p.markdown, 0, 0, NULL, "print a Markdown table" },
        { "--all", ARG_FLAG, &all, 0, 0, NULL, "the whole table of RKLLM's benchmark page, from files with random weights made on the fly, beside its own figures; or the NAMEs that synth knows" },
        { "--dtype", ARG_DTYPE, &o.dtype, 0, 0, "TYPE", "with --all: this dtype only (default: those of the page)" },
        { "--head", ARG_TEXT, &o.head, 0, 0, "TYPE", "with --all: the output head: same (default), as the body, which is what RKLLM does; or w8" },
        { "--dir", ARG_TEXT, &o.dir, 0, 0, "DIR", "with --all: make the files here (default: a new folder in TMPDIR or /tmp); one that is there is used" },
        { "--keep", ARG_FLAG, &o.keep, 0, 0, NULL, "with --all: keep the files (default: each is removed once it is measured)" },
        ARG_CTX(p.r), ARG_CHUNK(p.r), ARG_KV(p.r), ARG_THREADS(p.r), ARG_ISA(p.r), ARG_END,
    };
    int rc = args_parse(&cmd_bench, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (p.profile && (p.json || p.markdown || all)) return args_usage(&cmd_bench, "--profile prints a table of its own: it takes no --json, --markdown or --all");
    if (p.profile && p.batch > 1) return args_usage(&cmd_bench, "--profile looks at one sequence: it takes no --batch");
    if (p.trace && (!p.profile || pos.n != 1)) return args_usage(&cmd_bench, "--trace goes with --profile and one file");
    if (!all && (o.dtype || o.head || o.dir || o.keep)) return args_usage(&cmd_bench, "%s goes with --all", o.dtype ? "--dtype" : o.head ? "--head" : o.dir ? "--dir" : "--keep");
    if (!all && pos.n < 1) return args_usage(&cmd_bench, "give at least one .pumice file, or --all");
    if (p.json && p.markdown) return args_usage(&cmd_bench, "--json and --markdown exclude each other");
    if (o.head && strcmp(o.head, "same") != 0 && strcmp(o.head, "w8") != 0) return args_usage(&cmd_bench, "--head must be w8 or same, not \"%s\"", o.head);
    if (all) return bench_all(&pos, &p, &o);
    return (rc = open_names(&pos, &p)) >= 0 ? rc : measure_files(&pos, &p);
}

const struct command cmd_bench = {
    "bench", "TTFT, tokens per second, memory, and how near the limit that is", "bench FILE... [options]\nbench --all [NAME...] [options]",
    "Prints the table of RKLLM's benchmark page. The memory bandwidth and the int8 dot peak of the same threads are measured before and after each model: \"prefill\" is the share of the int8 peak (f16 and "
    "bf16: of the FMA peak) that the prompt reached, counting two passes for 16-bit activations; \"decode\" is the share of the bandwidth that reading the weights and the cache took. TTFT is the prompt "
    "and the first token.",
    "pumice bench m-w8a8.pumice m-w4a16.pumice -p 512 -n 128\n"
    "pumice bench m-w8a8.pumice --profile --trace trace.json\n"
    "pumice synth qwen2-0.5b --dtype w8a8 -o q.pumice && pumice bench q.pumice --markdown\n"
    "pumice bench --all --dtype w8a8 --markdown\n"
    "pumice bench --all gemma2-2b phi3-3.8b -r 3",
    bench
};
