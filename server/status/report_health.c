#include "server/status/report_state.h"

/* A model may have 65,536 tensors: the rows of /status, the names in an alert and the series (PSD_REPORT_SERIES) are bounded. */
enum { MOST_ROWS = 128, MOST_NAMES = 5 };

/* Readers need few digits, and the document is sent four times a second, so it is kept short. */
static json_t *figure(double x)
{
    char text[32];
    snprintf(text, sizeof text, "%.4g", x);
    return isfinite(x) ? json_real(strtod(text, NULL)) : json_null();
}

static const psd_health_t *health_of(const psd_node_t *node)
{
    const psd_coordinator_t *coordinator = psd_node_coordinator(node);
    const psd_health_t *health = coordinator ? psd_coordinator_health(coordinator) : NULL;
    const bool known = health && health->looks && psd_engine_model(psd_node_engine(node))->n == health->n_tensors;
    return known ? health : NULL;
}

static const char *name_of(const psd_node_t *node, uint32_t tensor)
{
    return psd_engine_model(psd_node_engine(node))->tensor[tensor].name;
}

static json_t *row(const psd_node_t *node, const psd_health_t *health, uint32_t t)
{
    const psd_health_tensor_t *x = &health->tensor[t];
    char why[PSD_HEALTH_TEXT], strip[PSD_HEALTH_COLUMNS + 1];
    snprintf(strip, sizeof strip, "%.*s", (int)health->n_columns, x->strip);
    psd_health_describe(health, t, why);
    json_t *object =
        json_pack("{s:s, s:s, s:I, s:o, s:o, s:o, s:o, s:o, s:s}", "name", name_of(node, t), "state",
                  psd_health_state_name(x->state), "parameters", (json_int_t)x->n, "gradient_norm", figure(x->gradient_norm),
                  "weight_norm", figure(x->weight_norm), "update_ratio", figure(x->update_ratio), "zero_share",
                  figure(x->zero_share), "cut_share", figure(x->reached_share), "strip", strip);
    if (object && *why) {
        json_object_set_new(object, "since_step", json_integer((json_int_t)x->since));
        json_object_set_new(object, "reason", json_string(why));
    }
    return object;
}

/* Tensors that need attention first, then all others in the model's order, as far as there is room. */
static json_t *rows(const psd_node_t *node, const psd_health_t *health)
{
    json_t *list = json_array();
    for (int ill = 1; ill >= 0; ill--)
        for (uint32_t t = 0; t < health->n_tensors && json_array_size(list) < MOST_ROWS; t++)
            if (psd_health_is_ill(health->tensor[t].state) == ill)
                json_array_append_new(list, row(node, health, t));
    return list;
}

void psd_report_health(const psd_report_t *self, const psd_node_t *node, json_t *status)
{
    const psd_health_t *health = health_of(node);
    const uint64_t every = psd_options_uint(self->options, PSD_OPT_health_every);
    if (!psd_node_coordinator(node))
        return;
    json_t *object = json_pack("{s:I, s:I}", "every", (json_int_t)every, "looks", (json_int_t)(health ? health->looks : 0));
    json_object_set_new(status, "health", object);
    if (!health)
        return;
    json_t *columns = json_array(), *list = rows(node, health), *counts = json_object();
    for (uint32_t i = 0; i < health->n_columns; i++)
        json_array_append_new(columns, json_integer((json_int_t)health->column[i]));
    for (psd_health_state_t s = 0; s < PSD_N_HEALTH_STATES; s++)
        json_object_set_new(counts, psd_health_state_name(s), json_integer(health->in_state[s]));
    json_object_set_new(object, "step", json_integer((json_int_t)health->step));
    json_object_set_new(object, "columns", columns);
    json_object_set_new(object, "states", counts);
    json_object_set_new(object, "omitted", json_integer((json_int_t)(health->n_tensors - json_array_size(list))));
    json_object_set_new(object, "tensors", list);
}

/* One sentence for all tensors that show a sign: what is wrong with the first of them, and the names of the others. */
static void add_alert(const psd_node_t *node, const psd_health_t *health, psd_health_sign_t sign, json_t *alerts)
{
    char *text = NULL, why[PSD_HEALTH_TEXT];
    size_t n_text, n = 0;
    FILE *out = open_memstream(&text, &n_text);
    for (uint32_t t = 0; out && t < health->n_tensors; t++) {
        const psd_health_tensor_t *x = &health->tensor[t];
        if (x->sign != sign || !psd_health_is_ill(x->state) || n++ >= MOST_NAMES)
            continue;
        psd_health_describe(health, t, why);
        if (n == 1)
            fprintf(out, "tensor %s is %s: %s", name_of(node, t), psd_health_state_name(x->state), why);
        else
            fprintf(out, "%s %s", n == 2 ? "; the same holds for" : ",", name_of(node, t));
    }
    if (n > MOST_NAMES)
        fprintf(out, " and %zu more", n - MOST_NAMES);
    if (out && !fclose(out) && n)
        json_array_append_new(alerts, json_string(text));
    free(text);
}

void psd_report_health_alerts(const psd_node_t *node, json_t *alerts)
{
    const psd_health_t *health = health_of(node);
    for (psd_health_sign_t sign = PSD_SIGN_NONE + 1; health && sign < PSD_N_SIGNS; sign++)
        add_alert(node, health, sign, alerts);
}

/* The tensors that have series: the largest; of equals, the first. They are chosen once, when the model is known. */
static void choose_series(psd_report_t *self, const psd_health_t *health)
{
    self->n_series = 0;
    for (uint32_t t = 0; t < health->n_tensors; t++) {
        uint32_t at = self->n_series;
        while (at && health->tensor[self->series[at - 1]].n < health->tensor[t].n)
            at--;
        if (at == PSD_REPORT_SERIES)
            continue;
        self->n_series += self->n_series < PSD_REPORT_SERIES;
        memmove(&self->series[at + 1], &self->series[at], (self->n_series - 1 - at) * sizeof self->series[0]);
        self->series[at] = t;
    }
}

static void set(psd_metrics_t *m, psd_metric_t metric, const char *tensor, double x)
{
    if (isnan(x))
        psd_metrics_remove(m, metric, tensor);
    else
        psd_metrics_set(m, metric, tensor, x);
}

void psd_report_health_metrics(psd_report_t *self, const psd_node_t *node)
{
    const psd_health_t *health = health_of(node);
    psd_metrics_t *m = self->metrics;
    if (!health)
        return;
    if (!self->n_series)
        choose_series(self, health);
    for (psd_health_state_t s = 0; s < PSD_N_HEALTH_STATES; s++)
        psd_metrics_set(m, PSD_METRIC_TENSORS, psd_health_state_name(s), health->in_state[s]);
    for (uint32_t i = 0; i < self->n_series && self->series[i] < health->n_tensors; i++) {
        const psd_health_tensor_t *x = &health->tensor[self->series[i]];
        const char *name = name_of(node, self->series[i]);
        set(m, PSD_METRIC_TENSOR_GRADIENT, name, x->gradient_norm);
        set(m, PSD_METRIC_TENSOR_WEIGHT, name, x->weight_norm);
        set(m, PSD_METRIC_TENSOR_UPDATE, name, x->update_ratio);
        set(m, PSD_METRIC_TENSOR_ZEROS, name, x->zero_share);
        set(m, PSD_METRIC_TENSOR_REACHED, name, x->reached_share);
    }
}
