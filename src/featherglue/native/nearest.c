/* Mutual nearest descriptors: see featherglue/matching/assignment.py. */
#include "products.h"

#define BLOCK_ROWS 96 /* rows that stay in the cache while all columns pass, a multiple of ROWS */

EXPORT int64_t nearest_work_size(int64_t columns, int64_t dim) {
    return round_up(columns, WIDE) * (dim + 1) + BLOCK_ROWS * (dim + 16);
}

/* Descriptors (count, dim) transposed into tiles (count / 16, dim, 16); 0 beyond them. */
static void fill_tiles(const float *descriptors, int64_t count, int64_t dim, float *tiles) {
    for (int64_t j = 0; j < round_up(count, WIDE); j++) {
        float *tile = tiles + j / WIDE * WIDE * dim + j % WIDE;
        for (int64_t k = 0; k < dim; k++)
            tile[k * WIDE] = j < count ? descriptors[j * dim + k] : 0;
    }
}

/* Compare ROWS rows with a tile: the highest products of the rows and of the columns so far.
 *
 * best, place: (ROWS, 8) by lane, the highest product and the first of its eight columns.
 * highest: (16,) of the columns.
 */
static void compare(const float *x, int64_t dim, const float *tile, int64_t first, int64_t valid_rows,
                    int64_t columns, float *best, int32_t *place, float *highest) {
    Lanes sum[ROWS][2];
    for (int v = 0; v < 2; v++) {
        Lanes start = all(0); /* products with columns beyond the last one are −infinity */
        for (int i = 0; i < 8; i++)
            if (first + 8 * v + i >= columns) start[i] = -INFINITY;
        for (int r = 0; r < ROWS; r++) sum[r][v] = start;
    }
    multiply_wide(x, dim, tile, WIDE, dim, sum);
    Lanes top[2] = {load(highest), load(highest + 8)}; /* not before: registers are few */
    for (int r = 0; r < valid_rows; r++) {
        Lanes row = load(best + 8 * r);
        Integers at;
        memcpy(&at, place + 8 * r, sizeof at);
        for (int v = 0; v < 2; v++) {
            Integers higher = sum[r][v] > row, here = (int32_t)(first + 8 * v) + (Integers){0};
            at = (higher & here) | (~higher & at);
            row = higher_of(sum[r][v], row);
            top[v] = higher_of(sum[r][v], top[v]);
        }
        store(best + 8 * r, row);
        memcpy(place + 8 * r, &at, sizeof at);
    }
    for (int v = 0; v < 2; v++) store(highest + 8 * v, top[v]);
}

/* The column with the highest product of a row, the first of equal ones. */
static int64_t best_column(const float *best, const int32_t *place, float *top) {
    int64_t column = place[0];
    *top = best[0];
    for (int i = 1; i < 8; i++)
        if (best[i] > *top || (best[i] == *top && place[i] + i < column)) {
            *top = best[i];
            column = place[i] + i;
        }
    return column;
}

/* Pairs of descriptors whose product is the highest of its row and of its column, if it exceeds a
 * threshold.
 *
 * first: (rows, dim); second: (columns, dim); work: nearest_work_size floats; best: (rows,); top:
 * (rows,) and highest: (columns rounded up to 16,), the highest products; pairs: (rows, 2); scores:
 * (rows,). Returns the number of pairs, ascending in the row; of equal products the first counts.
 */
EXPORT int64_t nearest_pairs(const float *first, int64_t rows, const float *second, int64_t columns,
                             int64_t dim, float threshold, float *work, int64_t *best, float *top,
                             float *highest, int64_t *pairs, float *scores) {
    int64_t padded = round_up(columns, WIDE);
    float *tiles = work, *block = tiles + padded * dim, *lanes = block + BLOCK_ROWS * dim;
    int32_t *places = (int32_t *)(lanes + BLOCK_ROWS * 8);
    fill_tiles(second, columns, dim, tiles);
    for (int64_t j = 0; j < padded; j++) highest[j] = -INFINITY;
    for (int64_t start = 0; start < rows; start += BLOCK_ROWS) {
        int64_t count = rows - start < BLOCK_ROWS ? rows - start : BLOCK_ROWS;
        memcpy(block, first + start * dim, (size_t)(count * dim) * sizeof *block);
        memset(block + count * dim, 0, (size_t)((BLOCK_ROWS - count) * dim) * sizeof *block);
        for (int64_t i = 0; i < BLOCK_ROWS * 8; i++) lanes[i] = -INFINITY;
        memset(places, 0, BLOCK_ROWS * 8 * sizeof *places);
        for (int64_t j = 0; j < columns; j += WIDE)
            for (int64_t i = 0; i < count; i += ROWS)
                compare(block + i * dim, dim, tiles + j * dim, j, count - i < ROWS ? count - i : ROWS,
                        columns, lanes + 8 * i, places + 8 * i, highest + j);
        for (int64_t i = 0; i < count; i++)
            best[start + i] = best_column(lanes + 8 * i, places + 8 * i, &top[start + i]);
    }
    return take_mutual(rows, best, top, threshold, highest, pairs, scores);
}
