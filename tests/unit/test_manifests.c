#include <criterion/criterion.h>
#include <glob.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "common/config/options.h"

/* The files of deploy/kubernetes and deploy/helm fit together, and describe a job that psd accepts. More needs a cluster. */

TestSuite(manifests, .timeout = 600);

static char *read_file(const char *path)
{
    static char text[1 << 18];
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file, "%s", path);
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    return strdup(text);
}

static char *read_source(const char *name)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", PSD_SOURCE_DIR, name);
    return read_file(path);
}

/* ---- YAML ---- */

enum { MAX_DOCUMENTS = 16 };

typedef struct manifest {
    yaml_document_t document[MAX_DOCUMENTS];
    size_t n;
} manifest_t;

static void load(manifest_t *out, const char *name, const char *text)
{
    yaml_parser_t parser;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, strlen(text));
    for (out->n = 0; out->n < MAX_DOCUMENTS; out->n++) {
        cr_assert(yaml_parser_load(&parser, &out->document[out->n]), "%s:%zu: %s", name, parser.problem_mark.line + 1,
                  parser.problem ? parser.problem : "");
        if (!yaml_document_get_root_node(&out->document[out->n]))
            break;
    }
    yaml_parser_delete(&parser);
}

static yaml_node_t *child(yaml_document_t *document, yaml_node_t *node, const char *key, size_t n_key)
{
    if (node->type == YAML_SEQUENCE_NODE && n_key == 1) /* a place, one digit */
        return yaml_document_get_node(document, node->data.sequence.items.start[*key - '0']);
    for (yaml_node_pair_t *p = node->data.mapping.pairs.start; node->type == YAML_MAPPING_NODE && p < node->data.mapping.pairs.top;
         p++) {
        yaml_node_t *name = yaml_document_get_node(document, p->key);
        if (name->data.scalar.length == n_key && memcmp(name->data.scalar.value, key, n_key) == 0)
            return yaml_document_get_node(document, p->value);
    }
    return NULL;
}

/* The node at "spec/template/metadata"; NULL when there is none. */
static yaml_node_t *node_at(yaml_document_t *document, const char *path)
{
    yaml_node_t *node = yaml_document_get_root_node(document);
    while (node && *path) {
        const size_t n = strcspn(path, "/");
        node = child(document, node, path, n);
        path += n + (path[n] == '/');
    }
    return node;
}

static const char *text_at(yaml_document_t *document, const char *path)
{
    yaml_node_t *node = node_at(document, path);
    return node && node->type == YAML_SCALAR_NODE ? (const char *)node->data.scalar.value : "";
}

static yaml_document_t *of_kind(manifest_t *all, const char *kind)
{
    for (size_t i = 0; i < all->n; i++)
        if (strcmp(text_at(&all->document[i], "kind"), kind) == 0)
            return &all->document[i];
    cr_assert_fail("there is no %s", kind);
    return NULL;
}

/* ---- what has to fit ---- */

static psd_options_t *job_of(manifest_t *all)
{
    psd_err_t err = { 0 };
    const char *text = text_at(of_kind(all, "ConfigMap"), "data/job.yaml");
    psd_options_t *job = psd_options_new(PSD_PROGRAM_CTL);
    cr_assert_eq(psd_options_load_text(job, "job.yaml", text, strlen(text), &err), PSD_OK, "%s", err.text);
    return job;
}

/* A pod of this role runs the program, with the files that the job names, at the ports that it names. */
static void check_pod(yaml_document_t *document, const char *template, const char *program, const psd_options_t *job)
{
    char path[256];
#define AT(what) (snprintf(path, sizeof path, "%s/spec/%s", template, what), text_at(document, path))
    cr_expect_str_eq(AT("containers/0/command/0"), program);
    cr_expect_str_eq(AT("containers/0/command/1"), "/etc/psd/job/job.yaml");
    cr_expect_str_eq(AT("containers/0/volumeMounts/0/mountPath"), "/etc/psd/job");
    const bool is_server = strcmp(program, "psd") == 0;
    char key[256];
    snprintf(key, sizeof key, "/run/psd/%s", strrchr(AT("initContainers/0/command/3"), '/') + 1);
    cr_expect_str_eq(key, psd_options_string(job, is_server ? PSD_OPT_server_key : PSD_OPT_worker_key));
    cr_expect_str_eq(AT("securityContext/runAsNonRoot"), "true");
    cr_expect_str_eq(AT("containers/0/securityContext/readOnlyRootFilesystem"), "true");
    if (!is_server)
        return;
    snprintf(key, sizeof key, "/run/psd/%s", strrchr(AT("initContainers/0/command/4"), '/') + 1);
    cr_expect_str_eq(key, psd_options_string(job, PSD_OPT_status_token));
    cr_expect(strstr(psd_options_string(job, PSD_OPT_listen), AT("containers/0/ports/0/containerPort")));
    cr_expect(strstr(psd_options_string(job, PSD_OPT_status_listen), AT("containers/0/ports/1/containerPort")));
    cr_expect_str_eq(AT("containers/0/readinessProbe/httpGet/path"), "/readyz");
    cr_expect_str_eq(AT("containers/0/livenessProbe/httpGet/path"), "/livez");
    cr_expect_str_eq(AT("containers/0/volumeMounts/3/mountPath"), psd_options_string(job, PSD_OPT_checkpoint_dir));
#undef AT
}

Test(manifests, the_stateful_set_has_the_pods_that_its_job_asks_for)
{
    static manifest_t all;
    load(&all, "statefulset.yaml", read_source("deploy/kubernetes/statefulset.yaml"));
    psd_options_t *job = job_of(&all);
    yaml_document_t *set = of_kind(&all, "StatefulSet"), *workers = of_kind(&all, "Job");
    cr_expect_eq(atoi(text_at(set, "spec/replicas")), psd_options_int(job, PSD_OPT_servers));
    cr_expect_eq(atoi(text_at(workers, "spec/completions")), psd_options_int(job, PSD_OPT_workers_min));
    cr_expect_eq(atoi(text_at(workers, "spec/parallelism")), psd_options_int(job, PSD_OPT_workers_min));
    cr_expect_str_eq(text_at(workers, "spec/completionMode"), "Indexed");
    const char *service = psd_options_string(job, PSD_OPT_service);
    cr_expect_str_eq(text_at(set, "metadata/name"), service);
    cr_expect_str_eq(text_at(set, "spec/serviceName"), service);
    cr_expect_str_eq(text_at(of_kind(&all, "Service"), "metadata/name"), service);
    check_pod(set, "spec/template", "psd", job);
    check_pod(workers, "spec/template", "psd-worker", job);
    psd_options_destroy(&job);
}

Test(manifests, the_job_set_has_the_pods_that_its_job_asks_for)
{
    static manifest_t all;
    load(&all, "jobset.yaml", read_source("deploy/kubernetes/jobset.yaml"));
    psd_options_t *job = job_of(&all);
    yaml_document_t *set = of_kind(&all, "JobSet");
    const char *servers = "spec/replicatedJobs/0/template/spec/template", *workers = "spec/replicatedJobs/1/template/spec/template";
    char name[256];
    cr_expect_eq(atoi(text_at(set, "spec/replicatedJobs/0/template/spec/completions")), psd_options_int(job, PSD_OPT_servers));
    cr_expect_eq(atoi(text_at(set, "spec/replicatedJobs/1/template/spec/completions")), psd_options_int(job, PSD_OPT_workers_min));
    cr_expect_str_eq(text_at(set, "spec/successPolicy/targetReplicatedJobs/0"), text_at(set, "spec/replicatedJobs/1/name"));
    snprintf(name, sizeof name, "%s-%s-0", text_at(set, "metadata/name"), text_at(set, "spec/replicatedJobs/0/name"));
    cr_expect_str_eq(name, psd_options_string(job, PSD_OPT_service), "JobSet calls pod N %s-N", name);
    cr_expect_str_eq(text_at(set, "spec/network/subdomain"), psd_options_string(job, PSD_OPT_service));
    check_pod(set, servers, "psd", job);
    check_pod(set, workers, "psd-worker", job);
    psd_options_destroy(&job);
}

Test(manifests, the_chart_uses_no_value_that_there_is_not_and_has_none_that_it_does_not_use)
{
    static manifest_t values;
    char pattern[512], path[256];
    static char all[1 << 18];
    glob_t found;
    load(&values, "values.yaml", read_source("deploy/helm/psd/values.yaml"));
    snprintf(pattern, sizeof pattern, "%s/deploy/helm/psd/templates/*", PSD_SOURCE_DIR);
    cr_assert_eq(glob(pattern, 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++)
        strcat(all, read_file(found.gl_pathv[i]));
    globfree(&found);
    size_t n = 0;
    for (const char *at = all; (at = strstr(at, ".Values.")); n++) {
        at += strlen(".Values.");
        snprintf(path, sizeof path, "%.*s", (int)strspn(at, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ."), at);
        for (char *dot = path; (dot = strchr(dot, '.'));)
            *dot = '/';
        cr_expect_not_null(node_at(&values.document[0], path), "values.yaml has no %s", path);
    }
    cr_expect_geq(n, 10);
    json_t *schema = json_loads(read_source("deploy/helm/psd/values.schema.json"), 0, NULL), *property;
    const char *key;
    yaml_node_t *root = yaml_document_get_root_node(&values.document[0]);
    for (yaml_node_pair_t *p = root->data.mapping.pairs.start; p < root->data.mapping.pairs.top; p++) {
        key = (const char *)yaml_document_get_node(&values.document[0], p->key)->data.scalar.value;
        snprintf(path, sizeof path, ".Values.%s", key);
        cr_expect(strstr(all, path), "no template uses %s", key);
        cr_expect_not_null(json_object_get(json_object_get(schema, "properties"), key), "values.schema.json has no %s", key);
    }
    json_object_foreach(json_object_get(schema, "properties"), key, property)
        cr_expect(!strcmp(key, "global") || node_at(&values.document[0], key), "values.yaml has no %s", key);
    json_decref(schema);
}

Test(manifests, the_charts_job_is_one_that_psd_takes)
{
    static manifest_t values;
    psd_err_t err = { 0 };
    char *text = read_source("deploy/helm/psd/values.yaml"), *job = strstr(text, "\njob:\n") + strlen("\njob:\n");
    *strstr(job, "\n\n") = '\0';
    static char lines[4096];
    for (char *line = strtok(job, "\n"); line; line = strtok(NULL, "\n"))
        snprintf(lines + strlen(lines), sizeof lines - strlen(lines), "%s\n", line + 2);
    psd_options_t *options = psd_options_new(PSD_PROGRAM_CTL);
    cr_expect_eq(psd_options_load_text(options, "values.yaml", lines, strlen(lines), &err), PSD_OK, "%s", err.text);
    cr_expect_str_neq(psd_options_string(options, PSD_OPT_optimizer), "sgd(lr=0.01)", "the default, so nothing was read");
    psd_options_destroy(&options);
    load(&values, "Chart.yaml", read_source("deploy/helm/psd/Chart.yaml"));
    cr_expect_str_eq(text_at(&values.document[0], "appVersion"), PSD_VERSION);
}
