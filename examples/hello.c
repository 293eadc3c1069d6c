/* hello MODEL.pumice TEXT: goes on with a text. The library from opening a file to freeing everything; README.md shows the middle. */
#include <pumice.h>
#include <stdio.h>
#include <string.h>

static int show(void *user, int32_t id, const char *text, size_t len)
{
    (void)user, (void)id;
    return fwrite(text, 1, len, stdout) != len;     /* anything but 0 stops */
}

int main(int argc, char **argv)
{
    pm_error err = { 0 };
    pm_model *model = NULL;
    pm_engine *engine = NULL;
    pm_session *session = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    if (argc != 3) return fputs("usage: hello MODEL.pumice TEXT\n", stderr), 2;

    pm_generate_params params = { .max_tokens = 64, .on_token = show };
    if (pm_model_open(argv[1], &model, &err) ||
        pm_engine_create(NULL, &engine, &err) ||
        pm_session_create(engine, model, NULL, &session, &err) ||
        pm_tokenize(model, argv[2], strlen(argv[2]), PM_TOKENIZE_ADD_SPECIAL, &ids, &n, &err) ||
        pm_session_prompt(session, ids, n, NULL, &err) ||
        pm_session_generate(session, &params, NULL, &err))
        fprintf(stderr, "hello: %s\n", err.msg);
    else putchar('\n');

    pm_free(ids);
    pm_session_free(session);
    pm_engine_free(engine);
    pm_model_close(model);
    return err.code ? 1 : 0;
}
