/*
 * A conversion at work, for the files that share it: convert.c (the course, and the quick way) and best.h (layer after layer, with calibration).
 */
#ifndef PM_CONVERT_CONVERSION_H
#define PM_CONVERT_CONVERSION_H

#include "convert/calibrate.h"
#include "convert/dtype.h"
#include "convert/family.h"
#include "convert/partial.h"
#include "convert/writer.h"

struct pm_conversion {
    const pm_convert_params *params;
    struct pm_source source;
    const struct pm_family *family; /* NULL: not known, which only --vocab-only allows */
    bool own_template;              /* the checkpoint has none, so it is the family's */
    struct pm_plan plan;
    struct pm_dtype_choice dtype;
    struct pm_writer writer;
    struct pm_pool *pool;
    json_t *provenance, *errors;    /* errors: linear -> relative error */
    struct pm_buf tokenizer;
    size_t n_exact;                 /* linears whose integers and scales were taken as they are */
    struct pm_partial partial;      /* of best.c; kept until the output is complete */
    bool best;                      /* error compensation from calibration, not rounding alone */
    bool best_head;                 /* for the head too */
    struct pm_calibration calibration;  /* with `best` */
    json_t *budget;                 /* what became of a budget of bits per weight, for the provenance; NULL: none was given. Owned */
};

/* Remembers a linear's relative error for the provenance. */
void pm_conversion_note(struct pm_conversion *c, const char *name, double err2, double sum2);

/* Gives linears of the layers more bits, as params->budget allows (budget.c). The description must be complete, the quality chosen. */
pm_status pm_budget_spend(struct pm_conversion *c, pm_error *err);

/* Every tensor of every layer, with calibration (best.c), and with best_head the final norm and the head. The rest of the file is written by the caller. */
pm_status pm_best_layers(struct pm_conversion *c, pm_error *err);

#endif
