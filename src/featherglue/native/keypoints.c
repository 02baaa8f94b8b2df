/* Non-maximum suppression and descriptors: see featherglue/matching/nms.py and keypoints.py. */
#include "kernels.h"

/* Element-wise maximum; `out` may be `a`. */
static void higher(const float *a, const float *b, float *out, int64_t n) {
#pragma omp simd
    for (int64_t j = 0; j < n; j++) out[j] = max_of(a[j], b[j]);
}

/* Maximum over windows of `side` values: out[j] over from[j] .. from[j + side - 1], by doubling.
 * `from` and `other` hold n + side values each and are overwritten. */
static void window_maxima(float *from, float *other, float *out, int64_t n, int64_t side) {
    int64_t width = 1, last = n + side;
    while (2 * width <= side) {
        last -= width;
        higher(from, from + width, other, last);
        float *swap = from;
        from = other;
        other = swap;
        width *= 2;
    }
    higher(from, from + side - width, out, n);
}

/* Pixels above a threshold without a higher one in the square of `radius` around them.
 *
 * scores: (height, width), at least 0; work: (height + 2 radius + 2) rows of `width` floats and
 * 2 (width + 2 radius + 1) more; found: `capacity` places for flat indices, ascending. Returns their
 * number; only the first `capacity` are written.
 */
EXPORT int64_t score_maxima(const float *scores, int64_t height, int64_t width, int64_t radius,
                            float threshold, float *work, int64_t *found, int64_t capacity) {
    int64_t side = 2 * radius + 1;
    float *columns = work, *line = work + (height + side + 1) * width, *other = line + width + side;
    /* Along the rows first. Rows of zeros lie above and below the map. */
    memset(columns, 0, (size_t)(radius * width) * sizeof *columns);
    memset(columns + (radius + height) * width, 0,
           (size_t)((side + 1 - radius) * width) * sizeof *columns);
    for (int64_t y = 0; y < height; y++) {
        memset(line, 0, (size_t)radius * sizeof *line);
        memcpy(line + radius, scores + y * width, (size_t)width * sizeof *line);
        memset(line + radius + width, 0, (size_t)(side - radius) * sizeof *line);
        window_maxima(line, other, columns + (radius + y) * width, width, side);
    }
    /* Down the columns: each step lets a row hold the maximum of twice as many rows. */
    int64_t step = 1, rows = height + side;
    while (2 * step <= side) {
        rows -= step;
        for (int64_t y = 0; y < rows; y++)
            higher(columns + y * width, columns + (y + step) * width, columns + y * width, width);
        step *= 2;
    }
    int64_t count = 0;
    for (int64_t y = 0; y < height; y++) {
        const float *first = columns + y * width, *second = first + (side - step) * width;
        const float *row = scores + y * width;
        for (int64_t x0 = 0; x0 < width; x0 += 64) {
            int64_t x1 = x0 + 64 < width ? x0 + 64 : width;
            int any = 0;
#pragma omp simd reduction(| : any)
            for (int64_t x = x0; x < x1; x++)
                any |= (row[x] > threshold) & (row[x] >= first[x]) & (row[x] >= second[x]);
            if (!any) continue;
            for (int64_t x = x0; x < x1; x++)
                if (row[x] > threshold && row[x] >= first[x] && row[x] >= second[x]) {
                    if (count < capacity) found[count] = y * width + x;
                    count++;
                }
        }
    }
    return count;
}

static void suppress(uint8_t *suppressed, int64_t height, int64_t width, int64_t radius,
                     int64_t pixel) {
    int64_t y = pixel / width, x = pixel % width;
    int64_t top = y > radius ? y - radius : 0, bottom = y + radius < height ? y + radius : height - 1;
    int64_t left = x > radius ? x - radius : 0, right = x + radius < width ? x + radius : width - 1;
    for (int64_t row = top; row <= bottom; row++)
        memset(suppressed + row * width + left, 1, (size_t)(right - left + 1));
}

static int is_maximum(const float *scores, const uint8_t *suppressed, int64_t height, int64_t width,
                      int64_t radius, int64_t pixel) {
    int64_t y = pixel / width, x = pixel % width;
    int64_t top = y > radius ? y - radius : 0, bottom = y + radius < height ? y + radius : height - 1;
    int64_t left = x > radius ? x - radius : 0, right = x + radius < width ? x + radius : width - 1;
    float score = scores[pixel];
    /* An adjacent pixel is the most likely to be higher: compare with the four of them first. */
    if ((x > 0 && scores[pixel - 1] > score && !suppressed[pixel - 1]) ||
        (x + 1 < width && scores[pixel + 1] > score && !suppressed[pixel + 1]))
        return 0;
    if ((y > 0 && scores[pixel - width] > score && !suppressed[pixel - width]) ||
        (y + 1 < height && scores[pixel + width] > score && !suppressed[pixel + width]))
        return 0;
    for (int64_t row = top; row <= bottom; row++)
        for (int64_t place = row * width + left; place <= row * width + right; place++)
            if (scores[place] > score && !suppressed[place]) return 0;
    return 1;
}

/* Second and third iteration: maxima among the pixels that no maximum suppresses.
 *
 * maxima: (count,) flat indices; floor: lowest score of a recovered pixel; suppressed: (height,
 * width) bytes, overwritten; rest and found: `capacity` flat indices each. Returns the number of
 * recovered pixels in `found`, or -1 if more than about `capacity` pixels are left.
 */
EXPORT int64_t recovered_maxima(const float *scores, int64_t height, int64_t width, int64_t radius,
                                float floor, const int64_t *maxima, int64_t count,
                                uint8_t *suppressed, int64_t *rest, int64_t *found,
                                int64_t capacity) {
    memset(suppressed, 0, (size_t)(height * width));
    for (int64_t i = 0; i < count; i++) suppress(suppressed, height, width, radius, maxima[i]);
    int64_t left = 0, recovered = 0, pixels = height * width;
    for (int64_t start = 0; start < pixels; start += 64) {
        int64_t end = start + 64 < pixels ? start + 64 : pixels;
        float highest = scores[start];
#pragma omp simd reduction(max : highest)
        for (int64_t place = start; place < end; place++)
            highest = max_of(highest, scores[place]);
        if (highest < floor) continue;
        if (left + end - start > capacity) return -1;
        for (int64_t place = start; place < end; place++) {
            rest[left] = place;
            left += (scores[place] >= floor) & (suppressed[place] == 0);
        }
    }
    for (int iteration = 0; iteration < 2 && left; iteration++) {
        int64_t before = recovered, kept = 0;
        for (int64_t i = 0; i < left; i++)
            if (is_maximum(scores, suppressed, height, width, radius, rest[i]))
                found[recovered++] = rest[i];
        for (int64_t i = before; i < recovered; i++)
            suppress(suppressed, height, width, radius, found[i]);
        for (int64_t i = 0; i < left; i++)
            if (!suppressed[rest[i]]) rest[kept++] = rest[i];
        left = kept;
    }
    return recovered;
}

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
