/* SuperGlue's network with sparse weights: keypoint encoder, attention layers, projection, scores.
 *
 * Features are in tiles of TILE keypoints, (channels, TILE). Attention is computed for 16 queries
 * at a time, so that memory grows with the number of keypoints and not with its square.
 */
#include "sparse.h"

#if !defined(_WIN32)
#include "team.h"

#define TILE 32
#define HALF 16
#define MAX_STEPS 8 /* linear layers of the keypoint encoder */
#define MAX_LAYERS 64

typedef struct {
    int64_t cross, heads, head_dim;
    Product queries, keys, values; /* scale and order of the heads included */
    Product merge, features, messages, last; /* the MLP's first layer has two inputs */
} Layer;

typedef struct {
    int64_t count[2], tiles[2]; /* keypoints and tiles of both images */
    int64_t descriptor_dim, width, inner, hidden, projected, num_steps, num_layers;
    const float *keypoints, *descriptors; /* (tiles, 3, TILE) and (tiles, dim, TILE) */
    Product encoder[MAX_STEPS], projection, final;
    Layer layers[MAX_LAYERS];
    float *features, *queries;   /* (tiles, width, TILE) and (tiles, inner, TILE) */
    float *keys[2], *values[2];  /* as queries, by parity of the layer */
    float *scores;               /* (tiles 0 · TILE, tiles 1 · TILE) */
    float *buffers;              /* of the threads */
    int64_t buffer_size;
} Matcher;

static void apply(const Product *p, const float *x, float *out, int add, int relu) {
    multiply(p, x, out, TILE / 8, 64, add, relu);
}

/* Products of SHARING columns of a with HALF columns of b, both (n, TILE). */
INLINE void dots(const float *a, const float *b, int64_t n, Lanes sum[SHARING][2]) {
    for (int64_t k = 0; k < n; k++) {
        Lanes first = load(b + k * TILE), second = load(b + k * TILE + 8);
        for (int r = 0; r < SHARING; r++) {
            sum[r][0] += a[k * TILE + r] * first;
            sum[r][1] += a[k * TILE + r] * second;
        }
    }
}

/* Encode keypoints and add descriptors: the features before the first layer. */
static void encode(const Matcher *net, int64_t tile, float *buffer) {
    float *x = buffer, *y = buffer + TILE * net->hidden;
    float *features = net->features + tile * net->width * TILE;
    const float *input = net->keypoints + tile * 3 * TILE;
    const float *descriptors = net->descriptors + tile * net->descriptor_dim * TILE;
    for (int64_t i = 0; i < net->num_steps; i++) {
        int last = i + 1 == net->num_steps;
        apply(&net->encoder[i], input, last ? features : y, 0, !last);
        float *swap = x;
        input = x = y;
        y = swap;
    }
    if (net->projected)
        apply(&net->projection, descriptors, features, 1, 0);
    else
        for (int64_t i = 0; i < TILE * net->width; i++) features[i] += descriptors[i];
}

/* Queries, keys and values of a layer; after the last one the final projection. */
static void project(const Matcher *net, int64_t layer, int64_t tile, float *buffer) {
    float *x = net->features + tile * net->width * TILE;
    int64_t place = tile * net->inner * TILE;
    if (layer == net->num_layers) {
        apply(&net->final, x, buffer, 0, 0);
        memcpy(x, buffer, (size_t)(TILE * net->width) * sizeof *x);
        return;
    }
    apply(&net->layers[layer].queries, x, net->queries + place, 0, 0);
    apply(&net->layers[layer].keys, x, net->keys[layer % 2] + place, 0, 0);
    apply(&net->layers[layer].values, x, net->values[layer % 2] + place, 0, 0);
}

/* Replace logits (count, HALF) by exponentials; inverse sums (HALF,) of the columns. */
static void soften(float *logits, int64_t count, float *inverse) {
    Lanes highest[2] = {all(-INFINITY), all(-INFINITY)}, sum[2] = {all(0), all(0)};
    for (int64_t j = 0; j < count; j++)
        for (int h = 0; h < 2; h++)
            highest[h] = higher_of(highest[h], load(logits + j * HALF + 8 * h));
    for (int64_t j = 0; j < count; j++)
        for (int h = 0; h < 2; h++) {
            Lanes power = exp_lanes(load(logits + j * HALF + 8 * h) - highest[h]);
            sum[h] += power;
            store(logits + j * HALF + 8 * h, power);
        }
    for (int h = 0; h < 2; h++) store(inverse + 8 * h, all(1) / sum[h]);
}

/* Messages (head_dim, HALF) of one head to HALF queries. */
static void attend(const float *queries, const float *keys, const float *values, int64_t stride,
                   int64_t count, int64_t head_dim, float *logits, float *messages) {
    float inverse[HALF];
    for (int64_t j = 0; j < count; j += SHARING) {
        Lanes sum[SHARING][2] = {{{0}}};
        dots(keys + j / TILE * stride + j % TILE, queries, head_dim, sum);
        for (int r = 0; r < SHARING; r++)
            for (int h = 0; h < 2; h++) store(logits + (j + r) * HALF + 8 * h, sum[r][h]);
    }
    soften(logits, count, inverse);
    for (int64_t c = 0; c < head_dim; c += SHARING) {
        Lanes sum[SHARING][2] = {{{0}}};
        for (int64_t first = 0; first < count; first += TILE) {
            const float *tile = values + first / TILE * stride + c * TILE;
            int64_t n = count - first < TILE ? count - first : TILE;
            for (int64_t j = 0; j < n; j++) {
                const float *weights = logits + (first + j) * HALF;
                Lanes low = load(weights), high = load(weights + 8);
                for (int r = 0; r < SHARING; r++) {
                    sum[r][0] += tile[r * TILE + j] * low;
                    sum[r][1] += tile[r * TILE + j] * high;
                }
            }
        }
        for (int r = 0; r < SHARING; r++)
            for (int h = 0; h < 2; h++)
                store(messages + (c + r) * TILE + 8 * h, sum[r][h] * load(inverse + 8 * h));
    }
}

/* Attention and MLP of a tile. */
static void update(const Matcher *net, int64_t number, int64_t tile, float *buffer) {
    const Layer *layer = &net->layers[number];
    int64_t image = tile >= net->tiles[0], other = layer->cross ? !image : image;
    int64_t stride = net->inner * TILE, place = other ? net->tiles[0] * stride : 0;
    int64_t most = net->tiles[0] > net->tiles[1] ? net->tiles[0] : net->tiles[1];
    float *logits = buffer, *messages = logits + most * TILE * HALF;
    float *merged = messages + stride, *hidden = merged + net->width * TILE;
    for (int64_t head = 0; head < layer->heads; head++)
        for (int h = 0; h < 2; h++) {
            int64_t start = head * layer->head_dim * TILE;
            attend(net->queries + tile * stride + start + h * HALF,
                   net->keys[number % 2] + place + start, net->values[number % 2] + place + start,
                   stride, net->count[other], layer->head_dim, logits,
                   messages + start + h * HALF);
        }
    float *x = net->features + tile * net->width * TILE;
    apply(&layer->merge, messages, merged, 0, 0);
    apply(&layer->features, x, hidden, 0, 0);
    apply(&layer->messages, merged, hidden, 1, 1);
    apply(&layer->last, hidden, x, 1, 0);
}

/* The scores of the keypoints of a tile of image 0. */
static void score(const Matcher *net, int64_t tile) {
    int64_t stride = net->width * TILE, columns = net->tiles[1] * TILE;
    for (int64_t i = 0; i < TILE; i += SHARING)
        for (int64_t j = 0; j < columns; j += HALF) {
            Lanes sum[SHARING][2] = {{{0}}};
            const float *other = net->features + (net->tiles[0] + j / TILE) * stride;
            dots(net->features + tile * stride + i, other + j % TILE, net->width, sum);
            for (int r = 0; r < SHARING; r++)
                for (int h = 0; h < 2; h++) {
                    float *row = net->scores + (tile * TILE + i + r) * columns;
                    store(row + j + 8 * h, sum[r][h]);
                }
        }
}

/* Stage 0 encodes, stages 1 to `num_layers` are the layers, the last one is the score matrix. */
static int64_t begin(void *context, int64_t stage) {
    const Matcher *net = context;
    return net->tiles[0] + (stage > net->num_layers ? 0 : net->tiles[1]);
}

static void run_unit(void *context, int64_t stage, int64_t tile, int64_t thread) {
    const Matcher *net = context;
    float *buffer = net->buffers + thread * net->buffer_size;
    if (stage > net->num_layers) {
        score(net, tile);
        return;
    }
    if (stage == 0)
        encode(net, tile, buffer);
    else
        update(net, stage - 1, tile, buffer);
    project(net, stage, tile, buffer);
}

/* Floats of the buffer of a thread, with `most` tiles of an image. */
static int64_t buffer_size(const int64_t *plan, int64_t most) {
    return TILE * (most * HALF + plan[2] + plan[1] + 2 * plan[3]);
}

/* Number of floats that `match_sparse` needs for `work`. */
EXPORT int64_t match_sparse_work_size(const int64_t *plan, int64_t count0, int64_t count1,
                                      int64_t threads) {
    int64_t tiles0 = (count0 + TILE - 1) / TILE, tiles1 = (count1 + TILE - 1) / TILE;
    return (tiles0 + tiles1) * TILE * (plan[1] + 5 * plan[2]) +
           threads * buffer_size(plan, larger(tiles0, tiles1));
}

/* Score matrix of two images.
 *
 * plan: descriptor_dim, width, largest heads · head_dim, largest hidden width (also of the
 * encoder), 1 with a projection of the descriptors, number of linear layers of the encoder, number
 * of layers; for each of these 1 for cross-attention, heads, head_dim; then the products, as
 * `read_product` reads them: encoder, projection, for each layer queries, keys, values, merge,
 * features, messages, last; final. counts: (2,) keypoints. keypoints: (tiles, 3, TILE) and
 * descriptors: (tiles, descriptor_dim, TILE), the tiles of image 0 first, with zeros for padding.
 * threads: at most 64. work: `match_sparse_work_size` floats. scores: (tiles 0 · TILE, tiles 1 ·
 * TILE), overwritten.
 */
EXPORT void match_sparse(const int64_t *plan, const int32_t *indices, const float *values,
                         const int64_t *counts, const float *keypoints, const float *descriptors,
                         int64_t threads, float *work, float *scores) {
    Matcher net = {.keypoints = keypoints, .descriptors = descriptors, .scores = scores};
    for (int i = 0; i < 2; i++) {
        net.count[i] = counts[i];
        net.tiles[i] = (counts[i] + TILE - 1) / TILE;
    }
    net.buffer_size = buffer_size(plan, larger(net.tiles[0], net.tiles[1]));
    net.descriptor_dim = plan[0];
    net.width = plan[1];
    net.inner = plan[2];
    net.hidden = plan[3];
    net.projected = plan[4];
    net.num_steps = plan[5];
    net.num_layers = plan[6];
    plan += 7;
    for (int64_t i = 0; i < net.num_layers; i++, plan += 3) {
        net.layers[i].cross = plan[0];
        net.layers[i].heads = plan[1];
        net.layers[i].head_dim = plan[2];
    }
#define READ(product) plan = read_product(plan, indices, values, &(product))
    for (int64_t i = 0; i < net.num_steps; i++) READ(net.encoder[i]);
    if (net.projected) READ(net.projection);
    for (int64_t i = 0; i < net.num_layers; i++) {
        Layer *layer = &net.layers[i];
        READ(layer->queries);
        READ(layer->keys);
        READ(layer->values);
        READ(layer->merge);
        READ(layer->features);
        READ(layer->messages);
        READ(layer->last);
    }
    READ(net.final);
#undef READ
    int64_t size = (net.tiles[0] + net.tiles[1]) * TILE;
    net.features = work;
    net.queries = net.features + size * net.width;
    for (int i = 0; i < 2; i++) {
        net.keys[i] = net.queries + size * net.inner * (1 + 2 * i);
        net.values[i] = net.keys[i] + size * net.inner;
    }
    net.buffers = work + size * (net.width + 5 * net.inner);
    Team team = {.context = &net, .num_layers = net.num_layers + 2, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
}
#endif
