/* exchange_memory.c - the lower bound that memory sets: one thread makes the optimizer's step with psd's own kernels, in place, on
 * arrays in huge pages. With --copies it first copies the gradient to a server's place for it, and at the end copies the weights
 * back: the minimal cost of exchanging private arrays. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/config/usage.h"
#include "common/optim/optimizer.h"
#include "tests/bench/repeat.h"

/* A step is made in blocks of this many floats, as in a server. */
enum { BLOCK = 1 << 18 };

typedef struct model {
    psd_rule_t rule;
    psd_rule_state_t state;
    size_t n;
    bool copies;
    float *gradient, *weights;                                     /* the program's arrays */
    float *server_gradient, *server_weights, *slot[PSD_MAX_SLOTS]; /* the same two arrays where nothing is copied */
} model_t;

/* Arrays of equal alignment have their i-th elements in the same set of the first-level cache, which has fewer places than an
 * optimizer has arrays; so each begins some lines later than the one before. */
static float *map_floats(size_t n, float value)
{
    static size_t shift;
    const size_t n_bytes = n * sizeof(float) + (1 << 12);
    char *at = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        repeat_die("exchange_memory: no memory for %zu floats", n);
    madvise(at, n_bytes, MADV_HUGEPAGE);
    float *self = (float *)(void *)(at + shift);
    shift = (shift + 64 * 5) % (1 << 12);
    for (size_t i = 0; i < n; i++)
        self[i] = value;
    return self;
}

static void exchange(void *arg)
{
    model_t *self = arg;
    if (self->copies)
        memcpy(self->server_gradient, self->gradient, self->n * sizeof(float));
    const psd_plan_t plan = psd_rule_plan(&self->rule, &self->state, psd_rule_lr(&self->rule));
    for (size_t from = 0; from < self->n; from += BLOCK) {
        float *slot[PSD_MAX_SLOTS];
        for (int i = 0; i < self->rule.n_slots; i++)
            slot[i] = self->slot[i] + from;
        psd_rule_apply(&self->rule, &plan, self->server_weights + from, slot, self->server_gradient + from,
                       self->n - from < BLOCK ? self->n - from : BLOCK);
    }
    if (self->copies)
        memcpy(self->weights, self->server_weights, self->n * sizeof(float));
}

enum { PARAMETERS, OPTIMIZER, COPIES, UNITS };
static const psd_option_t flags[] = {
    [PARAMETERS] = REPEAT_PARAMETERS,
    [OPTIMIZER] = { .key = "optimizer", .type = PSD_OPTION_RULE, .preset = "sgd(lr=0.01)", .help = "that makes the step" },
    [COPIES] = { .key = "copies", .type = PSD_OPTION_SWITCH, .help = "gradient there, weights back" },
    [UNITS] = REPEAT_UNITS,
    { .key = NULL },
};
static const psd_usage_t usage = { .name = "exchange_memory",
                                   .words = "",
                                   .does = "step a model in memory, whenever a line is read",
                                   .about = "",
                                   .flag = flags,
                                   .examples = "" };

int main(int argc, char **argv)
{
    const psd_given_t *given = psd_usage_read_or_exit(&usage, argc, argv);
    const size_t n = given->value[PARAMETERS].u;
    model_t self = { .n = n, .copies = given->flag[COPIES] != NULL };
    psd_err_t err;
    if (psd_rule_parse(&self.rule, given->value[OPTIMIZER].text, &err) != PSD_OK)
        repeat_die("exchange_memory: %s", err.text);
    self.gradient = self.server_gradient = map_floats(n, 1e-3f);
    self.weights = self.server_weights = map_floats(n, 0.5f);
    if (self.copies) {
        self.server_gradient = map_floats(n, 0);
        self.server_weights = map_floats(n, 0.5f);
    }
    for (int i = 0; i < self.rule.n_slots; i++)
        self.slot[i] = map_floats(n, 0);
    psd_rule_init(&self.rule, &self.state, self.server_weights, self.slot, n);
    repeat_serve(exchange, &self, given->value[UNITS].u);
    return 0;
}
