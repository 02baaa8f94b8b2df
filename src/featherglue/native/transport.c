/* Matches from a score matrix, in the threads of a team: Sinkhorn's algorithm, and pairs that are
 * each other's most probable match. The assignment is never stored; see `optimal_transport` and
 * `mutual_pairs` in assignment.c, which do the same in two steps. */
#include "products.h"

#if !defined(_WIN32)
#include "team.h"

#define UNIT_ROWS 64

typedef struct {
    const float *scores;
    int64_t rows, columns, stride, iterations, pitch, units; /* pitch: floats of a row of the kernel */
    float bin, least;
    float *kernel, *a, *b, *totals; /* totals: (units, pitch), sums or maxima of columns by unit */
    int64_t *best;                  /* (rows,), most probable column of a row */
    float *highest;                 /* (rows,), its probability */
    atomic_int failed;
} Transport;

static void exponentiate_row(const Transport *t, int64_t row) {
    float *out = t->kernel + row * t->pitch;
    const float *from = t->scores + row * t->stride;
    int64_t whole = t->columns / 8 * 8;
    Lanes highest = all(t->bin);
    for (int64_t j = 0; j < whole; j += 8) highest = higher_of(highest, load(from + j));
    float top = t->bin;
    for (int i = 0; i < 8; i++) top = max_of(top, highest[i]);
    for (int64_t j = whole; j < t->columns; j++) top = max_of(top, from[j]);
    for (int64_t j = 0; j < whole; j += 8) store(out + j, exp_lanes(load(from + j) - top));
    for (int64_t j = whole; j < t->pitch; j++) {
        float score = j < t->columns ? from[j] : t->bin;
        out[j] = j <= t->columns ? exp_negative(max_of(score - top, LEAST_EXPONENT)) : 0.0f;
    }
}

/* Factors of the rows of a unit, and the sums of their columns. Four rows share a pass. */
static int scale_rows(const Transport *t, int64_t first, int64_t last, float *total) {
    int64_t pitch = t->pitch, i = first;
    memset(total, 0, (size_t)pitch * sizeof *total);
    for (; i + 4 <= last; i += 4) {
        const float *row = t->kernel + i * pitch;
        Lanes sums[4] = {{0}};
        for (int64_t j = 0; j < pitch; j += 8) {
            Lanes b = load(t->b + j);
            for (int k = 0; k < 4; k++) sums[k] += load(row + k * pitch + j) * b;
        }
        Lanes factors[4];
        for (int k = 0; k < 4; k++) {
            float sum = sum_of(sums[k]);
            if (!(sum >= t->least)) return 1;
            factors[k] = all(t->a[i + k] = (i + k == t->rows ? (float)t->columns : 1.0f) / sum);
        }
        for (int64_t j = 0; j < pitch; j += 8) {
            Lanes value = load(total + j);
            for (int k = 0; k < 4; k++) value += factors[k] * load(row + k * pitch + j);
            store(total + j, value);
        }
    }
    for (; i < last; i++) {
        const float *row = t->kernel + i * pitch;
        Lanes sums = all(0);
        for (int64_t j = 0; j < pitch; j += 8) sums += load(row + j) * load(t->b + j);
        float sum = sum_of(sums);
        if (!(sum >= t->least)) return 1;
        float factor = t->a[i] = (i == t->rows ? (float)t->columns : 1.0f) / sum;
        for (int64_t j = 0; j < pitch; j += 8)
            store(total + j, load(total + j) + factor * load(row + j));
    }
    return 0;
}

/* Factors of the columns from the sums of all units, in the order of the units. */
static int scale_columns(const Transport *t) {
    for (int64_t j = 0; j <= t->columns; j += 8) {
        Lanes sum = load(t->totals + j);
        for (int64_t unit = 1; unit < t->units; unit++) sum += load(t->totals + unit * t->pitch + j);
        for (int i = 0; i < 8 && j + i <= t->columns; i++) {
            if (!(sum[i] >= t->least)) return 1;
            t->b[j + i] = (j + i == t->columns ? (float)t->rows : 1.0f) / sum[i];
        }
    }
    return 0;
}

/* The most probable column of each row, and the highest probability of each column. */
static void find_maxima(const Transport *t, int64_t first, int64_t last, float *highest) {
    for (int64_t j = 0; j < t->pitch; j += 8) store(highest + j, all(-1));
    last = last < t->rows ? last : t->rows;
    for (int64_t i = first; i < last; i++) {
        float *row = t->kernel + i * t->pitch, factor = t->iterations ? t->a[i] : 1.0f;
        Lanes best = all(-1);
        row[t->columns] = 0; /* the dustbin is no match */
        for (int64_t j = 0; j < t->pitch; j += 8) {
            Lanes value = load(row + j) * (factor * load(t->b + j));
            store(row + j, value);
            best = higher_of(best, value);
            store(highest + j, higher_of(load(highest + j), value));
        }
        float top = -1;
        for (int k = 0; k < 8; k++) top = max_of(top, best[k]);
        int64_t at = 0;
        while (at < t->columns - 1 && row[at] != top) at++;
        t->best[i] = at;
        t->highest[i] = top;
    }
}

/* Stage 0 computes the kernel, stages 1 to `iterations` scale it, the last one finds maxima. */
static int64_t begin(void *context, int64_t stage) {
    Transport *t = context;
    if (stage > 1 && !atomic_load(&t->failed) && scale_columns(t)) atomic_store(&t->failed, 1);
    return t->units;
}

static void run_unit(void *context, int64_t stage, int64_t unit, int64_t thread) {
    Transport *t = context;
    (void)thread;
    if (atomic_load(&t->failed)) return;
    int64_t first = unit * UNIT_ROWS, all_rows = t->rows + 1;
    int64_t last = first + UNIT_ROWS < all_rows ? first + UNIT_ROWS : all_rows;
    float *total = t->totals + unit * t->pitch;
    if (stage == 0) {
        for (int64_t i = first; i < last && i < t->rows; i++) exponentiate_row(t, i);
    } else if (stage <= t->iterations) {
        if (scale_rows(t, first, last, total)) atomic_store(&t->failed, 1);
    } else {
        find_maxima(t, first, last, total);
    }
}

static int64_t count_units(int64_t rows) { return (rows + UNIT_ROWS) / UNIT_ROWS; }

static int64_t kernel_pitch(int64_t columns) { return round_up(columns + 1, 8); }

/* Number of floats that `match_scores` needs for `work`. */
EXPORT int64_t match_scores_work_size(int64_t rows, int64_t columns) {
    int64_t pitch = kernel_pitch(columns);
    return pitch * (rows + 1 + 1 + count_units(rows)) + 2 * round_up(rows + 1, 8) + 16;
}

/* Pairs of keypoints that are each other's most probable match.
 *
 * scores: (rows, columns), both at least 1, with a row stride. pairs: (rows, 2) int64; probabilities:
 * (rows,); best: (rows,) int64, overwritten; work: `match_scores_work_size` floats. Returns the
 * number of pairs, ascending in the row; of equal values in a row or column the first counts. Returns
 * -1 if a sum falls below `least`: the kernel then needs rescaling.
 */
EXPORT int64_t match_scores(const float *scores, int64_t rows, int64_t columns, int64_t stride,
                            float bin, int64_t iterations, float least, float threshold,
                            int64_t threads, float *work, int64_t *best, int64_t *pairs,
                            float *probabilities) {
    Transport t = {.scores = scores, .rows = rows, .columns = columns, .stride = stride,
                   .iterations = iterations, .bin = bin, .least = least, .best = best};
    t.pitch = kernel_pitch(columns);
    t.units = count_units(rows);
    t.kernel = (float *)(((uintptr_t)work + 63) / 64 * 64);
    t.b = t.kernel + (rows + 1) * t.pitch;
    t.totals = t.b + t.pitch;
    t.a = t.totals + t.units * t.pitch;
    t.highest = t.a + round_up(rows + 1, 8);
    for (int64_t j = 0; j < t.pitch; j++)
        t.kernel[rows * t.pitch + j] = t.b[j] = j <= columns ? 1.0f : 0.0f;
    Team team = {.context = &t, .num_layers = iterations + 2, .num_threads = threads};
    team.begin = begin;
    team.run = run_unit;
    run_team(&team);
    if (atomic_load(&t.failed)) return -1;
    float *highest = t.totals;
    for (int64_t unit = 1; unit < t.units; unit++)
        for (int64_t j = 0; j < t.pitch; j += 8)
            store(highest + j, higher_of(load(highest + j), load(t.totals + unit * t.pitch + j)));
    return take_mutual(rows, best, t.highest, threshold, highest, pairs, probabilities);
}
#endif
