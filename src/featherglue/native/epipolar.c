/* Fundamental matrices by least squares: see featherglue/geometry/local_optimization.py. */
#include "kernels.h"

#include <stdlib.h>

#define UNKNOWNS 7

typedef double Matrix[3][3];

/* F = U · diag(1, ratio, 0) · Vᵀ. */
typedef struct {
    Matrix U, V;
    double ratio;
} Model;

/* out = a · b, where b is transposed if asked for. */
static void multiply(Matrix out, Matrix a, Matrix b, int transposed) {
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) {
            double sum = 0;
            for (int k = 0; k < 3; k++) sum += a[i][k] * (transposed ? b[j][k] : b[k][j]);
            out[i][j] = sum;
        }
}

static void compose(Model *model, Matrix F) {
    Matrix scaled;
    for (int i = 0; i < 3; i++) {
        scaled[i][0] = model->U[i][0];
        scaled[i][1] = model->U[i][1] * model->ratio;
        scaled[i][2] = 0;
    }
    multiply(F, scaled, model->V, 1);
}

/* [v]×, so that [v]× · w = v × w. */
static void cross(const double v[3], Matrix out) {
    const double entries[9] = {0, -v[2], v[1], v[2], 0, -v[0], -v[1], v[0], 0};
    memcpy(out, entries, sizeof entries);
}

/* The derivatives of F by rotations of U, by rotations of V and by the ratio. */
static void differentiate(Model *model, Matrix F, Matrix out[UNKNOWNS]) {
    for (int axis = 0; axis < 3; axis++) {
        const double v[3] = {axis == 0, axis == 1, axis == 2};
        const double opposite[3] = {-v[0], -v[1], -v[2]};
        Matrix turn;
        cross(v, turn);
        multiply(out[axis], turn, F, 0);
        cross(opposite, turn);
        multiply(out[3 + axis], F, turn, 0);
    }
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++) out[6][i][j] = model->U[i][1] * model->V[j][1];
}

/* a = R · a, with the rotation vector v (Rodrigues). */
static void rotate(Matrix a, const double v[3]) {
    double angle = sqrt(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]), scale = 1 / fmax(angle, 1e-300);
    const double axis[3] = {v[0] * scale, v[1] * scale, v[2] * scale};
    Matrix K, square, R, turned;
    cross(axis, K);
    multiply(square, K, K, 0);
    for (int i = 0; i < 3; i++)
        for (int j = 0; j < 3; j++)
            R[i][j] = (i == j) + sin(angle) * K[i][j] + (1 - cos(angle)) * square[i][j];
    multiply(turned, R, a, 0);
    memcpy(a, turned, sizeof turned);
}

/* The epipolar lines of a match, (x, y) of their normals: F · p0 and Fᵀ · p1; returns p1ᵀ · F · p0. */
static double lines(Matrix F, const double *p0, const double *p1, double normals[4]) {
    double product = 0;
    for (int i = 0; i < 3; i++) {
        double line = F[i][0] * p0[0] + F[i][1] * p0[1] + F[i][2];
        product += line * (i < 2 ? p1[i] : 1);
        if (i < 2) {
            normals[i] = line;
            normals[2 + i] = F[0][i] * p1[0] + F[1][i] * p1[1] + F[2][i];
        }
    }
    return product;
}

static double square_of(const double normals[4]) {
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += normals[i] * normals[i];
    return fmax(sum, 1e-24);
}

static double sampson_square(Matrix F, const double *p0, const double *p1) {
    double normals[4], product = lines(F, p0, p1, normals);
    return product * product / square_of(normals);
}

/* How well a model fits, larger is better. */
static double fit(Model *model, const double *points0, const double *points1, int64_t count,
                  double scale) {
    Matrix F;
    double sum = 0;
    compose(model, F);
    for (int64_t i = 0; i < count; i++) {
        double term = scale * scale /
                      (sampson_square(F, points0 + 2 * i, points1 + 2 * i) + scale * scale);
        if (term == term) sum += term;
    }
    return sum;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Solve A · x = b by Cholesky's method, in place; 0 if A is not positive definite. */
static int solve(double A[UNKNOWNS][UNKNOWNS], double b[UNKNOWNS]) {
    double largest = 0;
    for (int i = 0; i < UNKNOWNS; i++) largest = fmax(largest, A[i][i]);
    for (int i = 0; i < UNKNOWNS; i++) {
        for (int j = 0; j <= i; j++) {
            double sum = A[i][j];
            for (int k = 0; k < j; k++) sum -= A[i][k] * A[j][k];
            if (i > j) {
                A[i][j] = sum / A[j][j];
            } else {
                if (!(sum > 1e-13 * largest)) return 0;
                A[i][i] = sqrt(sum);
            }
        }
    }
    for (int i = 0; i < UNKNOWNS; i++) {
        for (int k = 0; k < i; k++) b[i] -= A[i][k] * b[k];
        b[i] /= A[i][i];
    }
    for (int i = UNKNOWNS - 1; i >= 0; i--) {
        for (int k = i + 1; k < UNKNOWNS; k++) b[i] -= A[k][i] * b[k];
        b[i] /= A[i][i];
    }
    return 1;
}

/* Add a match to the normal equations A · x = b, lower half of A. */
static void add_match(Matrix F, Matrix derivatives[UNKNOWNS], const double *p0,
                      const double *p1, double scale, double A[UNKNOWNS][UNKNOWNS],
                      double b[UNKNOWNS]) {
    double normals[4], product = lines(F, p0, p1, normals), by[UNKNOWNS];
    double square = square_of(normals), distance = product / sqrt(square);
    double root_weight = 1 / (1 + distance * distance / (scale * scale));
    for (int u = 0; u < UNKNOWNS; u++) {
        double others[4], sum = 0, change = lines(derivatives[u], p0, p1, others);
        for (int i = 0; i < 4; i++) sum += normals[i] * others[i];
        by[u] = root_weight * (change / sqrt(square) - distance * sum / square);
    }
    for (int u = 0; u < UNKNOWNS; u++) {
        b[u] -= by[u] * root_weight * distance;
        for (int v = 0; v <= u; v++) A[u][v] += by[u] * by[v];
    }
}

/* Minimize the weighted Sampson distances of matches over fundamental matrices of rank 2.
 *
 * points0, points1: (count, 2), finite; model: (19,), U, V and the ratio of the singular values,
 * overwritten; threshold: distance beyond which a match has no weight; min_median: lower bound of
 * the median distance; scale_factor: scale of the weights over the median; min_used: minimum number
 * of matches within the threshold; min_step: a step that ends the iterations; work: (count,).
 * Returns 1 if the new model fits better, 0 if the given one is kept, and -1 if the normal equations
 * are singular.
 */
EXPORT int optimize_fundamental(const double *points0, const double *points1, int64_t count,
                                double *model, double threshold, double min_median,
                                double scale_factor, int64_t min_used, int64_t iterations,
                                double min_step, double *work) {
    Model now, initial;
    memcpy(&now, model, sizeof now);
    initial = now;
    double scale = 0;
    for (int64_t step = 0; step < iterations; step++) {
        Matrix F, derivatives[UNKNOWNS];
        compose(&now, F);
        differentiate(&now, F, derivatives);
        int64_t used = 0;
        for (int64_t i = 0; i < count; i++) {
            double square = sampson_square(F, points0 + 2 * i, points1 + 2 * i);
            if (square < threshold * threshold) work[used++] = square;
        }
        if (used < min_used) return 0;
        qsort(work, (size_t)used, sizeof *work, compare);
        double median = (work[(used - 1) / 2] + work[used / 2]) / 2;
        scale = scale_factor * fmax(sqrt(median), min_median);
        double A[UNKNOWNS][UNKNOWNS] = {{0}}, b[UNKNOWNS] = {0}, largest = 0;
        for (int64_t i = 0; i < count; i++) {
            const double *p0 = points0 + 2 * i, *p1 = points1 + 2 * i;
            if (sampson_square(F, p0, p1) < threshold * threshold)
                add_match(F, derivatives, p0, p1, scale, A, b);
        }
        if (!solve(A, b)) return -1;
        now.ratio += b[6];
        rotate(now.U, b);
        rotate(now.V, b + 3);
        for (int u = 0; u < UNKNOWNS; u++) largest = fmax(largest, fabs(b[u]));
        if (largest < min_step) break;
    }
    if (!(fit(&now, points0, points1, count, scale) >= fit(&initial, points0, points1, count, scale)))
        return 0;
    memcpy(model, &now, sizeof now);
    return 1;
}
