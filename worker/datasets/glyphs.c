/* glyphs.c - a data set without a file: the ten digits drawn from strokes, 28 x 28 bytes,
 * "glyphs[:ROWS[:SEED]]".
 *
 * Skeletons of every digit, their points jittered, become fields of distances once; a sample then looks one up through a random
 * affine map and a smooth elastic one, inks what lies within half a stroke's width, and adds stray strokes and noise. Only + - * /
 * and sqrt are used, never a function of libm, so that every machine and compiler draws the same bytes. Sample i depends only on
 * (seed, train or test, i): "glyphs:1000" is the head of "glyphs". */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/rng.h"
#include "worker/labels.h"

enum {
    SIDE = 28, /* pixels */
    TRAIN_ROWS = 60000,
    TEST_ROWS = 10000,
    MAX_ROWS = 10000000,
    SHAPES = 24,       /* jittered skeletons of each digit */
    FIELD = 40,        /* cells a side of a field of distances */
    NODES = 5,         /* nodes a side of the elastic grid */
    MAX_POINTS = 14,   /* of a stroke */
    MAX_SEGMENTS = 96, /* of a skeleton */
    CURVE_STEPS = 4,   /* straight pieces between two points of a curve */
};

/* The field covers the unit box of the skeleton and this much around it. */
static const float margin = 0.45f;

typedef struct point {
    float x, y;
} point_t;

typedef struct stroke {
    bool curve; /* through the points, else straight between them */
    int n;      /* points */
    point_t point[MAX_POINTS];
} stroke_t;

/* A way to write a digit: strokes in a unit box, y downward. */
typedef struct style {
    int digit;
    int n; /* strokes */
    stroke_t stroke[3];
} style_t;

/* clang-format off */
static const style_t styles[] = {
    { 0, 1, { { true, 9, { {.5f,0}, {.85f,.15f}, {.97f,.5f}, {.85f,.85f}, {.5f,1}, {.15f,.85f}, {.03f,.5f}, {.15f,.15f}, {.5f,0} } } } },
    { 0, 1, { { true, 9, { {.6f,0}, {.8f,.2f}, {.8f,.55f}, {.65f,.9f}, {.4f,1}, {.2f,.8f}, {.2f,.4f}, {.4f,.1f}, {.7f,.05f} } } } },
    { 1, 1, { { false, 2, { {.5f,0}, {.5f,1} } } } },
    { 1, 1, { { false, 3, { {.2f,.25f}, {.5f,0}, {.5f,1} } } } },
    { 1, 2, { { false, 3, { {.25f,.2f}, {.5f,0}, {.5f,1} } }, { false, 2, { {.2f,1}, {.8f,1} } } } },
    { 2, 2, { { true, 7, { {.1f,.25f}, {.25f,.05f}, {.55f,0}, {.85f,.15f}, {.82f,.4f}, {.5f,.7f}, {.1f,1} } }, { false, 2, { {.1f,1}, {.9f,1} } } } },
    { 2, 1, { { true, 10, { {.15f,.2f}, {.45f,0}, {.8f,.15f}, {.75f,.45f}, {.4f,.8f}, {.15f,.95f}, {.15f,.75f}, {.4f,.8f}, {.65f,.97f}, {.95f,.95f} } } } },
    { 3, 2, { { true, 5, { {.12f,.1f}, {.5f,0}, {.85f,.15f}, {.8f,.38f}, {.4f,.48f} } }, { true, 5, { {.4f,.48f}, {.85f,.6f}, {.9f,.82f}, {.55f,1}, {.08f,.9f} } } } },
    { 3, 2, { { false, 3, { {.15f,0}, {.85f,0}, {.45f,.42f} } }, { true, 5, { {.45f,.42f}, {.85f,.55f}, {.88f,.82f}, {.5f,1}, {.1f,.88f} } } } },
    { 4, 2, { { false, 3, { {.65f,0}, {.08f,.65f}, {.95f,.65f} } }, { false, 2, { {.68f,.1f}, {.68f,1} } } } },
    { 4, 2, { { false, 3, { {.2f,0}, {.12f,.55f}, {.92f,.52f} } }, { false, 2, { {.78f,.05f}, {.72f,1} } } } },
    { 5, 2, { { false, 3, { {.85f,0}, {.2f,0}, {.15f,.45f} } }, { true, 6, { {.15f,.45f}, {.5f,.37f}, {.87f,.55f}, {.85f,.85f}, {.5f,1}, {.08f,.9f} } } } },
    { 5, 2, { { true, 6, { {.3f,.02f}, {.25f,.4f}, {.6f,.42f}, {.85f,.65f}, {.65f,.95f}, {.1f,.97f} } }, { false, 2, { {.3f,.02f}, {.9f,.04f} } } } },
    { 6, 1, { { true, 9, { {.75f,0}, {.4f,.2f}, {.15f,.55f}, {.17f,.85f}, {.5f,1}, {.85f,.85f}, {.8f,.6f}, {.5f,.5f}, {.18f,.68f} } } } },
    { 6, 1, { { true, 8, { {.4f,0}, {.2f,.35f}, {.12f,.75f}, {.4f,1}, {.75f,.9f}, {.75f,.65f}, {.45f,.58f}, {.15f,.75f} } } } },
    { 7, 1, { { false, 3, { {.1f,0}, {.9f,0}, {.4f,1} } } } },
    { 7, 2, { { false, 3, { {.1f,.05f}, {.9f,0}, {.45f,1} } }, { false, 2, { {.3f,.5f}, {.85f,.48f} } } } },
    { 7, 1, { { true, 6, { {.1f,.2f}, {.15f,.03f}, {.5f,.06f}, {.9f,0}, {.6f,.45f}, {.45f,1} } } } },
    { 8, 1, { { true, 13, { {.5f,.47f}, {.2f,.3f}, {.25f,.08f}, {.5f,0}, {.75f,.08f}, {.8f,.3f}, {.5f,.47f}, {.15f,.7f}, {.2f,.93f}, {.5f,1}, {.8f,.93f}, {.85f,.7f}, {.5f,.47f} } } } },
    { 8, 1, { { true, 9, { {.8f,.1f}, {.4f,.02f}, {.25f,.25f}, {.6f,.5f}, {.8f,.8f}, {.45f,1}, {.2f,.8f}, {.45f,.5f}, {.82f,.12f} } } } },
    { 9, 1, { { true, 9, { {.8f,.33f}, {.5f,.5f}, {.2f,.4f}, {.15f,.15f}, {.5f,0}, {.8f,.1f}, {.83f,.35f}, {.75f,.7f}, {.55f,1} } } } },
    { 9, 2, { { true, 7, { {.78f,.1f}, {.5f,0}, {.2f,.12f}, {.2f,.38f}, {.5f,.48f}, {.78f,.3f}, {.78f,.1f} } }, { false, 2, { {.78f,.05f}, {.74f,1} } } } },
};
/* clang-format on */

/* How strong each disturbance is. With these, softmax regression stays near 91 % and an mlp passes 97 %. */
static const float shift_max = 1.8f;    /* pixels */
static const float elastic_max = 1.4f;  /* pixels */
static const float jitter_max = 0.05f;  /* of the unit box */
static const float turn_max = 0.12f;    /* tangent of half the angle */
static const float slant_max = 0.3f;    /* pixels to the side per pixel up */
static const float stray_length = 9.0f; /* pixels along each axis */
static const float noise_max = 48.0f;   /* of 255 */

static float between(uint64_t *rng, float low, float high) { return low + (high - low) * (float)psd_uniform(rng); }

/* ---- Skeletons and their fields of distances ---- */

typedef struct skeleton {
    int n; /* segments */
    point_t from[MAX_SEGMENTS], to[MAX_SEGMENTS];
} skeleton_t;

static void add_segment(skeleton_t *self, point_t from, point_t to)
{
    if (self->n < MAX_SEGMENTS) {
        self->from[self->n] = from;
        self->to[self->n++] = to;
    }
}

/* Catmull and Rom's curve between b and c, with neighbours a and d. */
static point_t on_curve(point_t a, point_t b, point_t c, point_t d, float t)
{
    const float t2 = t * t, t3 = t2 * t;
    const float wa = -t3 + 2 * t2 - t, wb = 3 * t3 - 5 * t2 + 2, wc = -3 * t3 + 4 * t2 + t, wd = t3 - t2;
    return (point_t){ 0.5f * (wa * a.x + wb * b.x + wc * c.x + wd * d.x), 0.5f * (wa * a.y + wb * b.y + wc * c.y + wd * d.y) };
}

static void add_stroke(skeleton_t *self, const stroke_t *stroke, uint64_t *rng)
{
    point_t p[MAX_POINTS];
    for (int i = 0; i < stroke->n; i++) {
        p[i].x = stroke->point[i].x + between(rng, -jitter_max, jitter_max);
        p[i].y = stroke->point[i].y + between(rng, -jitter_max, jitter_max);
    }
    for (int i = 0; i + 1 < stroke->n; i++) {
        if (!stroke->curve) {
            add_segment(self, p[i], p[i + 1]);
            continue;
        }
        point_t before = p[i ? i - 1 : 0], after = p[i + 2 < stroke->n ? i + 2 : i + 1], last = p[i];
        for (int k = 1; k <= CURVE_STEPS; k++) {
            point_t next = on_curve(before, p[i], p[i + 1], after, (float)k / CURVE_STEPS);
            add_segment(self, last, next);
            last = next;
        }
    }
}

static float clamp(float x, float low, float high)
{
    x = x < low ? low : x;
    return x > high ? high : x;
}

/* Distances from the skeleton at the centres of the field's cells. */
static void measure(const skeleton_t *skeleton, float field[FIELD][FIELD])
{
    const float cell = (1 + 2 * margin) / (FIELD - 1);
    for (int y = 0; y < FIELD; y++) {
        float nearest[FIELD];
        for (int x = 0; x < FIELD; x++)
            nearest[x] = 1e9f;
        const float py = (float)y * cell - margin;
        for (int s = 0; s < skeleton->n; s++) {
            const point_t a = skeleton->from[s], b = skeleton->to[s];
            const float dx = b.x - a.x, dy = b.y - a.y, per_length2 = 1 / (dx * dx + dy * dy + 1e-12f);
            for (int x = 0; x < FIELD; x++) {
                const float ax = (float)x * cell - margin - a.x, ay = py - a.y;
                const float t = clamp((ax * dx + ay * dy) * per_length2, 0, 1);
                const float ex = ax - t * dx, ey = ay - t * dy, d2 = ex * ex + ey * ey;
                nearest[x] = d2 < nearest[x] ? d2 : nearest[x];
            }
        }
        for (int x = 0; x < FIELD; x++)
            field[y][x] = sqrtf(nearest[x]);
    }
}

typedef struct shapes {
    float field[10][SHAPES][FIELD][FIELD];
} shapes_t;

static void draw_shapes(shapes_t *self, uint64_t seed)
{
    const int n_styles = sizeof styles / sizeof *styles;
    uint64_t rng = seed;
    for (int digit = 0, first = 0; digit < 10; digit++) {
        int n = 0;
        while (first + n < n_styles && styles[first + n].digit == digit)
            n++;
        for (int k = 0; k < SHAPES; k++) {
            const style_t *style = &styles[first + k % n];
            skeleton_t skeleton = { 0 };
            for (int i = 0; i < style->n; i++)
                add_stroke(&skeleton, &style->stroke[i], &rng);
            measure(&skeleton, self->field[digit][k]);
        }
        first += n;
    }
}

/* ---- Samples ---- */

/* A map from pixels to the field's cells. */
typedef struct warp {
    float xx, xy, x0, yx, yy, y0;             /* the affine part */
    float dx[NODES][NODES], dy[NODES][NODES]; /* the elastic part, in pixels, before the affine one */
    float pixels_per_cell;                    /* on average */
} warp_t;

static warp_t random_warp(uint64_t *rng)
{
    warp_t self;
    /* Rotation without sine and cosine: from the tangent of half the angle. */
    const float t = between(rng, -turn_max, turn_max), cosine = (1 - t * t) / (1 + t * t), sine = 2 * t / (1 + t * t);
    const float slant = between(rng, -slant_max, slant_max);
    const float wide = between(rng, 8.5f, 14), high = between(rng, 14.5f, 20);
    const float cells = (FIELD - 1) / (1 + 2 * margin), half = (FIELD - 1) * 0.5f;
    self.xx = (cosine + slant * sine) / wide * cells;
    self.xy = (sine - slant * cosine) / wide * cells;
    self.yx = -sine / high * cells;
    self.yy = cosine / high * cells;
    const float cx = (SIDE - 1) * 0.5f + between(rng, -shift_max, shift_max),
                cy = (SIDE - 1) * 0.5f + between(rng, -shift_max, shift_max);
    self.x0 = half - self.xx * cx - self.xy * cy;
    self.y0 = half - self.yx * cx - self.yy * cy;
    self.pixels_per_cell = sqrtf(wide * high) / cells;
    for (int i = 0; i < NODES; i++)
        for (int j = 0; j < NODES; j++) {
            self.dx[i][j] = between(rng, -elastic_max, elastic_max);
            self.dy[i][j] = between(rng, -elastic_max, elastic_max);
        }
    return self;
}

/* The distance of cell coordinates (x, y) from the skeleton, in sides of the unit box, interpolated. */
static float look_up(const float (*field)[FIELD], float x, float y)
{
    x = clamp(x, 0, FIELD - 1.001f);
    y = clamp(y, 0, FIELD - 1.001f);
    const int i = (int)y, j = (int)x;
    const float fy = y - (float)i, fx = x - (float)j;
    const float top = field[i][j] + fx * (field[i][j + 1] - field[i][j]);
    const float low = field[i + 1][j] + fx * (field[i + 1][j + 1] - field[i + 1][j]);
    return top + fy * (low - top);
}

/* Add ink (0 to 1) where the stroke of half width `radius` pixels passes. */
static void ink_digit(float *ink, const float (*field)[FIELD], const warp_t *warp, float radius)
{
    const float node = (NODES - 1) / (float)(SIDE - 1) * 0.9999f;
    const float scale = (FIELD - 1) / (1 + 2 * margin) * warp->pixels_per_cell; /* pixels in a box of the field's units */
    for (int y = 0; y < SIDE; y++) {
        const float v = (float)y * node;
        const int i = (int)v;
        const float fv = v - (float)i;
        float row_dx[NODES], row_dy[NODES];
        for (int j = 0; j < NODES; j++) {
            row_dx[j] = warp->dx[i][j] + fv * (warp->dx[i + 1][j] - warp->dx[i][j]);
            row_dy[j] = warp->dy[i][j] + fv * (warp->dy[i + 1][j] - warp->dy[i][j]);
        }
        for (int x = 0; x < SIDE; x++) {
            const float u = (float)x * node;
            const int j = (int)u;
            const float fu = u - (float)j;
            const float px = (float)x + row_dx[j] + fu * (row_dx[j + 1] - row_dx[j]);
            const float py = (float)y + row_dy[j] + fu * (row_dy[j + 1] - row_dy[j]);
            const float d = look_up(field, warp->xx * px + warp->xy * py + warp->x0, warp->yx * px + warp->yy * py + warp->y0);
            ink[y * SIDE + x] = clamp(radius - d * scale + 0.5f, 0, 1);
        }
    }
}

/* A short straight line somewhere, as dirt or a neighbour's stroke leaves it. */
static void ink_stray(float *ink, uint64_t *rng)
{
    const float x0 = between(rng, 0, SIDE), y0 = between(rng, 0, SIDE);
    const float dx = between(rng, -stray_length, stray_length), dy = between(rng, -stray_length, stray_length);
    const float radius = between(rng, 0.3f, 0.9f), per_length2 = 1 / (dx * dx + dy * dy + 1e-6f);
    for (int y = 0; y < SIDE; y++)
        for (int x = 0; x < SIDE; x++) {
            const float ax = (float)x - x0, ay = (float)y - y0, t = clamp((ax * dx + ay * dy) * per_length2, 0, 1);
            const float ex = ax - t * dx, ey = ay - t * dy;
            const float stray = clamp(radius - sqrtf(ex * ex + ey * ey) + 0.5f, 0, 1);
            ink[y * SIDE + x] = stray > ink[y * SIDE + x] ? stray : ink[y * SIDE + x];
        }
}

/* Ink to bytes, with noise: the sum of two bytes, triangular. Four pixels share one random number. */
static void expose(const float *ink, uint8_t *pixel, uint64_t *rng)
{
    const float dark = between(rng, 150, 255), noise = between(rng, 0, noise_max) / 255;
    for (int k = 0; k < SIDE * SIDE; k += 4) {
        const uint64_t bits = psd_splitmix64(rng);
        for (int i = 0; i < 4; i++) {
            const uint64_t pair = bits >> (16 * i);
            const float grain = (float)((int)(pair & 255) + (int)(pair >> 8 & 255) - 255);
            pixel[k + i] = (uint8_t)clamp(ink[k + i] * dark + grain * noise + 0.5f, 0, 255);
        }
    }
}

static int draw_sample(const shapes_t *shapes, uint64_t rng, uint8_t *pixel)
{
    float ink[SIDE * SIDE];
    const int digit = (int)(psd_splitmix64(&rng) % 10), shape = (int)(psd_splitmix64(&rng) % SHAPES);
    const warp_t warp = random_warp(&rng);
    ink_digit(ink, shapes->field[digit][shape], &warp, between(&rng, 0.6f, 1.5f));
    if (psd_splitmix64(&rng) & 1)
        ink_stray(ink, &rng);
    expose(ink, pixel, &rng);
    return digit;
}

/* ---- Reader ---- */

/* "", "ROWS" or "ROWS:SEED". */
static int parse_argument(const char *text, size_t *rows, uint64_t *seed, psd_err_t *err)
{
    char *end;
    if (!*text)
        return PSD_OK;
    *rows = strtoul(text, &end, 10);
    const char *second = *end == ':' ? end + 1 : NULL;
    if (second)
        *seed = strtoull(second, &end, 10);
    if (*text < '0' || *text > '9' || (second && (*second < '0' || *second > '9')) || *end || !*rows || *rows > MAX_ROWS)
        return psd_err_set(err, PSD_ECONFIG,
                           "data set 'glyphs:%.100s': write glyphs, glyphs:ROWS or glyphs:ROWS:SEED with 1 to %d rows", text,
                           MAX_ROWS);
    return PSD_OK;
}

static int read(psd_dataset_t *self, const psd_bytes_t *file, const psd_bytes_t *labels_file, const psd_dataset_options_t *options,
                psd_err_t *err)
{
    (void)labels_file;
    size_t rows = options->train ? TEST_ROWS : TRAIN_ROWS;
    uint64_t seed = 1;
    if (parse_argument(file->name, &rows, &seed, err))
        return PSD_ECONFIG;
    self->n_features = SIDE * SIDE;
    if (options->train && options->train->n_features != self->n_features)
        return psd_err_set(err, PSD_ECONFIG, "glyphs have %zu features, the training set has %zu; test on data of its own kind",
                           self->n_features, options->train->n_features);
    shapes_t *shapes = malloc(sizeof *shapes);
    self->pixels = malloc(rows * self->n_features);
    psd_labels_t labels = { .set = self, .options = options, .largest = 9 };
    int rc = shapes && self->pixels ? PSD_OK : psd_err_set(err, PSD_ENOMEM, "no memory for %zu glyphs", rows);
    if (!rc)
        draw_shapes(shapes, seed);
    for (size_t i = 0; !rc && i < rows; i++) {
        /* Train and test count from two far apart places; the generator scatters what it is seeded with. */
        uint64_t key = seed * 0x9E3779B97F4A7C15u + (options->train ? UINT64_C(1) << 63 : 0) + i;
        int digit = draw_sample(shapes, psd_splitmix64(&key), self->pixels + i * self->n_features);
        rc = psd_labels_add(&labels, (float)digit, "glyphs", i + 1, err);
    }
    free(shapes);
    rc = rc ? rc : psd_labels_end(&labels, "glyphs", err);
    self->first_class = 0; /* of ten, even if no row has the first */
    return rc;
}

const psd_reader_t psd_reader_glyphs = {
    .name = "glyphs",
    .summary = "ten digits drawn from strokes, 28x28, made on the spot: glyphs[:ROWS[:SEED]]",
    .no_file = true,
    .read = read,
};
