/*
 * Owns: reading lines: with libedit at a terminal (editing keys, history of this run, ~/.editrc), with getline elsewhere.
 *
 * Idea: Ctrl-C at the prompt drops the line and asks again. libedit itself would read on after the signal, so characters are fetched by fetch(), which gives up
 * when the signal flag is set. Characters are put together here from UTF-8, so that editing works in a terminal whose locale was never set up.
 */
#include "cli/line.h"

#include "cli/common.h"

#include <errno.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef PM_HAVE_EDIT
#include <histedit.h>
#include <wchar.h>
#endif

struct line_reader {
    bool terminal;
#ifdef PM_HAVE_EDIT
    EditLine *edit;
    History *history;
    const char *prompt;         /* of the line being read */
#endif
};

#ifdef PM_HAVE_EDIT
static char *show_prompt(EditLine *e)
{
    struct line_reader *r;
    el_get(e, EL_CLIENTDATA, &r);
    return (char *)(uintptr_t)r->prompt;
}

static int next_byte(unsigned char *c)
{
    for (;;) {
        ssize_t n = read(STDIN_FILENO, c, 1);
        if (n >= 0) return (int)n;
        if (errno != EINTR || interrupted()) return -1;
    }
}

/* One character, for EL_GETCFN. 1, 0 at the end of input, -1 to give up. */
static int fetch(EditLine *e, wchar_t *out)
{
    unsigned char c;
    (void)e;
    int n = next_byte(&c);
    if (n <= 0) return n;
    int more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
    uint32_t v = more == 3 ? c & 7u : more == 2 ? c & 15u : more == 1 ? c & 31u : c;
    for (int i = 0; i < more; i++) {
        if (next_byte(&c) != 1) return -1;
        v = v << 6 | (c & 63u);
    }
    *out = (wchar_t)(v < 0x80 || (v > 0x9F && v < 0x110000 && (v < 0xD800 || v > 0xDFFF)) ? v : '?');
    return 1;
}

static bool open_editor(struct line_reader *r)
{
    HistEvent ev;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) setlocale(LC_CTYPE, "C.UTF-8");
    r->edit = el_init("pumice", stdin, stdout, stderr);
    r->history = history_init();
    if (!r->edit || !r->history) return false;
    history(r->history, &ev, H_SETSIZE, 1000);
    history(r->history, &ev, H_SETUNIQUE, 1);
    el_set(r->edit, EL_CLIENTDATA, r);
    el_set(r->edit, EL_PROMPT, show_prompt);
    el_set(r->edit, EL_EDITOR, "emacs");
    el_set(r->edit, EL_SIGNAL, 1);
    el_set(r->edit, EL_HIST, history, r->history);
    el_set(r->edit, EL_GETCFN, fetch);
    el_source(r->edit, NULL);
    return true;
}

static enum line_end edit_line(struct line_reader *r, const char *prompt, char **out, size_t *len)
{
    HistEvent ev;
    int n = 0;
    r->prompt = prompt;
    const char *line = el_gets(r->edit, &n);
    if (!line || n <= 0) {
        putchar('\n');
        return interrupted() ? LINE_INTERRUPTED : LINE_EOF;
    }
    if (n > 1) history(r->history, &ev, H_ENTER, line);
    *len = strcspn(line, "\n");
    *out = strndup(line, *len);
    return *out ? LINE_READ : LINE_EOF;
}
#endif

struct line_reader *line_open(void)
{
    struct line_reader *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
#ifdef PM_HAVE_EDIT
    if (r->terminal && !open_editor(r)) {
        line_close(r);
        return NULL;
    }
#endif
    return r;
}

void line_close(struct line_reader *r)
{
    if (!r) return;
#ifdef PM_HAVE_EDIT
    if (r->history) history_end(r->history);
    if (r->edit) el_end(r->edit);
#endif
    free(r);
}

enum line_end line_read(struct line_reader *r, const char *prompt, char **out, size_t *len)
{
    *out = NULL;
    *len = 0;
    catch_interrupt(NULL);
#ifdef PM_HAVE_EDIT
    if (r->terminal) return edit_line(r, prompt, out, len);
#endif
    if (r->terminal) {
        fputs(prompt, stdout);
        fflush(stdout);
    }
    size_t cap = 0;
    ssize_t n = getline(out, &cap, stdin);
    if (n < 0) {
        free(*out);
        *out = NULL;
        clearerr(stdin);
        return interrupted() ? LINE_INTERRUPTED : LINE_EOF;
    }
    if (n && (*out)[n - 1] == '\n') (*out)[--n] = '\0';
    if (n && (*out)[n - 1] == '\r') (*out)[--n] = '\0';
    *len = (size_t)n;
    return LINE_READ;
}
