/*
 * Owns: `pumice chat`: the conversation as a JSON array of messages, the /commands, and what is forgotten when the context is full.
 * Idea: every question renders the whole conversation anew; the session keeps the tokens it shares with the last one, so only what is new is computed.
 */
#include "cli/answer.h"
#include "cli/line.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char chat_help[] =
    "/system TEXT   set the system message and start anew\n"
    "/reset         forget the conversation\n"
    "/undo          forget the last question and its answer\n"
    "/save FILE     write the conversation as JSON\n"
    "/load FILE     go on with a saved one\n"
    "/temp T        set the temperature\n"
    "/tokens        how much of the context is in use\n"
    "/stats         speeds of the last answer\n"
    "/help          this text\n"
    "/quit          leave; so does Ctrl-D\n"
    "Ctrl-C stops an answer. A line that ends in \\ goes on in the next. A question that begins with / needs a space before it.\n";

struct chat {
    struct opened o;
    json_t *messages;
    struct sampling_args s;
    struct arg_list stop;
    struct timing last;
    int64_t max;
    struct line_reader *lines;
};

/* A remark of the program's own, which is no answer. */
static void say(const char *text)
{
    fprintf(stderr, "[%s]\n", text);
}

/* A question, over several lines where they end in a backslash; all of them together may be as long as one. */
static enum line_end read_question(struct chat *c, char **out, size_t *len)
{
    enum line_end end = line_read(c->lines, "> ", out, len);
    while (end == LINE_READ && *len && (*out)[*len - 1] == '\\') {
        char *more;
        size_t n;
        end = line_read(c->lines, "  ", &more, &n);
        if (end == LINE_EOF) {      /* the end of input ends the question as well */
            end = LINE_READ;
            break;
        }
        if (end == LINE_READ && *len + n > LINE_MAX_BYTES) end = LINE_TOO_LONG;
        char *both = end == LINE_READ ? realloc(*out, *len + n + 1) : NULL;
        if (both) {
            both[*len - 1] = '\n';
            memcpy(both + *len, more, n + 1);
            *out = both;
            *len += n;
        }
        free(more);
    }
    if (end == LINE_READ) return end;
    free(*out);
    *out = NULL;
    return end;
}

static void forget(struct chat *c, size_t keep)
{
    while (json_array_size(c->messages) > keep) json_array_remove(c->messages, json_array_size(c->messages) - 1);
}

/* Index of the first message that is not the system's. */
static size_t first_turn(const struct chat *c)
{
    const char *role = json_string_value(json_object_get(json_array_get(c->messages, 0), "role"));
    return role && strcmp(role, "system") == 0 ? 1 : 0;
}

/* Answers the messages; the oldest turns go when the context is too small. */
static int ask(struct chat *c)
{
    for (;;) {
        size_t n = 0;
        int code;
        int32_t *ids = chat_ids(&c->o, c->messages, &n, &code);
        if (!ids) return code;
        if (n + 16 > pm_session_context(c->o.session) && json_array_size(c->messages) > first_turn(c) + 2) {
            say("the context is full: the oldest turn is forgotten");
            json_array_remove(c->messages, first_turn(c));
            json_array_remove(c->messages, first_turn(c));
            pm_free(ids);
            continue;
        }
        struct answer a = { .trim = true };
        int rc = answer_ids(&c->o, ids, n, &c->s, &c->stop, c->max, &a, &c->last);
        bool stopped = c->last.reason == PM_STOP_ABORT;
        pm_free(ids);
        if (rc == EXIT_OK || a.len) putchar('\n');
        fflush(stdout);
        if (stopped) say("stopped");
        else if (rc == EXIT_OK && c->last.reason == PM_STOP_CONTEXT)
            fprintf(stderr, "[the context of %u tokens is full, and the answer ends here; the next question forgets the oldest turn where it needs the room; a larger --ctx holds more]\n",
                    pm_session_context(c->o.session));
        if (rc == EXIT_OK || (stopped && a.len)) append_message(c->messages, "assistant", a.text ? a.text : "", a.len);
        else forget(c, json_array_size(c->messages) - 1);
        free(a.text);
        return rc;
    }
}

/* ---- /commands ---- */

static void save(const struct chat *c, const char *path)
{
    struct output o;
    if (output_open(&o, path) >= 0) return;
    if (json_dumpf(c->messages, o.f, JSON_INDENT(1)) != 0 || fputc('\n', o.f) == EOF) {
        output_discard(&o);
        fprintf(stderr, "[cannot write %s]\n", path);
    } else if (output_commit(&o) < 0) {
        fprintf(stderr, "[%zu messages saved to %s]\n", json_array_size(c->messages), path);
    }
}

static void load(struct chat *c, const char *path)
{
    json_error_t je;
    size_t i, len;
    int code;
    char *text = read_text(path, &len, &code);
    if (!text) return;
    json_t *j = json_loadb(text, len, JSON_ALLOW_NUL, &je), *m;
    free(text);
    bool good = json_is_array(j);
    json_array_foreach(j, i, m) good = good && json_is_string(json_object_get(m, "role")) && json_is_string(json_object_get(m, "content"));
    if (!good) {
        fprintf(stderr, "[%s: %s]\n", path, j ? "not a saved conversation: it must be an array of {role, content}" : je.text);
        json_decref(j);
        return;
    }
    json_decref(c->messages);
    c->messages = j;
    fprintf(stderr, "[%zu messages loaded]\n", json_array_size(j));
}

static void set_temperature(struct chat *c, const char *text)
{
    char *end;
    double t = strtod(text, &end);
    if (!*text || *end || !(t >= 0 && t <= 100)) say("/temp needs a number from 0 to 100");
    else c->s.temp = t;
}

/* What follows the command's name and blanks; NULL when the line is another command. */
static const char *argument(const char *line, const char *name)
{
    size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || (line[n] && line[n] != ' ')) return NULL;
    return line + n + strspn(line + n, " ");
}

static void command_with_text(struct chat *c, const char *line)
{
    const char *arg;
    if ((arg = argument(line, "/system"))) {
        if (!*arg) say("/system needs a text: it sets the system message and starts anew");
        else if (append_message(c->messages, "system", arg, strlen(arg)) < 0)
            while (json_array_size(c->messages) > 1) json_array_remove(c->messages, 0);
    } else if ((arg = argument(line, "/temp"))) set_temperature(c, arg);
    else if ((arg = argument(line, "/save"))) *arg ? save(c, arg) : say("/save needs the name of a file");
    else if ((arg = argument(line, "/load"))) *arg ? load(c, arg) : say("/load needs the name of a file");
    else say("unknown command; /help lists them");
}

/* Returns false when the chat ends. */
static bool command(struct chat *c, char *line)
{
    for (size_t n = strlen(line); n && line[n - 1] == ' '; n--) line[n - 1] = '\0';
    size_t turns = json_array_size(c->messages) - first_turn(c);
    if (strcmp(line, "/quit") == 0 || strcmp(line, "/exit") == 0) return false;
    if (strcmp(line, "/help") == 0) fputs(chat_help, stdout);
    else if (strcmp(line, "/reset") == 0) forget(c, first_turn(c));
    else if (strcmp(line, "/undo") == 0 && !turns) say("there is nothing to undo");
    else if (strcmp(line, "/undo") == 0) forget(c, first_turn(c) + (turns > 2 ? turns - 2 : 0));
    else if (strcmp(line, "/tokens") == 0) printf("%zu of %u tokens\n", pm_session_length(c->o.session), pm_session_context(c->o.session));
    else if (strcmp(line, "/stats") == 0) print_perf(&c->last);
    else command_with_text(c, line);
    return true;
}

/* Returns the exit code of the last answer. */
static int talk(struct chat *c)
{
    int rc = EXIT_OK;
    char *line;
    size_t len;
    for (;;) {
        enum line_end end = read_question(c, &line, &len);
        if (end == LINE_INTERRUPTED) {
            if (isatty(STDIN_FILENO) && interrupt_code() == EXIT_INTERRUPT) continue;
            return interrupt_code();
        }
        if (end == LINE_EOF) return rc;
        if (end == LINE_TOO_LONG) return complain(EXIT_INPUT, "a line has more than %d MiB: that is no question, and the chat ends here", LINE_MAX_BYTES >> 20);
        bool go_on = true;
        if (*line == '/') go_on = command(c, line);
        else if (len) {
            rc = append_message(c->messages, "user", line + (*line == ' ' && line[1] == '/'), len - (*line == ' ' && line[1] == '/'));
            if (rc < 0) rc = ask(c);
            else say("this question was not asked");
            if (rc == EXIT_INTERRUPT && isatty(STDIN_FILENO)) rc = EXIT_OK;
            if (rc > 128) go_on = false;     /* stopped by a signal */
        }
        free(line);
        if (!go_on || ferror(stdout)) return ferror(stdout) ? EXIT_RUN : rc;
        fflush(stdout);
    }
}

static int chat(int argc, char **argv)
{
    struct positional pos = { 0 };
    struct run_options r = { 0 };
    struct chat c = { 0 };
    const char *system = NULL;
    char name[128];
    const struct arg table[] = {
        { "--system", ARG_TEXT, &system, 0, 0, "S", "the system message" },
        { "-n", ARG_INT, &c.max, 0, 1 << 24, "N", "at most N tokens an answer (default 0: no limit)" },
        { "--stop", ARG_LIST, &c.stop, 0, 0, "S", "end an answer before this text would appear (may be given several times)" },
        SAMPLING_ARGS(c.s),
        ARG_CTX(r), ARG_CHUNK(r), ARG_KV(r), ARG_THREADS(r), ARG_ISA(r), ARG_END,
    };
    int rc = args_parse(&cmd_chat, table, argc, argv, &pos);
    if (rc >= 0) return rc;
    if (pos.n != 1) return args_usage(&cmd_chat, "give one .pumice file");
    c.messages = json_array();
    c.lines = line_open();
    if (!c.messages || !c.lines) {
        rc = complain(EXIT_SPACE, "out of memory");
        goto done;
    }
    if ((rc = open_model(&c.o, pos.v[0])) >= 0 || (rc = needs_template(&c.o)) >= 0 || (rc = open_session(&c.o, &r)) >= 0) goto done;
    warn_long_context(&c.o);
    if (system && (rc = append_message(c.messages, "system", system, strlen(system))) >= 0) goto done;
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO)) printf("%s, %s. /help lists the commands, Ctrl-D leaves.\n", clean(c.o.info.name, name, sizeof name), c.o.info.dtype);
    rc = talk(&c);
done:
    line_close(c.lines);
    json_decref(c.messages);
    close_all(&c.o);
    return rc;
}

const struct command cmd_chat = {
    "chat", "a conversation, with line editing and /commands", "chat FILE [options]",
    "Asks for questions and streams the answers; what was said before is not computed again. /help lists the commands inside. When standard input is not a terminal, each line is a question.",
    "pumice chat m.pumice --system \"Answer in one sentence.\"\n"
    "pumice chat m.pumice --temp 0.7 --seed 7\n"
    "printf '%s\\n' \"My name is Ada.\" \"What is my name?\" | pumice chat m.pumice",
    chat
};
