/* Loops of matching and geometry for which NumPy needs many passes over memory.
 *
 * Each function has a counterpart in featherglue.matching or featherglue.geometry that gives the same
 * result up to rounding. Arrays are contiguous unless a stride is given; sizes are checked by the
 * caller.
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

#define LEAST_EXPONENT -87.0f /* exp of it is a normal number in float32 */

/* exp(x) from x and x / log(2) as an integer, to 2e-7 relative. Cody-Waite reduction and the
 * polynomial of Cephes' expf. */
static inline float exp_from(float x, int32_t power) {
    float r = x - (float)power * 0.693359375f + (float)power * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = (power + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}

/* For x in [LEAST_EXPONENT, 0]. */
static inline float exp_negative(float x) {
    return exp_from(x, (int32_t)(x * 1.44269504f - 0.5f)); /* rounds, as x <= 0 */
}

/* For x in [LEAST_EXPONENT, 87]. */
static inline float exp_small(float x) {
    return exp_from(x, (int32_t)(x * 1.44269504f + 127.5f) - 127); /* rounds, as the sum is > 0 */
}

/* Mutual pairs: each row with its best column, if the row's value exceeds a threshold and is the
 * highest of that column. Of equal rows the first counts.
 *
 * best: (rows,) columns; top: (rows,) values there; highest: of the columns, overwritten; pairs:
 * (rows, 2); scores: (rows,), may be `top`. Returns the number of pairs.
 */
static inline int64_t take_mutual(int64_t rows, const int64_t *best, const float *top, float threshold,
                                  float *highest, int64_t *pairs, float *scores) {
    int64_t count = 0;
    for (int64_t i = 0; i < rows; i++) {
        float value = top[i];
        if (value > threshold && value == highest[best[i]]) {
            highest[best[i]] = INFINITY; /* taken */
            pairs[2 * count] = i;
            pairs[2 * count + 1] = best[i];
            scores[count++] = value;
        }
    }
    return count;
}

#endif
