/* Keypoints and descriptors: see featherglue/matching/keypoints.py and nms.py. */
#include "products.h"

static void clear_window(float *map, int64_t height, int64_t width, int64_t radius, int64_t pixel) {
    int64_t y = pixel / width, x = pixel % width;
    int64_t top = y > radius ? y - radius : 0, bottom = y + radius < height ? y + radius : height - 1;
    int64_t left = x > radius ? x - radius : 0, right = x + radius < width ? x + radius : width - 1;
    for (int64_t row = top; row <= bottom; row++)
        memset(map + row * width + left, 0, (size_t)(right - left + 1) * sizeof *map);
}

/* Whether one of the values from `first` to `last` is above a score. */
static int any_above(const float *first, const float *last, float score) {
    if (last - first < 7) {
        for (; first <= last; first++)
            if (*first > score) return 1;
        return 0;
    }
    Integers found = load(last - 7) > all(score); /* overlaps the ones before */
    for (; first + 7 < last; first += 8) found |= load(first) > all(score);
    return bits_of(found) != 0;
}

static int is_maximum(const float *map, int64_t height, int64_t width, int64_t radius, int64_t pixel) {
    int64_t y = pixel / width, x = pixel % width;
    int64_t top = y > radius ? y - radius : 0, bottom = y + radius < height ? y + radius : height - 1;
    int64_t left = x > radius ? x - radius : 0, right = x + radius < width ? x + radius : width - 1;
    float score = map[pixel];
    const float *row = map + y * width;
    for (int64_t i = y; i >= top; i--, row -= width) /* near rows first */
        if (any_above(row + left, row + right, score)) return 0;
    row = map + (y + 1) * width;
    for (int64_t i = y + 1; i <= bottom; i++, row += width)
        if (any_above(row + left, row + right, score)) return 0;
    return 1;
}

/* Places of row y that are above `floor` and not below one of the eight adjacent pixels. */
static int64_t find_candidates(const float *map, int64_t height, int64_t width, int64_t y, float floor,
                               int64_t *found) {
    const float *row = map + y * width;
    const float *above = y > 0 ? row - width : row, *below = y + 1 < height ? row + width : row;
    int64_t count = 0;
    for (int64_t x = 0; x < width; x += 8) {
        if (x == 0 || x + 9 > width) { /* the ends of the row, pixel by pixel */
            for (int64_t i = x; i < x + 8 && i < width; i++) {
                int64_t left = i > 0 ? i - 1 : i, right = i + 1 < width ? i + 1 : i;
                float score = row[i];
                if (score > floor && score >= row[left] && score >= row[right] &&
                    score >= above[left] && score >= above[i] && score >= above[right] &&
                    score >= below[left] && score >= below[i] && score >= below[right])
                    found[count++] = y * width + i;
            }
            continue;
        }
        Lanes score = load(row + x);
        Integers higher = score > all(floor);
        if (!bits_of(higher)) continue;
        higher &= (score >= load(row + x - 1)) & (score >= load(row + x + 1)) &
                  (score >= load(above + x)) & (score >= load(below + x));
        if (!bits_of(higher)) continue;
        higher &= (score >= load(above + x - 1)) & (score >= load(above + x + 1)) &
                  (score >= load(below + x - 1)) & (score >= load(below + x + 1));
        for (int bits = bits_of(higher); bits; bits &= bits - 1)
            found[count++] = y * width + x + __builtin_ctz((unsigned)bits);
    }
    return count;
}

/* One iteration of non-maximum suppression: places above `floor` without a higher one within the
 * radius. At most `capacity` are written; returns their number. */
static int64_t find_maxima(const float *map, int64_t height, int64_t width, int64_t radius, float floor,
                           int64_t *row, int64_t *found, int64_t capacity) {
    int64_t count = 0;
    for (int64_t y = 0; y < height; y++) {
        int64_t candidates = find_candidates(map, height, width, y, floor, row);
        for (int64_t i = 0; i < candidates; i++)
            if (is_maximum(map, height, width, radius, row[i])) {
                if (count < capacity) found[count] = row[i];
                count++;
            }
    }
    return count;
}

static int inside(const int64_t *bounds, int64_t width, int64_t pixel) {
    int64_t y = pixel / width, x = pixel % width;
    return x >= bounds[0] && y >= bounds[1] && x < bounds[2] && y < bounds[3];
}

static uint32_t order_of(float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits; /* of positive numbers, in the order of the numbers */
}

/* Sort places by descending score; equal scores keep their order. A radix sort, 8 bits at a time. */
static void sort_by_score(const float *scores, int64_t *places, int64_t *other, int64_t count) {
    for (int shift = 0; shift < 32; shift += 8) {
        int64_t starts[257] = {0};
        for (int64_t i = 0; i < count; i++)
            starts[256 - (order_of(scores[places[i]]) >> shift & 255)]++;
        for (int k = 0; k < 256; k++) starts[k + 1] += starts[k];
        for (int64_t i = 0; i < count; i++)
            other[starts[255 - (order_of(scores[places[i]]) >> shift & 255)]++] = places[i];
        int64_t *swap = places;
        places = other;
        other = swap;
    }
}

/* The `limit`-th highest score of the places inside the bounds, `floor` if there are fewer or without
 * a limit (-1). `kept` and `other` hold `count` places each. */
static float limiting_score(const float *scores, int64_t width, const int64_t *bounds,
                            const int64_t *places, int64_t count, int64_t limit, float floor,
                            int64_t *kept, int64_t *other) {
    int64_t num = 0;
    if (limit <= 0) return floor;
    for (int64_t i = 0; i < count; i++)
        if (inside(bounds, width, places[i])) kept[num++] = places[i];
    if (num < limit) return floor;
    sort_by_score(scores, kept, other, num);
    return scores[kept[limit - 1]];
}

static int64_t sort_ascending(int64_t *places, int64_t *other, int64_t count, int64_t limit) {
    for (int shift = 0; limit >> shift; shift += 11) {
        int64_t starts[2049] = {0};
        for (int64_t i = 0; i < count; i++) starts[(places[i] >> shift & 2047) + 1]++;
        for (int k = 0; k < 2048; k++) starts[k + 1] += starts[k];
        for (int64_t i = 0; i < count; i++) other[starts[places[i] >> shift & 2047]++] = places[i];
        memcpy(places, other, (size_t)count * sizeof *places);
    }
    return count;
}

/* Keypoints of a score map: non-maximum suppression, exactly as published for SuperPoint, borders and
 * order.
 *
 * scores: (height, width), at least 0. bounds: left, top, right and bottom of the places that may be
 * keypoints, the last two exclusive. limit: of the keypoints, -1 for none: a recovered pixel that
 * cannot be among them is left out. alive: (height, width), overwritten. row: `width` places. found,
 * kept, other: `capacity` places each. Returns the number of keypoints, strongest first in `found`,
 * equal scores in reading order; -1 if `capacity` is too small.
 */
EXPORT int64_t find_keypoints(const float *scores, int64_t height, int64_t width, int64_t radius,
                              float threshold, const int64_t *bounds, int64_t limit, float *alive,
                              int64_t *row, int64_t *found, int64_t *kept, int64_t *other,
                              int64_t capacity) {
    float floor = threshold;
    int64_t count = find_maxima(scores, height, width, radius, threshold, row, found, capacity);
    if (count > capacity) return -1;
    float limiting = limiting_score(scores, width, bounds, found, count, limit, threshold, kept, other);
    if (limiting > threshold) floor = nextafterf(limiting, 0); /* an equal score may win its place */
    memcpy(alive, scores, (size_t)(height * width) * sizeof *alive);
    int64_t first = 0;
    for (int iteration = 0; iteration < 2 && first < count; iteration++) {
        for (int64_t i = first; i < count; i++) clear_window(alive, height, width, radius, found[i]);
        first = count;
        count += find_maxima(alive, height, width, radius, floor, row, found + count, capacity - count);
        if (count > capacity) return -1;
    }
    int64_t num = 0;
    for (int64_t i = 0; i < count; i++)
        if (inside(bounds, width, found[i])) found[num++] = found[i];
    sort_ascending(found, other, num, height * width);
    sort_by_score(scores, found, other, num);
    return num;
}

/* Offset of the vertex of a parabola through three log scores, in [-0.5, 0.5]. */
static float vertex(float before, float center, float after) {
    float slope = (after - before) / 2, curve = 2 * center - before - after;
    return min_of(max_of(slope / max_of(curve, 1e-6f), -0.5f), 0.5f);
}

/* Subpixel positions of maxima from a parabola through the log scores, in x and in y.
 *
 * scores: (height, width); places: (count,); points: (count, 2) and values: (count,) are overwritten
 * with positions, of the pixels themselves unless `subpixel`, and scores.
 */
EXPORT void place_keypoints(const float *scores, int64_t height, int64_t width, const int64_t *places,
                            int64_t count, int64_t subpixel, float *points, float *values) {
    for (int64_t i = 0; i < count; i++) {
        int64_t at = places[i], y = at / width, x = at % width;
        points[2 * i] = (float)x;
        points[2 * i + 1] = (float)y;
        values[i] = scores[at];
        if (!subpixel) continue;
        float near[5] = {scores[at], scores[x > 0 ? at - 1 : at], scores[x + 1 < width ? at + 1 : at],
                         scores[y > 0 ? at - width : at], scores[y + 1 < height ? at + width : at]};
        for (int k = 0; k < 5; k++) near[k] = logf(max_of(near[k], 1e-8f));
        points[2 * i] += vertex(near[1], near[0], near[2]);
        points[2 * i + 1] += vertex(near[3], near[0], near[4]);
    }
}
