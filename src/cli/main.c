/* Owns: the program's entry, the choice of command, and the last word on whether the output was written. */
#include "cli/common.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

static const struct command *const commands[] = { &cmd_convert, &cmd_run, &cmd_chat, &cmd_bench, &cmd_eval, &cmd_inspect, &cmd_tokenize, &cmd_template, &cmd_logits, &cmd_synth };
#define N_COMMAND (sizeof commands / sizeof *commands)

static void help(FILE *f)
{
    fputs("pumice: language models on small machines: convert a checkpoint to one file, run it, measure it\n\n"
          "usage:\n  pumice COMMAND ...\n  pumice COMMAND --help\n  pumice --version\n\ncommands:\n", f);
    for (size_t i = 0; i < N_COMMAND; i++) fprintf(f, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\nexamples:\n"
          "  pumice convert ./SmolLM2-135M-Instruct -o smol.pumice\n"
          "  pumice run smol.pumice \"What is the capital of France?\"\n"
          "  pumice chat smol.pumice\n"
          "  pumice bench smol.pumice\n\n"
          "exit codes:\n"
          "  0    done\n"
          "  1    the system failed (files, devices)\n"
          "  2    wrong usage\n"
          "  3    an input is missing, bad or not supported\n"
          "  4    not enough memory or context\n"
          "  130  interrupted\n", f);
}

static const struct command *find(const char *name)
{
    for (size_t i = 0; i < N_COMMAND; i++)
        if (strcmp(name, commands[i]->name) == 0) return commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[N_COMMAND + 2] = { "--help", "--version" };
    for (size_t i = 0; i < N_COMMAND; i++) names[i + 2] = commands[i]->name;
    const char *near = nearest_name(name, names, N_COMMAND + 2);
    if (near) return complain(EXIT_USAGE, "there is no command \"%s\"; did you mean \"%s\"?", name, near);
    return complain(EXIT_USAGE, "there is no command \"%s\"; \"pumice --help\" lists them", name);
}

static int dispatch(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : NULL;
    if (!name) {
        help(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(name, "--version") == 0) {
        printf("pumice %s\n", pm_version());
        return EXIT_OK;
    }
    const struct command *c = find(name);
    if (c) return c->run(argc - 2, argv + 2);
    if (strcmp(name, "--help") != 0 && strcmp(name, "-h") != 0 && strcmp(name, "help") != 0) return unknown(name);
    if (argc > 2 && (c = find(argv[2]))) return c->run(1, (char *[]){ "--help", NULL });
    if (argc > 2) return unknown(argv[2]);
    help(stdout);
    return EXIT_OK;
}

/* A program that is started with a standard stream closed would get its number for the next file that it opens, and print into that. Something that can neither be read
   nor written takes the place instead. */
static void occupy_standard_streams(void)
{
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) < 0 && errno == EBADF && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) != fd) return;
}

int main(int argc, char **argv)
{
    occupy_standard_streams();
    signal(SIGPIPE, SIG_DFL);       /* a reader that leaves ends us quietly, whatever our parent ignores */
    signal(SIGXFSZ, SIG_IGN);       /* a file size limit is a failed write, which is reported and tidied up */
    int rc = dispatch(argc, argv);
    int why = fflush(stdout) != 0 ? errno : 0;
    if (!why && !ferror(stdout)) return rc;
    fprintf(stderr, "pumice: cannot write the output%s%s\n", why ? ": " : "", why ? strerror(why) : "");
    return rc ? rc : EXIT_RUN;
}
