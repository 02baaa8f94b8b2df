/* Loops of matching for which NumPy needs many passes over memory.
 *
 * Each function has a counterpart in featherglue.matching that gives the same result up to
 * rounding. Arrays are contiguous unless a stride is given; sizes are checked by the caller.
 */
#ifndef FEATHERGLUE_KERNELS_H
#define FEATHERGLUE_KERNELS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(_WIN32)
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

#define LANES 8 /* matches whose local maps are fitted at once */

static inline float max_of(float a, float b) { return a > b ? a : b; }
static inline float min_of(float a, float b) { return a < b ? a : b; }

#endif
