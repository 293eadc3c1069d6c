/* Reading the goldens of the text tests: every *.json of a folder, by name. */
#ifndef PM_TEST_GOLDEN_H
#define PM_TEST_GOLDEN_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

/* Calls fn for each file and returns how many there were. A file that does not parse fails the test. */
static size_t each_golden(const char *folder, void (*fn)(const char *name, const json_t *j))
{
    struct dirent **list;
    int n = scandir(folder, &list, NULL, alphasort);
    size_t count = 0;
    if (n < 0) fail_msg("no folder %s", folder);
    for (int i = 0; i < n; i++) {
        size_t len = strlen(list[i]->d_name);
        if (len > 5 && strcmp(list[i]->d_name + len - 5, ".json") == 0) {
            char path[4096];
            json_error_t e;
            snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name);
            json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
            if (!j) fail_msg("%s: %s at line %d", path, e.text, e.line);
            fn(list[i]->d_name, j);
            json_decref(j);
            count++;
        }
        free(list[i]);
    }
    free(list);
    return count;
}

#endif
