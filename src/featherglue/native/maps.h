/* Maps of features, (rows, columns, channels) with a border of zeros, and the steps between them that
 * have no weights. */
#ifndef FEATHERGLUE_MAPS_H
#define FEATHERGLUE_MAPS_H

#include "products.h"

#define TILE 4 /* side of the tiles of a 3×3 convolution: a map has whole tiles */
#define MOST_MAPS 9   /* two of the encoder, one of the detector, two for each of three levels */
#define MOST_STEPS 25 /* eight of the encoder, two of the heads, five for each level */

/* Steps. ADD adds a map of half the size, upsampled; its numbers of channels are equal. */
enum { CONVOLVE, CONVOLVE_POOL, POOL, PROJECT, ADD };

typedef struct {
    float *data;
    int64_t height, width, channels, across, down, pitch; /* tiles; floats of a row */
} Map;

static inline Map shape_map(float *data, int64_t height, int64_t width, int64_t channels) {
    int64_t across = (width + TILE - 1) / TILE, down = (height + TILE - 1) / TILE;
    return (Map){data, height, width, channels, across, down, (across * TILE + 2) * channels};
}

static inline float *pixel(const Map *map, int64_t y, int64_t x) {
    return map->data + (y + 1) * map->pitch + (x + 1) * map->channels;
}

static inline void clear_border(const Map *map) {
    int64_t rows = map->down * TILE + 2, left = map->channels;
    int64_t right = (map->width + 1) * map->channels;
    for (int64_t y = 0; y < rows; y++) {
        float *row = map->data + y * map->pitch;
        if (y == 0 || y > map->height) {
            memset(row, 0, (size_t)map->pitch * sizeof *row);
        } else {
            memset(row, 0, (size_t)left * sizeof *row);
            memset(row + right, 0, (size_t)(map->pitch - right) * sizeof *row);
        }
    }
}

/* Row y of the 2×2 maxima of a map without negative values, whose last row or column may be alone:
 * the border beside it is zero. */
static inline void pool_row(const Map *in, const Map *out, int64_t y) {
    for (int64_t x = 0; x < out->width; x++) {
        const float *from = pixel(in, 2 * y, 2 * x);
        float *to = pixel(out, y, x);
        for (int64_t c = 0; c < in->channels; c += 8, from += 8) {
            Lanes upper = higher_of(load(from), load(from + in->channels));
            const float *below = from + in->pitch;
            Lanes lower = higher_of(load(below), load(below + in->channels));
            store(to + c, higher_of(upper, lower));
        }
    }
}

static inline int64_t clamp_to(int64_t value, int64_t count) {
    return value < 0 ? 0 : value < count ? value : count - 1;
}

/* Row y of a map += the bilinear upsampling of `in` by 2, whose pixel centers lie between theirs. */
static inline void add_upsampled_row(const Map *in, const Map *out, int64_t y) {
    int64_t near_y = y / 2, far_y = clamp_to(near_y + (y % 2 ? 1 : -1), in->height);
    for (int64_t x = 0; x < out->width; x++) {
        int64_t near_x = x / 2, far_x = clamp_to(near_x + (x % 2 ? 1 : -1), in->width);
        const float *near0 = pixel(in, near_y, near_x), *near1 = pixel(in, near_y, far_x);
        const float *far0 = pixel(in, far_y, near_x), *far1 = pixel(in, far_y, far_x);
        float *to = pixel(out, y, x);
        for (int64_t c = 0; c < out->channels; c += 8) {
            Lanes sides = load(near1 + c) + load(far0 + c);
            Lanes sum = 9 * load(near0 + c) + 3 * sides + load(far1 + c);
            store(to + c, load(to + c) + sum * 0.0625f);
        }
    }
}

#endif
