/* Owns: `pumice convert` and `pumice synth`. */
#include "cli/common.h"

#include <string.h>
#include <sys/stat.h>

static int finish(pm_status st, const pm_error *err, const char *output, double start)
{
    struct stat file;
    progress_end();
    if (st) {
        int rc = report(err);
        char partial[4096];
        if (snprintf(partial, sizeof partial, "%s.partial", output) < (int)sizeof partial && stat(partial, &file) == 0)
            fprintf(stderr, "%s keeps the layers that are done: the same command goes on from there\n", partial);
        return rc;
    }
    double mib = stat(output, &file) == 0 ? (double)file.st_size / 1048576 : 0;
    fprintf(stderr, "%s: %.1f MiB, written in %.1f s\n", output, mib, now_seconds() - start);
    return EXIT_OK;
}

/* The output would replace the file that is being read. */
static bool same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* The output would replace a file of the checkpoint folder that is being read. */
static bool part_of_folder(const char *folder, const char *output)
{
    char parent[4096] = ".";
    const char *slash = strrchr(output, '/'), *dot = strrchr(output, '.');
    struct stat st;
    if (stat(output, &st) != 0 || !S_ISREG(st.st_mode) || (dot && strcmp(dot, ".pumice") == 0)) return false;
    if (slash && (size_t)(slash - output) + 2 > sizeof parent) return false;
    if (slash) snprintf(parent, sizeof parent, "%.*s", (int)(slash - output) + 1, output);
    return same_file(folder, parent);
}

static int parse_rotate(const struct command *c, const char *text, pm_rotate *out)
{
    static const char *const names[] = { "auto", "on", "off" };
    for (int i = 0; i < 3; i++)
        if (!text || strcmp(text, names[i]) == 0) {
            *out = text ? (pm_rotate)i : PM_ROTATE_AUTO;
            return -1;
        }
    return args_usage(c, "--rotate must be auto, on or off, not \"%s\"", text);
}

static int parse_head(const struct command *c, const char *text, pm_head *head)
{
    *head = !text ? PM_HEAD_AUTO : strcmp(text, "same") == 0 ? PM_HEAD_SAME : PM_HEAD_W8;
    return *head != PM_HEAD_W8 || strcmp(text, "w8") == 0 ? -1 : args_usage(c, "--head must be w8 or same, not \"%s\"", text);
}

static int parse_quality(const struct command *c, const char *text, pm_quality *out)
{
    *out = !text ? PM_QUALITY_AUTO : strcmp(text, "fast") == 0 ? PM_QUALITY_FAST : PM_QUALITY_BEST;
    return *out != PM_QUALITY_BEST || strcmp(text, "best") == 0 ? -1 : args_usage(c, "--quality must be fast or best, not \"%s\"", text);
}

static void print_note(void *user, const char *text)
{
    (void)user;
    progress_end();
    fprintf(stderr, "%s\n", text);
}

static int convert(int argc, char **argv)
{
    pm_convert_params p = { .on_progress = progress_bar, .on_note = print_note };
    struct positional pos = { 0 };
    const char *rotate = NULL, *head = NULL, *quality = NULL;
    int64_t threads = 0;
    const struct arg table[] = {
        { "-o", ARG_TEXT, &p.output, 0, 0, "FILE", "the .pumice file to write" },
        { "--dtype", ARG_DTYPE, &p.dtype, 0, 0, "TYPE", "f16, bf16, w8a8 (default), w8a8_g32, w8a8_g64, w8a8_g128, w8a8_g256, w8a8_g512, w4a16, w4a16_g32, w4a16_g64 or w4a16_g128; of a folder that is quantized already, the default is what holds its weights as they are" },
        { "--rotate", ARG_TEXT, &rotate, 0, 0, "WHEN", "rotate the inputs of integer linears, which spreads outliers: auto (default), on or off" },
        { "--head", ARG_TEXT, &head, 0, 0, "TYPE", "w8 (default): the output head in 8 bit even where the body has 4; same: as the body. Of a folder that is quantized already, the default is the head as it is" },
        { "--quality", ARG_TEXT, &quality, 0, 0, "HOW", "best (default where it is possible): weights make up for each other's rounding, as measured on a text: minutes for each 100 million weights; fast: each weight is rounded by itself, in seconds" },
        { "--budget", ARG_REAL, &p.budget, 1, 16, "BITS", "mean bits per weight of the layers' linears: those whose rounding hurts most get more than the type's" },
        { "--calibrate", ARG_TEXT, &p.calibrate, 0, 0, "FILE", "with quality best: that text, or JSON lines with \"messages\" (default: a built-in text)" },
        { "--requantize", ARG_FLAG, &p.requantize, 0, 0, NULL, "weights that are quantized already (GPTQ, AWQ, auto-round, compressed-tensors, Q4_0, Q8_0) become floats and are quantized anew, as the other options say; without it they are taken as they are" },
        { "--vocab-only", ARG_FLAG, &p.vocab_only, 0, 0, NULL, "only tokenizer and chat template; needs no weights" },
        { "--name", ARG_TEXT, &p.name, 0, 0, "NAME", "the model's name in the file (default: from the source)" },
        { "--threads", ARG_INT, &threads, 1, PM_MAX_THREADS, "N", "threads (default: the CPUs this process may use)" },
        ARG_END,
    };
    int rc = args_parse(&cmd_convert, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_convert, "give one checkpoint folder or GGUF file");
    if (!p.output) return args_usage(&cmd_convert, "-o FILE is missing");
    if ((rc = parse_rotate(&cmd_convert, rotate, &p.rotate)) >= 0 || (rc = parse_head(&cmd_convert, head, &p.head)) >= 0 ||
        (rc = parse_quality(&cmd_convert, quality, &p.quality)) >= 0)
        return rc;
    if (p.calibrate && quality && p.quality == PM_QUALITY_FAST) return args_usage(&cmd_convert, "--calibrate is of no use with --quality fast");
    if (same_file(pos.v[0], p.output)) return args_usage(&cmd_convert, "-o %s is the source itself", p.output);
    if (part_of_folder(pos.v[0], p.output)) return args_usage(&cmd_convert, "-o %s would replace a file of the source", p.output);
    p.source = pos.v[0];
    p.n_threads = (int)threads;
    pm_error err = { 0 };
    double start = now_seconds();
    catch_interrupt(NULL);
    return finish(pm_convert(&p, &err), &err, p.output, start);
}

static int synth(int argc, char **argv)
{
    pm_synth_params p = { .on_progress = progress_bar };
    struct positional pos = { 0 };
    const char *rotate = NULL, *head = NULL;
    const struct arg table[] = {
        { "--dtype", ARG_DTYPE, &p.dtype, 0, 0, "TYPE", "as for convert (default w8a8)" },
        { "-o", ARG_TEXT, &p.output, 0, 0, "FILE", "the .pumice file to write" },
        { "--rotate", ARG_TEXT, &rotate, 0, 0, "WHEN", "auto (default: on for integer dtypes), on or off" },
        { "--head", ARG_TEXT, &head, 0, 0, "TYPE", "the output head: w8 (default) or same, as the body" },
        { "--seed", ARG_SEED, &p.seed, 0, 0, "N", "of the random weights (default 0)" },
        ARG_END,
    };
    int rc = args_parse(&cmd_synth, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_synth, "give one model's name");
    if (!p.output) return args_usage(&cmd_synth, "-o FILE is missing");
    if ((rc = parse_rotate(&cmd_synth, rotate, &p.rotate)) >= 0 || (rc = parse_head(&cmd_synth, head, &p.head)) >= 0) return rc;
    p.model = pos.v[0];
    pm_error err = { 0 };
    double start = now_seconds();
    catch_interrupt(NULL);
    return finish(pm_synth(&p, &err), &err, p.output, start);
}

/* tests/cli/convert.sh compares this with pm_synth_list(), through the error message of an unknown name. */
#define SYNTH_NAMES "tiny, smollm2-135m, smollm2-360m, smollm2-1.7b, qwen2-0.5b, qwen2.5-1.5b, qwen3-0.6b, tinyllama-1.1b, llama-3.2-1b, llama-3.2-3b, llama-3-8b, " \
    "minicpm4-0.5b, minicpm3-4b, internlm2-1.8b, telechat2-3b, phi3-3.8b, phi3-3.8b-128k, chatglm3-6b, gemma-2b, gemma2-2b, gemma3-1b, smollm3-3b, phi-2, rwkv7-1.5b, tiny-options, tiny-mla or tiny-rwkv7"

const struct command cmd_convert = {
    "convert", "make a .pumice file of a checkpoint folder or a GGUF file", "convert SOURCE -o FILE [options]",
    "SOURCE is a Hugging Face folder (config.json, safetensors, tokenizer files), which GPTQ, AWQ, auto-round or compressed-tensors may have quantized, or a GGUF file. The result is one file with weights, tokenizer and chat template, in the order in which the "
    "kernels read it. It appears under its name only when it is complete.",
    "pumice convert ./Qwen2-0.5B-Instruct -o qwen2.pumice\n"
    "pumice convert model.Q4_0.gguf --dtype w4a16_g32 -o model.pumice",
    convert
};
const struct command cmd_synth = {
    "synth", "make a model with random weights in a known shape, to measure speed", "synth NAME -o FILE [options]",
    "Random weights in the true shape of a known model: it says nothing sensible, but is as fast and as large as the real one. NAME is " SYNTH_NAMES ".",
    "pumice synth qwen2-0.5b --dtype w8a8 -o q.pumice\n"
    "pumice synth tiny --dtype f16 -o tiny.pumice && pumice inspect tiny.pumice",
    synth
};
