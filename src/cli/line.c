/*
 * Owns: reading lines: with libedit at a terminal (editing keys, history of this run, ~/.editrc), plainly elsewhere.
 *
 * Idea: both ways get their bytes from next_byte(), which gives up when a signal came, even one that came just before it began to wait. So Ctrl-C at the prompt
 * drops the line and asks again, where libedit itself would read on. Characters are put together here from UTF-8, so that editing works in a terminal whose locale
 * was never set up.
 */
#include "cli/line.h"

#include "cli/common.h"

#include <errno.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
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
    unsigned char buf[4096];    /* bytes [at, end) came and were not taken yet; a terminal is read byte by byte, so that the editor loses nothing */
    size_t at, end;
#ifdef PM_HAVE_EDIT
    EditLine *edit;
    History *history;
    const char *prompt;         /* of the line being read */
#endif
};

/* 1, 0 at the end of input, -1 when a signal came or reading failed. */
static int next_byte(struct line_reader *r, unsigned char *c)
{
    if (r->at == r->end) {
        struct pollfd p = { .fd = STDIN_FILENO, .events = POLLIN };
        sigset_t mine, before;
        sigemptyset(&mine);
        sigaddset(&mine, SIGINT);
        sigaddset(&mine, SIGTERM);
        sigaddset(&mine, SIGHUP);
        sigprocmask(SIG_BLOCK, &mine, &before);
        while (!interrupted() && ppoll(&p, 1, NULL, &before) < 0 && errno == EINTR) { }     /* signals come only in here */
        sigprocmask(SIG_SETMASK, &before, NULL);
        if (interrupted()) return -1;
        ssize_t n = read(STDIN_FILENO, r->buf, r->terminal ? 1 : sizeof r->buf);
        if (n <= 0) return (int)n;
        r->at = 0;
        r->end = (size_t)n;
    }
    *c = r->buf[r->at++];
    return 1;
}

#ifdef PM_HAVE_EDIT
static char *show_prompt(EditLine *e)
{
    struct line_reader *r;
    el_get(e, EL_CLIENTDATA, &r);
    return (char *)(uintptr_t)r->prompt;
}

/* One character, for EL_GETCFN. 1, 0 at the end of input, -1 to give up. */
static int fetch(EditLine *e, wchar_t *out)
{
    struct line_reader *r;
    unsigned char c;
    el_get(e, EL_CLIENTDATA, &r);
    int n = next_byte(r, &c);
    if (n <= 0) return n;
    int more = c >= 0xF5 ? 0 : c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC2 ? 1 : 0;
    uint32_t v = more == 3 ? c & 7u : more == 2 ? c & 15u : more == 1 ? c & 31u : c;
    if (c >= 0x80 && !more) v = '?';
    for (int i = 0; i < more; i++) {
        if (next_byte(r, &c) != 1) return -1;
        if ((c & 0xC0) != 0x80) {       /* the start of another character: it is not swallowed */
            r->at--;
            v = '?';
            break;
        }
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
    if (n > LINE_MAX_BYTES) return LINE_TOO_LONG;
    if (n > 1) history(r->history, &ev, H_ENTER, line);
    *len = strcspn(line, "\n");
    *out = strndup(line, *len);
    return *out ? LINE_READ : LINE_EOF;
}
#endif

static enum line_end plain_line(struct line_reader *r, char **out, size_t *len)
{
    size_t cap = 0;
    unsigned char c = 0;
    int got;
    while ((got = next_byte(r, &c)) == 1 && c != '\n') {
        if (*len == LINE_MAX_BYTES) {
            free(*out);
            *out = NULL;
            return LINE_TOO_LONG;
        }
        if (*len + 2 > cap) {
            char *p = realloc(*out, cap = cap ? 2 * cap : 256);
            if (!p) break;
            *out = p;
        }
        (*out)[(*len)++] = (char)c;
    }
    if (got == 1 && !*out) *out = calloc(1, 1);
    if (got < 0 || !*out || (got == 1 && c != '\n')) {
        free(*out);
        *out = NULL;
        return interrupted() ? LINE_INTERRUPTED : LINE_EOF;
    }
    if (*len && (*out)[*len - 1] == '\r') --*len;
    (*out)[*len] = '\0';
    return LINE_READ;
}

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
    return plain_line(r, out, len);
}
