/* SuperGlue's network in float32: see featherglue/runtime/kernel_weights.py.
 *
 * Attention is computed for BLOCK queries at a time, so that memory grows with the number of
 * keypoints and not with its square. A layer is one pass over the keypoints: attention, MLP, and the
 * queries, keys and values of the next layer.
 */
#include "matcher.h"

#if !defined(_WIN32)
#include "team.h"

#define CHUNK 128 /* values that stay in the cache while they are added to the messages */

/* out = x · weights, plus the bias or plus `out`, for a number of rows that is a multiple of ROWS. */
static void apply(const Linear *layer, const float *x, int64_t ldx, float *out, int64_t ldo,
                  int64_t rows, int add, int relu) {
    for (int64_t j = 0; j < layer->outputs; j += WIDE)
        for (int64_t i = 0; i < rows; i += ROWS) {
            Lanes sum[ROWS][2], bias[2] = {load(layer->bias + j), load(layer->bias + j + 8)};
            float *to = out + i * ldo + j;
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 2; v++)
                    sum[r][v] = add ? bias[v] + load(to + r * ldo + 8 * v) : bias[v];
            multiply_wide(x + i * ldx, ldx, layer->weights + j * layer->inputs, WIDE, layer->inputs,
                          sum);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 2; v++)
                    store(to + r * ldo + 8 * v, relu ? higher_of(sum[r][v], all(0)) : sum[r][v]);
        }
}

/* Copy the rows of a block that exist; the others, and what follows in a row, are 0. */
static void copy_rows(const float *from, int64_t count, int64_t width, int64_t first, float *to,
                      int64_t ldo) {
    for (int64_t i = 0; i < BLOCK; i++) {
        int64_t filled = first + i < count ? width : 0;
        if (filled) memcpy(to + i * ldo, from + (first + i) * width, (size_t)width * sizeof *to);
        memset(to + i * ldo + filled, 0, (size_t)(ldo - filled) * sizeof *to);
    }
}

/* Encode keypoints and add descriptors: the features before the first layer. */
static void encode(const Network *net, const Image *image, int64_t first, float *buffer) {
    float *x = buffer, *y = buffer + BLOCK * net->hidden;
    float *out = image->features + first * net->width;
    int64_t dim = net->descriptor_dim;
    if (net->projects) {
        copy_rows(image->descriptors, image->count, dim, first, x, dim);
        apply(&net->projection, x, dim, out, net->width, BLOCK, 0, 0);
    } else {
        copy_rows(image->descriptors, image->count, dim, first, out, net->width);
    }
    copy_rows(image->points, image->count, 3, first, x, net->hidden);
    for (int64_t i = 0; i < net->num_steps; i++) {
        int last = i + 1 == net->num_steps;
        apply(&net->encoder[i], x, net->hidden, last ? out : y, last ? net->width : net->hidden,
              BLOCK, last, !last);
        float *swap = x;
        x = y;
        y = swap;
    }
}

/* Rows (BLOCK, width) of the second factor of a product, transposed into tiles (…, width, 16). */
static void transpose_rows(const float *rows, int64_t ld, int64_t width, int64_t first, float *to) {
    for (int64_t i = 0; i < BLOCK; i++) {
        float *tile = to + (first + i) / WIDE * WIDE * width + (first + i) % WIDE;
        for (int64_t c = 0; c < width; c++) tile[c * WIDE] = rows[i * ld + c];
    }
}

/* Queries, keys and values of a block. */
static void project(const Network *net, const Image *image, int64_t number, int64_t first,
                    float *buffer) {
    const Layer *layer = &net->layers[number];
    const float *x = image->features + first * net->width;
    int64_t inner = layer->heads * layer->head_dim;
    float *values = image->values[number % 2] + first * net->inner;
    apply(&layer->queries, x, net->width, image->queries + first * net->inner, net->inner, BLOCK, 0, 0);
    apply(&layer->values, x, net->width, values, net->inner, BLOCK, 0, 0);
    apply(&layer->keys, x, net->width, buffer, inner, BLOCK, 0, 0);
    for (int64_t head = 0; head < layer->heads; head++) {
        int64_t start = head * layer->head_dim;
        transpose_rows(buffer + start, inner, layer->head_dim, first,
                       image->keys[number % 2] + start * image->padded);
    }
}

/* Replace logits (count values) by their exponentials, relative to the highest; returns the sum. The
 * row has a multiple of eight values. */
static float soften(float *logits, int64_t count) {
    int64_t whole = count / 8 * 8;
    Lanes highest = all(-INFINITY), sum = all(0);
    for (int64_t j = 0; j < whole; j += 8) highest = higher_of(highest, load(logits + j));
    float top = -INFINITY;
    for (int i = 0; i < 8; i++) top = max_of(top, highest[i]);
    for (int64_t j = whole; j < count; j++) top = max_of(top, logits[j]);
    for (int64_t j = 0; j < whole; j += 8) {
        Lanes power = exp_lanes(load(logits + j) - top);
        sum += power;
        store(logits + j, power);
    }
    float total = sum_of(sum);
    for (int64_t j = whole; j < count; j++)
        total += logits[j] = exp_negative(max_of(logits[j] - top, LEAST_EXPONENT));
    return total;
}

/* Products of rows (BLOCK, n) and a matrix in tiles (columns / 16, n, 16). */
static void multiply_tiles(const float *rows, int64_t ld, int64_t n, const float *tiles,
                           int64_t columns, float *out, int64_t ldo, int64_t num_rows) {
    for (int64_t j = 0; j < columns; j += WIDE)
        for (int64_t i = 0; i < num_rows; i += ROWS) {
            Lanes sum[ROWS][2] = {{{0}}};
            multiply_wide(rows + i * ld, ld, tiles + j * n, WIDE, n, sum);
            for (int r = 0; r < ROWS; r++)
                for (int v = 0; v < 2; v++) store(out + (i + r) * ldo + j + 8 * v, sum[r][v]);
        }
}

/* messages = weights · values, `scale` applied to each row. */
static void add_values(const float *weights, int64_t ldw, const float *values, int64_t ldv,
                       int64_t count, const float *scale, int64_t dim, float *messages, int64_t ldm) {
    for (int64_t start = 0; start < count; start += CHUNK) {
        int64_t n = count - start < CHUNK ? count - start : CHUNK, ends = start + n == count;
        for (int64_t j = 0; j < dim; j += WIDE)
            for (int64_t i = 0; i < BLOCK; i += ROWS) {
                Lanes sum[ROWS][2];
                float *to = messages + i * ldm + j;
                for (int r = 0; r < ROWS; r++)
                    for (int v = 0; v < 2; v++) sum[r][v] = start ? load(to + r * ldm + 8 * v) : all(0);
                multiply_wide(weights + i * ldw + start, ldw, values + start * ldv + j, ldv, n, sum);
                for (int r = 0; r < ROWS; r++)
                    for (int v = 0; v < 2; v++)
                        store(to + r * ldm + 8 * v, ends ? scale[i + r] * sum[r][v] : sum[r][v]);
            }
    }
}

/* Attention and MLP of a block. */
static void update(const Network *net, int64_t number, const Image *image, const Image *other,
                   int64_t first, float *buffer) {
    const Layer *layer = &net->layers[number];
    int64_t padded = other->padded, inner = net->inner;
    float *messages = buffer, *hidden = messages + BLOCK * inner, *logits = hidden + BLOCK * net->hidden;
    for (int64_t head = 0; head < layer->heads; head++) {
        int64_t start = head * layer->head_dim;
        multiply_tiles(image->queries + first * inner + start, inner, layer->head_dim,
                       other->keys[number % 2] + start * padded, padded, logits, padded, BLOCK);
        float scale[BLOCK];
        for (int i = 0; i < BLOCK; i++) scale[i] = 1 / soften(logits + i * padded, other->count);
        add_values(logits, padded, other->values[number % 2] + start, inner, other->count, scale,
                   layer->head_dim, messages + start, inner);
    }
    float *x = image->features + first * net->width;
    apply(&layer->features, x, net->width, hidden, net->hidden, BLOCK, 0, 0);
    apply(&layer->messages, messages, inner, hidden, net->hidden, BLOCK, 1, 1);
    apply(&layer->last, hidden, net->hidden, x, net->width, BLOCK, 1, 0);
}

/* Stage 0 encodes, stages 1 to `num_layers` are the layers, the last one is the score matrix. */
static int64_t begin(void *context, int64_t stage) {
    const Network *net = context;
    int64_t last = stage == net->num_layers + 1;
    return net->images[0].units + (last ? 0 : net->images[1].units);
}

static void run_unit(void *context, int64_t stage, int64_t unit, int64_t thread) {
    const Network *net = context;
    float *buffer = net->buffers + thread * net->buffer_size;
    int64_t second = unit >= net->images[0].units, width = net->width;
    const Image *image = &net->images[second];
    int64_t first = (unit - (second ? net->images[0].units : 0)) * BLOCK;
    float *x = image->features + first * width;
    if (stage == net->num_layers + 1) {
        int64_t padded = net->images[1].padded, rows = round_up(image->count, ROWS) - first;
        multiply_tiles(x, width, width, net->projected, padded, net->scores + first * padded, padded,
                       rows < BLOCK ? rows : BLOCK);
        return;
    }
    if (stage == 0) {
        encode(net, image, first, buffer);
    } else {
        int cross = (int)net->layers[stage - 1].cross;
        const Image *other = &net->images[cross ? !second : second];
        net->update(net, stage - 1, image, other, first, buffer);
    }
    if (stage < net->num_layers) {
        net->project(net, image, stage, first, buffer);
    } else {
        apply(&net->final, x, width, buffer, width, BLOCK, 0, 0);
        memcpy(x, buffer, (size_t)(BLOCK * width) * sizeof *x);
        if (second) transpose_rows(x, width, width, first, net->projected);
    }
}

static void next_linear(const int64_t **sizes, const float **weights, Linear *layer) {
    layer->inputs = (*sizes)[0];
    layer->outputs = (*sizes)[1];
    *sizes += 2;
    layer->weights = *weights;
    layer->bias = *weights + layer->inputs * layer->outputs;
    *weights += (layer->inputs + 1) * layer->outputs;
}

static void read_plan(Network *net, const int64_t *plan, const float *weights) {
    net->num_layers = *plan++;
    for (int64_t i = 0; i < net->num_layers; i++, plan += 3) {
        net->layers[i].cross = plan[0];
        net->layers[i].heads = plan[1];
        net->layers[i].head_dim = plan[2];
    }
    net->num_steps = plan[0];
    net->projects = plan[1];
    net->inner = plan[2];
    net->hidden = plan[3];
    net->width = plan[4];
    net->descriptor_dim = plan[5];
    plan += 6;
    for (int64_t i = 0; i < net->num_steps; i++) next_linear(&plan, &weights, &net->encoder[i]);
    if (net->projects) next_linear(&plan, &weights, &net->projection);
    for (int64_t i = 0; i < net->num_layers; i++) {
        Layer *layer = &net->layers[i];
        next_linear(&plan, &weights, &layer->queries);
        next_linear(&plan, &weights, &layer->keys);
        next_linear(&plan, &weights, &layer->values);
        next_linear(&plan, &weights, &layer->features);
        next_linear(&plan, &weights, &layer->messages);
        next_linear(&plan, &weights, &layer->last);
    }
    next_linear(&plan, &weights, &net->final);
}

static int64_t padded_count(int64_t count) { return round_up(round_up(count, BLOCK), WIDE); }

/* Floats of the buffer of a thread. */
static int64_t buffer_size(const Network *net) {
    int64_t widest = larger(net->images[0].padded, net->images[1].padded);
    int64_t converted = larger(net->inner, larger(net->width, net->hidden)); /* bfloat16 */
    int64_t rows = larger(net->inner + net->hidden + widest + converted,
                          larger(2 * net->hidden, larger(net->descriptor_dim, net->width)));
    return round_up(BLOCK * rows, 16);
}

static int64_t image_size(const Network *net, int64_t padded) {
    return padded * (net->width + 5 * net->inner);
}

/* Number of floats that `match_network` needs for `work`. */
EXPORT int64_t match_work_size(const int64_t *plan, int64_t count0, int64_t count1, int64_t threads,
                               int64_t bfloat16) {
    Network net;
    float none = 0;
    read_plan(&net, plan, &none);
    net.images[0].padded = padded_count(count0);
    net.images[1].padded = padded_count(count1);
    return image_size(&net, net.images[0].padded) + image_size(&net, net.images[1].padded) +
           net.images[1].padded * net.width + threads * buffer_size(&net) +
           (bfloat16 ? bfloat16_size(&net) : 0) + 16;
}

/* Number of columns of the score matrix for a number of keypoints of image 1. */
EXPORT int64_t match_score_columns(int64_t count) { return padded_count(count); }

/* Score matrix of two images.
 *
 * plan: number of layers; then for each 1 for cross-attention, heads, head_dim; number of linear
 * layers of the encoder; 1 with a projection of the descriptors; largest heads · head_dim; largest
 * hidden width; width; descriptor_dim; then inputs and outputs of all linear layers in the order of
 * `weights`: encoder, projection, for each layer queries, keys, values, features, messages, last;
 * final. weights: for each of them the tiles and the bias (outputs,). Outputs and all inputs but
 * those of the first layer, 3, are multiples of 16. points: (count, 3) and descriptors: (count,
 * descriptor_dim) of both images. threads: at most 64. bfloat16: whether the products of the layers
 * use bfloat16, if the processor has it (`has_bfloat16`). work: `match_work_size` floats. scores:
 * (count0 up to 6, `match_score_columns`).
 */
EXPORT void match_network(const int64_t *plan, const float *weights, const float *points0,
                          const float *descriptors0, int64_t count0, const float *points1,
                          const float *descriptors1, int64_t count1, int64_t threads,
                          int64_t bfloat16, float *work, float *scores) {
    Network net = {.scores = scores, .project = project, .update = update};
    read_plan(&net, plan, weights);
    net.images[0] = (Image){.points = points0, .descriptors = descriptors0, .count = count0};
    net.images[1] = (Image){.points = points1, .descriptors = descriptors1, .count = count1};
    work = (float *)(((uintptr_t)work + 63) / 64 * 64);
    for (int i = 0; i < 2; i++) {
        Image *image = &net.images[i];
        image->units = (image->count + BLOCK - 1) / BLOCK;
        int64_t padded = image->padded = padded_count(image->count);
        image->features = work;
        image->queries = work + padded * net.width;
        for (int k = 0; k < 2; k++) {
            image->keys[k] = image->queries + padded * net.inner * (1 + 2 * k);
            image->values[k] = image->keys[k] + padded * net.inner;
        }
        work += image_size(&net, padded);
    }
    net.projected = work;
    net.buffers = work + net.images[1].padded * net.width;
    net.buffer_size = buffer_size(&net);
    if (bfloat16) use_bfloat16(&net, net.buffers + threads * net.buffer_size);
    Team team = {.context = &net, .num_layers = net.num_layers + 2, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
}
#endif
