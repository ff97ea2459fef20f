#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "psd/worker.h"
#include "tests/support/cluster.h"
#include "tests/support/reference.h"

/* The health of tensors (health.every): looks do not change a bit of the weights, figures do not depend on the number of servers, a
 * planted dead layer and a planted explosion are named, and healthy jobs raise no alert. */

enum { DONE_MS = 600000, STEPS = 120 };
static const size_t layers[] = { 784, 32, 10 };
#define MODEL                                                                                                                      \
    "--model-kind=mlp --model-layers=784,32,10 --seed=3 --data-train=glyphs:1500 --data-test=glyphs:100 --data-batch=60 "          \
    "--eval-every=0"

static cluster_t cluster;
static void setup(void) { cluster_open(&cluster); }
static void teardown(void) { cluster_close(&cluster); }
TestSuite(health, .init = setup, .fini = teardown, .timeout = 900);

static json_t *status(void)
{
    char *text = cluster_get(&cluster, 0, "/status");
    json_t *root = json_loads(text ? text : "", 0, NULL);
    free(text);
    return root;
}

/* Train to the end with two workers, and return the last status. */
static json_t *run(unsigned servers, const char *server_flags, const char *worker_flags)
{
    json_t *root = NULL;
    cluster_start_servers(&cluster, servers, "--workers-min=2 %s", server_flags);
    free(cluster_scrape(&cluster, 0));
    for (unsigned w = 0; w < 2; w++)
        cluster_start_worker(&cluster, MODEL " --stop-steps=%d%s", STEPS, worker_flags);
    for (const uint64_t until = cluster_now_ms() + DONE_MS; cluster_now_ms() < until; cluster_nap()) {
        root = status();
        if (root && !strcmp(json_string_value(json_object_get(root, "state")), "finished"))
            break;
        json_decref(root);
        root = NULL;
    }
    cr_assert_not_null(root, "the job does not end");
    while (cluster_wait(&cluster.server[0], 50) == -1)
        free(cluster_scrape(&cluster, 0));
    cluster_finish(&cluster, DONE_MS);
    return root;
}

static void again(void)
{
    cluster_close(&cluster);
    cluster_open(&cluster);
}

static json_t *health_of(const json_t *root) { return json_object_get(root, "health"); }

static long long count(const json_t *root, const char *state)
{
    return json_integer_value(json_object_get(json_object_get(health_of(root), "states"), state));
}

static void expect_no_tensor_named(const char *flags)
{
    for (unsigned s = 0; s < cluster.n_servers; s++) {
        char *said = cluster_printed(&cluster, &cluster.server[s], "err");
        cr_expect(said && !strstr(said, "id=tensor."), "%s: %s", flags, said ? strstr(said, "id=tensor.") : "");
        free(said);
    }
}

Test(health, weights_have_the_same_bits_with_looks_and_without_and_figures_the_same_for_any_number_of_servers)
{
    static const char *const rules[] = { "adam(lr=0.002)", "lookahead(lamb(lr=0.01),k=5)", "adafactor(lr=0.01)" };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        char fast[PSD_SHA256_TEXT], slow[PSD_SHA256_TEXT], flags[256], *first = NULL;
        const reference_config_t oracle = {
            .data = "glyphs:1500", .kind = "mlp", .layers = layers, .n_layers = 3, .batch = 60, .seed = 3, .rule = rules[i]
        };
        cr_assert(reference_undisturbed(&oracle, STEPS, 2, fast, slow));
        for (unsigned servers = 0; servers <= 3; servers++) { /* 0: one, without looks */
            snprintf(flags, sizeof flags, "--optimizer=%s --health-every=%d", rules[i], servers ? 7 : 0);
            json_t *root = run(servers ? servers : 1, flags, "");
            cr_expect(cluster_has_weights(&cluster, 0, fast, slow), "%s on %u servers", rules[i], servers);
            const json_t *health = health_of(root);
            char *text = json_dumps(health, JSON_SORT_KEYS);
            if (!servers)
                cr_expect_eq(json_integer_value(json_object_get(health, "looks")), 0);
            else if (!first)
                first = strdup(text);
            else
                cr_expect_str_eq(text, first, "%s on %u servers", rules[i], servers);
            if (servers) {
                cr_expect_eq(json_integer_value(json_object_get(health, "step")), 120, "looks at 1, 2, 4, 8, 15 ... 120");
                cr_expect_eq(json_array_size(json_object_get(health, "tensors")), 4);
                cr_expect_eq(count(root, "ok"), 4, "%s", text);
                expect_no_tensor_named(flags);
            }
            free(text);
            json_decref(root);
            again();
        }
        free(first);
    }
}

/* A safetensors file in which the biases of the hidden layer are so low that no unit is ever active. */
static void write_dead_biases(const char *path)
{
    enum { N = 32 };
    static const char header[] = "{\"fc1.bias\":{\"dtype\":\"F32\",\"shape\":[32],\"data_offsets\":[0,128]}}";
    const uint64_t n = sizeof header - 1;
    float values[N];
    for (int i = 0; i < N; i++)
        values[i] = -1000;
    FILE *out = fopen(path, "wb");
    cr_assert(out && fwrite(&n, 8, 1, out) == 1 && fwrite(header, n, 1, out) == 1 && fwrite(values, sizeof values, 1, out) == 1);
    cr_assert_eq(fclose(out), 0);
}

static void expect_alert(const json_t *root, const char *begins, const char *has)
{
    bool found = false;
    size_t i;
    json_t *alert;
    json_array_foreach(json_object_get(root, "alerts"), i, alert)
    {
        const char *text = json_string_value(alert);
        found |= !strncmp(text, begins, strlen(begins)) && strstr(text, has);
    }
    cr_expect(found, "no alert that %s ... %s", begins, has);
}

static void expect_logged(const char *line)
{
    char *said = cluster_printed(&cluster, &cluster.server[0], "err");
    cr_expect(said && strstr(said, line), "server 0 does not log %s", line);
    free(said);
}

Test(health, a_layer_whose_units_are_all_off_is_called_dead_in_words_with_what_to_do)
{
    for (unsigned servers = 1; servers <= 2; servers++) {
        char path[128], init[160];
        snprintf(path, sizeof path, "%s/dead.safetensors", cluster.directory);
        write_dead_biases(path);
        snprintf(init, sizeof init, " --init=%s --init-partial=true", path);
        json_t *root = run(servers, "--optimizer=sgd(lr=0.1)", init);
        cr_expect_eq(count(root, "dead"), 3, "the tensors before and after the hidden units");
        cr_expect_eq(count(root, "ok"), 1, "the last biases learn");
        expect_alert(root, "tensor fc1.weight is dead: all its gradients were 0 in the last ",
                     "the same holds for fc1.bias, fc2.weight");
        expect_logged("id=tensor.dead tensor=fc1.weight step=16 reason=\"all its gradients were 0");
        json_decref(root);
        again();
    }
}

Test(health, a_tensor_whose_rate_is_far_too_high_is_said_to_explode_in_words_with_what_to_do)
{
    for (unsigned servers = 1; servers <= 2; servers++) {
        json_t *root = run(servers, "--optimizer=sgd(lr=0.1) --groups=fc2.weight(lr_mult=10000)", "");
        expect_alert(root, "tensor fc2.weight is exploding: its weights are ", "lower the learning rate");
        expect_logged("id=tensor.exploding tensor=fc2.weight step=");
        json_decref(root);
        again();
    }
}

Test(health, jobs_that_are_well_are_left_in_peace_whatever_their_settings)
{
    static const char *const flags[] = { "--optimizer=sgd(lr=0.1) --groups=fc1.*(freeze=1)",
                                         "--optimizer=sgd(lr=0.3) --clip-value=0.001 --clip-norm=0.5",
                                         "--optimizer=adam(lr=0.002) --sync-accumulate=2",
                                         "--optimizer=sgd(lr=0.1) --codec-push=topk(0.01)",
                                         "--optimizer=lookahead(lion(lr=0.0003)) --codec-push=sign --codec-pull=bf16",
                                         "--optimizer=dlion(lr=0.0003)",
                                         "--optimizer=prodigy",
                                         "--optimizer=muon(lr=0.02) --schedule=cosine(steps=100,warmup=20)",
                                         "--optimizer=sgd(lr=0.1) --sync-mode=asp" };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        char with[256];
        snprintf(with, sizeof with, "%s --health-every=5", flags[i]);
        json_t *root = run(2, with, "");
        const bool freezes = strstr(flags[i], "freeze");
        cr_expect_geq(json_integer_value(json_object_get(health_of(root), "looks")), 20, "%s", flags[i]);
        cr_expect_eq(count(root, "frozen"), freezes ? 2 : 0, "%s", flags[i]);
        cr_expect_eq(count(root, "ok"), freezes ? 2 : 4, "%s", flags[i]);
        cr_expect_eq(json_array_size(json_object_get(root, "alerts")), 0, "%s", flags[i]);
        expect_no_tensor_named(flags[i]);
        if (strstr(flags[i], "clip-value")) {
            const json_t *first = json_array_get(json_object_get(health_of(root), "tensors"), 0);
            const double cut = json_number_value(json_object_get(first, "cut_share"));
            cr_expect(cut > 0 && cut < 1, "clip.value cuts some: %g", cut);
        }
        json_decref(root);
        again();
    }
}

static unsigned count_in(const char *text, const char *word)
{
    unsigned n = 0;
    for (const char *at = text; (at = strstr(at, word)); at++)
        n++;
    return n;
}

/* A model of 200 tensors through the public library: all gradients of seven are 0, a third of one's are, and one never has a
 * gradient. */
Test(health, a_model_of_many_tensors_has_bounded_rows_series_and_names_and_the_dead_are_the_first_rows)
{
    enum { MANY = 200, N = 3, DEAD = 150, N_DEAD = 7, ABSENT = 2, OWN = 5, LOOKS = 20 };
    static char names[MANY][8];
    static float weights[MANY][N], gradient[N] = { 1, -1, 1 }, own[N] = { 2, 0, -2 }, zeros[N];
    static const uint64_t shape[1] = { N };
    const float *gradients[MANY];
    psd_tensor_t tensors[MANY];
    psd_worker_t *worker = NULL;
    cluster_start_servers(&cluster, 2, "--workers-min=1 --optimizer=sgd(lr=0.001) --health-every=1");
    const psd_worker_config_t config = { .size = sizeof config, .join = cluster.data[0], .insecure = true };
    cr_assert_eq(psd_worker_connect(&worker, &config), PSD_W_OK, "%s", worker ? psd_worker_error(worker) : "");
    for (size_t i = 0; i < MANY; i++) {
        snprintf(names[i], sizeof names[i], "t%03zu", i);
        for (size_t k = 0; k < N; k++)
            weights[i][k] = 1;
        tensors[i] = (psd_tensor_t){ .name = names[i], .shape = shape, .n_dims = 1, .data = weights[i] };
        gradients[i] = i == ABSENT ? NULL : i >= DEAD && i < DEAD + N_DEAD ? zeros : i == OWN ? own : gradient;
    }
    cr_assert_eq(psd_worker_register(worker, tensors, MANY), PSD_W_OK, "%s", psd_worker_error(worker));
    for (int t = 0; t < LOOKS; t++) {
        psd_ticket_t ticket = 0;
        cr_assert_eq(psd_worker_exchange(worker, gradients, 1, 0.5, &ticket), PSD_W_OK, "%s", psd_worker_error(worker));
        cr_assert_eq(psd_worker_wait(worker, ticket, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    }
    json_t *root = NULL;
    for (const uint64_t until = cluster_now_ms() + DONE_MS; cluster_now_ms() < until; cluster_nap()) {
        json_decref(root);
        if ((root = status()) && json_integer_value(json_object_get(health_of(root), "step")) == LOOKS)
            break;
    }
    psd_worker_health_t of = { .size = sizeof of };
    for (int i = 0; i < 600 && (psd_worker_health(worker, DEAD - 50, &of) != PSD_W_OK || of.step < LOOKS); i++)
        cluster_nap();
    cr_expect_eq(of.step, LOOKS, "worker 0 gets the figures of the first 128: %s", psd_worker_error(worker));
    cr_expect_float_eq(of.gradient_norm, sqrt(N), 1e-12);
    cr_assert_eq(psd_worker_health(worker, OWN, &of), PSD_W_OK);
    cr_expect_float_eq(of.gradient_norm, sqrt(8), 1e-12);
    cr_expect_float_eq(of.weight_norm, sqrt(3), 0.05, "20 steps of 0.001 away from 1");
    cr_expect_float_eq(of.update_ratio, 0.001 * sqrt(8) / of.weight_norm, 1e-6);
    cr_expect_float_eq(of.zero_share, 1 / 3.0, 1e-12);
    cr_expect_eq(of.cut_share, 0);
    cr_expect_eq(psd_worker_health(worker, DEAD, &of), PSD_W_EAGAIN, "and no others");
    cr_expect_eq(psd_worker_health(worker, MANY, &of), PSD_W_EINVAL);
    cr_expect(strstr(psd_worker_error(worker), "there is no tensor 200; 200 are registered"), "%s", psd_worker_error(worker));
    const json_t *rows = json_object_get(health_of(root), "tensors"), *first = json_array_get(rows, 0);
    cr_expect_eq(json_array_size(rows), 128);
    cr_expect_eq(json_integer_value(json_object_get(health_of(root), "omitted")), MANY - 128);
    cr_expect_str_eq(json_string_value(json_object_get(first, "name")), "t150");
    cr_expect_str_eq(json_string_value(json_object_get(first, "state")), "dead");
    cr_expect_eq(json_integer_value(json_object_get(first, "since_step")), 5);
    const json_t *row = json_array_get(rows, N_DEAD + OWN);
    cr_expect_str_eq(json_string_value(json_object_get(row, "name")), "t005");
    cr_expect_float_eq(json_real_value(json_object_get(row, "gradient_norm")), 2.828, 1e-9);
    cr_expect_float_eq(json_real_value(json_object_get(row, "zero_share")), 0.3333, 1e-9);
    cr_expect_eq(json_number_value(json_object_get(row, "cut_share")), 0);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(rows, N_DEAD + ABSENT), "state")), "absent");
    cr_expect(count(root, "dead") == N_DEAD && count(root, "absent") == 1 && count(root, "ok") == MANY - 1 - N_DEAD);
    expect_alert(root, "tensor t150 is dead: ", "; the same holds for t151, t152, t153, t154 and 2 more");
    char *metrics = cluster_get(&cluster, 0, "/metrics");
    cr_expect_eq(count_in(metrics, "psd_tensor_weight_norm{"), 31, "the series of 32 tensors, one of which has no figures");
    cr_expect_not_null(strstr(metrics, "psd_tensors{state=\"dead\"} 7\n"));
    cr_expect_not_null(strstr(metrics, "psd_tensor_zero_gradients_ratio{tensor=\"t005\"} 0.333"), "%s",
                       strstr(metrics, "psd_tensor_zero_gradients_ratio{"));
    cr_expect_not_null(strstr(metrics, "psd_tensor_cut_gradients_ratio{tensor=\"t005\"} 0\n"), "%s",
                       strstr(metrics, "psd_tensor_cut_gradients_ratio{"));
    free(metrics);
    json_decref(root);
    cr_expect_eq(psd_worker_leave(worker, 1, DONE_MS), PSD_W_OK, "%s", psd_worker_error(worker));
    psd_worker_close(&worker);
    cluster_finish(&cluster, DONE_MS);
}
