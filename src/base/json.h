/*
 * Jansson with the manners of this library: parse errors carry the byte offset, getters name the field they miss.
 * Depth is limited by Jansson (2048), size by the caller. Numbers: integers as 64 bit, reals as double.
 */
#ifndef PM_BASE_JSON_H
#define PM_BASE_JSON_H

#include "base/error.h"

#include <jansson.h>

/* Parses len bytes; `what` names the text in messages ("config.json"). Duplicate keys: the last wins (pass reject_dup to refuse). NULs in strings are allowed.
   An integer that 64 bits cannot hold becomes a real. */
json_t *pm_json_parse(const char *text, size_t len, bool reject_dup, const char *what, pm_error *err);
/* Reads and parses a file of at most max bytes. PM_ERR_MISSING when there is none. */
pm_status pm_json_load(const char *path, size_t max, json_t **out, pm_error *err);

/* Field getters. `what` names the object in messages. The `opt` forms leave *out alone when the field is absent or null. */
pm_status pm_json_u32(const json_t *obj, const char *what, const char *key, uint32_t min, uint32_t max, uint32_t *out, pm_error *err);
pm_status pm_json_opt_u32(const json_t *obj, const char *what, const char *key, uint32_t min, uint32_t max, uint32_t *out, pm_error *err);
pm_status pm_json_f64(const json_t *obj, const char *what, const char *key, double *out, pm_error *err);
pm_status pm_json_opt_f64(const json_t *obj, const char *what, const char *key, double *out, pm_error *err);
pm_status pm_json_opt_bool(const json_t *obj, const char *what, const char *key, bool *out, pm_error *err);
/* Borrowed object. */
pm_status pm_json_opt_obj(const json_t *obj, const char *what, const char *key, const json_t **out, pm_error *err);
/* Borrowed string; it may not contain NULs. */
pm_status pm_json_str(const json_t *obj, const char *what, const char *key, const char **out, pm_error *err);
pm_status pm_json_opt_str(const json_t *obj, const char *what, const char *key, const char **out, pm_error *err);

#endif
