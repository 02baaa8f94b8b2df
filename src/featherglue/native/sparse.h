/* Products of sparse weights with tiles of activations.
 *
 * A tile holds many positions (keypoints or pixels) of each channel. Every weight that is not zero
 * is multiplied by all positions of its input at once, so the places of the weights need no order.
 * The sums of an output stay in registers.
 */
#ifndef FEATHERGLUE_SPARSE_H
#define FEATHERGLUE_SPARSE_H

#include "products.h"

#define INLINE static inline __attribute__((always_inline))
#define SHARING 4 /* outputs that share their inputs in a product of blocks */

/* Weights of a layer. Group g of `block` outputs has the inputs offset[start[g]] … at byte offsets
 * from the start of a tile, and `block` weights for each of them. With blocks of one output, the
 * inputs of each are an even number. */
typedef struct {
    int64_t outputs, block;
    const int32_t *start, *offset;
    const float *weights, *bias;
} Product;

/* Reads the five numbers of a product: outputs, block, and where start, offset and the pair of
 * weights and bias begin in `indices` and `values`. Returns what follows. */
static inline const int64_t *read_product(const int64_t *plan, const int32_t *indices,
                                          const float *values, Product *out) {
    out->outputs = plan[0];
    out->block = plan[1];
    out->start = indices + plan[2];
    out->offset = indices + plan[3];
    out->bias = values + plan[4];
    out->weights = out->bias + out->outputs;
    return plan + 5;
}

/* Lanes i of a tile: rows of 16 positions that are `row` bytes apart. */
INLINE Lanes part(const char *x, int64_t row, int i) {
    return *(const Loaded *)(x + i / 2 * row + i % 2 * 32);
}

/* Blocks of one output. An odd and an even input have sums of their own with few vectors, so that
 * the additions do not wait for each other. */
INLINE void multiply_singles(const Product *p, const char *x, float *out, const int vectors,
                             const int64_t row, int add, int relu) {
    const int chains = vectors <= 4 ? 2 : 1;
    for (int64_t o = 0; o < p->outputs; o++) {
        float *to = out + o * vectors * 8;
        Lanes sum[2][8];
        for (int i = 0; i < vectors; i++) {
            sum[0][i] = all(p->bias[o]);
            if (add) sum[0][i] += load(to + 8 * i);
            sum[1][i] = all(0);
        }
        for (int32_t k = p->start[o], end = p->start[o + 1]; k < end; k += 2)
            for (int j = 0; j < 2; j++) {
                const char *from = x + p->offset[k + j];
                float weight = p->weights[k + j];
                for (int i = 0; i < vectors; i++)
                    sum[j % chains][i] += weight * part(from, row, i);
            }
        for (int i = 0; i < vectors; i++) {
            if (chains == 2) sum[0][i] += sum[1][i];
            store(to + 8 * i, relu ? higher_of(sum[0][i], all(0)) : sum[0][i]);
        }
    }
}

/* Blocks of SHARING outputs. */
INLINE void multiply_groups(const Product *p, const char *x, float *out, const int vectors,
                            const int64_t row, int add, int relu) {
    for (int64_t o = 0; o < p->outputs; o += SHARING)
        for (int h = 0; h < vectors / 2; h++) {
            float *to = out + o * vectors * 8 + h * 16;
            Lanes sum[SHARING][2];
            for (int r = 0; r < SHARING; r++)
                for (int i = 0; i < 2; i++) {
                    sum[r][i] = all(p->bias[o + r]);
                    if (add) sum[r][i] += load(to + r * vectors * 8 + 8 * i);
                }
            for (int32_t k = p->start[o / SHARING], end = p->start[o / SHARING + 1]; k < end; k++) {
                const char *from = x + p->offset[k] + h * row;
                const float *weights = p->weights + (int64_t)k * SHARING;
                Lanes first = part(from, row, 0), second = part(from, row, 1);
                for (int r = 0; r < SHARING; r++) {
                    sum[r][0] += weights[r] * first;
                    sum[r][1] += weights[r] * second;
                }
            }
            for (int r = 0; r < SHARING; r++)
                for (int i = 0; i < 2; i++)
                    store(to + r * vectors * 8 + 8 * i,
                          relu ? higher_of(sum[r][i], all(0)) : sum[r][i]);
        }
}

/* out (outputs, 8 · vectors) = weights · x + bias, added to `out` if `add`. */
INLINE void multiply(const Product *p, const void *x, float *out, const int vectors,
                     const int64_t row, int add, int relu) {
    if (p->block == 1)
        multiply_singles(p, x, out, vectors, row, add, relu);
    else
        multiply_groups(p, x, out, vectors, row, add, relu);
}
#endif
