/* client.c - the library behind psd/worker.h: checks what callers ask for, hands it over to the library's own thread
 * (worker/driver.h), and waits for what becomes of it. */
#include "psd/worker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/logtext.h"
#include "common/base/printable.h"
#include "common/system/safetensors.h"
#include "worker/floats.h"
#include "worker/driver.h"

enum { JOIN_MS = 60000 };

_Static_assert((int)PSD_W_EINVAL == (int)PSD_EINVAL && (int)PSD_W_ENOMEM == (int)PSD_ENOMEM && (int)PSD_W_EIO == (int)PSD_EIO &&
                   (int)PSD_W_EDATA == (int)PSD_EDATA && (int)PSD_W_ENOINPUT == (int)PSD_ENOINPUT &&
                   (int)PSD_W_ESYSTEM == (int)PSD_ESYSTEM && (int)PSD_W_EFAILED == (int)PSD_EDIVERGED &&
                   (int)PSD_W_EREFUSED == (int)PSD_EREFUSED && (int)PSD_W_EFENCED == (int)PSD_EFENCED &&
                   (int)PSD_W_ETIMEOUT == (int)PSD_ETIMEOUT && (int)PSD_W_EUNAVAILABLE == (int)PSD_EUNAVAILABLE &&
                   (int)PSD_W_EAGAIN == (int)PSD_EAGAIN && (int)PSD_W_EAUTH == (int)PSD_EAUTH &&
                   (int)PSD_W_ECONFIG == (int)PSD_ECONFIG,
               "the public codes are those of common/base/err.h");

struct psd_worker {
    psd_handover_t *handover; /* to the library's thread, and back */
    psd_driver_t *driver;     /* that thread; NULL: it has not started */
    psd_net_t *net;
    psd_floats_t *floats;
    char *join, *file; /* where server 0 is; the cluster's file, NULL: `join` says */
    bool trusts_file;  /* with the servers' public key */
    char *job, *name, *recipe;
    uint64_t rows;
    uint32_t wanted;
    int join_timeout_ms; /* -1: none */
    void (*log)(void *, int, const char *, const char *);
    void *log_arg;
    pid_t process; /* that connected; a fork of it has no thread of the library's */
    psd_tensor_list_t list;
    char codec[2][PSD_CODEC_TEXT]; /* names of the job's codecs: of pushes, of pulls */
    float **data, **slow;          /* arrays of the registered tensors; the last pull's */
    const float **gradient;
    psd_ticket_t ticket; /* the newest */
    bool *pushed;        /* tensors of the exchange that is open tensor by tensor; n_pushed of them, 0: none is */
    uint32_t n_pushed;
    uint64_t samples;       /* of that exchange */
    bool leaves;            /* psd_worker_leave was called, and has not been answered; since then: */
    uint64_t leave_rejoins; /* how often the servers had begun another run at its first call */
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
    psd_driver_wake(self->driver);
}

/* Whether this handle can be used here: it has connected, and in this process. */
static bool is_usable(psd_worker_t *self, const char *what)
{
    if (self->process != getpid())
        psd_err_set(&self->error, PSD_EINVAL, "%s: this handle is of process %d, which was forked: connect anew in this one", what,
                    (int)self->process);
    else if (!self->driver && !self->error.code)
        psd_err_set(&self->error, PSD_EINVAL, "%s: this handle has not connected", what);
    return self->driver && self->process == getpid();
}

static int await(psd_worker_t *self, psd_phase_t phase, const char *what, int timeout_ms)
{
    return psd_handover_await(self->handover, phase, what, timeout_ms, &self->error);
}

/* Move the phase ahead to what a request will make of it, if it is in `from`. */
static bool begin(psd_worker_t *self, psd_phase_t from, psd_phase_t to, const char *what)
{
    return is_usable(self, what) && psd_handover_begin(self->handover, from, to, what, &self->error) == PSD_OK;
}

/* ---- connecting ---- */

/* Programs that were built against an earlier header hand in a shorter configuration, and those from before there were keys
 * speak as they did. A longer one asks for what is not known here. */
static psd_worker_config_t read_config(const psd_worker_config_t *given)
{
    psd_worker_config_t config = { .insecure = 1 };
    if (given && given->size >= offsetof(psd_worker_config_t, key) && given->size <= sizeof config)
        memcpy(&config, given, given->size);
    return config;
}

static int open_net(psd_worker_t *self, const psd_worker_config_t *config)
{
    psd_keys_t keys;
    const psd_keys_source_t source = {
        .secret = config->key, .server = config->server_public, .insecure = config->insecure, .server_later = self->trusts_file
    };
    int rc = psd_keys_load(&keys, &source, &self->error);
    if (rc == PSD_OK && !keys.insecure && !self->trusts_file && !strcmp(keys.public, keys.server))
        rc = psd_err_set(&self->error, PSD_ECONFIG,
                         "the worker's key is that of the servers: give it one of its own, made by "
                         "psdctl keygen NAME");
    if (rc == PSD_OK && !(self->net = psd_net_new(&keys, &self->error)))
        rc = self->error.code;
    psd_keys_wipe(&keys);
    return rc;
}

static int copy_config(psd_worker_t *self, const psd_worker_config_t *config)
{
    char host[64] = "host", name[96];
    gethostname(host, sizeof host - 1);
    snprintf(name, sizeof name, "%s:%d", host, (int)getpid());
    const bool by_file = !config->join || !*config->join;
    if (!config->size || (by_file && (!config->cluster_file || !*config->cluster_file)))
        return psd_err_set(&self->error, PSD_EINVAL,
                           "the configuration needs its size, of at most %zu bytes here, and `join` or "
                           "`cluster_file`",
                           sizeof *config);
    if (!by_file && strlen(config->join) >= PSD_ENDPOINT_TEXT)
        return psd_err_set(&self->error, PSD_EINVAL, "`join` is longer than %d bytes", PSD_ENDPOINT_TEXT - 1);
    self->join = strdup(by_file ? "" : config->join);
    self->file = by_file ? strdup(config->cluster_file) : NULL;
    self->trusts_file = by_file && (!config->server_public || !*config->server_public);
    self->job = strdup(config->job ? config->job : "psd");
    self->name = strdup(config->name ? config->name : name);
    self->recipe = strdup(config->recipe ? config->recipe : "");
    self->rows = config->rows;
    self->wanted = config->worker > 0 ? (uint32_t)config->worker : 0;
    self->join_timeout_ms = config->join_timeout_ms > 0 ? config->join_timeout_ms : config->join_timeout_ms < 0 ? -1 : JOIN_MS;
    self->log = config->log;
    self->log_arg = config->log_arg;
    if (!self->join || (by_file && !self->file) || !self->job || !self->name || !self->recipe)
        return psd_err_set(&self->error, PSD_ENOMEM, "out of memory");
    if (!self->job[0] || strchr(self->job, ' ') || strlen(self->job) >= PSD_MAX_NAME || self->wanted > PSD_MAX_WORKERS)
        return psd_err_set(&self->error, PSD_EINVAL, "job \"%.60s\" must be one word, and worker at most %d", self->job,
                           PSD_MAX_WORKERS);
    if (!psd_logtext_is_plain(self->name, strlen(self->name)) || strlen(self->name) >= PSD_MAX_NAME)
        return psd_err_set(&self->error, PSD_EINVAL,
                           "\"%.60s\" cannot be a worker's name: it is one word of at most %d bytes, "
                           "without quotes, = or backslash",
                           self->name, PSD_MAX_NAME - 1);
    if (strlen(self->recipe) >= PSD_MAX_RECIPE)
        return psd_err_set(&self->error, PSD_EINVAL, "`recipe` has %zu bytes, at most %d fit", strlen(self->recipe),
                           PSD_MAX_RECIPE - 1);
    return PSD_OK;
}

static int start(psd_worker_t *self)
{
    self->driver =
        psd_driver_start(&(psd_driver_config_t){ .handover = self->handover,
                                                 .net = self->net,
                                                 .arena = psd_floats_arena(self->floats),
                                                 .job = self->job,
                                                 .name = self->name,
                                                 .recipe = self->recipe,
                                                 .wanted = self->wanted,
                                                 .patience_ms = self->join_timeout_ms > 0 ? (uint64_t)self->join_timeout_ms : 0,
                                                 .join = self->join,
                                                 .file = self->file,
                                                 .trusts_file = self->trusts_file,
                                                 .log = self->log,
                                                 .log_arg = self->log_arg },
                         &self->error);
    return self->driver ? PSD_OK : self->error.code;
}

int psd_worker_connect(psd_worker_t **out, const psd_worker_config_t *given)
{
    const psd_worker_config_t config = read_config(given);
    if (!out)
        return PSD_EINVAL;
    psd_worker_t *self = *out = calloc(1, sizeof *self);
    psd_handover_t *handover = psd_handover_new();
    psd_floats_t *floats = psd_floats_new();
    if (!self || !handover || !floats) {
        psd_handover_destroy(&handover);
        psd_floats_destroy(&floats);
        free(self);
        *out = NULL;
        return PSD_ENOMEM;
    }
    self->handover = handover;
    self->floats = floats;
    self->process = getpid();
    int rc = copy_config(self, &config);
    if (rc == PSD_OK)
        rc = open_net(self, &config);
    if (rc == PSD_OK)
        rc = psd_handover_open(self->handover, &self->error);
    if (rc == PSD_OK)
        rc = start(self);
    if (rc != PSD_OK)
        return rc;
    rc = await(self, PSD_PHASE_JOINED, "join", self->join_timeout_ms);
    if (rc == PSD_ETIMEOUT) {
        const psd_handover_state_t state = look(self);
        rc = psd_err_set(&self->error, state.unresolved ? PSD_ECONFIG : rc, "job %s at %s: not joined after %d ms; %.300s",
                         self->job, state.join, self->join_timeout_ms,
                         state.waiting[0] ? state.waiting : "waiting for an answer from server 0");
    }
    return rc;
}

/* ---- arrays ---- */

/* Whether this process made the handle; whether it has connected does not matter. */
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

/* Whether the array is in the library's hands, or will be. */
static int is_lent(psd_worker_t *self, const float *array)
{
    const uintptr_t n_bytes = psd_floats_size(self->floats, array) * sizeof *array;
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
    if (!psd_floats_size(self->floats, array))
        return psd_err_set(&self->error, PSD_EINVAL, "free: this array is none that psd_worker_alloc gave on this handle");
    const int rc = is_lent(self, array);
    if (rc == PSD_OK)
        psd_floats_give_back(self->floats, array);
    return rc;
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

/* No training leads out of weights that are no numbers. */
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

/* What the servers would refuse is told here: names twice, lists too long. */
static int check_list(psd_worker_t *self)
{
    uint8_t *bytes = malloc(PSD_MAX_LIST);
    psd_tensor_list_t checked = { 0 };
    if (!bytes)
        return psd_err_set(&self->error, PSD_ENOMEM, "no memory for a list of %" PRIu32 " tensors", self->list.n);
    const size_t n = psd_tensors_encode(&self->list, bytes, PSD_MAX_LIST);
    int rc = PSD_OK;
    if (!n)
        rc = psd_err_set(&self->error, PSD_EINVAL, "the list of %" PRIu32 " tensors is longer than %d bytes: shorter names help",
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
    self->list.rows = self->rows;
    for (size_t i = 0; i < n_tensors; i++) {
        if (describe_tensor(&self->list.tensor[i], &tensors[i], i, &self->error) != PSD_OK)
            return self->error.code;
        self->data[i] = tensors[i].data;
    }
    return check_list(self) == PSD_OK ? check_finite(self) : self->error.code;
}

int psd_worker_register(psd_worker_t *self, const psd_tensor_t *tensors, size_t n_tensors)
{
    if (self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "%" PRIu32 " tensors are registered already; register once", self->list.n);
    if (!tensors || !n_tensors || n_tensors > PSD_MAX_TENSORS)
        return psd_err_set(&self->error, PSD_EINVAL, "%zu tensors%s were given to register; 1 to %d are allowed: join small ones",
                           n_tensors, tensors ? "" : " at NULL", PSD_MAX_TENSORS);
    int rc = take_tensors(self, tensors, n_tensors);
    if (rc == PSD_OK && !begin(self, PSD_PHASE_JOINED, PSD_PHASE_REGISTERING, "register"))
        rc = self->error.code;
    if (rc != PSD_OK) {
        forget_tensors(self);
        return rc;
    }
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_REGISTER, .list = &self->list, .data = self->data });
    return await(self, PSD_PHASE_READY, "register", self->join_timeout_ms);
}

/* ---- where training is ---- */

/* Copy what a caller's struct, which may be an earlier and shorter one, has room for. */
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
                                .has_slow = state.has_slow };
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
                                          .codec_pull = psd_coding_print(&s->codings.pull, self->codec[1]),
                                          .has_slow = s->has_slow,
                                          .in_rounds = s->in_rounds,
                                          .checkpoints = s->checkpoints };
    return give(self, "settings", out, out->size, &known, sizeof known);
}

double psd_worker_round_loss(const psd_worker_t *self) { return look(self).position.round_loss; }

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

/* Whether a tensor may be the next of the exchange that is open tensor by tensor, if one is. */
static int check_push(psd_worker_t *self, size_t tensor, uint64_t samples)
{
    if (tensor >= self->list.n)
        return psd_err_set(&self->error, PSD_EINVAL, "push: there is no tensor %zu; %" PRIu32 " are registered", tensor,
                           self->list.n);
    if (!samples)
        return psd_err_set(&self->error, PSD_EINVAL, "push: a gradient of no samples; take part with nothing by an exchange");
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

/* An exchange that lacks tensors ends by itself only when the session does. */
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

int psd_worker_fd(const psd_worker_t *self) { return psd_handover_fd(self->handover); }

int psd_worker_pull_slow(psd_worker_t *self, float *const *out, int timeout_ms)
{
    if (!out)
        return psd_err_set(&self->error, PSD_EINVAL, "a pull needs a place for each tensor");
    if (!is_usable(self, "pull"))
        return self->error.code;
    const uint64_t rejoins = look(self).rejoins;
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_PULLING, "pull"))
        return self->error.code;
    memcpy(self->slow, out, self->list.n * sizeof *out);
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_PULL_SLOW, .data = self->slow });
    return psd_handover_await_answer(self->handover, rejoins, "pull", timeout_ms, &self->error);
}

int psd_worker_set_lr(psd_worker_t *self, double lr, int timeout_ms)
{
    if (!(lr >= 0) || lr > 1e9)
        return psd_err_set(&self->error, PSD_EINVAL, "a learning rate is a number from 0 to 1e9, not %g", lr);
    if (!is_usable(self, "set the learning rate"))
        return self->error.code;
    const uint64_t rejoins = look(self).rejoins;
    if (!begin(self, PSD_PHASE_READY, PSD_PHASE_SETTING, "set the learning rate"))
        return self->error.code;
    post(self, &(psd_request_t){ .kind = PSD_REQUEST_SET_LR, .value = lr });
    return psd_handover_await_answer(self->handover, rejoins, "set the learning rate", timeout_ms, &self->error);
}

static bool is_printable(const char *text)
{
    for (size_t n = strlen(text), size; n; text += size, n -= size)
        if (!(size = psd_printable_character(text, n)))
            return false;
    return true;
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
        close(psd_handover_fd(self->handover)); /* the rest is the other process's, whose thread is not here to end it */
        return;
    }
    psd_driver_stop(&self->driver);
    psd_net_destroy(&self->net);
    psd_handover_destroy(&self->handover);
    psd_floats_destroy(&self->floats);
    forget_tensors(self);
    free(self->join);
    free(self->file);
    free(self->job);
    free(self->name);
    free(self->recipe);
    free(self);
}

const char *psd_worker_error(const psd_worker_t *self) { return self ? self->error.text : ""; }
const char *psd_strerror(int code) { return psd_err_text(code); }
const char *psd_version(void) { return PSD_VERSION; }
