/* SuperPoint with sparse weights: direct convolutions on tiles of 4 × 16 positions.
 *
 * The input of a tile is copied to a window with a border, so that the places of the weights do not
 * depend on the size of the image. Maps have the channels of an image row next to each other: (H,
 * channels, stride). The first convolution is computed within the windows of the second.
 */
#include "sparse.h"

#if !defined(_WIN32)
#include "team.h"

#define HEIGHT 4
#define WIDTH 16
#define PLACES (HEIGHT * WIDTH)
#define LINES (HEIGHT + 2) /* of a window */
#define COLUMNS (WIDTH + 2)
#define AREA (LINES * COLUMNS)
#define SLACK 8     /* floats after a window, as whole vectors are written to its rows */
#define BLOCK 64    /* input channels of a product, so that their window stays in the cache */
#define MAX_BLOCKS 32
#define STAGES 7    /* 1b, 2a, 2b, 3a, 3b, 4a, 4b */
#define CELL 8

typedef struct {
    int64_t inputs, outputs, kernel, num_blocks;
    Product blocks[MAX_BLOCKS];
} Convolution;

typedef struct {
    float *data;
    int64_t channels, height, width, stride;
} Map;

typedef struct {
    const uint8_t *image;
    int64_t height, width, most, buffer_size; /* most: channels of a layer */
    int64_t first_channels;
    const float *first;       /* of convolution 1a: (channels, 9), then biases */
    Convolution stages[STAGES], detector[2], descriptor[2];
    Map maps[STAGES];         /* results of the stages, after pooling */
    float *scores, *descriptors; /* (H, W) and (H / 8, W / 8, D) */
    float *buffers;              /* of the threads */
} Extractor;

static int pooled(int64_t stage) { return stage == 0 || stage == 2 || stage == 4; }

/* The window of a tile of a map: (channels, LINES, COLUMNS), zero beyond the map. */
static void copy_window(const Map *map, int64_t y, int64_t x, float *window) {
    int64_t low = x ? 0 : 1, high = map->width - x + 1;
    if (high > COLUMNS) high = COLUMNS;
    int whole = y > 0 && y + HEIGHT < map->height && low == 0 && high == COLUMNS;
    if (!whole) memset(window, 0, (size_t)(map->channels * AREA) * sizeof *window);
    for (int64_t c = 0; c < map->channels; c++, window += AREA)
        for (int64_t r = 0; r < LINES; r++) {
            int64_t row = y - 1 + r;
            const float *from = map->data + (row * map->channels + c) * map->stride + x - 1;
            if (whole)
                memcpy(window + r * COLUMNS, from, COLUMNS * sizeof *window);
            else if (row >= 0 && row < map->height)
                memcpy(window + r * COLUMNS + low, from + low,
                       (size_t)(high - low) * sizeof *window);
        }
}

/* The window of a tile of the first convolution's result. */
static void first_window(const Extractor *net, int64_t y, int64_t x, float *window) {
    float pixels[LINES + 2][COLUMNS + 2 + SLACK] = {{0}};
    for (int64_t r = 0; r < LINES + 2; r++) {
        int64_t row = y - 2 + r;
        if (row < 0 || row >= net->height) continue;
        for (int64_t c = 0; c < COLUMNS + 2; c++) {
            int64_t column = x - 2 + c;
            if (column >= 0 && column < net->width)
                pixels[r][c] = net->image[row * net->width + column];
        }
    }
    const float *weights = net->first, *bias = net->first + 9 * net->first_channels;
    for (int64_t c = 0; c < net->first_channels; c++, weights += 9)
        for (int64_t r = 0; r < LINES; r += 2) {
            Lanes sum[2][3];
            for (int i = 0; i < 6; i++) sum[i / 3][i % 3] = all(bias[c]);
            for (int k = 0; k < 9; k++)
                for (int i = 0; i < 6; i++)
                    sum[i / 3][i % 3] +=
                        weights[k] * load(&pixels[r + i / 3 + k / 3][8 * (i % 3) + k % 3]);
            /* The last vector of a row ends in the next one, which is written later. */
            for (int i = 0; i < 6; i++)
                store(window + c * AREA + (r + i / 3) * COLUMNS + 8 * (i % 3),
                      higher_of(sum[i / 3][i % 3], all(0)));
        }
    int64_t high = net->width - x + 1;
    if (y > 0 && y + HEIGHT < net->height && x > 0 && high >= COLUMNS) return;
    for (int64_t i = 0; i < net->first_channels * AREA; i++) {
        int64_t row = y - 1 + i % AREA / COLUMNS, column = x - 1 + i % COLUMNS;
        if (row < 0 || row >= net->height || column < 0 || column >= net->width) window[i] = 0;
    }
}

/* out (outputs, PLACES) of a window, or with a 1×1 kernel of a tile (inputs, PLACES). */
static void convolve(const Convolution *layer, const float *x, float *out, int relu) {
    for (int64_t b = 0; b < layer->num_blocks; b++) {
        int last = relu && b + 1 == layer->num_blocks;
        if (layer->kernel == 3)
            multiply(&layer->blocks[b], x + b * BLOCK * AREA, out, PLACES / 8,
                     COLUMNS * sizeof(float), b > 0, last);
        else
            multiply(&layer->blocks[b], x + b * BLOCK * PLACES, out, PLACES / 8,
                     WIDTH * sizeof(float), b > 0, last);
    }
}

/* Write a tile to a map, with 2×2 max pooling if `pool`. */
static void emit(const float *tile, const Map *map, int64_t y, int64_t x, int pool) {
    int64_t rows = HEIGHT >> pool, columns = WIDTH >> pool;
    y >>= pool;
    x >>= pool;
    if (rows > map->height - y) rows = map->height - y;
    if (columns > map->width - x) columns = map->width - x;
    for (int64_t c = 0; c < map->channels; c++, tile += PLACES)
        for (int64_t r = 0; r < rows; r++) {
            float *to = map->data + ((y + r) * map->channels + c) * map->stride + x;
            if (!pool) {
                memcpy(to, tile + r * WIDTH, (size_t)columns * sizeof *to);
                continue;
            }
            const float *a = tile + 2 * r * WIDTH, *b = a + WIDTH;
            float best[WIDTH / 2];
            for (int i = 0; i < WIDTH / 2; i++)
                best[i] = max_of(max_of(a[2 * i], a[2 * i + 1]), max_of(b[2 * i], b[2 * i + 1]));
            memcpy(to, best, (size_t)columns * sizeof *to);
        }
}

static int64_t tiles_of(const Map *map) {
    return (map->height + HEIGHT - 1) / HEIGHT * ((map->width + WIDTH - 1) / WIDTH);
}

/* Softmax over the channels of logits (65, PLACES), written to the cells of the score map. */
static void emit_scores(const Extractor *net, float *logits, int64_t y, int64_t x) {
    const int channels = CELL * CELL + 1;
    float sums[PLACES];
    for (int i = 0; i < PLACES; i += 8) {
        Lanes highest = all(-INFINITY), sum = all(0);
        for (int c = 0; c < channels; c++)
            highest = higher_of(highest, load(logits + c * PLACES + i));
        for (int c = 0; c < channels; c++) {
            Lanes power = exp_lanes(load(logits + c * PLACES + i) - highest);
            sum += power;
            store(logits + c * PLACES + i, power);
        }
        store(sums + i, all(1) / sum);
    }
    int64_t rows = net->height / CELL - y, columns = net->width / CELL - x;
    for (int64_t r = 0; r < HEIGHT && r < rows; r++)
        for (int64_t i = 0; i < WIDTH && i < columns; i++)
            for (int c = 0; c < CELL * CELL; c++) {
                int64_t row = (y + r) * CELL + c / CELL, column = (x + i) * CELL + c % CELL;
                net->scores[row * net->width + column] =
                    logits[c * PLACES + r * WIDTH + i] * sums[r * WIDTH + i];
            }
}

static void emit_descriptors(const Extractor *net, const float *tile, int64_t y, int64_t x) {
    int64_t rows = net->height / CELL - y, columns = net->width / CELL - x;
    int64_t dim = net->descriptor[1].outputs;
    for (int64_t r = 0; r < HEIGHT && r < rows; r++)
        for (int64_t i = 0; i < WIDTH && i < columns; i++) {
            float *to = net->descriptors + ((y + r) * (net->width / CELL) + x + i) * dim;
            for (int64_t c = 0; c < dim; c++) to[c] = tile[c * PLACES + r * WIDTH + i];
        }
}

static int64_t begin(void *context, int64_t stage) {
    const Extractor *net = context;
    return tiles_of(stage ? &net->maps[stage - 1] : &(Map){NULL, 1, net->height, net->width, 0});
}

/* The last stage is the two heads. */
static void run_unit(void *context, int64_t stage, int64_t tile, int64_t thread) {
    const Extractor *net = context;
    float *window = net->buffers + thread * net->buffer_size;
    float *out = window + net->most * AREA + SLACK, *second = out + net->most * PLACES;
    const Map *source = stage ? &net->maps[stage - 1] : NULL;
    int64_t across = ((source ? source->width : net->width) + WIDTH - 1) / WIDTH;
    int64_t y = tile / across * HEIGHT, x = tile % across * WIDTH;
    if (source)
        copy_window(source, y, x, window);
    else
        first_window(net, y, x, window);
    if (stage < STAGES) {
        convolve(&net->stages[stage], window, out, 1);
        emit(out, &net->maps[stage], y, x, pooled(stage));
        return;
    }
    convolve(&net->detector[0], window, out, 1);
    convolve(&net->detector[1], out, second, 0);
    emit_scores(net, second, y, x);
    convolve(&net->descriptor[0], window, out, 1);
    convolve(&net->descriptor[1], out, second, 0);
    emit_descriptors(net, second, y, x);
}

static const int64_t *read_convolution(const int64_t *plan, const int32_t *indices,
                                       const float *values, Convolution *out) {
    out->inputs = plan[0];
    out->outputs = plan[1];
    out->kernel = plan[2];
    out->num_blocks = (out->inputs + BLOCK - 1) / BLOCK;
    plan += 3;
    for (int64_t b = 0; b < out->num_blocks; b++)
        plan = read_product(plan, indices, values, &out->blocks[b]);
    return plan;
}

static void read_plan(Extractor *net, const int64_t *plan, const int32_t *indices,
                      const float *values) {
    net->first_channels = net->most = plan[0];
    net->first = values + plan[1];
    plan += 2;
    for (int i = 0; i < STAGES + 4; i++) {
        int head = i - STAGES;
        Convolution *layer = head < 0   ? &net->stages[i]
                             : head < 2 ? &net->detector[head]
                                        : &net->descriptor[head - 2];
        plan = read_convolution(plan, indices, values, layer);
        net->most = larger(net->most, layer->outputs);
    }
    net->buffer_size = net->most * (AREA + 2 * PLACES) + SLACK;
}

/* Place the maps of an image one after the other in `work`, with a gap, as windows begin one
 * position before a row. Returns the number of floats. */
static int64_t place_maps(Extractor *net, float *work) {
    int64_t height = net->height, width = net->width, size = 16;
    for (int stage = 0; stage < STAGES; stage++) {
        Map *map = &net->maps[stage];
        height >>= pooled(stage);
        width >>= pooled(stage);
        /* An odd multiple of a cache line spreads the rows over the cache. */
        int64_t stride = ((width + 15) / 16 | 1) * 16;
        *map = (Map){work ? work + size : NULL, net->stages[stage].outputs, height, width, stride};
        size += height * map->channels * stride + 16;
    }
    return size;
}

/* Number of floats that `extract_sparse` needs for `work`. */
EXPORT int64_t extract_sparse_work_size(const int64_t *plan, const int32_t *indices,
                                        const float *values, int64_t height, int64_t width,
                                        int64_t threads) {
    Extractor net = {.height = height, .width = width};
    read_plan(&net, plan, indices, values);
    return place_maps(&net, NULL) + threads * net.buffer_size;
}

/* Score map and descriptors of an image.
 *
 * plan: channels of convolution 1a, where its weights (channels, 9) and biases begin in `values`;
 * then for 1b … 4b, Pa, Pb, Da and Db inputs, outputs and kernel, and a product for each BLOCK
 * inputs, as `read_product` reads them. image: (height, width), multiples of 8. scores: (height,
 * width); descriptors: (height / 8, width / 8, D). threads: at most 64. work:
 * `extract_sparse_work_size` floats.
 */
EXPORT void extract_sparse(const int64_t *plan, const int32_t *indices, const float *values,
                           const uint8_t *image, int64_t height, int64_t width, int64_t threads,
                           float *work, float *scores, float *descriptors) {
    Extractor net = {.image = image, .height = height, .width = width};
    net.scores = scores;
    net.descriptors = descriptors;
    read_plan(&net, plan, indices, values);
    net.buffers = work + place_maps(&net, work);
    Team team = {.context = &net, .num_layers = STAGES + 1, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
}
#endif
