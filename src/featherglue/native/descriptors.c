/* Descriptors of keypoints: see featherglue/matching/keypoints.py. */
#include "kernels.h"

/* Descriptors at cell coordinates, bilinearly between the normalized descriptors of four cells.
 *
 * map: (rows, columns, dim); at: (count, 2), x and y in cells, inside the map; out: (count, dim),
 * L2-normalized.
 */
EXPORT void sample_descriptors(const float *map, int64_t rows, int64_t columns, int64_t dim,
                               const float *at, int64_t count, float *out) {
    int64_t last_x = columns > 1 ? columns - 2 : 0, last_y = rows > 1 ? rows - 2 : 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t x = (int64_t)at[2 * i], y = (int64_t)at[2 * i + 1];
        x = x < last_x ? x : last_x;
        y = y < last_y ? y : last_y;
        float fx = at[2 * i] - (float)x, fy = at[2 * i + 1] - (float)y;
        int64_t right = x + 1 < columns ? x + 1 : x, below = y + 1 < rows ? y + 1 : y;
        const float *corners[4] = {map + (y * columns + x) * dim, map + (y * columns + right) * dim,
                                   map + (below * columns + x) * dim,
                                   map + (below * columns + right) * dim};
        float weights[4] = {(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx};
        for (int k = 0; k < 4; k++) {
            const float *corner = corners[k];
            float square = 0;
#pragma omp simd reduction(+ : square)
            for (int64_t d = 0; d < dim; d++) square += corner[d] * corner[d];
            weights[k] /= max_of(sqrtf(square), 1e-12f);
        }
        float *row = out + i * dim, square = 0;
#pragma omp simd reduction(+ : square)
        for (int64_t d = 0; d < dim; d++) {
            row[d] = weights[0] * corners[0][d] + weights[1] * corners[1][d] +
                     weights[2] * corners[2][d] + weights[3] * corners[3][d];
            square += row[d] * row[d];
        }
        float scale = 1.0f / max_of(sqrtf(square), 1e-12f);
#pragma omp simd
        for (int64_t d = 0; d < dim; d++) row[d] *= scale;
    }
}
