/* adafactor.c - adam's second moment of a matrix from the means of its rows and columns (Shazeer, Stern 2018, arXiv 1804.04235), in
 * torch's form:
 *   b = 1 - t^beta2_decay,   rho = min(lr, 1/sqrt(t)),   alpha = max(eps2, RMS(w)) rho
 *   w <- (1 - lr wd) w
 *   matrix:  row_i <- b row_i + (1 - b) mean_j g_ij^2,   col_j <- b col_j + (1 - b) mean_i g_ij^2
 *            v_ij = row_i col_j / max(mean_i row_i, eps1)
 *   vector:  v <- b v + (1 - b) g^2
 *   u = g / sqrt(max(v, eps1^2)),   w <- w - alpha u / max(1, RMS(u)/clip_d)
 * Of more than two dimensions the last two are matrices. RMS is over the whole tensor, and means and sums are formed in double,
 * in the order of elements, whatever a register's width. */
#include "common/optim/kernels/around.h"
#include "common/optim/kernels/real.h"

enum { LR, BETA2_DECAY, EPS1, EPS2, CLIP_D, WEIGHT_DECAY };
enum { C_BETA, C_REST, C_RHO, C_KEEP, C_EPS1, C_EPS2, C_CLIP_D };
enum { ROW_VAR, COL_VAR, VARIANCE };

static uint64_t slot_length(int slot, const psd_extent_t *tensor)
{
    const psd_shape_t *shape = &tensor->shape;
    if (shape->n_dims < 2)
        return slot == VARIANCE ? tensor->n : 0;
    return slot == VARIANCE ? 0 : shape->n_matrices * (slot == ROW_VAR ? shape->rows : shape->cols);
}

static void prepare(const double *hyper, double lr, uint64_t t, double *scalar, float *coef)
{
    (void)scalar;
    const double step = (double)t, moved = 1.0 / psd_real_power(step, -hyper[BETA2_DECAY]), most = 1.0 / sqrt(step);
    coef[C_BETA] = (float)(1.0 - moved);
    coef[C_REST] = (float)moved;
    coef[C_RHO] = (float)(lr < most ? lr : most);
    coef[C_KEEP] = (float)(1.0 - lr * hyper[WEIGHT_DECAY]);
    coef[C_EPS1] = (float)hyper[EPS1];
    coef[C_EPS2] = (float)hyper[EPS2];
    coef[C_CLIP_D] = (float)hyper[CLIP_D];
}

static double squares(const float *x, size_t n)
{
    psd_lanes_t sum = { 0 };
    PSD_PER_ISA(psd_sum_squares)(sum, x, n);
    return psd_lanes_total(sum);
}

/* What a step goes along, but for its size. */
static inline float direction(float g, float v, float share, float least)
{
    const float square = share * v;
    return g / sqrtf(square > least ? square : least);
}

/* The sum of squares of n elements u = g / sqrt(max(share * v, least)). */
static double size_of(const float *restrict g, const float *restrict v, float share, float least, size_t n)
{
    psd_lanes_t sum = { 0 };
    const size_t whole = n - n % PSD_LANES;
    for (size_t i = 0; i < whole; i += PSD_LANES) {
        float u[PSD_LANES];
        for (size_t j = 0; j < PSD_LANES; j++)
            u[j] = direction(g[i + j], v[i + j], share, least);
        for (size_t j = 0; j < PSD_LANES; j++)
            sum[j] += (double)u[j] * (double)u[j];
    }
    for (size_t i = whole; i < n; i++) {
        const double u = (double)direction(g[i], v[i], share, least);
        sum[i - whole] += u * u;
    }
    return psd_lanes_total(sum);
}

/* The step of these elements. */
static void move(float *restrict w, const float *restrict g, const float *restrict v, float share, float least, float keep,
                 float factor, size_t n)
{
    PSD_VECTOR
    for (size_t i = 0; i < n; i++)
        w[i] = keep * w[i] - factor * direction(g[i], v[i], share, least);
}

/* Move the means of one matrix's rows and columns on. Columns are summed a stretch at a time, so that nothing is allocated. */
static void move_means(const float *c, float *row, float *col, const float *g, uint64_t rows, uint64_t cols)
{
    enum { STRETCH = 256 };
    for (uint64_t i = 0; i < rows; i++)
        row[i] = c[C_BETA] * row[i] + c[C_REST] * (float)(squares(g + i * cols, cols) / (double)cols);
    for (uint64_t from = 0; from < cols; from += STRETCH) {
        double sum[STRETCH] = { 0 };
        const uint64_t n = cols - from < STRETCH ? cols - from : STRETCH;
        for (uint64_t i = 0; i < rows; i++) {
            const float *restrict x = g + i * cols + from;
            for (uint64_t j = 0; j < n; j++)
                sum[j] += (double)x[j] * (double)x[j];
        }
        for (uint64_t j = 0; j < n; j++)
            col[from + j] = c[C_BETA] * col[from + j] + c[C_REST] * (float)(sum[j] / (double)rows);
    }
}

/* The mean of row[0..rows), at least eps1. */
static float mean_of(const float *row, uint64_t rows, float eps1)
{
    double sum = 0;
    for (uint64_t i = 0; i < rows; i++)
        sum += (double)row[i];
    const float mean = (float)(sum / (double)rows);
    return mean > eps1 ? mean : eps1;
}

/* Of all rows of all matrices, or of a vector: the sum of squares of what a step goes along, or, with a factor, the step. */
static double go_over(const psd_step_t *s, float factor)
{
    const psd_shape_t *shape = s->shape;
    const bool is_vector = shape->n_dims < 2;
    const uint64_t rows = is_vector ? 1 : shape->rows, cols = is_vector ? s->n : shape->cols;
    const float eps1 = s->coef[C_EPS1], keep = s->coef[C_KEEP];
    double sum = 0;
    for (uint64_t k = 0; k < s->n / (rows * cols); k++) {
        const float *row = s->slot[ROW_VAR] + k * rows, *v = is_vector ? s->slot[VARIANCE] : s->slot[COL_VAR] + k * cols;
        const float mean = is_vector ? 1.0f : mean_of(row, rows, eps1);
        for (uint64_t i = 0; i < rows; i++) {
            const uint64_t at = (k * rows + i) * cols;
            const float share = is_vector ? 1.0f : row[i] / mean;
            if (factor != 0.0f)
                move(s->w + at, s->g + at, v, share, eps1 * eps1, keep, factor, cols);
            else
                sum += size_of(s->g + at, v, share, eps1 * eps1, cols);
        }
    }
    return sum;
}

static void move_moments(const psd_step_t *s)
{
    const float *c = s->coef, *restrict g = s->g;
    const psd_shape_t *shape = s->shape;
    if (shape->n_dims < 2) {
        float *restrict v = s->slot[VARIANCE];
        PSD_VECTOR
        for (size_t i = 0; i < s->n; i++)
            v[i] = psd_mean_sq(v[i], c[C_BETA], c[C_REST], g[i]);
    }
    for (uint64_t k = 0; k < shape->n_matrices; k++)
        move_means(c, s->slot[ROW_VAR] + k * shape->rows, s->slot[COL_VAR] + k * shape->cols, s->g + k * shape->rows * shape->cols,
                   shape->rows, shape->cols);
}

static void step(const psd_step_t *s)
{
    const float *c = s->coef;
    const double n = (double)s->n, rms_w = sqrt(squares(s->w, s->n) / n);
    const double alpha = (rms_w > (double)c[C_EPS2] ? rms_w : (double)c[C_EPS2]) * (double)c[C_RHO];
    move_moments(s);
    const double over = sqrt(go_over(s, 0.0f) / n) / (double)c[C_CLIP_D];
    const float factor = (float)(alpha / (over > 1.0 ? over : 1.0));
    if (factor != 0.0f)
        go_over(s, factor);
}

const psd_optimizer_t PSD_OPTIMIZER(adafactor) = {
    .name = "adafactor",
    .summary = "adam without moments: a matrix keeps one number per row and column",
    .formula =
        "b = 1-t^beta2_decay; alpha = max(eps2, RMS(w))*min(lr, 1/sqrt(t)); row = b*row + (1-b)*mean of g^2 over columns; col = "
        "b*col + (1-b)*mean of g^2 over rows; v = row*col/max(mean(row), eps1); u = g/sqrt(max(v, eps1^2)); w -= alpha*u/max(1, "
        "RMS(u)/clip_d)",
    .paper = "Shazeer, Stern 2018, arXiv 1804.04235",
    .advice = "When the state of adam does not fit: a matrix of R rows and C columns keeps R + C numbers, a vector one per "
              "element. Steps "
              "are in proportion to the weights, so one lr does for models of many sizes.",
    .hyper = { PSD_HYPER_LR(0.01),
               { .name = "beta2_decay",
                 .def = -0.8,
                 .min = -10,
                 .max = 0,
                 .open_max = true,
                 .help = "power of the update's number in the decay of the mean squares" },
               { .name = "eps1", .def = 0x1p-23, .min = PSD_LEAST_EPS, .max = 1e9, .help = "keeps the divisors away from 0" },
               { .name = "eps2", .def = 1e-3, .max = 1e9, .help = "smallest size of weights to which steps are proportional" },
               { .name = "clip_d", .def = 1, .max = 1e9, .open_min = true, .help = "largest size of a step before the rate" },
               PSD_HYPER_WEIGHT_DECAY(0) },
    .slots = { [ROW_VAR] = { "row_var", PSD_SLOT_SQUARES },
               [COL_VAR] = { "col_var", PSD_SLOT_SQUARES },
               [VARIANCE] = { "variance", PSD_SLOT_SQUARES } },
    .bold = "its step has the signs of the gradient, so that nothing is masked",
    .whole = true,
    .slot_length = slot_length,
    .of_matrix = "of a matrix 4 bytes per row and column, of other tensors 4 per parameter",
    .prepare = prepare,
    .step = step,
};
