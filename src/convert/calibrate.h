/*
 * Calibration: which tokens a model sees while it is quantised, and the memory in which their activations wait from layer to layer.
 */
#ifndef PM_CONVERT_CALIBRATE_H
#define PM_CONVERT_CALIBRATE_H

#include "pumice.h"

#define PM_CALIBRATE_WINDOW 512         /* tokens of a window; windows do not see each other */
#define PM_CALIBRATE_LEAST 2048         /* tokens that a text must have */
#define PM_CALIBRATE_MOST ((size_t)49152)   /* tokens that are used */
#define PM_CALIBRATE_SMALL ((size_t)65536)  /* the same for four bits in groups of 64 columns and less: more scales to be found, more freedom to follow the text too closely */

struct pm_conversion;

struct pm_calibration {
    int32_t *ids;           /* [n_window][window], owned */
    size_t n_window, window;
    uint64_t text_bytes;    /* of the source */
};

/* The tokens of the user's file, or of the built-in text: windows spread evenly over it. The conversion's description must be complete. */
pm_status pm_calibration_open(struct pm_calibration *cal, struct pm_conversion *c, pm_error *err);
void pm_calibration_free(struct pm_calibration *cal);

/* The built-in text: plain passages, and chats as JSON lines. data/README.md has the sources. */
extern const char pm_builtin_text[], pm_builtin_chats[];
extern const size_t pm_builtin_text_len, pm_builtin_chats_len;

/* Memory that may be larger than one would like to keep: up to PM_SPILL_BYTES it is plain memory, beyond that a file without a name in the folder of `beside`. */
#define PM_SPILL_BYTES (128u << 20)
struct pm_spill {
    float *data;
    size_t bytes;
};
pm_status pm_spill_open(struct pm_spill *s, size_t n_float, const char *beside, pm_error *err);
/* n floats from `first` on are not needed for a while: those that lie in the file leave memory. */
void pm_spill_drop(const struct pm_spill *s, size_t first, size_t n);
void pm_spill_close(struct pm_spill *s);

#endif
