/* Matrix products of small tiles that stay in registers. */
#ifndef FEATHERGLUE_PRODUCTS_H
#define FEATHERGLUE_PRODUCTS_H

#include "kernels.h"

#if defined(__AVX__)
#include <immintrin.h>
#endif

typedef float Lanes __attribute__((vector_size(32)));
typedef int32_t Integers __attribute__((vector_size(32)));
typedef float Loaded __attribute__((vector_size(32), aligned(4), may_alias));

#define WIDE 16  /* columns of a tile of weights, 8 for the last tile of an odd number of eights */
#define ROWS 6   /* rows that are multiplied by a wide tile at once */
#define GROUP 12 /* rows that are multiplied by a narrow tile at once, a multiple of ROWS */

static inline Lanes load(const float *from) { return *(const Loaded *)from; }
static inline void store(float *to, Lanes value) { *(Loaded *)to = value; }
static inline Lanes all(float x) { return (Lanes){x, x, x, x, x, x, x, x}; }
static inline Lanes higher_of(Lanes a, Lanes b) {
#if defined(__AVX__)
    return _mm256_max_ps(a, b);
#else
    for (int i = 0; i < 8; i++) a[i] = max_of(a[i], b[i]);
    return a;
#endif
}

/* A bit for each lane of a comparison that holds, the first lane lowest. */
static inline int bits_of(Integers mask) {
#if defined(__AVX__)
    return _mm256_movemask_ps((__m256)mask);
#else
    int bits = 0;
    for (int i = 0; i < 8; i++) bits |= (mask[i] & 1) << i;
    return bits;
#endif
}

/* `exp_negative` of eight values, those below LEAST_EXPONENT as if they were equal to it. */
static inline Lanes exp_lanes(Lanes x) {
    x = higher_of(x, all(LEAST_EXPONENT));
    Integers power = __builtin_convertvector(x * 1.44269504f - 0.5f, Integers);
    Lanes whole = __builtin_convertvector(power, Lanes);
    Lanes r = x - whole * 0.693359375f + whole * 2.12194440e-4f;
    Lanes p = 1.9875691500e-4f * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * (Lanes)((power + 127) << 23);
}

static inline float sum_of(Lanes x) {
    float sum = 0;
    for (int i = 0; i < 8; i++) sum += x[i];
    return sum;
}

/* sum += a · b: rows of a are `lda` apart, b is (n, 8 vectors). */
#define DEFINE_PRODUCT(NAME, NUM_ROWS, NUM_VECTORS)                                                \
    static inline void NAME(const float *a, int64_t lda, const float *b, int64_t ldb, int64_t n,   \
                            Lanes sum[NUM_ROWS][NUM_VECTORS]) {                                    \
        for (int64_t k = 0; k < n; k++) {                                                          \
            Lanes w[NUM_VECTORS];                                                                  \
            for (int v = 0; v < NUM_VECTORS; v++) w[v] = load(b + k * ldb + 8 * v);                \
            for (int r = 0; r < NUM_ROWS; r++) {                                                   \
                Lanes x = all(a[r * lda + k]);                                                     \
                for (int v = 0; v < NUM_VECTORS; v++) sum[r][v] += x * w[v];                       \
            }                                                                                      \
        }                                                                                          \
    }
DEFINE_PRODUCT(multiply_wide, ROWS, 2)
DEFINE_PRODUCT(multiply_narrow, GROUP, 1)

static inline int64_t round_up(int64_t value, int64_t step) {
    return (value + step - 1) / step * step;
}

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

#endif
