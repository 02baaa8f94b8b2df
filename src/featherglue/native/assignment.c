/* Sinkhorn's algorithm and mutual matches: see featherglue/matching/assignment.py. */
#include "kernels.h"

static void exponentiate(const float *scores, float *row, int64_t columns, float bin) {
    float highest = bin;
#pragma omp simd reduction(max : highest)
    for (int64_t j = 0; j < columns; j++) highest = max_of(highest, scores[j]);
    for (int64_t j = 0; j < columns; j++) row[j] = max_of(scores[j] - highest, LEAST_EXPONENT);
    row[columns] = max_of(bin - highest, LEAST_EXPONENT);
    /* A loop of its own: the compiler does not vectorize it together with the bound. */
#pragma omp simd
    for (int64_t j = 0; j <= columns; j++) row[j] = exp_negative(row[j]);
}

static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < n; j++) sum += a[j] * b[j];
    return sum;
}

/* Assignment probabilities with dustbins.
 *
 * scores: (rows, columns) with a row stride; kernel: (rows + 1, stride_out), stride_out a multiple
 * of 8 and at least columns + 1, is overwritten by the result, 0 beyond it; work: 2 stride_out +
 * rows + 1 floats.
 * Returns 1, and no result, if a sum falls below `least`: the kernel then needs rescaling.
 */
EXPORT int optimal_transport(const float *scores, int64_t rows, int64_t columns, int64_t stride,
                             float bin, int64_t iterations, float least, float *kernel,
                             int64_t stride_out, float *work) {
    float *b = work, *total = work + stride_out, *a = work + 2 * stride_out;
    for (int64_t i = 0; i < rows; i++) {
        exponentiate(scores + i * stride, kernel + i * stride_out, columns, bin);
        for (int64_t j = columns + 1; j < stride_out; j++) kernel[i * stride_out + j] = 0;
    }
    for (int64_t j = 0; j < stride_out; j++) {
        kernel[rows * stride_out + j] = j <= columns ? 1.0f : 0.0f;
        b[j] = j <= columns ? 1.0f : 0.0f;
    }
    for (int64_t step = 0; step < iterations; step++) {
        memset(total, 0, (size_t)stride_out * sizeof *total);
        int64_t i = 0;
        for (; i + 4 <= rows + 1; i += 4) { /* four rows share a pass over the totals */
            const float *row = kernel + i * stride_out;
            float factors[4];
            for (int64_t k = 0; k < 4; k++) {
                float sum = dot(row + k * stride_out, b, stride_out);
                if (!(sum >= least)) return 1;
                factors[k] = a[i + k] = (i + k == rows ? (float)columns : 1.0f) / sum;
            }
            const float *row1 = row + stride_out, *row2 = row1 + stride_out,
                        *row3 = row2 + stride_out;
            float f0 = factors[0], f1 = factors[1], f2 = factors[2], f3 = factors[3];
#pragma omp simd
            for (int64_t j = 0; j < stride_out; j++)
                total[j] += f0 * row[j] + f1 * row1[j] + f2 * row2[j] + f3 * row3[j];
        }
        for (; i <= rows; i++) {
            const float *row = kernel + i * stride_out;
            float sum = dot(row, b, stride_out);
            if (!(sum >= least)) return 1;
            float factor = a[i] = (i == rows ? (float)columns : 1.0f) / sum;
#pragma omp simd
            for (int64_t j = 0; j < stride_out; j++) total[j] += factor * row[j];
        }
        for (int64_t j = 0; j <= columns; j++) {
            if (!(total[j] >= least)) return 1;
            b[j] = (j == columns ? (float)rows : 1.0f) / total[j];
        }
    }
    for (int64_t i = 0; i <= rows; i++) {
        float *row = kernel + i * stride_out, factor = iterations ? a[i] : 1.0f;
#pragma omp simd
        for (int64_t j = 0; j < stride_out; j++) row[j] *= factor * b[j];
    }
    return 0;
}

/* Pairs that are each other's highest value, if it exceeds a threshold.
 *
 * values: (rows, columns) with a row stride; best: (rows,); highest: (columns,) is overwritten;
 * pairs: (rows, 2); scores: (rows,). Returns the number of pairs, ascending in the row; of equal
 * values in a row or column the first counts.
 */
EXPORT int64_t mutual_pairs(const float *values, int64_t rows, int64_t columns, int64_t stride,
                            float threshold, int64_t *best, float *highest, int64_t *pairs,
                            float *scores) {
    for (int64_t j = 0; j < columns; j++) highest[j] = -INFINITY;
    for (int64_t i = 0; i < rows; i++) {
        const float *row = values + i * stride;
        float top = -INFINITY;
#pragma omp simd reduction(max : top)
        for (int64_t j = 0; j < columns; j++) top = max_of(top, row[j]);
#pragma omp simd
        for (int64_t j = 0; j < columns; j++) highest[j] = max_of(highest[j], row[j]);
        best[i] = 0;
        for (int64_t j = 0; j < columns; j++)
            if (row[j] == top) {
                best[i] = j;
                break;
            }
        scores[i] = columns > 0 ? row[best[i]] : top;
    }
    return take_mutual(rows, best, scores, threshold, highest, pairs, scores);
}
