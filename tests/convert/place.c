/* Owns: the folder of a test program of this directory. */
#include "place.h"

#include "tiny_checkpoint.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

char dir[64] = "/tmp/pumice-convert-XXXXXX", folder[80], gguf[80], out[80], out2[80];

int place_begin(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(folder, sizeof folder, "%s/ck", dir);
    snprintf(gguf, sizeof gguf, "%s/m.gguf", dir);
    snprintf(out, sizeof out, "%s/a.pumice", dir);
    snprintf(out2, sizeof out2, "%s/b.pumice", dir);
    return mkdir(folder, 0755);
}

int place_end(void **state)
{
    (void)state;
    tiny_remove_folder(folder);
    tiny_remove_folder(dir);
    return 0;
}

size_t files_in(const char *path)
{
    size_t n = 0;
    DIR *d = opendir(path);
    for (; d && readdir(d); n++) {}
    if (d) closedir(d);
    return n;
}
