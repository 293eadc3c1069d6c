/*
 * Writing a .pumice file: first the list of tensors, then their bytes in that order, at last the header with the hashes. The file has its final name only when
 * it is complete.
 */
#ifndef PM_CONVERT_WRITER_H
#define PM_CONVERT_WRITER_H

#include "base/filemap.h"
#include "model/container.h"
#include "model/desc.h"

struct pm_out_tensor {
    char name[96];
    enum pm_dtype dtype;
    unsigned rank;
    size_t shape[4], bytes;
    uint64_t off;               /* from the start of the data */
    uint64_t written;
    pm_sha256 hash;
};

struct pm_writer {
    struct pm_outfile file;
    struct pm_out_tensor *tensor;   /* [n], owned */
    size_t n, cap, n_pad;
    uint64_t header_bytes, total;
    const struct pm_desc *desc;     /* borrowed */
    const char *chat_template;      /* borrowed, or NULL */
    size_t chat_template_len;
    json_t *provenance;             /* borrowed; may gain entries until the end */
    pm_progress_fn on_progress;
    void *user;
    uint64_t done;
};

/* Plans every tensor of desc.h for this description. tokenizer_bytes: size of the compiled tokenizer. The outputs begin with pm_writer_begin. */
pm_status pm_writer_plan(struct pm_writer *w, const struct pm_desc *d, size_t tokenizer_bytes, pm_error *err);
pm_status pm_writer_begin(struct pm_writer *w, const char *path, pm_error *err);
/* Appends bytes to a planned tensor (by name). Tensors may be filled in any order, each from its start to its end. */
pm_status pm_writer_put(struct pm_writer *w, const char *name, const void *data, size_t len, pm_error *err);
/* Everything must have been put. Writes the header and gives the file its name. */
pm_status pm_writer_finish(struct pm_writer *w, pm_error *err);
/* Leaves nothing behind when finish was not reached. */
void pm_writer_free(struct pm_writer *w);

#endif
