/* SuperPoint's network in float32: see featherglue/runtime/kernel_weights.py.
 *
 * Maps are (rows, columns, channels) with a border of zeros. The 3×3 convolutions are computed by
 * Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016): 36 instead of 144 products for
 * the 16 values of a tile.
 */
#include "products.h"

#if !defined(_WIN32)
#include "team.h"

#define TILE 4
#define SIDE 6
#define PLACES (SIDE * SIDE)
#define STEM_ROWS 4 /* output rows of the stem in a unit of work */
#define MOST_TILES 48 /* that are transformed together: their transforms stay in the cache */
#define LARGEST_LOGIT 40.0f
#define SPACING 16  /* floats between the places of a tile's transform, so that they share no cache set */

typedef struct {
    int64_t inputs, outputs, pool; /* channels, multiples of 8; 2×2 maxima follow */
    const float *weights, *bias;   /* (36, tiles of outputs, inputs, 16 or 8) */
} Layer;

typedef struct {
    float *data;
    int64_t height, width, channels, across, down, pitch; /* tiles; floats of a row */
} Map;

typedef struct {
    const uint8_t *image;
    int64_t height, width, kernel, stride, num_layers, num_threads;
    Layer stem, layers[16], points, descriptors; /* points and descriptors: 1×1 */
    float *maps[2], *buffers, *scores, *described;
    int64_t buffer_size, unit_size; /* floats of a thread; tiles of a unit of work */
    Map in, out;                    /* of the running layer */
} Extraction;

static Map shape_map(float *data, int64_t height, int64_t width, int64_t channels) {
    int64_t across = (width + TILE - 1) / TILE, down = (height + TILE - 1) / TILE;
    return (Map){data, height, width, channels, across, down, (across * TILE + 2) * channels};
}

static float *pixel(const Map *map, int64_t y, int64_t x) {
    return map->data + (y + 1) * map->pitch + (x + 1) * map->channels;
}

static void clear_border(const Map *map) {
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

/* One row of the stem: a convolution of one channel with a k×k kernel and a stride of s, both
 * constants where it is called, and ReLU. */
static inline void stem_row(const Extraction *e, const Map *out, int64_t y, const float *lines,
                            int64_t pitch, int64_t k, int64_t s) {
    for (int64_t c = 0; c < out->channels; c += 8)
        for (int64_t x0 = 0; x0 < out->width; x0 += GROUP) {
            const float *w = e->stem.weights + c * k * k, *line = lines + x0 * s;
            Lanes sum[GROUP], bias = load(e->stem.bias + c);
            for (int r = 0; r < GROUP; r++) sum[r] = bias;
            for (int64_t i = 0; i < k; i++)
                for (int64_t j = 0; j < k; j++) {
                    Lanes weight = load(w + 8 * (i * k + j));
                    for (int r = 0; r < GROUP; r++) sum[r] += weight * all(line[i * pitch + r * s + j]);
                }
            int64_t left = out->width - x0;
            float *to = pixel(out, y, x0) + c;
            for (int r = 0; r < GROUP; r++)
                if (r < left) store(to + r * out->channels, higher_of(sum[r], all(0)));
        }
}

static void run_stem(const Extraction *e, const Map *out, int64_t first, float *lines) {
    int64_t k = e->kernel, s = e->stride, pad = (k - s + 1) / 2;
    int64_t last = first + STEM_ROWS < out->height ? first + STEM_ROWS : out->height;
    int64_t pitch = e->width + 2 * k + GROUP * s, count = (last - first - 1) * s + k;
    memset(lines, 0, (size_t)(count * pitch) * sizeof *lines);
    for (int64_t i = 0; i < count; i++) {
        int64_t y = first * s + i - pad;
        if (y < 0 || y >= e->height) continue;
        const uint8_t *from = e->image + y * e->width;
        float *to = lines + i * pitch + pad;
        for (int64_t x = 0; x < e->width; x++) to[x] = (float)from[x];
    }
    for (int64_t y = first; y < last; y++) {
        const float *line = lines + (y - first) * s * pitch;
        if (s == 2)
            stem_row(e, out, y, line, pitch, 4, 2);
        else
            stem_row(e, out, y, line, pitch, 3, 1);
    }
}

/* Bᵀ d for six vectors. */
static inline void spread(const Lanes d[SIDE], Lanes out[SIDE]) {
    Lanes even = d[4] - 4 * d[2], odd = d[3] - 4 * d[1];
    Lanes near = d[4] - d[2], far = 2 * (d[3] - d[1]);
    out[0] = 4 * d[0] - 5 * d[2] + d[4];
    out[1] = even + odd;
    out[2] = even - odd;
    out[3] = near + far;
    out[4] = near - far;
    out[5] = 4 * d[1] - 5 * d[3] + d[5];
}

/* Aᵀ m for six vectors. */
static inline void gather(const Lanes m[SIDE], Lanes out[TILE]) {
    Lanes sum1 = m[1] + m[2], sum2 = m[3] + m[4];
    Lanes difference1 = m[1] - m[2], difference2 = m[3] - m[4];
    out[0] = m[0] + sum1 + sum2;
    out[1] = difference1 + 2 * difference2;
    out[2] = sum1 + 4 * sum2;
    out[3] = difference1 + 8 * difference2 + m[5];
}

static void transform_input(const float *from, int64_t pitch, int64_t channels, float *to,
                            int64_t spacing) {
    for (int64_t c = 0; c < channels; c += 8) {
        Lanes rows[SIDE][SIDE];
        for (int y = 0; y < SIDE; y++) {
            Lanes d[SIDE];
            for (int x = 0; x < SIDE; x++) d[x] = load(from + y * pitch + x * channels + c);
            spread(d, rows[y]);
        }
        for (int x = 0; x < SIDE; x++) {
            Lanes d[SIDE], v[SIDE];
            for (int y = 0; y < SIDE; y++) d[y] = rows[y][x];
            spread(d, v);
            for (int y = 0; y < SIDE; y++) store(to + (y * SIDE + x) * spacing + c, v[y]);
        }
    }
}

static void transform_output(const float *from, int64_t spacing, const Layer *layer, const Map *out,
                             int64_t y0, int64_t x0) {
    int64_t step = layer->pool ? 2 : TILE;
    int64_t high = out->height - y0 < step ? out->height - y0 : step;
    int64_t wide = out->width - x0 < step ? out->width - x0 : step;
    for (int64_t c = 0; c < layer->outputs; c += 8) {
        Lanes rows[TILE][SIDE], tile[TILE][TILE];
        for (int x = 0; x < SIDE; x++) {
            Lanes m[SIDE], v[TILE];
            for (int y = 0; y < SIDE; y++) m[y] = load(from + (y * SIDE + x) * spacing + c);
            gather(m, v);
            for (int y = 0; y < TILE; y++) rows[y][x] = v[y];
        }
        Lanes bias = load(layer->bias + c);
        for (int y = 0; y < TILE; y++) {
            gather(rows[y], tile[y]);
            for (int x = 0; x < TILE; x++) tile[y][x] = higher_of(tile[y][x] + bias, all(0));
        }
        float *to = pixel(out, y0, x0) + c;
        if (layer->pool) {
            for (int y = 0; y < 2; y++)
                for (int x = 0; x < 2; x++)
                    if (y < high && x < wide)
                        store(to + y * out->pitch + x * out->channels,
                              higher_of(higher_of(tile[2 * y][2 * x], tile[2 * y][2 * x + 1]),
                                        higher_of(tile[2 * y + 1][2 * x], tile[2 * y + 1][2 * x + 1])));
        } else {
            for (int y = 0; y < TILE; y++)
                for (int x = 0; x < TILE; x++)
                    if (y < high && x < wide)
                        store(to + y * out->pitch + x * out->channels, tile[y][x]);
        }
    }
}

/* Rows of a, `lda` apart, times the weights of one place. The number of rows is a multiple of
 * `row_step`. */
static void multiply_rows(const float *a, int64_t lda, int64_t inputs, const float *weights,
                          int64_t outputs, int64_t rows, float *c) {
    int64_t j = 0;
    for (; j + WIDE <= outputs; j += WIDE, weights += inputs * WIDE)
        for (int64_t i = 0; i < rows; i += ROWS) {
            Lanes sum[ROWS][2] = {{{0}}};
            multiply_wide(a + i * lda, lda, weights, WIDE, inputs, sum);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 2; v++) store(c + (i + r) * outputs + j + 8 * v, sum[r][v]);
        }
    if (j < outputs)
        for (int64_t i = 0; i < rows; i += GROUP) {
            Lanes sum[GROUP][1] = {{{0}}};
            multiply_narrow(a + i * lda, lda, weights, 8, inputs, sum);
            for (int r = 0; r < GROUP; r++) store(c + (i + r) * outputs + j, sum[r][0]);
        }
}

static int64_t row_step(int64_t outputs) { return outputs % WIDE ? GROUP : ROWS; }

/* Tiles of a unit of work: at most MOST_TILES, and about as many units for each thread. */
static int64_t unit_size(const Layer *layer, int64_t tiles, int64_t threads) {
    int64_t step = row_step(layer->outputs), most = MOST_TILES - step;
    int64_t units = (tiles + threads * most - 1) / (threads * most) * threads;
    return round_up((tiles + units - 1) / units, step);
}

/* Tiles `first` to `last` of a 3×3 convolution with ReLU. */
static void run_tiles(const Layer *layer, const Map *in, const Map *out, int64_t first, int64_t last,
                      float *buffer) {
    int64_t rows = round_up(last - first, row_step(layer->outputs));
    int64_t from = rows * layer->inputs + SPACING, to = rows * layer->outputs + SPACING;
    float *transformed = buffer, *products = buffer + PLACES * from;
    for (int64_t i = first; i < last; i++)
        transform_input(in->data + i / in->across * TILE * in->pitch +
                            i % in->across * TILE * in->channels,
                        in->pitch, in->channels, transformed + (i - first) * layer->inputs, from);
    for (int place = 0; place < PLACES; place++)
        multiply_rows(transformed + place * from, layer->inputs, layer->inputs,
                      layer->weights + place * layer->inputs * layer->outputs, layer->outputs, rows,
                      products + place * to);
    int64_t step = layer->pool ? 2 : TILE;
    for (int64_t i = first; i < last; i++)
        transform_output(products + (i - first) * layer->outputs, to, layer, out,
                         i / in->across * step, i % in->across * step);
}

/* Scores of the pixels of a cell from their logits (64,), without bias. */
static void soften_cell(const float *logits, const float *bias, float *to, int64_t pitch) {
    float powers[64], sum = 1;
#pragma omp simd
    for (int i = 0; i < 64; i++)
        powers[i] = min_of(max_of(logits[i] + bias[i], LEAST_EXPONENT), LARGEST_LOGIT);
#pragma omp simd reduction(+ : sum)
    for (int i = 0; i < 64; i++) sum += powers[i] = exp_small(powers[i]);
    for (int y = 0; y < 8; y++) store(to + y * pitch, load(powers + 8 * y) / sum);
}

/* One row of cells: scores of their pixels, and descriptors. */
static void run_heads(const Extraction *e, const Map *in, int64_t row, float *products) {
    int64_t cells = in->width, dim = e->descriptors.outputs, detector = e->points.inputs;
    const float *a = pixel(in, row, 0);
    multiply_rows(a, in->channels, detector, e->points.weights, 64, round_up(cells, ROWS), products);
    for (int64_t x = 0; x < cells; x++)
        soften_cell(products + 64 * x, e->points.bias, e->scores + row * 8 * e->width + 8 * x,
                    e->width);
    multiply_rows(a + detector, in->channels, e->descriptors.inputs, e->descriptors.weights, dim,
                  round_up(cells, row_step(dim)), products);
    for (int64_t x = 0; x < cells; x++)
        for (int64_t c = 0; c < dim; c += 8)
            store(e->described + (row * cells + x) * dim + c,
                  load(products + x * dim + c) + load(e->descriptors.bias + c));
}

/* Layer 0 is the stem, the last one the heads. */
static int64_t begin(void *context, int64_t number) {
    Extraction *e = context;
    if (number == 0) {
        e->out = shape_map(e->maps[0], e->height / e->stride, e->width / e->stride, e->stem.outputs);
        clear_border(&e->out);
        return (e->out.height + STEM_ROWS - 1) / STEM_ROWS;
    }
    e->in = e->out;
    if (number > e->num_layers) return e->in.height;
    const Layer *layer = &e->layers[number - 1];
    int64_t shrink = layer->pool ? 2 : 1, tiles = e->in.across * e->in.down;
    e->out = shape_map(e->maps[number % 2], e->in.height / shrink, e->in.width / shrink,
                       layer->outputs);
    clear_border(&e->out);
    e->unit_size = unit_size(layer, tiles, e->num_threads);
    return (tiles + e->unit_size - 1) / e->unit_size;
}

static void run_unit(void *context, int64_t number, int64_t unit, int64_t thread) {
    const Extraction *e = context;
    float *buffer = e->buffers + thread * e->buffer_size;
    if (number == 0) {
        run_stem(e, &e->out, unit * STEM_ROWS, buffer);
    } else if (number > e->num_layers) {
        run_heads(e, &e->in, unit, buffer);
    } else {
        int64_t tiles = e->in.across * e->in.down, first = unit * e->unit_size;
        int64_t last = first + e->unit_size < tiles ? first + e->unit_size : tiles;
        run_tiles(&e->layers[number - 1], &e->in, &e->out, first, last, buffer);
    }
}

static const float *next_layer(const float *weights, int64_t size, int64_t outputs, Layer *layer) {
    layer->outputs = outputs;
    layer->weights = weights;
    layer->bias = weights + size;
    return weights + size + outputs;
}

/* Floats of the buffer of a thread. */
static int64_t buffer_size(const int64_t *plan, int64_t width) {
    int64_t kernel = plan[0], stride = plan[1], count = plan[3], size;
    size = ((STEM_ROWS - 1) * stride + kernel) * (width + 2 * kernel + GROUP * stride);
    for (int64_t i = 0; i < count; i++) {
        const int64_t *layer = plan + 4 + 3 * i;
        size = larger(size, PLACES * (MOST_TILES * (layer[0] + layer[1]) + 2 * SPACING));
    }
    size = larger(size, (width / 8 + GROUP) * larger(64, plan[4 + 3 * count + 2]));
    return round_up(size, 16);
}

/* Floats of the largest map; products of the last rows may read GROUP pixels beyond a map. */
static int64_t map_size(const int64_t *plan, int64_t height, int64_t width) {
    int64_t h = height / plan[1], w = width / plan[1], size = 0;
    for (int64_t i = -1; i < plan[3]; i++) {
        int64_t channels = i < 0 ? plan[2] : plan[4 + 3 * i + 1];
        if (i >= 0 && plan[4 + 3 * i + 2]) h /= 2, w /= 2;
        Map map = shape_map(NULL, h, w, channels);
        size = larger(size, map.pitch * (map.down * TILE + 2) + GROUP * channels);
    }
    return round_up(size, 16);
}

/* Number of floats that `extract_network` needs for `work`. */
EXPORT int64_t extract_work_size(const int64_t *plan, int64_t height, int64_t width,
                                 int64_t threads) {
    return 2 * map_size(plan, height, width) + threads * buffer_size(plan, width) + 16;
}

/* Scores and descriptors of an image.
 *
 * plan: side and stride of the stem's kernel (4 and 2, or 3 and 1), its outputs; number of 3×3
 * layers; for each of them inputs, outputs and whether pooling follows; channels of the detector and
 * of the descriptors in the last layer; width of a descriptor. All numbers of channels are multiples
 * of 8. weights: for the stem (outputs / 8, side, side, 8), for each layer (36, tiles of the outputs,
 * inputs, 16 or 8), for the two heads (tiles of the outputs, inputs, 16 or 8), each followed by the
 * bias. image: (height, width), multiples of 8. threads: at most 64. work: `extract_work_size`
 * floats. scores: (height, width); descriptors: (height / 8, width / 8, width of a descriptor).
 */
EXPORT void extract_network(const int64_t *plan, const float *weights, const uint8_t *image,
                            int64_t height, int64_t width, int64_t threads, float *work,
                            float *scores, float *descriptors) {
    Extraction e = {.image = image, .height = height, .width = width, .num_threads = threads};
    e.kernel = plan[0];
    e.stride = plan[1];
    e.num_layers = plan[3];
    e.scores = scores;
    e.described = descriptors;
    weights = next_layer(weights, e.kernel * e.kernel * plan[2], plan[2], &e.stem);
    for (int64_t i = 0; i < e.num_layers; i++) {
        const int64_t *sizes = plan + 4 + 3 * i;
        Layer *layer = &e.layers[i];
        layer->inputs = sizes[0];
        layer->pool = sizes[2];
        weights = next_layer(weights, PLACES * sizes[0] * sizes[1], sizes[1], layer);
    }
    const int64_t *heads = plan + 4 + 3 * e.num_layers;
    e.points.inputs = heads[0];
    e.descriptors.inputs = heads[1];
    weights = next_layer(weights, heads[0] * 64, 64, &e.points);
    next_layer(weights, heads[1] * heads[2], heads[2], &e.descriptors);
    work = (float *)(((uintptr_t)work + 63) / 64 * 64);
    int64_t size = map_size(plan, height, width);
    e.maps[0] = work;
    e.maps[1] = work + size;
    e.buffers = work + 2 * size;
    e.buffer_size = buffer_size(plan, width);
    Team team = {.context = &e, .num_layers = e.num_layers + 2, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
}
#endif
