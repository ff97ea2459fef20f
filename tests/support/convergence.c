#include "tests/support/convergence.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/optimizer.h"
#include "tests/support/cluster.h"
#include "tests/support/data.h"

enum { WORKERS = 2, SERVERS = 2, DONE_MS = 600000 };

/* ---- tables ---- */

/* Names of the table that are not simply NAME(lr=LR). The article's values are the defaults of these rules, except those written
 * here. */
static const struct {
    const char *name, *rule;
} spelled[] = {
    { "rmsprop-centered-momentum", "rmsprop(lr=%s,centered=1,momentum=0.9)" },
    { "amsgrad", "adam(lr=%s,amsgrad=1)" },
    { "lookahead-radam", "lookahead(radam(lr=%s),k=5,alpha=0.5)" },
    { "lookahead-momentum", "lookahead(momentum(lr=%s),k=5,alpha=0.5)" },
    { "lookahead-adam", "lookahead(adam(lr=%s),k=5,alpha=0.5)" },
    { "lookahead-lion", "lookahead(lion(lr=%s),k=5,alpha=0.5)" },
    { "article-adagrad", "adagrad(lr=%s)" },
    { "article-adam", "adam(lr=%s,eps=1e-7)" },
    { "article-lookahead-radam", "lookahead(radam(lr=%s),k=5,alpha=0.5)" },
};

/* Put `lr` in place of "%s". */
static void fill_in(char rule[CONVERGENCE_RULE], const char *pattern, const char *lr)
{
    const size_t head = (size_t)(strstr(pattern, "%s") - pattern);
    snprintf(rule, CONVERGENCE_RULE, "%.*s%s%s", (int)head, pattern, lr, pattern + head + 2);
}

bool convergence_rule(const convergence_row_t *row, char rule[CONVERGENCE_RULE])
{
    psd_rule_t parsed;
    snprintf(rule, CONVERGENCE_RULE, "%s(lr=%s)", row->optimizer, row->lr);
    for (size_t i = 0; i < sizeof spelled / sizeof *spelled; i++)
        if (!strcmp(row->optimizer, spelled[i].name))
            fill_in(rule, spelled[i].rule, row->lr);
    return psd_rule_parse(&parsed, rule, NULL) == PSD_OK;
}

static FILE *open_table(const char *folder, const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/%s/%s", PSD_SOURCE_DIR, folder, name);
    return fopen(path, "r");
}

size_t convergence_rows(convergence_row_t *rows, size_t capacity)
{
    FILE *file = open_table("golden", "convergence.tsv");
    char line[512];
    size_t n = 0;
    while (file && n < capacity && fgets(line, sizeof line, file)) {
        convergence_row_t row = { .accuracy = 0 };
        /* model, optimizer, lr, 9 numbers, acc1_s1 */
        if (sscanf(line, "%15s %47s %15s %*s %*s %*s %*s %*s %*s %*s %*s %*s %lf", row.model, row.optimizer, row.lr,
                   &row.accuracy) == 4)
            rows[n++] = row;
    }
    if (file)
        fclose(file);
    return n;
}

size_t convergence_traces(convergence_row_t *rows, size_t capacity)
{
    FILE *file = open_table(data_is_drawn("mnist") ? "data" : "golden", "convergence_trace.tsv");
    char line[512];
    size_t n = 0;
    while (file && fgets(line, sizeof line, file)) {
        convergence_row_t row = { .accuracy = 0 };
        int step;
        double loss;
        if (sscanf(line, "%15s %47s %15s %d %lf", row.model, row.optimizer, row.lr, &step, &loss) != 5 || step < 1 ||
            step > CONVERGENCE_TRACE)
            continue;
        if (step == 1 && n < capacity)
            rows[n++] = row;
        if (n)
            rows[n - 1].loss[step - 1] = loss;
    }
    if (file)
        fclose(file);
    return n;
}

/* ---- jobs ---- */

static void start(cluster_t *cluster, const char *rule, const char *model, const char *data, const char *stop)
{
    cluster_open(cluster);
    cluster_start_servers(cluster, SERVERS, "--workers-min=%d --lease=30s --optimizer=%s", WORKERS, rule);
    for (int w = 0; w < WORKERS; w++)
        cluster_start_worker(cluster, "--seed=1 --eval-every=0 %s %s %s", model, data, stop);
    cluster_finish(cluster, DONE_MS);
}

static void start_mnist(cluster_t *cluster, const convergence_row_t *row, const char *rule, const char *stop)
{
    char data[5 * DATA_PATH], folder[DATA_PATH];
    data_path("mnist", folder);
    snprintf(data, sizeof data,
             "--data-batch=64 --data-train=idx:%s/train-images-idx3-ubyte.gz "
             "--data-labels=%s/train-labels-idx1-ubyte.gz "
             "--data-test=idx:%s/t10k-images-idx3-ubyte.gz --data-test-labels=%s/t10k-labels-idx1-ubyte.gz",
             folder, folder, folder, folder);
    start(cluster, rule,
          strcmp(row->model, "mlp") ? "--model-kind=softmax --model-layers=784,10" : "--model-kind=mlp --model-layers=784,128,10",
          data, stop);
}

static double accuracy_of(cluster_t *cluster)
{
    json_t *summary = cluster_summary(cluster, 0);
    const double accuracy = 100 * json_number_value(json_object_get(summary, "last_metric"));
    json_decref(summary);
    cluster_close(cluster);
    return accuracy;
}

double convergence_accuracy(const convergence_row_t *row, const char *rule)
{
    cluster_t cluster = { .bin = NULL };
    start_mnist(&cluster, row, rule, "--stop-epochs=1 --metrics-every=1000");
    return accuracy_of(&cluster);
}

double convergence_agaricus(void)
{
    cluster_t cluster = { .bin = NULL };
    char folder[DATA_PATH], data[3 * DATA_PATH];
    data_path("agaricus", folder);
    snprintf(data, sizeof data,
             "--data-batch=128 --data-index-base=1 --data-train=libsvm:%s/train.libsvm.gz "
             "--data-test=libsvm:%s/test.libsvm.gz",
             folder, folder);
    start(&cluster, "adagrad(lr=0.1)", "--model-kind=logistic", data, "--stop-epochs=5");
    return accuracy_of(&cluster);
}

/* Add one worker's share of the first steps' losses: each is the mean over its own samples. */
static void add_losses(const cluster_t *cluster, const char *name, double *loss, double *samples)
{
    char *text = cluster_file(cluster, name);
    for (char *rest = text, *line; rest && (line = strsep(&rest, "\n"));) {
        json_t *row = json_loads(line, 0, NULL);
        const json_int_t step = json_integer_value(json_object_get(row, "step"));
        const double n = json_number_value(json_object_get(row, "train/samples"));
        if (step >= 1 && step <= CONVERGENCE_TRACE) {
            loss[step - 1] += n * json_number_value(json_object_get(row, "train/loss"));
            samples[step - 1] += n;
        }
        json_decref(row);
    }
    free(text);
}

double convergence_trace_error(const convergence_row_t *row, const char *rule)
{
    cluster_t cluster = { .bin = NULL };
    double loss[CONVERGENCE_TRACE] = { 0 }, samples[CONVERGENCE_TRACE] = { 0 }, worst = 0;
    start_mnist(&cluster, row, rule, "--stop-steps=20 --metrics-every=1");
    add_losses(&cluster, "metrics.jsonl", loss, samples);
    add_losses(&cluster, "metrics-1.jsonl", loss, samples);
    for (int i = 0; i < CONVERGENCE_TRACE; i++) {
        const double error = fabs(loss[i] / samples[i] - row->loss[i]) / row->loss[i];
        worst = samples[i] == 64 && error >= worst ? error : samples[i] == 64 ? worst : INFINITY;
    }
    cluster_close(&cluster);
    return worst;
}
