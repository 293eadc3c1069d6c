/*
 * drive [-p] SCRIPT PROGRAM ARGUMENTS...: talks to a program as a person at a terminal does, or (-p) through pipes.
 *
 * The script, one step a line:
 *   send TEXT      types TEXT; \n \e \\ and \xHH are understood
 *   expect TEXT    waits until TEXT appears in what has not been expected yet (20 seconds at most, 200 when built with a sanitizer)
 *   prompt TEXT    expects TEXT, and waits until the terminal hands out single keys, that is until the program listens to them
 *   some N         waits for N more bytes of output, whatever they are
 *   absent TEXT    fails when TEXT has appeared anywhere so far
 *   signal N       sends the program signal N
 *   eof            -p: closes its standard input
 *   hangup         closes the end that reads its output
 *   exit N         waits for the end and compares the exit code; 128 + N when a signal N ended it
 * Exit code: 0 when every step came true; otherwise 1, with the step and the transcript on stderr.
 * With -p, stdout and stderr of the program both arrive here, in the order of arrival.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define PATIENCE 200.0
#else
#define PATIENCE 20.0
#endif

struct drive {
    pid_t pid;
    int in, out;            /* our ends; -1 when closed */
    char *seen;             /* everything that came, NUL-terminated; NULs in it became '?' */
    size_t len, expected;   /* expected: up to where earlier expects went */
    int line;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(struct drive *d, const char *what, const char *detail)
{
    fprintf(stderr, "step %d: %s%s\n---- transcript\n%s\n----\n", d->line, what, detail, d->seen);
    kill(d->pid, SIGKILL);
    exit(1);
}

/* Takes what is there within `wait` seconds. Returns false at the end of the output. */
static bool take(struct drive *d, double wait)
{
    struct pollfd p = { .fd = d->out, .events = POLLIN };
    char buf[4096];
    if (d->out < 0) return false;
    if (poll(&p, 1, (int)(wait * 1000)) <= 0) return true;
    ssize_t n = read(d->out, buf, sizeof buf);
    if (n <= 0) {
        close(d->out);
        d->out = -1;
        return false;
    }
    char *more = realloc(d->seen, d->len + (size_t)n + 1);
    if (!more) exit(1);
    d->seen = more;
    for (ssize_t i = 0; i < n; i++) d->seen[d->len++] = buf[i] ? buf[i] : '?';
    d->seen[d->len] = '\0';
    return true;
}

static void expect(struct drive *d, const char *text)
{
    double end = seconds() + PATIENCE;
    for (;;) {
        const char *hit = strstr(d->seen + d->expected, text);
        if (hit) {
            d->expected = (size_t)(hit - d->seen) + strlen(text);
            return;
        }
        if (!take(d, 0.05) && !strstr(d->seen + d->expected, text)) fail(d, "the output ended without: ", text);
        if (seconds() > end) fail(d, "waited in vain for: ", text);
    }
}

static void wait_for_keys(struct drive *d)
{
    double end = seconds() + PATIENCE;
    struct termios t;
    while (tcgetattr(d->in, &t) == 0 && (t.c_lflag & ICANON)) {
        if (seconds() > end) fail(d, "the terminal stays in line mode", "");
        take(d, 0.01);
    }
}

static void some(struct drive *d, size_t n)
{
    double end = seconds() + PATIENCE;
    while (d->len < d->expected + n) {
        if (!take(d, 0.05)) fail(d, "the output ended too early", "");
        if (seconds() > end) fail(d, "waited in vain for output", "");
    }
    d->expected += n;
}

static void ended(struct drive *d, int want)
{
    double end = seconds() + PATIENCE;
    int status = 0;
    while (waitpid(d->pid, &status, WNOHANG) == 0) {
        if (!take(d, 0.02)) usleep(2000);
        if (seconds() > end) fail(d, "the program does not end", "");
    }
    while (d->out >= 0 && take(d, 0.2))
        if (seconds() > end) break;
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    char detail[64];
    snprintf(detail, sizeof detail, "%d, not %d", code, want);
    if (code != want) fail(d, "exit code ", detail);
}

/* Understands the escapes, in place. Returns the length. */
static size_t unescape(char *s)
{
    char *o = s;
    for (char *p = s; *p; p++) {
        if (*p != '\\' || !p[1]) *o++ = *p;
        else if (*++p == 'n') *o++ = '\n';
        else if (*p == 'e') *o++ = '\033';
        else if (*p == 'x' && p[1] && p[2]) {
            char hex[3] = { p[1], p[2], 0 };
            *o++ = (char)strtol(hex, NULL, 16);
            p += 2;
        } else *o++ = *p;
    }
    *o = '\0';
    return (size_t)(o - s);
}

static void step(struct drive *d, char *line)
{
    char *arg = strchr(line, ' ');
    if (arg) *arg++ = '\0';
    else arg = line + strlen(line);
    if (strcmp(line, "send") == 0) {
        size_t n = unescape(arg);
        if (write(d->in, arg, n) != (ssize_t)n) fail(d, "cannot send: ", strerror(errno));
    } else if (strcmp(line, "expect") == 0) {
        unescape(arg);
        expect(d, arg);
    } else if (strcmp(line, "prompt") == 0) {
        expect(d, arg);
        wait_for_keys(d);
    } else if (strcmp(line, "some") == 0) some(d, (size_t)atoi(arg));
    else if (strcmp(line, "absent") == 0) {
        unescape(arg);
        if (strstr(d->seen, arg)) fail(d, "appeared: ", arg);
    } else if (strcmp(line, "signal") == 0) kill(d->pid, atoi(arg));
    else if (strcmp(line, "eof") == 0) {
        close(d->in);
        d->in = -1;
    } else if (strcmp(line, "hangup") == 0) {
        close(d->out);
        d->out = -1;
    } else if (strcmp(line, "exit") == 0) ended(d, atoi(arg));
    else if (*line) fail(d, "unknown step: ", line);
}

static void start(struct drive *d, bool pipes, char **argv)
{
    int in[2] = { -1, -1 }, out[2] = { -1, -1 }, master = -1;
    struct winsize size = { .ws_row = 24, .ws_col = 200 };
    if (pipes && (pipe(in) != 0 || pipe(out) != 0)) exit(1);
    d->pid = pipes ? fork() : forkpty(&master, NULL, NULL, &size);
    if (d->pid < 0) exit(1);
    if (d->pid == 0) {
        if (pipes) {
            dup2(in[0], 0);
            dup2(out[1], 1);
            dup2(out[1], 2);
            close(in[0]), close(in[1]), close(out[0]), close(out[1]);
        }
        signal(SIGINT, SIG_DFL);
        execv(argv[0], argv);
        _exit(127);
    }
    if (pipes) close(in[0]), close(out[1]);
    d->in = pipes ? in[1] : master;
    d->out = pipes ? out[0] : dup(master);
}

int main(int argc, char **argv)
{
    bool pipes = argc > 1 && strcmp(argv[1], "-p") == 0;
    char **rest = argv + 1 + pipes, line[4096];
    struct drive d = { .seen = calloc(1, 1), .out = -1 };
    FILE *script = rest[0] && rest[1] ? fopen(rest[0], "r") : NULL;
    if (!script || !d.seen) {
        fputs("usage: drive [-p] SCRIPT PROGRAM ARGUMENTS...\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    start(&d, pipes, rest + 1);
    while (fgets(line, sizeof line, script)) {
        d.line++;
        line[strcspn(line, "\n")] = '\0';
        if (*line != '#') step(&d, line);
    }
    fclose(script);
    free(d.seen);
    return 0;
}
