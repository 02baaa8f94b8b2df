/* Neighbors of matches and their local affine maps: see featherglue/matching/consensus.py. */
#include "kernels.h"

#define MAX_NEIGHBORS 64
#define BLOCK 8 /* points whose distances are computed at once */

typedef struct {
    int64_t wanted, filled;
    float squares[MAX_NEIGHBORS];
    int32_t places[MAX_NEIGHBORS];
} Nearest;

static float worst_square(const Nearest *nearest) {
    return nearest->filled < nearest->wanted ? INFINITY : nearest->squares[nearest->wanted - 1];
}

/* Insert the points first .. last - 1 that are among the nearest, except for the point itself. */
static void insert_points(Nearest *nearest, const float *xs, const float *ys, int64_t first,
                          int64_t last, int64_t self) {
    float squares[BLOCK];
    for (int64_t j = first; j < last; j++) {
        float dx = xs[j] - xs[self], dy = ys[j] - ys[self];
        squares[j - first] = dx * dx + dy * dy;
    }
    for (int64_t j = first; j < last; j++) {
        float square = squares[j - first];
        if (square >= worst_square(nearest) || j == self) continue;
        int64_t place = nearest->filled < nearest->wanted ? nearest->filled++ : nearest->wanted - 1;
        for (; place > 0 && nearest->squares[place - 1] > square; place--) {
            nearest->squares[place] = nearest->squares[place - 1];
            nearest->places[place] = nearest->places[place - 1];
        }
        nearest->squares[place] = square;
        nearest->places[place] = (int32_t)j;
    }
}

/* The `count` nearest other points of each point, nearest first.
 *
 * xs, ys: (n,) sorted by x; order: (n,) number of each of them; indices and squares: (count, n),
 * numbers and squared distances, by number; count at most MAX_NEIGHBORS and less than n.
 */
EXPORT void nearest_points(const float *xs, const float *ys, const int64_t *order, int64_t n,
                           int64_t count, int32_t *indices, float *squares) {
    for (int64_t i = 0; i < n; i++) {
        Nearest nearest = {.wanted = count};
        int64_t low = i, high = i; /* searched so far: low .. high - 1, outward along x */
        for (;;) {
            float worst = worst_square(&nearest);
            float left = low > 0 ? xs[i] - xs[low - 1] : INFINITY;
            float right = high < n ? xs[high] - xs[i] : INFINITY;
            int more_left = left * left < worst, more_right = right * right < worst;
            if (!more_left && !more_right) break;
            if (more_left) {
                int64_t first = low > BLOCK ? low - BLOCK : 0;
                insert_points(&nearest, xs, ys, first, low, i);
                low = first;
            }
            if (more_right) {
                int64_t last = high + BLOCK < n ? high + BLOCK : n;
                insert_points(&nearest, xs, ys, high, last, i);
                high = last;
            }
        }
        for (int64_t k = 0; k < count; k++) {
            indices[k * n + order[i]] = (int32_t)order[nearest.places[k]];
            squares[k * n + order[i]] = nearest.squares[k];
        }
    }
}

/* One step of iteratively re-weighted least squares for the local affine map of each match.
 *
 * relative: (5, k, n), see Neighborhoods; weights: (k, n) of the neighbors; prior: (2, 2, n), linear
 * parts that the ridge pulls toward; scale: px, residual that reduces a weight to a quarter, 0 for
 * the first step; solution: (2, 3, n), overwritten, read if scale > 0; n a multiple of LANES.
 */
EXPORT void fit_maps(const float *relative, int64_t k, int64_t n, const float *weights,
                     const float *prior, float ridge, float scale, float *solution) {
    const float *rx = relative, *ry = rx + k * n, *tx = ry + 2 * k * n, *ty = tx + k * n;
    float per_square = scale > 0 ? 1 / (scale * scale) : 0;
    for (int64_t first = 0; first < n; first += LANES) {
        float xx[LANES] = {0}, xy[LANES] = {0}, yy[LANES] = {0}, x1[LANES] = {0}, y1[LANES] = {0},
              one[LANES] = {0};
        float xu[LANES] = {0}, yu[LANES] = {0}, u1[LANES] = {0}, xv[LANES] = {0}, yv[LANES] = {0},
              v1[LANES] = {0};
        const float *s = solution + first;
        for (int64_t i = 0; i < k; i++) {
            int64_t at = i * n + first;
#pragma omp simd
            for (int m = 0; m < LANES; m++) {
                float x = rx[at + m], y = ry[at + m], u = tx[at + m], v = ty[at + m];
                float w = weights[at + m];
                if (scale > 0) {
                    float du = u - s[m] * x - s[n + m] * y - s[2 * n + m];
                    float dv = v - s[3 * n + m] * x - s[4 * n + m] * y - s[5 * n + m];
                    float spread = 1 + (du * du + dv * dv) * per_square;
                    w /= spread * spread;
                }
                float wx = w * x, wy = w * y;
                xx[m] += wx * x;
                xy[m] += wx * y;
                yy[m] += wy * y;
                x1[m] += wx;
                y1[m] += wy;
                one[m] += w;
                xu[m] += wx * u;
                yu[m] += wy * u;
                u1[m] += w * u;
                xv[m] += wx * v;
                yv[m] += wy * v;
                v1[m] += w * v;
            }
        }
        float *out = solution + first;
        const float *p = prior + first;
#pragma omp simd
        for (int m = 0; m < LANES; m++) {
            float a = xx[m] + ridge, b = xy[m], c = x1[m], d = yy[m] + ridge, e = y1[m];
            float f = one[m] + 1e-4f;
            float i00 = d * f - e * e, i01 = c * e - b * f, i02 = b * e - c * d;
            float i11 = a * f - c * c, i12 = b * c - a * e, i22 = a * d - b * b;
            float inverse = 1 / (a * i00 + b * i01 + c * i02);
            float rxu = xu[m] + ridge * p[m], ryu = yu[m] + ridge * p[n + m];
            float rxv = xv[m] + ridge * p[2 * n + m], ryv = yv[m] + ridge * p[3 * n + m];
            out[m] = (i00 * rxu + i01 * ryu + i02 * u1[m]) * inverse;
            out[n + m] = (i01 * rxu + i11 * ryu + i12 * u1[m]) * inverse;
            out[2 * n + m] = (i02 * rxu + i12 * ryu + i22 * u1[m]) * inverse;
            out[3 * n + m] = (i00 * rxv + i01 * ryv + i02 * v1[m]) * inverse;
            out[4 * n + m] = (i01 * rxv + i11 * ryv + i12 * v1[m]) * inverse;
            out[5 * n + m] = (i02 * rxv + i12 * ryv + i22 * v1[m]) * inverse;
        }
    }
}
