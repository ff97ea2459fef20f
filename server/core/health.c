#include "server/core/health.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool psd_health_is_due(uint64_t every, uint64_t step)
{
    if (!every || !step)
        return false;
    return (step - 1) % every == 0 || (step < every && (step & (step - 1)) == 0);
}

void psd_health_init(psd_health_t *self, const psd_groups_t *groups, const psd_clip_t *clip)
{
    *self = (psd_health_t){ .groups = *groups, .clip = *clip };
}

void psd_health_clear(psd_health_t *self)
{
    psd_partition_clear(&self->map);
    free(self->term);
    free(self->sum);
    free(self->tensor);
    *self = (psd_health_t){ .groups = self->groups, .clip = self->clip };
}

bool psd_health_has_begun(const psd_health_t *self) { return self->tensor != NULL; }

int psd_health_begin(psd_health_t *self, const psd_extent_t *tensors, const uint8_t *group_of, uint32_t n_tensors,
                     uint32_t n_servers)
{
    if (psd_partition_cut(&self->map, tensors, n_tensors, n_servers, PSD_MOST_OF_PART, NULL) != PSD_OK ||
        !(self->term = calloc((size_t)self->map.n_chunks * PSD_LOOK_TERMS * PSD_HEALTH_OPEN, sizeof *self->term)) ||
        !(self->sum = calloc((size_t)n_tensors * PSD_LOOK_TERMS, sizeof *self->sum)) ||
        !(self->tensor = calloc(n_tensors, sizeof *self->tensor))) {
        psd_health_clear(self);
        return PSD_ENOMEM;
    }
    for (uint32_t i = 0; i < PSD_HEALTH_OPEN; i++)
        self->open[i].term = self->term + (size_t)i * self->map.n_chunks * PSD_LOOK_TERMS;
    for (uint32_t s = 0; s < n_servers; s++)
        self->n_holders += self->map.n_held[s] > 0;
    self->n_tensors = n_tensors;
    self->stride = 1;
    for (uint32_t t = 0; t < n_tensors; t++)
        self->tensor[t] = (psd_health_tensor_t){ .n = tensors[t].n,
                                                 .group = group_of[t],
                                                 .gradient_norm = NAN,
                                                 .weight_norm = NAN,
                                                 .update_ratio = NAN,
                                                 .zero_share = NAN,
                                                 .reached_share = NAN,
                                                 .first_rms = NAN,
                                                 .growth = NAN };
    return PSD_OK;
}

/* Healthy runs of every rule on glyphs stay well below these: after step 100 no look had an update of more than 0.08 of the
 * weights, and before that none had more than 1.5 / sqrt(step) twice (the first step of some rules is larger); no tensor grew
 * 15-fold. */
static const double THROWN = 0.1, THROWN_EARLY = 2; /* update over weights; the second is divided by the square root of the step */
static const double GROWN = 100, GROWN_FROM = 1;    /* times as large as it began, and at least this root mean square */
static const double TINY = 1e-8;                    /* update over weights: fewer than 3 in 100 weights change in their last bit */
static const double NOISE = 1e-4;                   /* gradients over those of the model: rounding in float32 leaves less of 0 */
static const double RATE_FADED = 1e-3;              /* of the greatest rate: a tensor whose schedule has ended is not stuck */

/* ---- one look ---- */

static bool is_frozen(const psd_health_t *self, const psd_health_tensor_t *x) { return self->groups.at[x->group].freezes; }

static const double *sum_of(const psd_health_t *self, uint32_t t) { return self->sum + (size_t)t * PSD_LOOK_TERMS; }

/* Add up the chunks, in the order of the model. */
static void add_up(psd_health_t *self, const double *term)
{
    memset(self->sum, 0, (size_t)self->n_tensors * PSD_LOOK_TERMS * sizeof *self->sum);
    for (uint32_t c = 0; c < self->map.n_chunks; c++)
        psd_look_join(self->sum + (size_t)self->map.chunk[c].tensor * PSD_LOOK_TERMS, term + (size_t)c * PSD_LOOK_TERMS);
}

/* The root mean square of all weights or gradients, by their term; 0 if it is not finite. */
static double rms_of_model(const psd_health_t *self, int squares)
{
    double sum = 0, n = 0;
    for (uint32_t t = 0; t < self->n_tensors; t++) {
        sum += sum_of(self, t)[squares];
        n += sum_of(self, t)[PSD_LOOK_N];
    }
    return n > 0 && isfinite(sum) ? sqrt(sum / n) : 0;
}

/* The figures of a tensor that had gradients. */
static void note(const psd_health_t *self, psd_health_tensor_t *x, const double *sum)
{
    const double n = sum[PSD_LOOK_N], root = sqrt(n);
    x->gradient_norm = sqrt(sum[PSD_LOOK_GRADIENT2]);
    x->weight_norm = sqrt(sum[PSD_LOOK_WEIGHT2]);
    x->first_rms = isnan(x->first_rms) ? x->weight_norm / root : x->first_rms;
    x->growth = x->weight_norm / root / fmax(x->first_rms, self->model_rms);
    const double size = fmax(x->weight_norm, self->model_rms * root);
    x->update_ratio = size > 0 ? sqrt(sum[PSD_LOOK_UPDATE2]) / size : NAN;
    x->zero_share = sum[PSD_LOOK_ZEROS] / n;
    x->reached_share = sum[PSD_LOOK_REACHED] / n;
    x->rate = sum[PSD_LOOK_RATE];
    x->most_rate = fmax(x->most_rate, x->rate);
}

/* The number of consecutive looks that have shown a sign. */
static void count(uint32_t *in_row, bool shows) { *in_row = shows ? *in_row + 1 : 0; }

static bool is_cut_by_value(const psd_health_t *self, const psd_health_tensor_t *x)
{
    return psd_group_clip(&self->groups.at[x->group], &self->clip)->value > 0;
}

/* A bias before a normalization has no effect: its gradients are what rounding leaves of 0. Vanishing gradients look the same. */
static bool is_noise(const psd_health_t *self, const psd_health_tensor_t *x, const double *sum)
{
    return x->gradient_norm / sqrt(sum[PSD_LOOK_N]) < NOISE * self->gradient_rms;
}

/* The sign that the newest looks show: the cause before its consequences. */
static psd_health_sign_t sign_of(const psd_health_t *self, psd_health_tensor_t *x, const double *sum, uint64_t step)
{
    const double rms = x->weight_norm / sqrt(sum[PSD_LOOK_N]);
    count(&x->n_zeros, sum[PSD_LOOK_ZEROS] == sum[PSD_LOOK_N]);
    count(&x->n_tiny, !x->n_zeros && x->update_ratio < TINY && x->rate > 0 && x->rate >= RATE_FADED * x->most_rate);
    count(&x->n_thrown, x->update_ratio > fmax(THROWN, THROWN_EARLY / sqrt((double)step)));
    if (!isfinite(sum[PSD_LOOK_WEIGHT2]) || !isfinite(sum[PSD_LOOK_UPDATE2]))
        return PSD_SIGN_INFINITE;
    if (!is_cut_by_value(self, x) && sum[PSD_LOOK_REACHED] > 0)
        return PSD_SIGN_OVERFLOW;
    const double grown = x->sign == PSD_SIGN_GROWN ? GROWN / 2 : GROWN; /* hysteresis: the state does not flap near the threshold */
    return rms > GROWN_FROM && x->growth > grown && isfinite(x->growth) ? PSD_SIGN_GROWN
           : x->n_zeros >= PSD_HEALTH_IN_ROW                            ? PSD_SIGN_ZEROS
           : x->n_thrown >= PSD_HEALTH_IN_ROW                           ? PSD_SIGN_THROWN
           : x->n_tiny < PSD_HEALTH_IN_ROW                              ? PSD_SIGN_NONE
           : is_noise(self, x, sum)                                     ? PSD_SIGN_NOISE
                                                                        : PSD_SIGN_TINY;
}

static psd_health_state_t state_of(psd_health_sign_t sign)
{
    static const psd_health_state_t states[PSD_N_SIGNS] = {
        [PSD_SIGN_NONE] = PSD_HEALTH_OK,
        [PSD_SIGN_ZEROS] = PSD_HEALTH_DEAD,
        [PSD_SIGN_TINY] = PSD_HEALTH_STUCK,
        [PSD_SIGN_NOISE] = PSD_HEALTH_STUCK,
        [PSD_SIGN_INFINITE] = PSD_HEALTH_EXPLODING,
        [PSD_SIGN_OVERFLOW] = PSD_HEALTH_EXPLODING,
        [PSD_SIGN_GROWN] = PSD_HEALTH_EXPLODING,
        [PSD_SIGN_THROWN] = PSD_HEALTH_EXPLODING,
    };
    return states[sign];
}

static void see(const psd_health_t *self, uint32_t t)
{
    psd_health_tensor_t *x = &self->tensor[t];
    const double *sum = sum_of(self, t);
    x->told = x->state;
    if (!(sum[PSD_LOOK_N] > 0)) {
        x->n_zeros = x->n_tiny = x->n_thrown = 0;
        x->sign = PSD_SIGN_NONE;
        x->state = is_frozen(self, x) ? PSD_HEALTH_FROZEN : PSD_HEALTH_ABSENT;
        return;
    }
    note(self, x, sum);
    const psd_health_sign_t sign = sign_of(self, x, sum, self->step);
    x->since = state_of(sign) != x->state ? self->step : x->since;
    x->sign = sign;
    x->state = state_of(sign);
}

/* ---- the strip ---- */

static const char letters[] = PSD_HEALTH_LETTERS;
enum { NOTHING, ZEROS, LEVELS, N_LEVELS = 14, INFINITE = LEVELS + N_LEVELS };

static char letter_of(const psd_health_tensor_t *x, const double *sum)
{
    if (!(sum[PSD_LOOK_N] > 0) || (isnan(x->update_ratio) && isfinite(sum[PSD_LOOK_UPDATE2])))
        return letters[NOTHING];
    if (!isfinite(sum[PSD_LOOK_WEIGHT2]) || !isfinite(sum[PSD_LOOK_UPDATE2]))
        return letters[INFINITE];
    if (sum[PSD_LOOK_ZEROS] == sum[PSD_LOOK_N])
        return letters[ZEROS];
    int level = 0;
    for (double above = 1e-6; level + 1 < N_LEVELS && x->update_ratio >= above; above *= sqrt(10))
        level++;
    return letters[LEVELS + level];
}

static char stronger(char a, char b) { return strchr(letters, a) > strchr(letters, b) ? a : b; }

/* Make room for the newest look: in the newest column, in a new column, or by merging each two columns into one. */
static void make_column(psd_health_t *self)
{
    if (self->n_columns && self->in_last < self->stride) {
        self->in_last++;
        return;
    }
    for (uint32_t i = 0; self->n_columns == PSD_HEALTH_COLUMNS && i < PSD_HEALTH_COLUMNS / 2; i++) {
        self->column[i] = self->column[2 * i];
        for (uint32_t t = 0; t < self->n_tensors; t++)
            self->tensor[t].strip[i] = stronger(self->tensor[t].strip[2 * i], self->tensor[t].strip[2 * i + 1]);
    }
    if (self->n_columns == PSD_HEALTH_COLUMNS) {
        self->n_columns /= 2;
        self->stride *= 2;
    }
    self->in_last = 1;
    self->column[self->n_columns++] = self->step;
}

static void paint(psd_health_t *self, uint32_t t)
{
    char *at = &self->tensor[t].strip[self->n_columns - 1];
    const char now = letter_of(&self->tensor[t], sum_of(self, t));
    *at = self->in_last == 1 ? now : stronger(*at, now);
}

/* The open look of step `step`. A new one takes the place of the oldest if no place is free; NULL if it would be that one. */
static psd_health_open_t *open_look(psd_health_t *self, uint64_t step)
{
    psd_health_open_t *oldest = &self->open[0];
    for (uint32_t i = 0; i < PSD_HEALTH_OPEN; i++) {
        if (self->open[i].step == step)
            return &self->open[i];
        oldest = self->open[i].step < oldest->step ? &self->open[i] : oldest;
    }
    if (oldest->step > step)
        return NULL;
    oldest->step = step;
    oldest->told = (psd_server_set_t){ 0 };
    return oldest;
}

/* A shard sends its looks in order: an earlier one that is not complete will never be. */
static void close_looks(psd_health_t *self, uint64_t step)
{
    for (uint32_t i = 0; i < PSD_HEALTH_OPEN; i++)
        if (self->open[i].step <= step)
            self->open[i].step = 0;
}

bool psd_health_take(psd_health_t *self, uint32_t shard, uint64_t step, const double *terms, size_t n)
{
    psd_health_open_t *look;
    if (!self->tensor || shard >= self->map.n_servers || step <= self->step ||
        n != (size_t)self->map.n_held[shard] * PSD_LOOK_TERMS || !(look = open_look(self, step)))
        return false;
    for (uint32_t i = 0; i < self->map.n_held[shard]; i++)
        memcpy(look->term + (size_t)self->map.held[shard][i] * PSD_LOOK_TERMS, terms + (size_t)i * PSD_LOOK_TERMS,
               PSD_LOOK_TERMS * sizeof *terms);
    psd_server_set_add(&look->told, shard);
    if (look->told.n < self->n_holders)
        return false;
    add_up(self, look->term);
    close_looks(self, step);
    self->step = step;
    if (!self->looks++) /* tensors that begin at 0, like most biases, are measured by the size of the others */
        self->model_rms = rms_of_model(self, PSD_LOOK_WEIGHT2);
    self->gradient_rms = rms_of_model(self, PSD_LOOK_GRADIENT2);
    make_column(self);
    memset(self->in_state, 0, sizeof self->in_state);
    for (uint32_t t = 0; t < self->n_tensors; t++) {
        see(self, t);
        paint(self, t);
        self->in_state[self->tensor[t].state]++;
    }
    return true;
}

uint32_t psd_health_figures(const psd_health_t *self, double out[PSD_HEALTH_TOLD * PSD_HEALTH_FIGURES])
{
    const uint32_t n = self->n_tensors < PSD_HEALTH_TOLD ? self->n_tensors : PSD_HEALTH_TOLD;
    for (uint32_t t = 0; t < n; t++) {
        const psd_health_tensor_t *x = &self->tensor[t];
        const double figures[PSD_HEALTH_FIGURES] = { x->gradient_norm, x->weight_norm, x->update_ratio, x->zero_share,
                                                     x->reached_share };
        memcpy(out + (size_t)t * PSD_HEALTH_FIGURES, figures, sizeof figures);
    }
    return n;
}

/* ---- sentences ---- */

bool psd_health_is_ill(psd_health_state_t state)
{
    return state == PSD_HEALTH_DEAD || state == PSD_HEALTH_STUCK || state == PSD_HEALTH_EXPLODING;
}

const char *psd_health_event(psd_health_state_t state)
{
    return state == PSD_HEALTH_DEAD        ? "tensor.dead"
           : state == PSD_HEALTH_STUCK     ? "tensor.stuck"
           : state == PSD_HEALTH_EXPLODING ? "tensor.exploding"
                                           : "tensor.recovered";
}

const char *psd_health_state_name(psd_health_state_t state)
{
    static const char *const words[] = {
#define X(name, word) [PSD_HEALTH_##name] = word,
        PSD_HEALTH_STATES(X)
#undef X
    };
    return words[state];
}

void psd_health_describe(const psd_health_t *self, uint32_t tensor, char text[PSD_HEALTH_TEXT])
{
    static const char rate[] = "lower the learning rate (lr_mult for this tensor only), or bound gradients with clip.norm";
    const psd_health_tensor_t *x = &self->tensor[tensor];
    const size_t n = PSD_HEALTH_TEXT;
    switch (x->sign) {
    case PSD_SIGN_NONE:
    case PSD_N_SIGNS:
        text[0] = '\0';
        break;
    case PSD_SIGN_ZEROS:
        snprintf(text, n,
                 "all its gradients were 0 in the last %u looks, so it learns nothing; look for units that are always inactive "
                 "(lower the learning rate, or start from other values) or for an input that is always 0, or freeze it if the loss "
                 "does not need it",
                 x->n_zeros);
        break;
    case PSD_SIGN_TINY:
        snprintf(text, n,
                 "in the last %u looks its steps were below %g of its weights, which float32 loses, although it has gradients; "
                 "raise the learning rate (lr_mult for this tensor only)",
                 x->n_tiny, TINY);
        break;
    case PSD_SIGN_NOISE:
        snprintf(
            text, n,
            "in the last %u looks its steps were below %g of its weights, and its gradients are less than %g of the model's: "
            "either they are rounding of 0, as of a bias before a normalization, which has no effect (leave it out: bias=False, "
            "or freeze it), or they vanish on their way to it (shorten the way, or raise lr_mult for this tensor only)",
            x->n_tiny, TINY, NOISE);
        break;
    case PSD_SIGN_INFINITE:
        snprintf(text, n, "its weights are Inf or NaN; go back to a checkpoint, and %s", rate);
        break;
    case PSD_SIGN_OVERFLOW:
        snprintf(text, n, "%.3g %% of its gradients are too large to be squared; %s", x->reached_share * 100, rate);
        break;
    case PSD_SIGN_GROWN:
        snprintf(text, n, "its weights are %.0f times as large as when training began; %s", x->growth, rate);
        break;
    case PSD_SIGN_THROWN:
        snprintf(text, n, "in the last %u looks a step was a large part of its weights, most recently %.2g (0.001 is usual); %s",
                 x->n_thrown, x->update_ratio, rate);
        break;
    }
}
