/* Owns: `pumice inspect`. */
#include "cli/common.h"

#include <jansson.h>

static double mib(const json_t *j, const char *key)
{
    return (double)json_integer_value(json_object_get(j, key)) / 1048576;
}

static void print_linear(const char *name, const json_t *l)
{
    printf("    %-12s %s [%lld x %lld]", name, json_string_value(json_object_get(l, "type")), (long long)json_integer_value(json_object_get(l, "n")),
           (long long)json_integer_value(json_object_get(l, "k")));
    if (json_integer_value(json_object_get(l, "group"))) printf(" group %lld", (long long)json_integer_value(json_object_get(l, "group")));
    if (json_integer_value(json_object_get(l, "hadamard"))) printf(" rotated by %lld", (long long)json_integer_value(json_object_get(l, "hadamard")));
    puts(json_is_true(json_object_get(l, "bias")) ? " + bias" : "");
}

static const char *text_of(const json_t *j, const char *key)
{
    const char *s = json_string_value(json_object_get(j, key));
    return s ? s : "?";
}

static long long number_of(const json_t *j, const char *key)
{
    return (long long)json_integer_value(json_object_get(j, key));
}

static void print_layer(const json_t *layer)
{
    const json_t *attn = json_object_get(layer, "attn"), *ffn = json_object_get(layer, "ffn"), *mla = json_object_get(attn, "mla");
    const char *name;
    json_t *l;
    bool recurrent = number_of(attn, "n_kv") == 0;      /* such layers have no keys */
    if (recurrent) printf("  %s: %lld heads of %lld, recurrent", text_of(attn, "kind"), number_of(attn, "n_head"), number_of(attn, "d_head"));
    else if (mla)
        printf("  %s: %lld heads of %lld + %lld rotated, results of %lld; a token's latent is %lld + %lld", text_of(attn, "kind"), number_of(attn, "n_head"), number_of(mla, "d_nope"),
               number_of(mla, "d_rope"), number_of(mla, "d_v"), number_of(mla, "kv_rank"), number_of(mla, "d_rope"));
    else printf("  %s: %lld heads, %lld KV heads of %lld", text_of(attn, "kind"), number_of(attn, "n_head"), number_of(attn, "n_kv"), number_of(attn, "d_head"));
    if (json_is_true(json_object_get(attn, "qk_norm"))) printf(", q and k normed");
    if (number_of(attn, "rope") < 0 && !recurrent) printf(", no rope");
    if (number_of(attn, "window")) printf(", window of %lld", number_of(attn, "window"));
    if (json_real_value(json_object_get(attn, "softcap")) > 0) printf(", scores capped at %g", json_real_value(json_object_get(attn, "softcap")));
    printf("\n  ffn: %s%s%s of %lld", recurrent ? "" : text_of(ffn, "act"), recurrent ? "" : " ", text_of(ffn, "kind"), number_of(ffn, "n_ff"));
    if (json_is_true(json_object_get(layer, "post_norms"))) printf("; outputs normed");
    if (json_is_true(json_object_get(layer, "parallel"))) printf("; both blocks side by side");
    putchar('\n');
    json_object_foreach(json_object_get(layer, "linears"), name, l) print_linear(name, l);
}

/* Layers that are alike are shown once. Linears may differ in rotation only where the file says so, so they count too. */
static void print_layers(const json_t *layers)
{
    size_t n = json_array_size(layers);
    for (size_t i = 0; i < n; i++) {
        size_t like = 0, same = 0;
        while (like < i && !json_equal(json_array_get(layers, like), json_array_get(layers, i))) like++;
        if (like < i) continue;
        for (size_t k = i; k < n; k++) same += (size_t)json_equal(json_array_get(layers, k), json_array_get(layers, i));
        printf("layer %zu", i);
        if (same > 1) printf(" and %zu like it", same - 1);
        puts(":");
        print_layer(json_array_get(layers, i));
    }
}

static void print_ropes(const json_t *m)
{
    size_t i;
    const json_t *r;
    json_array_foreach(json_object_get(m, "ropes"), i, r) {
        printf("rope %zu: %lld values of a head, %s", i, number_of(r, "n_rot"), text_of(r, "kind"));
        if (number_of(r, "switch_ctx")) printf("; sessions with a context above %lld use the long form", number_of(r, "switch_ctx"));
        putchar('\n');
    }
}

/* Which linears have more bits than the dtype says, and how many they all have. */
static void print_budget(const json_t *b)
{
    json_t *raised = json_object_get(b, "raised"), *v;
    const char *key, *lead = "";
    char name[96], type[32];
    if (!json_is_object(raised)) return;
    printf("budget of %g bits per weight, %.3f used: ", json_number_value(json_object_get(b, "given")), json_number_value(json_object_get(b, "bits")));
    json_object_foreach(raised, key, v) {
        printf("%s%s %s", lead, clean(key, name, sizeof name), clean(json_string_value(v), type, sizeof type));
        lead = ", ";
    }
    puts(*lead ? "" : "no linear has more than the dtype gives it");
}

/* Where the file comes from. */
static void print_provenance(const json_t *p)
{
    const char *source = json_string_value(json_object_get(p, "source"));
    long long exact = (long long)json_integer_value(json_object_get(p, "exact"));
    char name[128], format[32];
    if (!source) return;
    printf("made from %s", clean(source, format, sizeof format));
    if (*clean(json_string_value(json_object_get(p, "source_name")), name, sizeof name)) printf(" \"%s\"", name);
    if (exact) printf("; %lld linears hold its quantized weights without loss", exact);
    putchar('\n');
    print_budget(json_object_get(p, "budget"));
}

static void print_text(const char *path, const json_t *j)
{
    const json_t *m = json_object_get(j, "model"), *layers = json_object_get(m, "layers"), *tok = json_object_get(j, "tokenizer"), *v;
    char name[128];
    printf("%s: %s, %s, %.1f MiB, %.1f M parameters\n", path, clean(json_string_value(json_object_get(m, "name")), name, sizeof name), json_string_value(json_object_get(m, "dtype")), mib(j, "file_bytes"),
           (double)json_integer_value(json_object_get(j, "parameters")) * 1e-6);
    print_provenance(json_object_get(j, "provenance"));
    printf("tokenizer: %s, %lld ids; chat template: %s; end of turn:", json_string_value(json_object_get(tok, "kind")), (long long)json_integer_value(json_object_get(tok, "n_vocab")),
           json_is_true(json_object_get(j, "chat_template")) ? "yes" : "none");
    size_t i;
    json_array_foreach(json_object_get(m, "eos_id"), i, v) printf(" %lld", (long long)json_integer_value(v));
    putchar('\n');
    const char *broken = json_string_value(json_object_get(j, "chat_template_error"));
    if (broken) printf("the chat template does not parse: %s\n", broken);
    if (layers) {
        printf("%zu layers of width %lld, %s norms, context %lld\n", json_array_size(layers), number_of(m, "n_embd"), text_of(m, "norm"), number_of(m, "n_ctx_max"));
        print_ropes(m);
        print_layers(layers);
        printf("head%s:\n", json_is_true(json_object_get(m, "tied")) ? " (also the embedding table)" : "");
        print_linear("head", json_object_get(m, "head"));
        puts("memory, MiB:  context  KV type  weights      KV  scratch");
        json_array_foreach(json_object_get(j, "memory"), i, v)
            printf("              %7lld  %7s  %7.1f %7.1f  %7.1f\n", (long long)json_integer_value(json_object_get(v, "context")), json_string_value(json_object_get(v, "kv_type")),
                   mib(v, "weights"), mib(v, "kv"), mib(v, "scratch"));
    }
    const char *op;
    printf("kernels:");
    json_object_foreach(json_object_get(j, "kernels"), op, v) printf(" %s=%s", op, json_string_value(v));
    putchar('\n');
    if (json_is_true(json_object_get(j, "verified"))) puts("all hashes match");
}

static int inspect(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    bool verify = false, json = false;
    const struct arg table[] = {
        { "--verify", ARG_FLAG, &verify, 0, 0, NULL, "recompute the hash of every tensor" },
        { "--json", ARG_FLAG, &json, 0, 0, NULL, "print everything as JSON, every tensor too" },
        ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_inspect, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_inspect, "give one .pumice file");
    struct opened o = { 0 };
    pm_error err = { 0 };
    char *text = NULL;
    r.threads = 1;
    if ((rc = open_engine(&o, &r)) >= 0) return rc;
    if ((rc = open_model(&o, pos.v[0])) >= 0) goto done;     /* names the file in what it reports */
    rc = EXIT_OK;
    if (pm_inspect(pos.v[0], verify, o.engine, &text, &err)) rc = report(&err);
    else if (json) puts(text);
    else {
        json_t *j = json_loads(text, 0, NULL);
        print_text(pos.v[0], j);
        json_decref(j);
    }
done:
    pm_free(text);
    close_all(&o);
    return rc;
}

const struct command cmd_inspect = {
    "inspect", "what is in a .pumice file, and what it will need", "inspect FILE [options]",
    "Prints blocks, shapes, dtypes, the memory that several contexts take, the tokenizer, and which kernel tier serves each operation on this machine.",
    "pumice inspect m.pumice\n"
    "pumice inspect m.pumice --verify",
    inspect
};
