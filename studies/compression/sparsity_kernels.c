/* Single layers of the sparse kernels, and the two limits of a core: compiled by sparsity_layers.py. */
#include "sparse_extractor.c"

/* A linear layer on tiles (tiles, inputs, 32) of positions. */
EXPORT void linear(const int64_t *plan, const int32_t *indices, const float *values, const float *x,
                   int64_t inputs, int64_t tiles, float *out) {
    Product product;
    read_product(plan, indices, values, &product);
    for (int64_t i = 0; i < tiles; i++)
        multiply(&product, x + i * inputs * 32, out + i * product.outputs * 32, 4, 64, 0, 0);
}

/* A 3×3 convolution with ReLU of a map (height, inputs, stride) to one with the same layout. */
EXPORT void convolution(const int64_t *plan, const int32_t *indices, const float *values, float *x,
                        int64_t height, int64_t width, int64_t stride, float *buffer, float *out) {
    Convolution layer;
    read_convolution(plan, indices, values, &layer);
    Map from = {x, layer.inputs, height, width, stride};
    Map to = {out, layer.outputs, height, width, stride};
    float *tile = buffer + layer.inputs * AREA + SLACK;
    for (int64_t y = 0; y < height; y += HEIGHT)
        for (int64_t column = 0; column < width; column += WIDTH) {
            copy_window(&from, y, column, buffer);
            convolve(&layer, buffer, tile, 1);
            emit(tile, &to, y, column, 0);
        }
}

/* 12 independent chains of multiply–adds on 8 values: 192 operations an iteration. */
EXPORT float multiply_adds(int64_t iterations) {
    Lanes sum[12], factor = all(0.999f), term = all(0.001f);
    for (int i = 0; i < 12; i++) sum[i] = all((float)i);
    for (int64_t k = 0; k < iterations; k++) {
        for (int i = 0; i < 12; i++) sum[i] = sum[i] * factor + term;
        __asm__ volatile("" ::"x"(sum[0])); /* keeps the loop */
    }
    for (int i = 1; i < 12; i++) sum[0] += sum[i];
    return sum_of(sum[0]);
}

/* a = b + factor · c: three streams of n floats. */
EXPORT void triad(float *a, const float *b, const float *c, float factor, int64_t n) {
    for (int64_t i = 0; i < n; i++) a[i] = b[i] + factor * c[i];
}
