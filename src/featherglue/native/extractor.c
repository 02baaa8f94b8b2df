/* SuperPoint's network in float32: see featherglue/runtime/kernel_weights.py.
 *
 * The network is a list of steps, each from one map to another. The 3×3 convolutions are computed by
 * Winograd's minimal filtering F(4×4, 3×3) (Lavin and Gray 2016): 36 instead of 144 products for
 * the 16 values of a tile.
 */
#include "maps.h"

#if !defined(_WIN32)
#include "team.h"

#define SIDE 6
#define PLACES (SIDE * SIDE)
#define STEM_ROWS 4 /* output rows of the stem in a unit of work */
#define MOST_TILES 48 /* that are transformed together: their transforms stay in the cache */
#define LARGEST_LOGIT 40.0f
#define SPACING 16  /* floats between the places of a tile's transform, so that they share no cache set */
#define NUM_HEADS 2 /* of the detector and of the descriptors */

typedef struct {
    int64_t kind, from, to;          /* numbers of the maps that it reads and writes */
    int64_t inputs, outputs, height, width; /* channels, multiples of 8; size of map `to` */
    const float *weights, *bias;     /* CONVOLVE: (36, tiles of outputs, inputs, 16 or 8) */
} Step;

typedef struct {
    int64_t map, first, inputs, outputs; /* it reads `inputs` channels of a map from `first` on */
    const float *weights, *bias;
} Head;

typedef struct {
    const uint8_t *image;
    int64_t height, width, kernel, stride, num_steps, num_threads;
    Step steps[MOST_STEPS]; /* the first one is the stem */
    Head heads[NUM_HEADS];
    Map maps[MOST_MAPS];
    float *buffers, *scores, *described;
    int64_t buffer_size, unit_size; /* floats of a thread; tiles of a unit of work */
} Extraction;

/* One row of the stem: a convolution of one channel with a k×k kernel and a stride of s, both
 * constants where it is called, and ReLU. */
static inline void stem_row(const Extraction *e, const Map *out, int64_t y, const float *lines,
                            int64_t pitch, int64_t k, int64_t s) {
    for (int64_t c = 0; c < out->channels; c += 8)
        for (int64_t x0 = 0; x0 < out->width; x0 += GROUP) {
            const float *w = e->steps[0].weights + c * k * k, *line = lines + x0 * s;
            Lanes sum[GROUP], bias = load(e->steps[0].bias + c);
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

static void transform_output(const float *from, int64_t spacing, const Step *layer, const Map *out,
                             int64_t y0, int64_t x0) {
    int pools = layer->kind == CONVOLVE_POOL;
    int64_t step = pools ? 2 : TILE;
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
        if (pools) {
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
static int64_t unit_size(const Step *layer, int64_t tiles, int64_t threads) {
    int64_t step = row_step(layer->outputs), most = MOST_TILES - step;
    int64_t units = (tiles + threads * most - 1) / (threads * most) * threads;
    return round_up((tiles + units - 1) / units, step);
}

/* Tiles `first` to `last` of a 3×3 convolution with ReLU. */
static void run_tiles(const Step *layer, const Map *in, const Map *out, int64_t first, int64_t last,
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
    int64_t step = layer->kind == CONVOLVE_POOL ? 2 : TILE;
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

/* One row of a 1×1 convolution without ReLU. */
static void run_projection(const Step *layer, const Map *in, const Map *out, int64_t y,
                           float *products) {
    multiply_rows(pixel(in, y, 0), in->channels, layer->inputs, layer->weights, layer->outputs,
                  round_up(in->width, row_step(layer->outputs)), products);
    float *to = pixel(out, y, 0);
    for (int64_t x = 0; x < in->width; x++)
        for (int64_t c = 0; c < layer->outputs; c += 8, products += 8)
            store(to + x * layer->outputs + c, load(products) + load(layer->bias + c));
}

/* One row of cells: scores of their pixels, and descriptors. */
static void run_heads(const Extraction *e, int64_t row, float *products) {
    const Head *points = &e->heads[0], *descriptors = &e->heads[1];
    const Map *in = &e->maps[points->map];
    int64_t cells = in->width, dim = descriptors->outputs;
    multiply_rows(pixel(in, row, 0) + points->first, in->channels, points->inputs, points->weights,
                  64, round_up(cells, ROWS), products);
    for (int64_t x = 0; x < cells; x++)
        soften_cell(products + 64 * x, points->bias, e->scores + row * 8 * e->width + 8 * x,
                    e->width);
    in = &e->maps[descriptors->map];
    multiply_rows(pixel(in, row, 0) + descriptors->first, in->channels, descriptors->inputs,
                  descriptors->weights, dim, round_up(cells, row_step(dim)), products);
    for (int64_t x = 0; x < cells; x++)
        for (int64_t c = 0; c < dim; c += 8)
            store(e->described + (row * cells + x) * dim + c,
                  load(products + x * dim + c) + load(descriptors->bias + c));
}

/* Step 0 is the stem; the heads follow the last one. */
static int64_t begin(void *context, int64_t number) {
    Extraction *e = context;
    if (number == e->num_steps) return e->height / 8;
    const Step *step = &e->steps[number];
    Map *out = &e->maps[step->to];
    if (step->kind != ADD) {
        *out = shape_map(out->data, step->height, step->width, step->outputs);
        clear_border(out);
    }
    if (number == 0) return (step->height + STEM_ROWS - 1) / STEM_ROWS;
    if (step->kind != CONVOLVE && step->kind != CONVOLVE_POOL) return step->height;
    const Map *in = &e->maps[step->from];
    int64_t tiles = in->across * in->down;
    e->unit_size = unit_size(step, tiles, e->num_threads);
    return (tiles + e->unit_size - 1) / e->unit_size;
}

static void run_unit(void *context, int64_t number, int64_t unit, int64_t thread) {
    const Extraction *e = context;
    float *buffer = e->buffers + thread * e->buffer_size;
    if (number == e->num_steps) {
        run_heads(e, unit, buffer);
        return;
    }
    const Step *step = &e->steps[number];
    const Map *in = &e->maps[step->from], *out = &e->maps[step->to];
    if (number == 0) {
        run_stem(e, out, unit * STEM_ROWS, buffer);
    } else if (step->kind == POOL) {
        pool_row(in, out, unit);
    } else if (step->kind == PROJECT) {
        run_projection(step, in, out, unit, buffer);
    } else if (step->kind == ADD) {
        add_upsampled_row(in, out, unit);
    } else {
        int64_t tiles = in->across * in->down, first = unit * e->unit_size;
        int64_t last = first + e->unit_size < tiles ? first + e->unit_size : tiles;
        run_tiles(step, in, out, first, last, buffer);
    }
}

/* The sizes of all steps and heads, and of the memory for them, in floats.
 *
 * sizes: of the maps; products of the last rows may read GROUP pixels beyond a map. Returns the size
 * of the buffer of a thread.
 */
static int64_t read_plan(const int64_t *plan, Extraction *e, int64_t sizes[MOST_MAPS]) {
    e->kernel = plan[0];
    e->stride = plan[1];
    e->num_steps = plan[2];
    plan += 3;
    int64_t buffer = ((STEM_ROWS - 1) * e->stride + e->kernel) *
                     (e->width + 2 * e->kernel + GROUP * e->stride);
    memset(sizes, 0, MOST_MAPS * sizeof *sizes);
    int64_t high[MOST_MAPS] = {0}, wide[MOST_MAPS] = {0};
    for (int64_t i = 0; i < e->num_steps; i++, plan += 5) {
        Step *step = &e->steps[i];
        *step = (Step){.kind = plan[0], .from = plan[1], .to = plan[2]};
        step->inputs = plan[3];
        step->outputs = plan[4];
        int64_t h = i ? high[step->from] : e->height / e->stride;
        int64_t w = i ? wide[step->from] : e->width / e->stride;
        if (step->kind == ADD) h = high[step->to], w = wide[step->to];
        if (step->kind == CONVOLVE_POOL) h /= 2, w /= 2;
        if (step->kind == POOL) h = (h + 1) / 2, w = (w + 1) / 2;
        high[step->to] = step->height = h;
        wide[step->to] = step->width = w;
        Map map = shape_map(NULL, h, w, step->outputs);
        sizes[step->to] = larger(sizes[step->to], map.pitch * (map.down * TILE + 2) +
                                                      GROUP * step->outputs);
        if (i)
            buffer = larger(buffer, step->kind == PROJECT
                                        ? (w + GROUP) * step->outputs
                                        : PLACES * (MOST_TILES * (step->inputs + step->outputs) +
                                                    2 * SPACING));
    }
    for (int i = 0; i < NUM_HEADS; i++, plan += 4) {
        e->heads[i] = (Head){.map = plan[0], .first = plan[1], .inputs = plan[2], .outputs = plan[3]};
        buffer = larger(buffer, (e->width / 8 + GROUP) * plan[3]);
    }
    return round_up(buffer, 16);
}

static const float *next_weights(const float *weights, int64_t size, int64_t outputs,
                                 const float **to, const float **bias) {
    *to = weights;
    *bias = weights + size;
    return weights + size + outputs;
}

/* Number of floats that `extract_network` needs for `work`. */
EXPORT int64_t extract_work_size(const int64_t *plan, int64_t height, int64_t width,
                                 int64_t threads) {
    Extraction e = {.height = height, .width = width};
    int64_t sizes[MOST_MAPS], total = threads * read_plan(plan, &e, sizes) + 16;
    for (int i = 0; i < MOST_MAPS; i++) total += round_up(sizes[i], 16);
    return total;
}

/* Scores and descriptors of an image.
 *
 * plan: side and stride of the stem's kernel (4 and 2, or 3 and 1); number of steps; for each of them
 * its kind, the numbers of the maps that it reads and writes, and its input and output channels; for
 * the heads of the detector and of the descriptors their map, its first channel that counts, and
 * input and output channels. All numbers of channels are multiples of 8. The first step is the
 * stem, which reads the image; at most MOST_STEPS steps and MOST_MAPS maps. weights: for the stem (outputs / 8, side, side, 8), for
 * a 3×3 convolution (36, tiles of the outputs, inputs, 16 or 8), for a 1×1 convolution or head (tiles
 * of the outputs, inputs, 16 or 8), each followed by the bias. image: (height, width), multiples of 8.
 * threads: at most 64. work: `extract_work_size` floats. scores: (height, width); descriptors:
 * (height / 8, width / 8, width of a descriptor).
 */
EXPORT void extract_network(const int64_t *plan, const float *weights, const uint8_t *image,
                            int64_t height, int64_t width, int64_t threads, float *work,
                            float *scores, float *descriptors) {
    Extraction e = {.image = image, .height = height, .width = width, .num_threads = threads};
    e.scores = scores;
    e.described = descriptors;
    int64_t sizes[MOST_MAPS];
    e.buffer_size = read_plan(plan, &e, sizes);
    for (int64_t i = 0; i < e.num_steps; i++) {
        Step *step = &e.steps[i];
        int64_t area = i == 0 ? e.kernel * e.kernel : step->kind == PROJECT ? 1 : PLACES;
        if (step->kind != POOL && step->kind != ADD)
            weights = next_weights(weights, area * (i ? step->inputs : 1) * step->outputs,
                                   step->outputs, &step->weights, &step->bias);
    }
    for (int i = 0; i < NUM_HEADS; i++) {
        Head *head = &e.heads[i];
        weights = next_weights(weights, head->inputs * head->outputs, head->outputs, &head->weights,
                               &head->bias);
    }
    work = (float *)(((uintptr_t)work + 63) / 64 * 64);
    for (int i = 0; i < MOST_MAPS; work += round_up(sizes[i++], 16)) e.maps[i].data = work;
    e.buffers = work;
    Team team = {.context = &e, .num_layers = e.num_steps + 1, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
}
#endif
