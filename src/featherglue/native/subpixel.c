/* Alignment of windows by Gauss-Newton on the translation: see featherglue/matching/subpixel.py. */
#include "kernels.h"

#define MAX_SAMPLES 1024 /* of a window */
#define MAX_SIDE 34      /* px, of a window with its border */

typedef struct {
    const uint8_t *pixels;
    int64_t height, width;
} Image;

/* The samples of a window in image 0 and what a Gauss-Newton step needs of them. */
typedef struct {
    float gradient_x[MAX_SAMPLES], gradient_y[MAX_SAMPLES], values[MAX_SAMPLES]; /* times weights */
    float products[2], sums[2], step[2][2];
    float mean, contrast, tensor[3];
} Template;

typedef struct {
    float mean, contrast, products[3];
} Comparison;

static int64_t clamped(int64_t value, int64_t size) {
    return value < 0 ? 0 : value < size ? value : size - 1;
}

/* Bilinear samples at integer offsets from a point: (side, side), the border repeated. */
static void sample_square(const Image *image, float x, float y, int64_t side, float *out) {
    float fx = x - floorf(x), fy = y - floorf(y);
    int64_t left = (int64_t)floorf(x) - side / 2, top = (int64_t)floorf(y) - side / 2;
    float line[2][MAX_SIDE];
    for (int64_t row = 0; row <= side; row++) {
        const uint8_t *pixels = image->pixels + clamped(top + row, image->height) * image->width;
        uint8_t values[MAX_SIDE + 1];
        if (left >= 0 && left + side < image->width)
            memcpy(values, pixels + left, (size_t)side + 1);
        else
            for (int64_t i = 0; i <= side; i++) values[i] = pixels[clamped(left + i, image->width)];
        float *now = line[row % 2], *before = line[(row + 1) % 2];
        for (int64_t i = 0; i < side; i++)
            now[i] = (float)values[i] + fx * ((float)values[i + 1] - (float)values[i]);
        if (row > 0)
            for (int64_t i = 0; i < side; i++)
                out[(row - 1) * side + i] = before[i] + fy * (now[i] - before[i]);
    }
}

static void make_template(const Image *image, const float *point, const float *map,
                          const int32_t *places, const float *weights, int64_t samples,
                          int64_t side, float damping, Template *t) {
    float square[MAX_SIDE * MAX_SIDE];
    sample_square(image, point[0], point[1], side, square);
    for (int64_t i = 0; i < samples; i++) {
        const float *at = square + places[i];
        t->values[i] = at[0];
        t->gradient_x[i] = at[1] - at[-1];
        t->gradient_y[i] = at[side] - at[-side];
    }
    float mean = 0, variance = 0;
#pragma omp simd reduction(+ : mean)
    for (int64_t i = 0; i < samples; i++) mean += weights[i] * t->values[i];
#pragma omp simd reduction(+ : variance)
    for (int64_t i = 0; i < samples; i++) {
        t->values[i] -= mean;
        variance += weights[i] * t->values[i] * t->values[i];
    }
    float contrast = sqrtf(variance) + 1e-3f, scale = 1 / contrast;
    float xx = 0, yy = 0, xy = 0, p0 = 0, p1 = 0, s0 = 0, s1 = 0;
#pragma omp simd reduction(+ : xx, yy, xy, p0, p1, s0, s1)
    for (int64_t i = 0; i < samples; i++) {
        float gx = t->gradient_x[i], gy = t->gradient_y[i], value = t->values[i] * scale;
        float wx = weights[i] * gx, wy = weights[i] * gy;
        xx += wx * gx;
        yy += wy * gy;
        xy += wx * gy;
        p0 += wx * value;
        p1 += wy * value;
        s0 += wx;
        s1 += wy;
        t->gradient_x[i] = wx;
        t->gradient_y[i] = wy;
        t->values[i] = weights[i] * value;
    }
    float half = 0.5f * scale; /* central differences of the normalized window */
    xx *= half * half;
    yy *= half * half;
    xy *= half * half;
    t->tensor[0] = xx;
    t->tensor[1] = yy;
    t->tensor[2] = xy;
    float more = damping * (xx + yy) + 1e-6f;
    xx += more;
    yy += more;
    float factor = half / (xx * yy - xy * xy);
    for (int i = 0; i < 2; i++) {
        t->step[i][0] = (map[2 * i] * yy - map[2 * i + 1] * xy) * factor;
        t->step[i][1] = (map[2 * i + 1] * xx - map[2 * i] * xy) * factor;
    }
    t->products[0] = p0;
    t->products[1] = p1;
    t->sums[0] = s0;
    t->sums[1] = s1;
    t->mean = mean;
    t->contrast = contrast;
}

static inline uint16_t two_pixels(const uint8_t *left, const uint8_t *right) {
    return (uint16_t)(*left | *right << 8);
}

/* Bilinear samples of image 1 at `center` + map · grid, minus the mean of the template. */
static void sample_window(const Image *image, const float *center, const float *map,
                          const float *grid_x, const float *grid_y, int64_t samples, float half,
                          float mean, float *out) {
    float across = half * (fabsf(map[0]) + fabsf(map[1]));
    float down = half * (fabsf(map[2]) + fabsf(map[3]));
    float x0 = center[0], y0 = center[1], a = map[0], b = map[1], c = map[2], d = map[3];
    int32_t places[MAX_SAMPLES];
    float fx[MAX_SAMPLES], fy[MAX_SAMPLES];
    uint16_t upper[MAX_SAMPLES], lower[MAX_SAMPLES]; /* two pixels each, the left one below */
    const uint8_t *pixels = image->pixels;
    int64_t width = image->width;
    if (x0 - across >= 0 && y0 - down >= 0 && x0 + across < (float)(width - 1) &&
        y0 + down < (float)(image->height - 1)) {
        int32_t stride = (int32_t)width;
#pragma omp simd
        for (int64_t i = 0; i < samples; i++) {
            float x = x0 + grid_x[i] * a + grid_y[i] * b, y = y0 + grid_x[i] * c + grid_y[i] * d;
            int32_t column = (int32_t)x, row = (int32_t)y;
            fx[i] = x - (float)column;
            fy[i] = y - (float)row;
            places[i] = row * stride + column;
        }
        for (int64_t i = 0; i < samples; i++) {
            const uint8_t *at = pixels + places[i];
            upper[i] = two_pixels(at, at + 1);
            lower[i] = two_pixels(at + width, at + width + 1);
        }
    } else {
        float last_x = (float)(width - 1), last_y = (float)(image->height - 1);
        for (int64_t i = 0; i < samples; i++) {
            float x = x0 + grid_x[i] * a + grid_y[i] * b, y = y0 + grid_x[i] * c + grid_y[i] * d;
            x = x > 0 ? min_of(x, last_x) : 0; /* not a number becomes 0, too */
            y = y > 0 ? min_of(y, last_y) : 0;
            int64_t column = (int64_t)x, row = (int64_t)y;
            int64_t right = column + 1 < width ? column + 1 : column;
            const uint8_t *above = pixels + row * width;
            const uint8_t *below = row + 1 < image->height ? above + width : above;
            fx[i] = x - (float)column;
            fy[i] = y - (float)row;
            upper[i] = two_pixels(above + column, above + right);
            lower[i] = two_pixels(below + column, below + right);
        }
    }
#pragma omp simd
    for (int64_t i = 0; i < samples; i++) {
        int32_t left0 = upper[i] & 255, right0 = upper[i] >> 8;
        int32_t left1 = lower[i] & 255, right1 = lower[i] >> 8;
        float top = (float)left0 + fx[i] * (float)(right0 - left0);
        float bottom = (float)left1 + fx[i] * (float)(right1 - left1);
        out[i] = top + fy[i] * (bottom - top) - mean;
    }
}

static Comparison compare(const Template *t, const float *weights, const float *sampled,
                          int64_t samples) {
    float mean = 0, square = 0, p0 = 0, p1 = 0, p2 = 0;
#pragma omp simd reduction(+ : mean, square, p0, p1, p2)
    for (int64_t i = 0; i < samples; i++) {
        float value = sampled[i];
        mean += weights[i] * value;
        square += weights[i] * value * value;
        p0 += t->gradient_x[i] * value;
        p1 += t->gradient_y[i] * value;
        p2 += t->values[i] * value;
    }
    Comparison result = {mean, sqrtf(max_of(square - mean * mean, 0)) + 1e-3f, {p0, p1, p2}};
    return result;
}

/* Align windows of image 0 to image 1.
 *
 * image0, image1: uint8, row by row; points0, points1, pulls and moved: (count, 2); maps: (count, 2,
 * 2); grid: (2, samples), offsets of the samples in image 0; places: (samples,) of the samples in a
 * square of `side`, which has a border of 1 px around the window; weights: (samples,), sum 1;
 * quality: (count, 4), overwritten: correlation before and after, contrast in image 0 and 1; tensor:
 * (count, 3), overwritten: xx, yy and xy of the structure tensors.
 */
EXPORT void align_windows(const uint8_t *image0, int64_t height0, int64_t width0,
                          const uint8_t *image1, int64_t height1, int64_t width1,
                          const float *points0, const float *points1, const float *pulls,
                          const float *maps, int64_t count, const float *grid,
                          const int32_t *places, const float *weights, int64_t samples,
                          int64_t side, int64_t iterations, float damping, float least_step,
                          float *moved, float *quality, float *tensor) {
    Image first = {image0, height0, width0}, second = {image1, height1, width1};
    const float *grid_x = grid, *grid_y = grid + samples;
    float half = (float)(side / 2 - 1), sampled[MAX_SAMPLES];
    Template t;
    for (int64_t i = 0; i < count; i++) {
        const float *map = maps + 4 * i;
        float *at = moved + 2 * i;
        make_template(&first, points0 + 2 * i, map, places, weights, samples, side, damping, &t);
        at[0] = points1[2 * i];
        at[1] = points1[2 * i + 1];
        /* One evaluation at the match, one before each step, one at the result. */
        for (int64_t step = 0; step < iterations + 2; step++) {
            sample_window(&second, at, map, grid_x, grid_y, samples, half, t.mean, sampled);
            Comparison c = compare(&t, weights, sampled, samples);
            quality[4 * i + 1] = c.products[2] / c.contrast;
            quality[4 * i + 3] = c.contrast;
            if (step == 0) {
                quality[4 * i] = quality[4 * i + 1];
                at[0] += pulls[2 * i];
                at[1] += pulls[2 * i + 1];
            } else if (step <= iterations) {
                float r0 = t.products[0] - (c.products[0] - c.mean * t.sums[0]) / c.contrast;
                float r1 = t.products[1] - (c.products[1] - c.mean * t.sums[1]) / c.contrast;
                float dx = t.step[0][0] * r0 + t.step[0][1] * r1;
                float dy = t.step[1][0] * r0 + t.step[1][1] * r1;
                at[0] += dx;
                at[1] += dy;
                if (dx * dx + dy * dy < least_step * least_step) step = iterations;
            }
        }
        quality[4 * i + 2] = t.contrast;
        memcpy(tensor + 3 * i, t.tensor, sizeof t.tensor);
    }
}
