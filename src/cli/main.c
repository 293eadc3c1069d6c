/* Owns: the program's entry and the choice of command. */
#include "cli/common.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>

static const struct command *const commands[] = { &cmd_convert, &cmd_run, &cmd_chat, &cmd_bench, &cmd_eval, &cmd_inspect, &cmd_tokenize, &cmd_template, &cmd_logits, &cmd_synth };
#define N_COMMAND (sizeof commands / sizeof *commands)

static void help(void)
{
    puts("usage: pumice COMMAND ...\n\nLanguage models on small machines: convert a checkpoint to one file, run it, measure it.\n\ncommands:");
    for (size_t i = 0; i < N_COMMAND; i++) printf("  %-10s %s\n", commands[i]->name, commands[i]->summary);
    puts("\n\"pumice COMMAND --help\" teaches the command. A first round:\n"
         "  pumice convert ./SmolLM2-135M-Instruct -o smol.pumice\n"
         "  pumice run smol.pumice \"What is the capital of France?\"\n"
         "  pumice bench smol.pumice\n\n"
         "exit codes: 0 done; 1 the system failed (files, devices); 2 wrong usage; 3 an input is bad or not supported;\n"
         "            4 not enough memory or context; 130 interrupted");
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_DFL);
    if (argc < 2) {
        help();
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        help();
        return EXIT_OK;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("pumice %s\n", pm_version());
        return EXIT_OK;
    }
    for (size_t i = 0; i < N_COMMAND; i++)
        if (strcmp(argv[1], commands[i]->name) == 0) {
            int rc = commands[i]->run(argc - 2, argv + 2);
            if (fflush(stdout) != 0 || ferror(stdout)) {
                fputs("pumice: cannot write the output\n", stderr);
                return rc ? rc : EXIT_RUN;
            }
            return rc;
        }
    fprintf(stderr, "pumice: \"%s\" is not a command; \"pumice --help\" lists them\n", argv[1]);
    return EXIT_USAGE;
}
