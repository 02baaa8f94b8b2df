/* SuperGlue's network: what both precisions of its attention layers share. */
#ifndef FEATHERGLUE_MATCHER_H
#define FEATHERGLUE_MATCHER_H

#include "products.h"

#define BLOCK 24  /* keypoints of a unit of work, a multiple of ROWS */
#define MAX_STEPS 8
#define MAX_LAYERS 64

/* A linear layer: weights in tiles (outputs / 16, inputs, 16). */
typedef struct {
    int64_t inputs, outputs;
    const float *weights, *bias;
    const uint32_t *pairs; /* weights in bfloat16, if products use it: see bfloat16.c */
} Linear;

typedef struct {
    int64_t cross, heads, head_dim;
    Linear queries, keys, values;    /* scale and order of the heads included */
    Linear features, messages, last; /* the MLP; the merge projection is included */
} Layer;

typedef struct {
    const float *points, *descriptors; /* (count, 3), (count, descriptor_dim) */
    int64_t count, units, padded;      /* padded: keypoints up to BLOCK and WIDE */
    float *features, *queries;         /* (padded, width), (padded, inner) */
    float *keys[2], *values[2];        /* by parity of the layer: keys per head in tiles (padded / 16,
                                          head_dim, 16), values (padded, inner) */
} Image; /* queries, keys and values are in another format with bfloat16 */

typedef struct Network Network;
struct Network {
    Image images[2];
    int64_t num_steps, num_layers, projects, descriptor_dim, width, inner, hidden, buffer_size;
    Linear encoder[MAX_STEPS], projection, final;
    Layer layers[MAX_LAYERS];
    float *projected, *scores, *buffers; /* in tiles, of image 1; (padded 0, padded 1) */
    /* Queries, keys and values of a block of keypoints. */
    void (*project)(const Network *net, const Image *image, int64_t layer, int64_t first,
                    float *buffer);
    /* Attention and MLP of a block. */
    void (*update)(const Network *net, int64_t layer, const Image *image, const Image *other,
                   int64_t first, float *buffer);
};

/* bfloat16.c: products of the layers in bfloat16, where the processor has them. */

/* Floats that the weights of the layers need in bfloat16; 0 where the processor has no products. */
int64_t bfloat16_size(const Network *net);

/* Convert the weights of the layers into `bfloat16_size` floats, and use them. */
void use_bfloat16(Network *net, float *memory);

#endif
