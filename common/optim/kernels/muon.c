/* muon.c - momentum whose matrix is made nearly orthogonal (Jordan et al. 2024, KellerJordan/Muon), by five Newton-Schulz steps in
 * float32:
 *   buf <- mu buf + (1 - mu) g,   u = (1 - mu) g + mu buf with nesterov, else buf
 *   X = u / (|u| + 1e-7), transposed where there are more rows than columns
 *   ns_steps times:  A = X X',   X <- 3.4445 X + (-4.7750 A + 2.0315 A A) X
 *   w <- (1 - lr wd) w - lr sqrt(max(1, rows/cols)) X
 * Tensors that are no matrices are adamw's. Each element of a product is summed in the order of the inner index, by
 * multiplications and additions of float32, so that neither blocks nor registers show in the bits. */
#include "common/optim/kernels/around.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { LR, MOMENTUM, NESTEROV, NS_STEPS, WEIGHT_DECAY };
enum { C_LR, C_MU, C_REST, C_NESTEROV, C_STEPS, C_KEEP };
enum { MOMENTUM_BUFFER };

/* ---- products ---- */

/* As many floats as a register holds. */
#if defined __AVX512F__
enum { WIDTH = 16 };
#elif defined __AVX2__
enum { WIDTH = 8 };
#else
enum { WIDTH = 4 };
#endif
typedef float lanes_t __attribute__((vector_size(WIDTH * sizeof(float)), aligned(sizeof(float)), may_alias));

/* A tile of ROWS x COLS sums stays in registers along INNER terms, whose right factors are copied to one place first. */
enum { ROWS = 6, PER_ROW = 2, COLS = PER_ROW * WIDTH, INNER = 256 };

/* sum[i][j] += a[i * stride + k] * b[k][j], k = 0..n-1 in this order. */
static void add_tile(float sum[ROWS][COLS], const float *a, size_t stride, const float (*b)[COLS], size_t n)
{
    lanes_t acc[ROWS][PER_ROW];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PER_ROW; j++)
            acc[i][j] = *(const lanes_t *)&sum[i][j * WIDTH];
    for (size_t k = 0; k < n; k++)
        for (int i = 0; i < ROWS; i++)
            for (int j = 0; j < PER_ROW; j++)
                acc[i][j] += a[(size_t)i * stride + k] * *(const lanes_t *)&b[k][j * WIDTH];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < PER_ROW; j++)
            *(lanes_t *)&sum[i][j * WIDTH] = acc[i][j];
}

/* A matrix whose element (i, j) is at[i * down + j * right]. */
typedef struct view {
    const float *at;
    size_t down, right;
} view_t;

/* out (m x n) = a (m x inner, row after row) times b (inner x n). With `symmetric`, what is above the diagonal's tiles is made,
 * and copied. */
static void multiply(float *restrict out, const float *a, view_t b, size_t m, size_t n, size_t inner, bool symmetric)
{
    float right[INNER][COLS], left[ROWS][INNER];
    memset(out, 0, m * n * sizeof *out);
    for (size_t from = 0; from < inner; from += INNER) {
        const size_t terms = inner - from < INNER ? inner - from : INNER;
        for (size_t col = 0; col < n; col += COLS) {
            const size_t cols = n - col < COLS ? n - col : COLS;
            for (size_t k = 0; k < terms; k++)
                for (size_t j = 0; j < COLS; j++)
                    right[k][j] = j < cols ? b.at[(from + k) * b.down + (col + j) * b.right] : 0.0f;
            for (size_t row = 0; row < m && (!symmetric || row < col + cols); row += ROWS) {
                const size_t rows = m - row < ROWS ? m - row : ROWS;
                float sum[ROWS][COLS] = { { 0 } };
                for (size_t i = 0; i < rows; i++)
                    memcpy(sum[i], out + (row + i) * n + col, cols * sizeof *out);
                const float *at = a + row * inner + from;
                for (size_t i = 0; rows < ROWS && i < ROWS; i++)
                    for (size_t k = 0; k < terms; k++)
                        left[i][k] = i < rows ? at[i * inner + k] : 0.0f;
                if (rows < ROWS)
                    add_tile(sum, left[0], INNER, right, terms);
                else
                    add_tile(sum, at, inner, right, terms);
                for (size_t i = 0; i < rows; i++)
                    memcpy(out + (row + i) * n + col, sum[i], cols * sizeof *out);
            }
        }
    }
    for (size_t i = 0; symmetric && i < m; i++)
        for (size_t j = 0; j < i; j++)
            out[i * n + j] = out[j * n + i];
}

/* ---- the step ---- */

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)t, (void)scalar;
    coef[C_LR] = (float)lr;
    coef[C_MU] = (float)hyper[MOMENTUM];
    coef[C_REST] = (float)(1.0 - hyper[MOMENTUM]);
    coef[C_NESTEROV] = (float)hyper[NESTEROV];
    coef[C_STEPS] = (float)hyper[NS_STEPS];
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
}

static double length_of(const float *u, size_t n)
{
    psd_lanes_t sum = { 0 };
    PSD_PER_ISA(psd_sum_squares)(sum, u, n);
    return sqrt(psd_lanes_total(sum));
}

/* Make x (rows x cols, no more rows than columns) nearly orthogonal; `room` has space for another one and two of rows x rows. */
static void orthogonalise(float *restrict x, float *restrict room, size_t rows, size_t cols, int steps)
{
    const size_t n = rows * cols, square = rows * rows;
    float *restrict bx = room, *restrict a = room + n, *restrict aa = a + square;
    for (int k = 0; k < steps; k++) {
        multiply(a, x, (view_t){ x, 1, cols }, rows, rows, cols, true);
        multiply(aa, a, (view_t){ a, rows, 1 }, rows, rows, rows, true);
        PSD_VECTOR
        for (size_t i = 0; i < square; i++)
            a[i] = -4.7750f * a[i] + 2.0315f * aa[i];
        multiply(bx, a, (view_t){ x, cols, 1 }, rows, cols, rows, false);
        PSD_VECTOR
        for (size_t i = 0; i < n; i++)
            x[i] = 3.4445f * x[i] + bx[i];
    }
}

static void step(const psd_step_t *s)
{
    const float *c = s->coef;
    const bool is_matrix = s->shape->n_dims > 1;
    const size_t cols = is_matrix ? s->shape->cols : s->n, rows = s->n / cols;
    const bool turns = rows > cols;
    const size_t low = turns ? cols : rows, high = turns ? rows : cols;
    const float *restrict g = s->g;
    float *restrict w = s->w, *restrict buf = s->slot[MOMENTUM_BUFFER];
    float *x = malloc(2 * (s->n + low * low) * sizeof *x), *room = x ? x + s->n : NULL;
    assert(x && "no memory for the products of a matrix");

    PSD_VECTOR
    for (size_t i = 0; i < s->n; i++) {
        buf[i] = c[C_MU] * buf[i] + c[C_REST] * g[i];
        room[i] = c[C_NESTEROV] > 0 ? c[C_REST] * g[i] + c[C_MU] * buf[i] : buf[i];
    }
    const float length = (float)(length_of(room, s->n) + 1e-7);
    for (size_t i = 0; i < low; i++)
        for (size_t j = 0; j < high; j++)
            x[i * high + j] = (turns ? room[j * cols + i] : room[i * cols + j]) / length;
    orthogonalise(x, room, low, high, (int)c[C_STEPS]);

    const float by = (float)((double)c[C_LR] * (turns ? sqrt((double)rows / (double)cols) : 1.0));
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++)
            w[i * cols + j] = c[C_KEEP] * w[i * cols + j] - by * (turns ? x[j * high + i] : x[i * high + j]);
    free(x);
}

static int check(const double *hyper, psd_err_t *err)
{
    return hyper[NS_STEPS] == floor(hyper[NS_STEPS]) ? PSD_OK : psd_err_set(err, PSD_ECONFIG, "ns_steps is a whole number");
}

const psd_optimizer_t PSD_OPTIMIZER(muon) = {
    .name = "muon",
    .summary = "momentum whose matrices are made nearly orthogonal; adamw for all other tensors",
    .formula =
        "buf = mu*buf + (1-mu)*g; u = (1-mu)*g + mu*buf; X = u/(|u|+1e-7); ns_steps times: A = X*X', X = 3.4445*X + (-4.7750*A + "
        "2.0315*A*A)*X; w -= lr*sqrt(max(1, rows/cols))*X + lr*wd*w",
    .paper = "Jordan et al. 2024, github.com/KellerJordan/Muon",
    .advice = "For the matrices of hidden layers, where it often needs fewer steps than adamw. Give embeddings and the output "
              "layer a rule of "
              "their own by groups. A step costs some 15 products of the matrix with itself, on one thread.",
    .hyper = { PSD_HYPER_LR(0.02),
               PSD_HYPER_BETA("momentum", 0.95, "share of the velocity kept per update"),
               PSD_HYPER_FLAG("nesterov", 1, "look ahead along the velocity"),
               { .name = "ns_steps", .def = 5, .min = 1, .max = 100, .help = "Newton-Schulz steps" },
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [MOMENTUM_BUFFER] = { "momentum_buffer", PSD_SLOT_MOMENT } },
    .bold = "it moves matrices as a whole, and what is left of one that is masked is not orthogonal",
    .whole = true,
    .others = "adamw(lr=3e-4, beta1=0.9, beta2=0.95, eps=1e-10, weight_decay=0)",
    .check = check,
    .uncounted = true,
    .prepare = prepare,
    .step = step,
};
