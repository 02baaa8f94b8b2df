/* Attention layers of SuperGlue with products in bfloat16 and sums in float32: see matcher.c.
 *
 * The instruction multiplies two values of each of 16 lanes at once: twice the rate of float32. A
 * pair is two such values, of neighboring inputs, in 32 bits. Features between layers, softmax and
 * the score matrix stay in float32.
 */
#include "matcher.h"

/* Whether the processor multiplies bfloat16, and the compiler knows how. */
EXPORT int has_bfloat16(void);

#if defined(__x86_64__) && defined(__AVX2__) && !defined(_WIN32) && \
    ((defined(__clang__) && __clang_major__ >= 12) || (!defined(__clang__) && __GNUC__ >= 11))
#include <immintrin.h>

#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")))
#define HELPER TARGET static inline __attribute__((always_inline))
#define HALF 12 /* rows that are multiplied at once: half a block */

EXPORT int has_bfloat16(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bf16");
}

HELPER __m512 lowest(void) { return _mm512_set1_ps(-INFINITY); }

/* sum += x · weights: HALF rows of pairs that are `ldx` apart, two tiles (pairs, 16) of pairs. */
HELPER void multiply_pairs(const uint32_t *x, int64_t ldx, const uint32_t *first,
                           const uint32_t *second, int64_t pairs, __m512 sum[HALF][2]) {
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh w0 = (__m512bh)_mm512_loadu_si512(first + k * WIDE);
        __m512bh w1 = (__m512bh)_mm512_loadu_si512(second + k * WIDE);
#pragma GCC unroll 12
        for (int r = 0; r < HALF; r++) {
            __m512bh value = (__m512bh)_mm512_set1_epi32((int)x[r * ldx + k]);
            sum[r][0] = _mm512_dpbf16_ps(sum[r][0], value, w0);
            sum[r][1] = _mm512_dpbf16_ps(sum[r][1], value, w1);
        }
    }
}

/* Store the sums of one or two tiles: each row times its scale, if there are scales, and at least
 * `least`. The loops are unrolled, so that the sums stay in registers. */
HELPER void store_sums(__m512 sum[HALF][2], int tiles, const float *scale, __m512 least, float *to,
                       int64_t ld) {
#pragma GCC unroll 12
    for (int r = 0; r < HALF; r++) {
        __m512 value = sum[r][0];
        if (scale) value = _mm512_mul_ps(value, _mm512_set1_ps(scale[r]));
        _mm512_storeu_ps(to + r * ld, _mm512_max_ps(least, value)); /* NaN stays */
    }
    if (tiles < 2) return;
#pragma GCC unroll 12
    for (int r = 0; r < HALF; r++) {
        __m512 value = sum[r][1];
        if (scale) value = _mm512_mul_ps(value, _mm512_set1_ps(scale[r]));
        _mm512_storeu_ps(to + r * ld + WIDE, _mm512_max_ps(least, value));
    }
}

/* Pairs of the lanes of two vectors. */
HELPER __m512i paired(__m512 first, __m512 second) {
    __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(first));
    __m512i high = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(second));
    return _mm512_or_si512(low, _mm512_slli_epi32(high, 16));
}

/* Rows of a block, whose width is a multiple of 16, as pairs (BLOCK, width / 2). */
HELPER void convert_rows(const float *from, int64_t ld, int64_t width, uint32_t *to) {
    for (int64_t i = 0; i < BLOCK; i++)
        for (int64_t c = 0; c < width; c += 16) {
            __m256i row = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(from + i * ld + c));
            _mm256_storeu_si256((__m256i *)(to + (i * width + c) / 2), row);
        }
}

/* out (BLOCK, outputs) = x · weights, plus the bias or plus `out`; x: (BLOCK, inputs / 2) pairs. */
TARGET static void apply_pairs(const Linear *layer, const uint32_t *x, float *out, int64_t ldo,
                               int add, int relu) {
    int64_t pairs = layer->inputs / 2;
    for (int64_t j = 0; j < layer->outputs; j += 2 * WIDE) {
        int tiles = j + WIDE < layer->outputs ? 2 : 1;
        const uint32_t *first = layer->pairs + j * pairs;
        const uint32_t *second = tiles == 2 ? first + WIDE * pairs : first;
        for (int64_t i = 0; i < BLOCK; i += HALF) {
            __m512 sum[HALF][2];
            float *to = out + i * ldo + j;
            for (int v = 0; v < 2; v++) {
                int64_t start = v < tiles ? v * WIDE : 0;
                __m512 bias = _mm512_loadu_ps(layer->bias + j + start);
#pragma GCC unroll 12
                for (int r = 0; r < HALF; r++)
                    sum[r][v] = add ? _mm512_add_ps(bias, _mm512_loadu_ps(to + r * ldo + start)) : bias;
            }
            multiply_pairs(x + i * pairs, pairs, first, second, pairs, sum);
            store_sums(sum, tiles, 0, relu ? _mm512_setzero_ps() : lowest(), to, ldo);
        }
    }
}

/* Queries as rows of pairs, keys of each head as tiles (padded / 16, head_dim / 2, 16) of pairs, and
 * values as tiles (inner / 16, padded / 2, 16) of pairs of keypoints. */
TARGET static void project_bfloat16(const Network *net, const Image *image, int64_t number,
                                    int64_t first, float *buffer) {
    const Layer *layer = &net->layers[number];
    int64_t inner = layer->heads * layer->head_dim, width = net->width, padded = image->padded;
    uint32_t *x = (uint32_t *)buffer, *rows = x + BLOCK * width / 2;
    float *out = (float *)rows + BLOCK * inner / 2;
    convert_rows(image->features + first * width, width, width, x);
    apply_pairs(&layer->queries, x, out, inner, 0, 0);
    convert_rows(out, inner, inner, (uint32_t *)image->queries + first * net->inner / 2);
    apply_pairs(&layer->keys, x, out, inner, 0, 0);
    convert_rows(out, inner, inner, rows);
    for (int64_t start = 0; start < inner / 2; start += layer->head_dim / 2)
        for (int64_t i = 0; i < BLOCK; i++) {
            uint32_t *tile = (uint32_t *)image->keys[number % 2] + start * padded +
                             (first + i) / WIDE * WIDE * (layer->head_dim / 2) + (first + i) % WIDE;
            for (int64_t c = 0; c < layer->head_dim / 2; c++)
                tile[c * WIDE] = rows[i * inner / 2 + start + c];
        }
    apply_pairs(&layer->values, x, out, inner, 0, 0);
    uint32_t *values = (uint32_t *)image->values[number % 2];
    for (int64_t c = 0; c < inner; c += WIDE)
        for (int64_t i = 0; i < BLOCK; i += 2) {
            const float *row = out + i * inner + c;
            __m512i pair = paired(_mm512_loadu_ps(row), _mm512_loadu_ps(row + inner));
            _mm512_storeu_si512(values + c * (padded / 2) + (first + i) / 2 * WIDE, pair);
        }
}

/* 2^x for x ≤ 0, to 6e-5 relative: bfloat16 has 4e-3. */
HELPER __m512 power_of_two(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, 0), rest = x - whole;
    __m512 p = _mm512_set1_ps(9.6181291e-3f) * rest + _mm512_set1_ps(5.5504109e-2f);
    p = p * rest + _mm512_set1_ps(2.4022651e-1f);
    p = p * rest + _mm512_set1_ps(6.9314718e-1f);
    p = p * rest + _mm512_set1_ps(1.0f);
    return _mm512_scalef_ps(p, whole);
}

/* Replace the logits of a row by their exponentials, relative to the highest, in bfloat16: the first
 * half of the row. Those beyond `count` become 0 up to a multiple of 16. Returns the sum. */
TARGET static float soften_row(float *row, int64_t count) {
    const __m512 scale = _mm512_set1_ps(1.44269504f);
    __m512 highest = lowest(), sum = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; j += 16) {
        __mmask16 valid = count - j < 16 ? (__mmask16)((1 << (count - j)) - 1) : 0xffff;
        highest = _mm512_mask_max_ps(highest, valid, highest, _mm512_loadu_ps(row + j));
    }
    __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
    for (int64_t j = 0; j < count; j += 16) {
        __mmask16 valid = count - j < 16 ? (__mmask16)((1 << (count - j)) - 1) : 0xffff;
        __m512 power = power_of_two((_mm512_loadu_ps(row + j) - top) * scale);
        power = _mm512_maskz_mov_ps(valid, power);
        sum += power;
        _mm256_storeu_si256((__m256i *)(row + j / 2), (__m256i)_mm512_cvtneps_pbh(power));
    }
    return _mm512_reduce_add_ps(sum);
}

/* Logits of a block and a head: (BLOCK, padded). */
TARGET static void compute_logits(const uint32_t *queries, int64_t ldq, const uint32_t *keys,
                                  int64_t pairs, float *logits, int64_t padded) {
    for (int64_t j = 0; j < padded; j += 2 * WIDE) {
        int tiles = j + WIDE < padded ? 2 : 1;
        const uint32_t *first = keys + j * pairs;
        const uint32_t *second = tiles == 2 ? first + WIDE * pairs : first;
        for (int64_t i = 0; i < BLOCK; i += HALF) {
            __m512 sum[HALF][2];
#pragma GCC unroll 12
            for (int r = 0; r < HALF; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
            multiply_pairs(queries + i * ldq, ldq, first, second, pairs, sum);
            store_sums(sum, tiles, 0, lowest(), logits + i * padded + j, padded);
        }
    }
}

/* messages (BLOCK, head_dim) = weights · values, `scale` applied to each row. Rows of weights are
 * `padded` pairs apart; values are tiles (head_dim / 16, padded / 2, 16) of pairs. */
TARGET static void add_pairs(const uint32_t *weights, int64_t padded, const uint32_t *values,
                             int64_t count, const float *scale, int64_t dim, float *messages,
                             int64_t ldm) {
    for (int64_t j = 0; j < dim; j += 2 * WIDE) {
        int tiles = j + WIDE < dim ? 2 : 1;
        const uint32_t *first = values + j * (padded / 2);
        const uint32_t *second = tiles == 2 ? first + WIDE * (padded / 2) : first;
        for (int64_t i = 0; i < BLOCK; i += HALF) {
            __m512 sum[HALF][2];
#pragma GCC unroll 12
            for (int r = 0; r < HALF; r++) sum[r][0] = sum[r][1] = _mm512_setzero_ps();
            multiply_pairs(weights + i * padded, padded, first, second, (count + 1) / 2, sum);
            store_sums(sum, tiles, scale + i, lowest(), messages + i * ldm + j, ldm);
        }
    }
}

TARGET static void update_bfloat16(const Network *net, int64_t number, const Image *image,
                                   const Image *other, int64_t first, float *buffer) {
    const Layer *layer = &net->layers[number];
    int64_t padded = other->padded, inner = layer->heads * layer->head_dim, width = net->width;
    float *messages = buffer, *hidden = messages + BLOCK * inner;
    float *logits = hidden + BLOCK * net->hidden;
    uint32_t *x = (uint32_t *)(logits + BLOCK * padded);
    const uint32_t *queries = (const uint32_t *)image->queries + first * net->inner / 2;
    for (int64_t head = 0; head < layer->heads; head++) {
        int64_t start = head * layer->head_dim;
        const uint32_t *keys = (const uint32_t *)other->keys[number % 2] + start / 2 * padded;
        const uint32_t *values = (const uint32_t *)other->values[number % 2] + start * (padded / 2);
        compute_logits(queries + start / 2, inner / 2, keys, layer->head_dim / 2, logits, padded);
        float scale[BLOCK];
        for (int i = 0; i < BLOCK; i++)
            scale[i] = 1 / soften_row(logits + i * padded, other->count);
        add_pairs((const uint32_t *)logits, padded, values, other->count, scale, layer->head_dim,
                  messages + start, inner);
    }
    float *features = image->features + first * width;
    convert_rows(features, width, width, x);
    apply_pairs(&layer->features, x, hidden, net->hidden, 0, 0);
    convert_rows(messages, inner, inner, x);
    apply_pairs(&layer->messages, x, hidden, net->hidden, 1, 1);
    convert_rows(hidden, net->hidden, layer->last.inputs, x);
    apply_pairs(&layer->last, x, features, width, 1, 0);
}

#define NUM_LINEARS 6 /* of a layer */

/* The linear layers of an attention layer. */
static void list_linears(Layer *layer, Linear *all[NUM_LINEARS]) {
    all[0] = &layer->queries;
    all[1] = &layer->keys;
    all[2] = &layer->values;
    all[3] = &layer->features;
    all[4] = &layer->messages;
    all[5] = &layer->last;
}

int64_t bfloat16_size(const Network *net) {
    int64_t size = 0;
    for (int64_t i = 0; i < net->num_layers; i++) {
        Layer layer = net->layers[i];
        Linear *all[NUM_LINEARS];
        list_linears(&layer, all);
        for (int k = 0; k < NUM_LINEARS; k++) size += all[k]->inputs * all[k]->outputs / 2;
    }
    return has_bfloat16() ? size : 0;
}

/* Weights of a linear layer as tiles (outputs / 16, inputs / 2, 16) of pairs. */
TARGET static void convert_weights(Linear *linear, uint32_t *to) {
    int64_t rows = linear->inputs * (linear->outputs / WIDE);
    for (int64_t k = 0; k < rows; k += 2) {
        const float *from = linear->weights + k * WIDE;
        __m512i pair = paired(_mm512_loadu_ps(from), _mm512_loadu_ps(from + WIDE));
        _mm512_storeu_si512(to + k / 2 * WIDE, pair);
    }
    linear->pairs = to;
}

void use_bfloat16(Network *net, float *memory) {
    if (!has_bfloat16()) return;
    uint32_t *to = (uint32_t *)memory;
    for (int64_t i = 0; i < net->num_layers; i++) {
        Linear *all[NUM_LINEARS];
        list_linears(&net->layers[i], all);
        for (int k = 0; k < NUM_LINEARS; k++) {
            convert_weights(all[k], to);
            to += all[k]->inputs * all[k]->outputs / 2;
        }
    }
    net->project = project_bfloat16;
    net->update = update_bfloat16;
}

#else

EXPORT int has_bfloat16(void) { return 0; }

int64_t bfloat16_size(const Network *net) {
    (void)net;
    return 0;
}

void use_bfloat16(Network *net, float *memory) {
    (void)net;
    (void)memory;
}
#endif
