/* client.c - the library behind psd/worker.h: checks each call, hands it over to the library's thread (worker/driver.h), and waits
 * for the outcome. */
#include "psd/worker.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/logtext.h"
#include "common/base/printable.h"
#include "common/optim/groups.h"
#include "common/system/safetensors.h"
#include "worker/caller.h"
#include "worker/driver.h"
#include "worker/floats.h"
#include "worker/views.h"

/* Exchanging up to this many bytes takes less time than waking a thread twice. */
enum { SMALL = 1 << 20 };

_Static_assert((int)PSD_W_EINVAL == (int)PSD_EINVAL && (int)PSD_W_ENOMEM == (int)PSD_ENOMEM && (int)PSD_W_EIO == (int)PSD_EIO &&
                   (int)PSD_W_EDATA == (int)PSD_EDATA && (int)PSD_W_ENOINPUT == (int)PSD_ENOINPUT &&
                   (int)PSD_W_ESYSTEM == (int)PSD_ESYSTEM && (int)PSD_W_ESTOPPED == (int)PSD_ESTOPPED &&
                   (int)PSD_W_EFAILED == (int)PSD_EDIVERGED && (int)PSD_W_EREFUSED == (int)PSD_EREFUSED &&
                   (int)PSD_W_EFENCED == (int)PSD_EFENCED && (int)PSD_W_ETIMEOUT == (int)PSD_ETIMEOUT &&
                   (int)PSD_W_EUNAVAILABLE == (int)PSD_EUNAVAILABLE && (int)PSD_W_EAGAIN == (int)PSD_EAGAIN &&
                   (int)PSD_W_EAUTH == (int)PSD_EAUTH && (int)PSD_W_ECONFIG == (int)PSD_ECONFIG,
               "the public codes are those of common/base/err.h");

struct psd_worker {
    psd_caller_t caller;
    psd_handover_t *handover; /* requests to the library's thread, and outcomes back */
    psd_driver_t *driver;     /* that thread; NULL: it has not started */
    psd_floats_t *floats;
    psd_views_t *views;
    pid_t process; /* the process that connected; a fork of it lacks the library's thread */
    psd_tensor_list_t list;
    char codec[2][PSD_CODEC_TEXT]; /* names of the job's codecs: for pushes, for pulls */
    float **data, **slow;          /* arrays of the registered tensors; the last pull's */
    const float **gradient;
    psd_ticket_t ticket; /* the newest */
    bool *pushed;        /* tensors of the exchange that is open tensor by tensor; n_pushed of them, 0: none is */
    uint32_t n_pushed;
    uint64_t samples;          /* of that exchange */
    char rows[PSD_MAX_RECIPE]; /* of the last psd_worker_say_rows */
    bool leaves;               /* psd_worker_leave was called and is not yet answered; then also: */
    uint64_t leave_rejoins;    /* the number of rejoins at its first call */
    struct {                   /* the answer to the last psd_worker_group */
        char match[PSD_GROUP_PATTERN], optimizer[PSD_RULE_TEXT];
    } group;
    psd_err_t error;
};

/* The handover is not part of the handle's value. */
static psd_handover_state_t look(const psd_worker_t *self)
{
    psd_handover_state_t state;
    psd_handover_look(self->handover, &state);
    return state;
}

static void post(psd_worker_t *self, const psd_request_t *request)
{
    psd_handover_post(self->handover, request);
    psd_driver_take_up(self->driver);
}

/* Check that this handle has connected, and in this process. */
static bool is_usable(psd_worker_t *self, const char *what)
{
    if (self->process != getpid())
        psd_err_set(&self->error, PSD_EINVAL,
                    "%s: this handle belongs to process %d, which forked this one: connect again in this process", what,
                    (int)self->process);
    else if (!self->driver && !self->error.code)
        psd_err_set(&self->error, PSD_EINVAL, "%s: this handle has not connected", what);
    return self->driver && self->process == getpid();
}

static int await(psd_worker_t *self, psd_phase_t phase, const char *what, int timeout_ms)
{
    return psd_handover_await(self->handover, phase, what, timeout_ms, &self->error);
}

/* The configured patience, as a timeout for the library's internal waits. */
static int patience(const psd_worker_t *self) { return self->caller.patience_ms ? (int)self->caller.patience_ms : -1; }

/* If the phase is `from`, move it to the one that the request leads to. */
static bool begin(psd_worker_t *self, psd_phase_t from, psd_phase_t to, const char *what)
{
    return is_usable(self, what) && psd_handover_begin(self->handover, from, to, what, &self->error) == PSD_OK;
}

/* ---- connecting ---- */

static int start(psd_worker_t *self)
{
    self->driver = psd_driver_start(
        &(psd_driver_config_t){
            .caller = &self->caller, .handover = self->handover, .arena = psd_floats_arena(self->floats), .views = self->views },
        &self->error);
    return self->driver ? PSD_OK : self->error.code;
}

static int prepare(psd_worker_t *self, const psd_worker_config_t *given)
{
    int rc = psd_caller_read(&self->caller, given, &self->error);
    if (rc == PSD_OK)
        rc = psd_handover_open(self->handover, &self->error);
    psd_handover_set_interrupt(self->handover, self->caller.interrupted, self->caller.interrupted_arg);
    return rc == PSD_OK ? start(self) : rc;
}

int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *given)
{
    if (!out)
        return PSD_EINVAL;
    psd_worker_t *self = *out = calloc(1, sizeof *self);
    psd_handover_t *handover = psd_handover_new();
    psd_floats_t *floats = psd_floats_new();
    psd_views_t *views = psd_views_new();
    if (!self || !handover || !floats || !views) {
        psd_handover_destroy(&handover);
        psd_floats_destroy(&floats);
        psd_views_destroy(&views);
        free(self);
        *out = NULL;
        return PSD_ENOMEM;
    }
    self->handover = handover;
    self->floats = floats;
    self->views = views;
    self->process = getpid();
    int rc = prepare(self, given);
    if (rc != PSD_OK)
        return rc;
    rc = await(self, PSD_PHASE_JOINED, "join", patience(self));
    if (rc == PSD_ETIMEOUT) {
        const psd_handover_state_t state = look(self);
        rc = psd_err_set(&self->error, state.unresolved ? PSD_ECONFIG : rc, "job %s at %s: not joined after %" PRIu64 " ms; %.300s",
                         self->caller.job, state.join, self->caller.patience_ms,
                         state.waiting[0] ? state.waiting : "waiting for an answer from server 0");
    }
    return rc;
}

/* ---- arrays ---- */

/* Check that this process made the handle, connected or not. */
static bool is_of_this_process(psd_worker_t *self, const char *what) { return self->process == getpid() || is_usable(self, what); }

float *psd_worker_alloc(psd_worker_t *self, size_t n)
{
    if (!is_of_this_process(self, "alloc"))
        return NULL;
    float *array = psd_floats_take(self->floats, n);
    if (!array)
        psd_err_set(&self->error, PSD_ENOMEM, "no memory for an array of %zu floats", n);
    return array;
}

float *psd_worker_alloc_weights(psd_worker_t *self, size_t n)
{
    if (!is_of_this_process(self, "alloc"))
        return NULL;
    float *array = psd_views_take(self->views, n);
    if (!array)
        psd_err_set(&self->error, PSD_ENOMEM, "no memory for an array of %zu floats", n);
    return array;
}

/* Floats of an array of the library's; 0: it is none. */
static size_t size_of(const psd_worker_t *self, const float *array)
{
    const size_t n = psd_floats_size(self->floats, array);
    return n ? n : psd_views_size(self->views, array);
}

/* Check that the library does not use the array, now or later. */
static int is_lent(psd_worker_t *self, const float *array)
{
    const uintptr_t n_bytes = size_of(self, array) * sizeof *array;
    const psd_phase_t phase = look(self).phase;
    const bool is_idle = phase == PSD_PHASE_READY || phase == PSD_PHASE_FAILED || phase == PSD_PHASE_LEFT;
    if (self->list.n && !is_idle)
        return psd_err_set(&self->error, PSD_EINVAL, "free: an exchange or a pull is open, and may use the array; wait first");
    for (uint32_t i = 0; i < self->list.n; i++)
        if ((uintptr_t)self->data[i] - (uintptr_t)array < n_bytes)
            return psd_err_set(&self->error, PSD_EINVAL,
                               "free: tensor %s lies in this array, which is borrowed until the handle is closed",
                               self->list.tensor[i].name);
    return PSD_OK;
}

int psd_worker_free(psd_worker_t *self, float *array)
{
    if (!array)
        return PSD_OK;
    if (!is_of_this_process(self, "free"))
        return self->error.code;
    if (!size_of(self, array))
        return psd_err_set(&self->error, PSD_EINVAL, "free: this array was not allocated by psd_worker_alloc on this handle");
    const int rc = is_lent(self, array);
    if (rc != PSD_OK)
        return rc;
    if (psd_floats_size(self->floats, array))
        psd_floats_give_back(self->floats, array);
    else
        psd_views_give_back(self->views, array);
    return PSD_OK;
}

/* ---- the model ---- */

static int describe_tensor(psd_tensor_desc_t *out, const psd_tensor_t *in, size_t i, psd_err_t *err)
{
    if (!in->name || !in->name[0] || strlen(in->name) >= PSD_MAX_NAME || in->n_dims > PSD_MAX_DIMS || (in->n_dims && !in->shape) ||
        !in->data)
        return psd_err_set(err, PSD_EINVAL, "tensor %zu needs a name of 1 to %d bytes, a shape of at most %d dimensions, and data",
                           i, PSD_MAX_NAME - 1, PSD_MAX_DIMS);
    snprintf(out->name, sizeof out->name, "%s", in->name);
    out->n_dims = (uint32_t)in->n_dims;
    out->n_elements = 1;
    for (size_t d = 0; d < in->n_dims; d++) {
        out->dim[d] = in->shape[d];
        if (!in->shape[d] || __builtin_mul_overflow(out->n_elements, in->shape[d], &out->n_elements))
            return psd_err_set(err, PSD_EINVAL, "tensor %s: dimension %zu is %" PRIu64, in->name, d, in->shape[d]);
    }
    return PSD_OK;
}

/* Training cannot recover from weights that are not finite. */
static int check_finite(psd_worker_t *self)
{
    for (uint32_t t = 0; t < self->list.n; t++) {
        const size_t n = self->list.tensor[t].n_elements, i = psd_first_nonfinite(self->data[t], n);
        if (i < n)
            return psd_err_set(&self->error, PSD_EINVAL, "tensor %s: initial value %zu is %g; the weights must be finite",
                               self->list.tensor[t].name, i, (double)self->data[t][i]);
    }
    return PSD_OK;
}

static void forget_tensors(psd_worker_t *self)
{
    psd_tensors_clear(&self->list);
    free(self->data);
    free(self->slow);
    free(self->gradient);
    free(self->pushed);
    self->pushed = NULL;
    self->data = self->slow = NULL;
    self->gradient = NULL;
}

/* Report here what the servers would refuse: repeated names, lists that are too long. */
static int check_list(psd_worker_t *self)
{
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    psd_tensor_list_t checked = { 0 };
    if (!bytes)
        return psd_err_set(&self->error, PSD_ENOMEM, "no memory for a list of %" PRIu32 " tensors", self->list.n);
    const size_t n = psd_tensors_encode(&self->list, bytes, PSD_MAX_LIST);
    int rc = PSD_OK;
    if (!n)
        rc = psd_err_set(&self->error, PSD_EINVAL, "the list of %" PRIu32 " tensors is longer than %d bytes: use shorter names",
                         self->list.n, PSD_MAX_LIST);
    else if (psd_tensors_decode(&checked, bytes, n, &self->error) != PSD_OK)
        rc = self->error.code = PSD_EINVAL;
    psd_tensors_clear(&checked);
    free(bytes);
    return rc;
}

static int take_tensors(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors)
{
    self->list.tensor = calloc(n_tensors, sizeof *self->list.tensor);
    self->data = calloc(n_tensors, sizeof *self->data);
    self->slow = calloc(n_tensors, sizeof *self->slow);
    self->gradient = calloc(n_tensors, sizeof *self->gradient);
    self->pushed = calloc(n_tensors, sizeof *self->pushed);
    if (!self->list.tensor || !self->data || !self->slow || !self->gradient || !self->pushed)
        return psd_err_set(&self->error, PSD_ENOMEM, "no memory for %zu tensors", n_tensors);
    self->list.n = (uint32_t)n_tensors;
    self->list.rows = self->caller.rows;
    for (size_t i = 0; i < n_tensors; i++) {
        if (describe_tensor(&self->list.tensor[i], &tensors[i], i, &self->error) != PSD_OK)
            return self->error.code;
        self->data[i] = tensors[i].data;
    }
    return check_list(self) == PSD_OK ? check_finite(self) : self->error.code;
}

static uint64_t n_bytes(const psd_worker_t *self)
{
    uint64_t n = 0;
    for (uint32_t t = 0; t < self->list.n; t++)
        n += self->list.tensor[t].n_elements * sizeof(float);
    return n;
}

static void warn(const psd_worker_t *self, const char *id, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void warn(const psd_worker_t *self, const char *id, const char *format, ...)
{
    char line[640];
    va_list args;
    va_start(args, format);
    psd_logtext_compose(line, sizeof line, format, args);
    va_end(args);
    if (self->caller.log)
        self->caller.log(self->caller.log_arg, PSD_LEVEL_WARN, id, line);
}

/* The optimizer state that the job starts with, for the tensors as the job's rules train them. The log names the tensors that start
 * afresh. */
static int inherit(psd_worker_t *self, const psd_worker_state_t *state, psd_inheritance_t **out)
{
    const psd_cluster_t *cluster = psd_handover_cluster(self->handover);
    psd_groups_t groups, from;
    psd_state_field_t *field = calloc(state->n + 1, sizeof *field);
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    uint8_t *group_of = malloc(self->list.n);
    int rc = field && extents && group_of ? PSD_OK : psd_err_set(&self->error, PSD_ENOMEM, "no memory for optimizer state");
    for (size_t i = 0; !rc && i < state->n; i++) {
        const psd_worker_field_t *f = &state->field[i];
        if (!f->tensor || !f->field)
            rc = psd_err_set(&self->error, PSD_EINVAL, "field %zu of the optimizer state needs the names of its tensor and itself",
                             i);
        field[i] = (psd_state_field_t){ f->tensor, f->field, f->data, f->n, f->number };
    }
    rc = rc ? rc : psd_groups_parse(&groups, cluster->settings.optimizer, cluster->settings.groups, &self->error);
    if (!rc && state->optimizer && psd_groups_parse(&from, state->optimizer, state->groups ? state->groups : "", &self->error))
        rc = self->error.code = PSD_EDATA;
    if (!rc)
        psd_groups_assign(&groups, self->list.tensor->name, sizeof *self->list.tensor, extents, self->list.n, group_of, NULL);
    if (!rc && !(*out = psd_inherit(self->list.tensor->name, sizeof *self->list.tensor, extents, self->list.n, &groups, group_of,
                                    field, state->n, state->optimizer ? &from : NULL, state->partial != 0, &self->error)))
        rc = psd_err_wrap(&self->error, "optimizer state");
    free(group_of);
    free(extents);
    free(field);
    if (!rc && (*out)->n_missing)
        warn(self, "state.missing",
             "tensors=%" PRIu32 " fields=\"%s\" reason=\"they are not given: a tensor without them starts afresh\"",
             (*out)->n_missing, (*out)->missing);
    return rc;
}

/* Add to the list what its tensors inherit. */
static int tell_inherited(psd_worker_t *self, const psd_inheritance_t *inheritance)
{
    if (!(self->list.inherited = malloc(self->list.n * sizeof *self->list.inherited)))
        return psd_err_set(&self->error, PSD_ENOMEM, "no memory for optimizer state");
    memcpy(self->list.inherited, inheritance->of, self->list.n * sizeof *self->list.inherited);
    return check_list(self);
}

int psd_worker_register(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors)
{
    return psd_worker_register_with(self, tensors, n_tensors, NULL);
}

int psd_worker_register_with(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors, const psd_worker_state_t *given)
{
    psd_worker_state_t state = { .size = 0 };
    psd_inheritance_t *inheritance = NULL;
    if (given && (given->size < sizeof state || given->size > sizeof state))
        return psd_err_set(&self->error, PSD_EINVAL, "register: size of the state is %zu; set it to that of the struct, %zu",
                           given->size, sizeof state);
    if (given)
        state = *given;
    if (state.n && !state.field)
        return psd_err_set(&self->error, PSD_EINVAL, "register: %zu fields of optimizer state at NULL", state.n);
    if (self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "%" PRIu32 " tensors are registered already; register once", self->list.n);
    if (!tensors || !n_tensors || n_tensors > PSD_MAX_TENSORS)
        return psd_err_set(&self->error, PSD_EINVAL, "%zu tensors%s were given to register; 1 to %d are allowed: merge small ones",
                           n_tensors, tensors ? "" : " at NULL", PSD_MAX_TENSORS);
    if (given && !psd_handover_cluster(self->handover))
        return psd_err_set(&self->error, PSD_EAGAIN, "register: this worker has not joined yet");
    int rc = take_tensors(self, tensors, n_tensors);
    if (rc == PSD_OK && given)
        rc = inherit(self, &state, &inheritance);
    if (rc == PSD_OK && inheritance)
        rc = tell_inherited(self, inheritance);
    if (rc == PSD_OK && !begin(self, PSD_PHASE_JOINED, PSD_PHASE_REGISTERING, "register"))
        rc = self->error.code;
    if (rc != PSD_OK) {
        psd_inheritance_destroy(&inheritance);
        forget_tensors(self);
        return rc;
    }
    post(self,
         &(psd_request_t){ .kind = PSD_REQUEST_REGISTER, .list = &self->list, .data = self->data, .inheritance = inheritance });
    rc = await(self, PSD_PHASE_READY, "register", patience(self));
    if (rc == PSD_OK && n_bytes(self) <= SMALL)
        psd_driver_share(self->driver);
    return rc;
}

/* ---- where training is ---- */

/* Copy as much as the caller's struct has room for; it may be an earlier, shorter one. */
static int give(psd_worker_t *self, const char *what, void *out, size_t size, const void *known, size_t n)
{
    if (size < sizeof size || size > n)
        return psd_err_set(&self->error, PSD_EINVAL, "%s: size is %zu; set it to that of the struct, at most %zu", what, size, n);
    memcpy(out, known, size);
    return PSD_OK;
}

int psd_worker_position(psd_worker_t *self, psd_position_t *out)
{
    const psd_handover_state_t state = look(self);
    const psd_session_position_t *p = &state.position;
    const psd_position_t at = { .size = out->size,
                                .clock = p->clock,
                                .version = p->version,
                                .rank = p->rank,
                                .world = p->world,
                                .worker = p->worker,
                                .incarnation = p->incarnation,
                                .run = p->run,
                                .has_slow = state.has_slow,
                                .gathered = p->gathered };
    return give(self, "position", out, out->size, &at, sizeof at);
}

int psd_worker_settings(psd_worker_t *self, psd_worker_settings_t *out)
{
    const psd_cluster_t *cluster = psd_handover_cluster(self->handover);
    if (!cluster)
        return psd_err_set(&self->error, PSD_EAGAIN, "settings: this worker has not joined yet");
    const psd_job_settings_t *s = &cluster->settings;
    const psd_worker_settings_t known = { .size = out->size,
                                          .text = s->text,
                                          .mode = s->mode,
                                          .optimizer = s->optimizer,
                                          .lr_rule = s->lr_rule,
                                          .lr = s->lr,
                                          .clip_value = s->clip_value,
                                          .clip_norm = s->clip_norm,
                                          .max_staleness = s->max_staleness,
                                          .servers = cluster->n_servers,
                                          .lease_ms = s->lease_ms,
                                          .codec_push = psd_coding_print(&s->codings.push, self->codec[0]),
                                          .schedule = s->schedule,
                                          .schedule_unit = s->schedule_unit,
                                          .groups = s->groups,
                                          .codec_pull = psd_coding_print(&s->codings.pull, self->codec[1]),
                                          .has_slow = s->has_slow,
                                          .in_rounds = s->in_rounds,
                                          .checkpoints = s->checkpoints,
                                          .accumulate = s->accumulate > 1 ? s->accumulate : 1 };
    return give(self, "settings", out, out->size, &known, sizeof known);
}

int psd_worker_check_rule(psd_worker_t *self, const char *rule)
{
    const psd_cluster_t *cluster = psd_handover_cluster(self->handover);
    psd_rule_t wanted;
    char text[PSD_RULE_TEXT];
    if (!cluster)
        return psd_err_set(&self->error, PSD_EAGAIN, "rule: this worker has not joined yet");
    if (!rule || psd_rule_parse(&wanted, rule, &self->error) != PSD_OK)
        return self->error.code = PSD_EINVAL;
    if (strcmp(psd_rule_print(&wanted, text), cluster->settings.optimizer))
        return psd_err_set(&self->error, PSD_EREFUSED, "this program asks for %s, but the job trains with %s; make them equal",
                           text, cluster->settings.optimizer);
    return PSD_OK;
}

/* The shape of a tensor; one that is not registered counts as a matrix. */
static psd_shape_t shape_of(const psd_worker_t *self, const char *tensor)
{
    psd_shape_t shape = { .n_dims = 2 };
    psd_extent_t *extents = psd_tensors_extents(&self->list);
    for (uint32_t i = 0; extents && i < self->list.n; i++)
        if (!strcmp(self->list.tensor[i].name, tensor))
            shape = extents[i].shape;
    free(extents);
    return shape;
}

int psd_worker_group(psd_worker_t *self, const char *tensor, psd_worker_group_t *out)
{
    const psd_cluster_t *cluster = psd_handover_cluster(self->handover);
    psd_groups_t groups;
    if (!cluster)
        return psd_err_set(&self->error, PSD_EAGAIN, "group: this worker has not joined yet");
    if (!tensor || psd_groups_parse(&groups, cluster->settings.optimizer, cluster->settings.groups, &self->error) != PSD_OK)
        return self->error.code = PSD_EINVAL;
    const psd_shape_t shape = shape_of(self, tensor);
    const uint8_t index = psd_groups_of(&groups, tensor, &shape);
    const psd_group_t *group = &groups.at[index];
    psd_rule_print(&group->rule, self->group.optimizer);
    snprintf(self->group.match, sizeof self->group.match, "%s", group->match);
    const psd_worker_group_t known = { .size = out->size,
                                       .match = self->group.match,
                                       .optimizer = self->group.optimizer,
                                       .lr_mult = psd_groups_factor(&groups, index),
                                       .clips = group->clips,
                                       .freezes = group->freezes };
    return give(self, "group", out, out->size, &known, sizeof known);
}

int psd_worker_health(psd_worker_t *self, size_t tensor, psd_worker_health_t *out)
{
    double figure[PSD_SESSION_FIGURES];
    uint64_t step;
    if (tensor >= self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "health: there is no tensor %zu; %u are registered, counted from 0", tensor,
                           self->list.n);
    if (!psd_handover_health(self->handover, tensor, figure, &step))
        return psd_err_set(&self->error, PSD_EAGAIN, "health: this worker has no figures of tensor %zu", tensor);
    const psd_worker_health_t known = { .size = out->size,
                                        .step = step,
                                        .gradient_norm = figure[0],
                                        .weight_norm = figure[1],
                                        .update_ratio = figure[2],
                                        .zero_share = figure[3],
                                        .cut_share = figure[4] };
    return give(self, "health", out, out->size, &known, sizeof known);
}

double psd_worker_round_loss(const psd_worker_t *self) { return look(self).position.round_loss; }

double psd_worker_step_lr(const psd_worker_t *self) { return look(self).position.step_lr; }

uint64_t psd_worker_job_samples(const psd_worker_t *self)
{
    const double n = look(self).position.samples;
    return n > 0 && n < 0x1p63 ? (uint64_t)n : 0;
}

int psd_worker_asked_to_leave(const psd_worker_t *self) { return look(self).drains; }

/* ---- training ---- */

static int check_samples(psd_worker_t *self, uint64_t samples)
{
    if (samples > PSD_MAX_SAMPLES)
        return psd_err_set(&self->error, PSD_EINVAL, "a gradient of %" PRIu64 " samples; at most %" PRIu64 " are counted", samples,
                           (uint64_t)PSD_MAX_SAMPLES);
    return PSD_OK;
}

/* Open an exchange; its ticket is the next. */
static int open_exchange(psd_worker_t *self, const char *what)
{
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_EXCHANGING, what))
        return self->error.code;
    self->leaves = false;
    psd_handover_rearm(self->handover);
    self->ticket++;
    return PSD_OK;
}

/* Check that the tensor may be pushed next, in an exchange that is open tensor by tensor or a new one. */
static int check_push(psd_worker_t *self, size_t tensor, uint64_t samples)
{
    if (tensor >= self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "push: there is no tensor %zu; %" PRIu32 " are registered", tensor,
                           self->list.n);
    if (!samples)
        return psd_err_set(&self->error, PSD_EINVAL,
                           "push: a gradient needs at least 1 sample; to take part without a gradient, exchange 0 samples");
    if (self->n_pushed && self->pushed[tensor])
        return psd_err_set(&self->error, PSD_EINVAL, "push: tensor %s was pushed already in this exchange",
                           self->list.tensor[tensor].name);
    if (self->n_pushed && samples != self->samples)
        return psd_err_set(&self->error, PSD_EINVAL, "push: tensor %s over %" PRIu64 " samples; this exchange is over %" PRIu64,
                           self->list.tensor[tensor].name, samples, self->samples);
    return check_samples(self, samples);
}

int psd_worker_push(psd_worker_t *self, size_t tensor, const float *gradient, uint64_t samples, double loss, psd_ticket_t *ticket)
{
    if (!ticket)
        return psd_err_set(&self->error, PSD_EINVAL, "push: an exchange needs a place for its ticket");
    if (!is_usable(self, "push") || check_push(self, tensor, samples) != PSD_OK)
        return self->error.code;
    if (!self->n_pushed) {
        if (open_exchange(self, "push") != PSD_OK)
            return self->error.code;
        memset(self->pushed, 0, self->list.n * sizeof *self->pushed);
        self->samples = samples;
    }
    const psd_handover_state_t state = look(self);
    if (state.phase == PSD_PHASE_FAILED) {
        self->n_pushed = 0;
        return psd_err_set(&self->error, state.failure.code, "%s", state.failure.text);
    }
    self->pushed[tensor] = true;
    self->n_pushed = self->n_pushed + 1 < self->list.n ? self->n_pushed + 1 : 0;
    post(self, &(psd_request_t){
                   .kind = PSD_REQUEST_PUSH, .tensor = (uint32_t)tensor, .one = gradient, .samples = samples, .value = loss });
    *ticket = self->ticket;
    return PSD_OK;
}

int psd_worker_exchange(psd_worker_t *self, const float *const *gradients, uint64_t samples, double loss, psd_ticket_t *ticket)
{
    if (samples && !gradients)
        return psd_err_set(&self->error, PSD_EINVAL, "an exchange with samples needs gradients");
    if (check_samples(self, samples) != PSD_OK)
        return self->error.code;
    if (!ticket)
        return psd_err_set(&self->error, PSD_EINVAL, "an exchange needs a place for its ticket");
    if (open_exchange(self, "exchange") != PSD_OK)
        return self->error.code;
    for (uint32_t i = 0; i < self->list.n; i++)
        self->gradient[i] = samples ? gradients[i] : NULL;
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_EXCHANGE, .gradient = self->gradient, .samples = samples, .value = loss });
    *ticket = self->ticket;
    return PSD_OK;
}

/* An exchange with missing tensors ends only with the session. */
static int check_whole(psd_worker_t *self)
{
    uint32_t missing = 0;
    if (!self->n_pushed || look(self).phase == PSD_PHASE_FAILED)
        return PSD_OK;
    while (self->pushed[missing])
        missing++;
    return psd_err_set(&self->error, PSD_EINVAL,
                       "wait: %" PRIu32 " of %" PRIu32 " tensors of this exchange have been pushed; tensor %s has not",
                       self->n_pushed, self->list.n, self->list.tensor[missing].name);
}

int psd_worker_wait(psd_worker_t *self, psd_ticket_t ticket, int timeout_ms)
{
    if (!ticket || ticket > self->ticket)
        return psd_err_set(&self->error, PSD_EINVAL, "no such ticket: %" PRIu64, ticket);
    if (!is_usable(self, "exchange"))
        return self->error.code;
    if (ticket < self->ticket)
        return PSD_OK;
    if (check_whole(self) != PSD_OK)
        return self->error.code;
    self->n_pushed = 0;
    return await(self, PSD_PHASE_READY, "exchange", timeout_ms);
}

int psd_worker_fd(const psd_worker_t *self)
{
    if (self->driver)
        psd_driver_keep(self->driver);
    return psd_handover_fd(self->handover);
}

int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms)
{
    if (!out)
        return psd_err_set(&self->error, PSD_EINVAL, "a pull needs a place for each tensor");
    if (!is_usable(self, "pull"))
        return self->error.code;
    for (uint32_t i = 0; i < self->list.n; i++)
        if (psd_views_has(self->views, out[i]))
            return psd_err_set(
                &self->error, PSD_EINVAL,
                "pull: the place of tensor %s lies in an array of psd_worker_alloc_weights, which is only read; take "
                "one of psd_worker_alloc",
                self->list.tensor[i].name);
    const uint64_t rejoins = look(self).rejoins;
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_PULLING, "pull"))
        return self->error.code;
    memcpy(self->slow, out, self->list.n * sizeof *out);
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_PULL_SLOW, .data = self->slow });
    return psd_handover_await_answer(self->handover, rejoins, "pull", timeout_ms, &self->error);
}

static bool is_printable(const char *text)
{
    for (size_t n = strlen(text), size; n; text += size, n -= size)
        if (!(size = psd_printable_character(text, n)))
            return false;
    return true;
}

int psd_worker_set_lr(psd_worker_t *self, double lr, int timeout_ms)
{
    if (!(lr >= 0) || lr > 1e9)
        return psd_err_set(&self->error, PSD_EINVAL, "a learning rate must be between 0 and 1e9; this is %g", lr);
    if (!is_usable(self, "set the learning rate"))
        return self->error.code;
    const uint64_t rejoins = look(self).rejoins;
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_SETTING, "set the learning rate"))
        return self->error.code;
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_SET_LR, .value = lr });
    return psd_handover_await_answer(self->handover, rejoins, "set the learning rate", timeout_ms, &self->error);
}

int psd_worker_say_rows(psd_worker_t *self, const char *rows, int timeout_ms)
{
    if (!rows || !*rows || strlen(rows) >= PSD_MAX_RECIPE || !is_printable(rows))
        return psd_err_set(&self->error, PSD_EINVAL, "rows are described by 1 to %d bytes of printable UTF-8", PSD_MAX_RECIPE - 1);
    if (!is_usable(self, "say what rows it trains on"))
        return self->error.code;
    const uint64_t rejoins = look(self).rejoins;
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_SETTING, "say what rows it trains on"))
        return self->error.code;
    snprintf(self->rows, sizeof self->rows, "%s", rows);
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_SAY_ROWS, .rows = self->rows });
    return psd_handover_await_answer(self->handover, rejoins, "say what rows it trains on", timeout_ms, &self->error);
}

int psd_worker_report(psd_worker_t *self, const char *name, double value)
{
    psd_request_t request = { .kind = PSD_REQUEST_REPORT, .value = value };
    if (!name || !*name || strlen(name) >= sizeof request.name || !is_printable(name))
        return psd_err_set(&self->error, PSD_EINVAL, "a reported name has 1 to %zu bytes of printable UTF-8",
                           sizeof request.name - 1);
    if (!is_usable(self, "report"))
        return self->error.code;
    memcpy(request.name, name, strlen(name) + 1);
    post(self, &request);
    return PSD_OK;
}

/* ---- the end ---- */

int psd_worker_leave(psd_worker_t *self, int finished, int timeout_ms)
{
    if (self->process != getpid())
        return is_usable(self, "leave") ? PSD_OK : self->error.code;
    const psd_handover_state_t state = look(self);
    if (state.phase == PSD_PHASE_FAILED)
        self->error = state.failure;
    const bool is_over = state.phase == PSD_PHASE_FAILED || state.phase == PSD_PHASE_LEFT;
    if (finished && !is_over && !self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL,
                           "leave: no tensors are registered, so no work can be done; register first, or "
                           "leave unfinished");
    self->n_pushed = 0;
    if (!self->leaves)
        self->leave_rejoins = state.rejoins;
    self->leaves = true;
    if (is_over || !self->driver)
        return state.phase == PSD_PHASE_FAILED ? self->error.code : PSD_OK;
    if (psd_handover_leave(self->handover, finished, self->leave_rejoins))
        post(self, &(psd_request_t){ .kind = PSD_REQUEST_LEAVE, .finished = finished != 0, .rejoins = self->leave_rejoins });
    const int rc = await(self, PSD_PHASE_LEFT, "leave", timeout_ms);
    if (rc != PSD_ETIMEOUT && timeout_ms)
        self->leaves = false;
    return rc;
}

void psd_worker_close(psd_worker_t **self_p)
{
    psd_worker_t *self = self_p ? *self_p : NULL;
    if (!self)
        return;
    *self_p = NULL;
    if (self->process != getpid()) {
        psd_handover_abandon(self->handover); /* the parent's thread does not run here */
        return;
    }
    psd_driver_stop(&self->driver);
    psd_caller_clear(&self->caller); /* first: messages in its network refer to the arrays */
    psd_handover_destroy(&self->handover);
    psd_floats_destroy(&self->floats);
    psd_views_destroy(&self->views);
    forget_tensors(self);
    free(self);
}

const char *psd_worker_error(const psd_worker_t *self) { return self ? self->error.text : ""; }
const char *psd_strerror(int code) { return psd_err_text(code); }
const char *psd_version(void) { return PSD_VERSION; } /* defined by both header and build: a compiler refuses two that differ */
