#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/config/option_page.h"
#include "common/config/options.h"

static psd_options_t *options;
static psd_err_t err;

static void setup(void) { cr_assert_not_null(options = psd_options_new(PSD_PROGRAM_CTL)); }
static void teardown(void) { psd_options_destroy(&options); }
TestSuite(options, .init = setup, .fini = teardown, .timeout = 600);

static int load_text(const char *text) { return psd_options_load_text(options, "job.yaml", text, strlen(text), &err); }

#define LOAD(...) load_words((char *[]){ "psdctl", __VA_ARGS__, NULL })
static int load_words(char *const *words)
{
    int n = 0;
    while (words[n])
        n++;
    return psd_options_load(options, n, words, &err);
}

Test(options, code_calls_an_option_by_its_key)
{
    static const struct {
        psd_option_id_t id;
        const char *name, *key;
    } rows[] = {
#define OPTION(id, key, type, programs, preset, range, help) { PSD_OPT_##id, #id, key },
#include "common/config/options.def"
#undef OPTION
    };
    cr_assert_eq(sizeof rows / sizeof *rows, PSD_N_OPTIONS);
    for (size_t i = 0; i < PSD_N_OPTIONS; i++) {
        char name[PSD_OPTION_TEXT];
        snprintf(name, sizeof name, "%s", rows[i].key);
        for (char *dot = name; (dot = strchr(dot, '.'));)
            *dot = '_';
        cr_expect_str_eq(rows[i].name, name);
        cr_expect_str_eq(psd_option_at(rows[i].id)->key, rows[i].key);
        cr_expect_eq(psd_option_id(psd_option_find(rows[i].key)), rows[i].id);
    }
}

Test(options, without_a_word_every_value_is_the_tables)
{
    cr_assert_eq(LOAD("--"), PSD_OK, "%s", err.text);
    cr_assert_eq(psd_options_int(options, PSD_OPT_servers), 1);
    cr_assert_eq(psd_options_uint(options, PSD_OPT_seed), 1);
    cr_assert_eq(psd_options_ms(options, PSD_OPT_lease), 3000);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_listen), "tcp://127.0.0.1:7470");
    cr_assert(psd_options_bool(options, PSD_OPT_data_shuffle));
    cr_assert_str_eq(psd_options_origin(options, PSD_OPT_lease), "default");
    cr_assert_str_eq(psd_options_file(options), "");
}

Test(options, a_job_file_binds_every_type)
{
    const char *text = "# a comment\n"
                       "job: mnist-adam\n"
                       "seed: 18446744073709551615\n"
                       "model: {kind: mlp, layers: [784, 128, 10]}\n"
                       "data:\n"
                       "  train: \"idx:a b.gz\"\n"
                       "  batch: 2Ki\n"
                       "  shuffle: false\n"
                       "optimizer: lookahead(radam(lr=1e-3), k=5, alpha=0.5)\n"
                       "lease: 1.5s\n"
                       "round_timeout: 2m\n"
                       "stop: {target: 9.7e-1, epochs: 2.5, steps: 3k}\n"
                       "listen: 'tcp://[::1]:0'\n"
                       "status: {listen: none}\n";
    size_t n;
    cr_assert_eq(load_text(text), PSD_OK, "%s", err.text);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_job), "mnist-adam");
    cr_assert_eq(psd_options_uint(options, PSD_OPT_seed), UINT64_MAX);
    const int64_t *layers = psd_options_list(options, PSD_OPT_model_layers, &n);
    cr_assert(n == 3 && layers[0] == 784 && layers[1] == 128 && layers[2] == 10);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_data_train), "idx:a b.gz");
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_data_batch), "2048");
    cr_assert_not(psd_options_bool(options, PSD_OPT_data_shuffle));
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_optimizer), "lookahead(radam(lr=1e-3), k=5, alpha=0.5)");
    cr_assert_eq(psd_options_ms(options, PSD_OPT_lease), 1500);
    cr_assert_eq(psd_options_ms(options, PSD_OPT_round_timeout), 120000);
    cr_assert_eq(psd_options_double(options, PSD_OPT_stop_target), 0.97);
    cr_assert_eq(psd_options_double(options, PSD_OPT_stop_epochs), 2.5);
    cr_assert_eq(psd_options_uint(options, PSD_OPT_stop_steps), 3000);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_status_listen), "none");
    cr_assert_str_eq(psd_options_origin(options, PSD_OPT_lease), "job.yaml:10:8");
}

Test(options, durations_are_whole_milliseconds_of_their_unit)
{
    static const struct {
        const char *text;
        uint64_t ms;
    } written[] = { { "250ms", 250 }, { "1s", 1000 }, { "1.5s", 1500 }, { "1m", 60000 }, { "1h", 3600000 }, { "0.5h", 1800000 } };
    for (size_t i = 0; i < sizeof written / sizeof *written; i++) {
        char text[64];
        snprintf(text, sizeof text, "round_timeout: %s\n", written[i].text);
        cr_assert_eq(load_text(text), PSD_OK, "%s", err.text);
        cr_expect_eq(psd_options_ms(options, PSD_OPT_round_timeout), written[i].ms, "%s", written[i].text);
    }
}

Test(options, a_list_of_texts_keeps_their_commas_and_a_list_of_numbers_their_fractions)
{
    size_t n;
    cr_assert_eq(load_text("compare:\n"
                           "  optimizers:\n"
                           "    - sgd(lr=0.1)\n"
                           "    - 'adam(lr=1e-3, beta1=0.8)'\n"
                           "    - lookahead(radam(lr=1e-3), k=5)\n"
                           "  lr_sweep: [0.3, 1, 1e1]\n"),
                 PSD_OK, "%s", err.text);
    const char *const *rules = psd_options_texts(options, PSD_OPT_compare_optimizers, &n);
    cr_assert_eq(n, 3);
    cr_expect_str_eq(rules[0], "sgd(lr=0.1)");
    cr_expect_str_eq(rules[1], "adam(lr=1e-3, beta1=0.8)");
    cr_expect_str_eq(rules[2], "lookahead(radam(lr=1e-3), k=5)");
    const double *factor = psd_options_numbers(options, PSD_OPT_compare_lr_sweep, &n);
    cr_assert(n == 3 && factor[0] == 0.3 && factor[1] == 1 && factor[2] == 10);
    psd_options_destroy(&options);
    options = psd_options_new(PSD_PROGRAM_CTL | PSD_PROGRAM_COMPARE);
    cr_assert_eq(LOAD("--compare-optimizers=sgd ;adam(lr=1, eps=2)", "--compare-seeds=2"), PSD_OK, "%s", err.text);
    rules = psd_options_texts(options, PSD_OPT_compare_optimizers, &n);
    cr_assert_eq(n, 2);
    cr_expect_str_eq(rules[0], "sgd");
    cr_expect_str_eq(rules[1], "adam(lr=1, eps=2)");
}

Test(options, a_long_list_of_texts_is_read_whole_or_refused)
{
    size_t n;
    char text[12000] = "compare:\n  optimizers:\n";
    for (int i = 0; i < 100; i++)
        strcat(text, "    - lookahead(radam(lr=0.001, beta1=0.9), k=5, alpha=0.5)\n"); /* 53 bytes and two between */
    cr_assert_eq(load_text(text), PSD_OK, "%s", err.text);
    psd_options_texts(options, PSD_OPT_compare_optimizers, &n);
    cr_assert_eq(n, 100);
    for (int i = 0; i < 60; i++)
        strcat(text, "    - lookahead(radam(lr=0.001, beta1=0.9), k=5, alpha=0.5)\n");
    cr_assert_eq(load_text(text), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "job.yaml:3:5: the list compare.optimizers is too long"), "%s", err.text);
}

Test(options, a_section_of_a_list_is_read_whole_or_refused)
{
    enum { MATCH = 63, MOST = 127, OTHERS = 8061 };
    char text[10000];
    snprintf(text, sizeof text, "groups:\n  - match: \"%0*d\"\n    lr: 0\n", MATCH, 0);
    cr_assert_eq(load_text(text), PSD_OK, "%s", err.text);
    cr_expect_eq(strlen(psd_options_text(options, PSD_OPT_groups)), MATCH + strlen("(lr=0)"));
    const struct {
        int match, value;
    } long_ones[] = { { MOST + 1, 1 }, { 1, OTHERS }, { MOST, OTHERS } };
    for (size_t i = 0; i < sizeof long_ones / sizeof *long_ones; i++) {
        snprintf(text, sizeof text, "groups:\n  - match: \"%0*d\"\n    lr: %0*d\n", long_ones[i].match, 0, long_ones[i].value, 0);
        cr_expect_eq(load_text(text), PSD_ECONFIG, "otherwise it would be left out");
        cr_expect_not_null(strstr(err.text, "job.yaml:2:5: a section in groups is too long"), "%s", err.text);
    }
}

Test(options, a_string_that_yaml_would_make_a_bool_stays_a_string)
{
    cr_assert_eq(load_text("worker: {name: no}"), PSD_OK, "%s", err.text);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_worker_name), "no");
}

Test(options, a_flag_beats_the_environment_which_beats_the_file_which_beats_the_table)
{
    char path[] = "/tmp/test_options_XXXXXX";
    int fd = mkstemp(path);
    const char text[] = "seed: 2\nservers: 2\nlease: 2s\n";
    cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)sizeof text - 1);
    close(fd);
    setenv("PSD_SERVERS", "3", 1);
    setenv("PSD_LEASE", "4s", 1);
    setenv("PSD_DATA__BATCH", "full", 1);
    int rc = LOAD(path, "--lease", "5s");
    unlink(path);
    cr_assert_eq(rc, PSD_OK, "%s", err.text);
    cr_assert_eq(psd_options_uint(options, PSD_OPT_seed), 2);
    cr_assert_eq(psd_options_int(options, PSD_OPT_servers), 3);
    cr_assert_eq(psd_options_ms(options, PSD_OPT_lease), 5000);
    cr_assert_str_eq(psd_options_string(options, PSD_OPT_data_batch), "full");
    cr_assert_str_eq(psd_options_origin(options, PSD_OPT_lease), "--lease");
    cr_assert_str_eq(psd_options_origin(options, PSD_OPT_servers), "PSD_SERVERS");
    cr_assert_not_null(strstr(psd_options_origin(options, PSD_OPT_seed), ":1:7"));
    cr_assert_str_eq(psd_options_origin(options, PSD_OPT_job), "default");
    cr_assert_str_eq(psd_options_file(options), path);
}

Test(options, a_copy_has_every_value_and_is_changed_alone)
{
    cr_assert_eq(load_text("job: a\nseed: 7\nlease: 4s\ngroups: [{match: \"*.bias\", weight_decay: 0}]\n"
                           "optimizer: \"lookahead(adam(lr=1e-3), k=5)\"\ndata: {categorical: [x, \"y, z\"], train: csv:t.csv}\n"
                           "model: {layers: [3, 2]}\ncompare: {optimizers: [\"sgd(lr=0.1)\", \"adam(lr=1e-3, beta1=0.8)\"]}\n"),
                 PSD_OK, "%s", err.text);
    psd_options_t *copy = psd_options_copy(options);
    cr_assert_not_null(copy);
    for (size_t i = 0; i < PSD_N_OPTIONS; i++) {
        cr_expect_str_eq(psd_options_text(copy, i), psd_options_text(options, i));
        cr_expect_str_eq(psd_options_origin(copy, i), psd_options_origin(options, i));
    }
    size_t n;
    cr_expect_str_eq(psd_options_texts(copy, PSD_OPT_data_categorical, &n)[1], "y, z");
    cr_assert_eq(psd_options_change(copy, PSD_OPT_seed, "8", "the test", &err), PSD_OK, "%s", err.text);
    cr_expect_eq(psd_options_uint(copy, PSD_OPT_seed), 8);
    cr_expect_eq(psd_options_uint(options, PSD_OPT_seed), 7);
    psd_options_destroy(&copy);
}

Test(options, every_row_is_reached_by_flag_variable_and_key)
{
    for (size_t i = 0; psd_option_at(i); i++) {
        const psd_option_t *row = psd_option_at(i);
        char flag[64], variable[64], word[256];
        const unsigned program = row->programs & (~row->programs + 1); /* the first of those that take it */
        psd_options_t *one = psd_options_new(program);
        psd_option_flag(row->key, flag, sizeof flag);
        psd_option_variable(row->key, variable, sizeof variable);
        snprintf(word, sizeof word, "%s=%s", flag, row->preset);
        setenv(variable, row->preset, 1);
        if (*row->preset || strcmp(row->key, "model.layers") == 0) {
            cr_assert_eq(psd_options_load(one, 2, (char *[]){ "psd", word, NULL }, &err), PSD_OK, "%s", err.text);
            cr_assert_str_eq(psd_options_origin(one, psd_option_id(row)), flag);
        }
        unsetenv(variable);
        psd_options_destroy(&one);
    }
}

Test(options, all_errors_of_a_file_come_in_one_run)
{
    cr_assert_eq(load_text("servers: 0\ndata: {batch: 0, shufle: true}\nlease: 3\nseed: x\n"), PSD_ECONFIG);
    const char *all = psd_options_complaints(options);
    const char *sentences[] = { "job.yaml:1:10: servers is 0; it takes 1 to 256",
                                "job.yaml:2:15: data.batch is \"0\"; it takes full or 1 to 1073741824",
                                "job.yaml:2:18: unknown key data.shufle; did you mean data.shuffle?",
                                "job.yaml:3:8: lease is \"3\", not a valid duration; a number and a unit",
                                "job.yaml:4:7: seed is \"x\", not a valid whole number" };
    for (size_t i = 0; i < sizeof sentences / sizeof *sentences; i++)
        cr_assert_not_null(strstr(all, sentences[i]), "lacks \"%s\" in:\n%s", sentences[i], all);
    cr_assert_not_null(strstr(err.text, "servers is 0"));
}

Test(options, a_broken_job_file_is_refused_with_place_cause_and_cure)
{
    static const struct {
        const char *text, *sentence;
    } broken[] = {
        { "servers: 257", "1:10: servers is 257; it takes 1 to 256" },
        { "servers: -1", "servers is -1; it takes 1 to 256" },
        { "servers: 2x", "servers is \"2x\", not a valid whole number" },
        { "servers: 2.0", "servers is \"2.0\", not a valid whole number" },
        { "servers: 010", "without a leading 0" },
        { "servers: 0x10", "servers is \"0x10\"" },
        { "servers: 1_0", "servers is \"1_0\"" },
        { "servers: +2", "servers is \"+2\"" },
        { "servers: \"2\"", "servers is text in quotes; write the whole number without" },
        { "servers: [2]", "servers takes one value, not a list" },
        { "servers: {a: 2}", "servers takes a value, not a section" },
        { "servers:", "servers has no value; give one, or leave the key out" },
        { "servers: ~", "servers has no value" },
        { "servers: null", "servers has no value" },
        { "seed: 18446744073709551616", "seed is \"18446744073709551616\", not a valid whole number" },
        { "seed: -1", "seed is \"-1\", not a valid whole number" },
        { "seed: 99999999999999999g", "not a valid whole number" },
        { "seed: 1K", "with k, m, g, Ki, Mi or Gi" },
        { "stop: {target: 0,97}", "1:18: unknown key stop.97" },
        { "stop: {target: nan}", "stop.target is \"nan\", not a valid number" },
        { "stop: {target: inf}", "stop.target is \"inf\", not a valid number" },
        { "stop: {target: 1e999}", "not a valid number" },
        { "stop: {target: 1e-3x}", "stop.target is \"1e-3x\", not a valid number" },
        { "stop: {target: .5}", "decimal, such as 0.5" },
        { "stop: {epochs: -1}", "stop.epochs is -1; it takes 0 or more" },
        { "data: {shuffle: yes}", "data.shuffle is \"yes\", not true or false; write true or false" },
        { "data: {shuffle: True}", "write true or false" },
        { "data: {batch: all}", "data.batch is \"all\"; it takes full or 1 to 1073741824" },
        { "data: {batch: ful}", "did you mean full?" },
        { "data: 64", "data is a section; write its keys below it" },
        { "data: [a, b]", "data is a section" },
        { "data: {bacth: 64}", "1:8: unknown key data.bacth; did you mean data.batch?" },
        { "batch: 64", "unknown key batch; did you mean data.batch?" },
        { "frobnicate: {a: [1, {b: 2}]}", "unknown key frobnicate; --help lists them all" },
        { "lease: 30", "lease is \"30\", not a valid duration; a number and a unit, such as 500ms" },
        { "lease: 30 s", "not a valid duration" },
        { "lease: 30sec", "not a valid duration" },
        { "lease: -3s", "not a valid duration" },
        { "lease: 0.5ms", "not a valid duration" },
        { "lease: 1ms", "lease is 1ms; it takes 100ms or more" },
        { "lease: 99999999999999h", "not a valid duration" },
        { "sync: {mode: bps}", "sync.mode is \"bps\"; it takes bsp or asp; did you mean bsp?" },
        { "sync: {mode: BSP}", "sync.mode is \"BSP\"; it takes bsp or asp" },
        { "listen: 127.0.0.1:7470", "not a valid endpoint; tcp://HOST:PORT" },
        { "listen: tcp://:7470", "not a valid endpoint" },
        { "listen: tcp://a:65536", "not a valid endpoint" },
        { "listen: tcp://a:7470/x", "not a valid endpoint" },
        { "listen: tcp://::1", "not a valid endpoint" },
        { "listen: 'ipc://'", "not a valid endpoint" },
        { "status: {listen: 7471}", "not a valid address; HOST:PORT" },
        { "status:\n  listen: '127.0.0.1:'", "not a valid address" },
        { "job: a/b", "job is \"a/b\", not a valid name" },
        { "job: ../x", "not a valid name" },
        { "job: \"\"", "not a valid name" },
        { "model: {layers: 784}", "model.layers takes a list; write [784, 128, 10]" },
        { "model: {layers: [784, ten]}", "not a valid list of whole numbers" },
        { "model: {layers: [784, 0]}", "it takes 1 to 1048576" },
        { "model: {layers: [784, [1]]}", "an item of model.layers is not a number" },
        { "model: {layers: ['784']}", "an item of model.layers is not a number" },
        { "compare: {lr_sweep: [1, x]}", "compare.lr_sweep is \"1,x\", not a valid list of numbers; numbers, as [0.1, 1, 10]" },
        { "compare: {lr_sweep: [1, 0]}", "compare.lr_sweep is 1,0; it takes 1e-6 to 1e6" },
        { "compare: {lr_sweep: 3}", "compare.lr_sweep takes a list; write [0.1, 1, 10]" },
        { "compare: {optimizers: sgd}", "compare.optimizers takes a list; write each item on a line of its own" },
        { "compare: {optimizers: [sgd, '']}", "1:29: an item of compare.optimizers is not a text" },
        { "compare: {optimizers: [sgd, 'a;b']}", "an item of compare.optimizers is not a text; leave the ; out" },
        { "compare: {optimizers: [sgd, [adam]]}", "an item of compare.optimizers is not a text" },
        { "compare: {optimizers: [sgd, &x adam]}", "&x is an anchor" },
        { "compare: {seeds: 0}", "compare.seeds is 0; it takes 1 to 100" },
        { "compare: {optimizer: sgd}", "unknown key compare.optimizer; did you mean compare.optimizers?" },
        { "optimizer: {name: adam}", "optimizer takes a value, not a section" },
        { "optimizer: |\n  adam\n  sgd\n", "optimizer holds a control character" },
        { "optimizer: \"a\\0b\"", "optimizer holds a NUL" },
        { "seed: 1\nseed: 2", "2:1: duplicate key seed; keep one" },
        { "data: {batch: 1}\ndata: {shuffle: true}", "2:1: duplicate key data" },
        { "seed: &x 1", "&x is an anchor" },
        { "seed: *x", "*x is an alias" },
        { "data: &x {batch: 1}", "&x is an anchor" },
        { "seed: !!int 1", "tag tag:yaml.org,2002:int is not needed, because psd knows the types; leave it out" },
        { "job: !str x", "tag !str" },
        { "<<: {seed: 1}", "<< merges keys; write each key out" },
        { "%YAML 1.1\n---\nseed: 1", "directives (%) are not used here" },
        { "seed: 1\n---\nseed: 2", "a second document; a file describes one job" },
        { "data:\n\tbatch: 1", "2:1: a tab; use spaces" },
        { "seed: 1 \t# one", "1:9: a tab; use spaces" },
        { "a: {b: {c: {d: {e: {f: {g: {h: {i: 1}}}}}}}}\nseed: x", "seed is \"x\"" },
        { "- seed\n", "a job file is a list of \"key: value\" lines" },
        { "seed", "a job file is a list of \"key: value\" lines" },
        { "seed: 1: 2", "this is not YAML" },
        { "data: {batch: 1", "this is not YAML" },
        { "seed: 1\n  servers: 2", "this is not YAML" },
        { "\"un known\": 1", "a key is made of letters, digits, _ and dots" },
        { "? [a, b]\n: 1", "a key is made of letters, digits, _ and dots" },
        { "seed: @x", "this is not YAML" },
        { "job: \xff\xfe", "this is not YAML" },
        { "job: \001", "this is not YAML" },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        teardown();
        setup();
        int rc = load_text(broken[i].text);
        cr_expect_eq(psd_err_exit_code(rc), 78, "accepted: %s", broken[i].text);
        const char *all = psd_options_complaints(options);
        cr_expect_not_null(strstr(all, broken[i].sentence), "%s\n  says \"%s\"\n  lacks \"%s\"", broken[i].text, all,
                           broken[i].sentence);
        cr_expect_eq(strncmp(all, "job.yaml:", 9), 0, "no place: %s", all);
    }
}

Test(options, a_byte_order_mark_is_no_part_of_a_job_file)
{
    cr_assert_eq(load_text("\xef\xbb\xbfseed: 3\nservers: 2\n"), PSD_OK, "%s", psd_options_complaints(options));
    cr_expect_eq(psd_options_uint(options, PSD_OPT_seed), 3);
    cr_expect_eq(psd_options_int(options, PSD_OPT_servers), 2);
}

Test(options, a_key_nested_deeper_than_eight_is_refused)
{
    /* Known sections are two deep, so depth is reached inside an unknown one, which is skipped without
     * recursion. */
    char text[40000];
    memset(text, '[', sizeof text);
    memcpy(text, "x: ", 3);
    text[sizeof text - 1] = '\0';
    cr_assert_eq(load_text(text), PSD_ECONFIG);
}

Test(options, a_file_over_one_mebibyte_is_refused)
{
    size_t n = (1 << 20) + 1;
    char *text = malloc(n);
    memset(text, '#', n);
    cr_assert_eq(psd_options_load_text(options, "job.yaml", text, n, &err), PSD_ECONFIG);
    cr_assert_str_eq(err.text, "job.yaml:1:1: over 1 MiB; this is not a job file");
    free(text);
}

Test(options, a_file_with_a_nul_is_called_no_text_whatever_else_is_in_it)
{
    static const char model[] = "\x10\0\0\0\0\0\0\0{\"w\":{}}\t\n", utf16[] = "\xff\xfej\0o\0b\0:\0 \0x\0";
    cr_assert_eq(psd_options_load_text(options, "a", model, sizeof model - 1, &err), PSD_ECONFIG);
    cr_expect_str_eq(err.text, "a:1:1: binary data, or text in UTF-16; a job file is text in UTF-8");
    cr_assert_eq(psd_options_load_text(options, "b", utf16, sizeof utf16, &err), PSD_ECONFIG);
    cr_expect(strstr(err.text, "b:1:1: binary data, or text in UTF-16"), "%s", err.text);
}

Test(options, a_file_of_a_thousand_and_one_keys_is_refused)
{
    char text[20000];
    size_t n = 0;
    for (int i = 0; i < 1001; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "k%d: 1\n", i);
    cr_assert_eq(load_text(text), PSD_ECONFIG);
    cr_assert_not_null(strstr(err.text, "more"));
}

Test(options, a_wrong_command_line_is_refused_with_a_suggestion)
{
    static const struct {
        char *words[5];
        const char *sentence;
        int exit_code;
    } broken[] = {
        { { "psdctl", "--compare-seeds=2" },
          "--compare-seeds is an option of psdctl compare; in the job file, compare.seeds is fine",
          64 },
        { { "psdctl", "--frobnicate" }, "unknown option --frobnicate; --help lists them all", 64 },
        { { "psdctl", "--leese=3s" }, "unknown option --leese; did you mean --lease?", 64 },
        { { "psdctl", "--serv=2" }, "unknown option --serv; did you mean --servers?", 64 },
        { { "psdctl", "--conf", "x" }, "unknown option --conf; did you mean --config?", 64 },
        { { "psdctl", "--batch=2" }, "unknown option --batch; did you mean --data-batch?", 64 },
        { { "psdctl", "--data_batch=2" }, "unknown option --data_batch; did you mean --data-batch?", 64 },
        { { "psdctl", "--server-index=1" }, "--server-index is an option of psd; in the job file, server.index is fine", 64 },
        { { "psdctl", "--worker-id=1" }, "is an option of psd-worker", 64 },
        { { "psdctl", "-x" }, "unknown option -x", 64 },
        { { "psdctl", "-vv" }, "unknown option -vv", 64 },
        { { "psdctl", "--lease" }, "--lease needs a value", 64 },
        { { "psdctl", "-c" }, "-c needs a value", 64 },
        { { "psdctl", "--lease=3" }, "--lease: lease is \"3\", not a valid duration", 64 },
        { { "psdctl", "--servers", "0" }, "--servers: servers is 0; it takes 1 to 256", 64 },
        { { "psdctl", "--model-layers=784,,10" }, "not a valid list of whole numbers", 64 },
        { { "psdctl", "--model-layers=[784]" }, "not a valid list of whole numbers", 64 },
        { { "psdctl", "--data-shuffle=no" }, "write true or false", 64 },
        { { "psdctl", "--version=2" }, "--version takes no value", 64 },
        { { "psdctl", "a.yaml", "b.yaml" }, "two job files, a.yaml and b.yaml; give one", 64 },
        { { "psdctl", "-c", "a.yaml", "b.yaml" }, "two job files", 64 },
        { { "psdctl", "/no/such/job.yaml" }, "cannot read job file /no/such/job.yaml: No such file", 66 },
        { { "psdctl", "/" }, "cannot read job file /", 66 },
    };
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        teardown();
        setup();
        int rc = load_words(broken[i].words);
        cr_expect_eq(psd_err_exit_code(rc), broken[i].exit_code, "%s: %d", broken[i].sentence, rc);
        cr_expect_not_null(strstr(err.text, broken[i].sentence), "says \"%s\"\nlacks \"%s\"", err.text, broken[i].sentence);
    }
}

Test(options, all_errors_of_a_command_line_its_file_and_the_environment_come_in_one_run)
{
    char name[] = "/tmp/psd-options-XXXXXX";
    const int fd = mkstemp(name);
    cr_assert(fd >= 0);
    cr_assert_eq(write(fd, "servers: 0\nleese: 3s\n", 21), 21);
    close(fd);
    setenv("PSD_SEED", "x", 1);
    cr_assert_eq(LOAD("--lease=3", "--frobnicate", "hard", "--offset", "-5", name, "--serv=2", name, "--data-shuffle=no", "--help"),
                 PSD_EUSAGE, "a flag is wrong, so help is not what was meant");
    const char *all = psd_options_complaints(options);
    const char *sentences[] = { "--lease: lease is \"3\", not a valid duration",
                                "unknown option --frobnicate; --help lists them all",
                                "unknown option --offset",
                                "unknown option --serv; did you mean --servers?",
                                "--data-shuffle: data.shuffle is \"no\"",
                                ":1:10: servers is 0; it takes 1 to 256",
                                ":2:1: unknown key leese; did you mean lease?",
                                "environment PSD_SEED: seed is \"x\"" };
    unsigned lines = 1;
    for (const char *c = all; *c; c++)
        lines += *c == '\n';
    for (size_t i = 0; i < sizeof sentences / sizeof *sentences; i++)
        cr_expect_not_null(strstr(all, sentences[i]), "lacks \"%s\" in:\n%s", sentences[i], all);
    cr_expect_eq(lines, sizeof sentences / sizeof *sentences, "hard and -5 may be values of the flags before them:\n%s", all);
    teardown();
    setup();
    cr_assert_eq(LOAD("--lease=3", "/no/such/job.yaml"), PSD_EUSAGE);
    cr_expect_not_null(strstr(err.text, "cannot read job file /no/such/job.yaml"), "%s", err.text);
    cr_expect_not_null(strstr(err.text, "lease is \"3\""), "%s", err.text);
    unlink(name);
}

Test(options, an_unknown_variable_is_refused_but_for_service_links)
{
    setenv("PSD_PORT_7470_TCP", "tcp://10.0.0.1:7470", 1);
    setenv("PSD_SERVICE_HOST", "10.0.0.1", 1);
    setenv("PSD_PORT", "tcp://10.0.0.1:7470", 1);
    cr_assert_eq(LOAD("--"), PSD_OK, "%s", err.text);
    setenv("PSD_LEESE", "3s", 1);
    setenv("PSD_SERVERS", "many", 1);
    cr_assert_eq(LOAD("--"), PSD_ECONFIG);
    cr_assert_not_null(strstr(err.text, "environment: PSD_LEESE is not an option; did you mean PSD_LEASE?"));
    cr_assert_not_null(strstr(err.text, "environment PSD_SERVERS: servers is \"many\", not a valid whole number"));
}

Test(options, variables_that_are_no_options_do_not_stand_for_a_job)
{
    cr_redirect_stderr();
    setenv("PSD_LIBRARY", "/usr/lib/libpsdworker.so.0", 1);
    setenv("PSD_SERVICE_HOST", "10.0.0.1", 1);
    cr_expect_eq(LOAD(NULL), PSD_EUSAGE);
    cr_expect_not_null(strstr(err.text, "give a job file, or options"), "%s", err.text);
    setenv("PSD_SERVERS", "2", 1);
    cr_expect_eq(LOAD(NULL), PSD_OK, "%s", err.text);
}

Test(options, a_negative_number_may_follow_its_flag_and_a_bool_flag_stands_alone)
{
    psd_options_t *server = psd_options_new(PSD_PROGRAM_SERVER);
    char *words[] = { "psd", "--server-index", "-1", NULL };
    cr_assert_eq(psd_options_load(server, 3, words, &err), PSD_OK, "%s", err.text);
    psd_options_destroy(&server);
    cr_assert_eq(LOAD("--data-shuffle=false", "--data-header"), PSD_OK, "%s", err.text);
    cr_assert_not(psd_options_bool(options, PSD_OPT_data_shuffle));
    cr_assert(psd_options_bool(options, PSD_OPT_data_header));
}

Test(options, help_and_version_go_to_stdout_and_end_well)
{
    char text[16384] = "";
    fflush(stdout);
    cr_redirect_stdout();
    cr_assert_eq(LOAD("--help"), 1);
    cr_assert_eq(LOAD("-h"), 1);
    cr_assert_eq(LOAD("--version"), 1);
    fflush(stdout);
    size_t n = fread(text, 1, sizeof text - 1, cr_get_redirected_stdout());
    text[n] = '\0';
    cr_assert_not_null(strstr(text, "--data-batch="));
    cr_assert_null(strstr(text, "--worker-id"));
}

Test(options, a_job_file_cut_anywhere_is_read_or_refused_but_never_misread)
{
    const char base[] = "job: glyphs\nmodel: {kind: mlp, layers: [784, 128, 10]}\ndata:\n  batch: 64\nlease: 3s\n";
    for (size_t n = 0; n < sizeof base; n++) {
        teardown();
        setup();
        int rc = psd_options_load_text(options, "job.yaml", base, n, &err);
        cr_assert(rc == PSD_OK || (rc == PSD_ECONFIG && *err.text));
    }
}

static char *markdown(void)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_option_markdown(out);
    fclose(out);
    return text;
}

Test(options, the_markdown_table_has_every_key)
{
    char *text = markdown();
    for (size_t i = 0; psd_option_at(i); i++) {
        char cell[80];
        snprintf(cell, sizeof cell, "| `%s` |", psd_option_at(i)->key);
        cr_assert_not_null(strstr(text, cell), "%s", cell);
    }
    cr_assert_not_null(strstr(text, "\n| `status.listen` | address or none | `127.0.0.1:7471` | psd, psdctl | "));
    cr_assert_not_null(strstr(text, "\n| `model.layers` | list of whole numbers, each 1 to 1048576 |  | psd-worker, psdctl | "));
    free(text);
}

/* ---- paths ---- */

static void expect_text(psd_option_id_t id, const char *want)
{
    cr_expect_str_eq(psd_options_text(options, id), want, "%s is %s, not %s", psd_option_at(id)->key, psd_options_text(options, id),
                     want);
}

Test(options, paths_of_a_job_file_count_from_its_folder_and_those_of_flags_do_not)
{
    char folder[] = "/tmp/psd-test-XXXXXX", file[64], want[128];
    cr_assert_not_null(mkdtemp(folder));
    snprintf(file, sizeof file, "%s/job.yaml", folder);
    FILE *out = fopen(file, "w");
    fputs("server: {key: keys/ps.key, public: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\nworker: {key: /abs/w.key}\n"
          "allow: ../allow\ncheckpoint: {dir: ck}\nrun: {dir: run}\nsave: m.st\ntrace: t\ncluster: {file: c}\n"
          "status: {token: tok}\nlisten: ipc://sock\njoin: 'tcp://h:1'\nhostfile: hosts\n"
          "data: {train: 'idx:im.gz', labels: l.gz, test: 'glyphs:10', test_labels: ''}\n",
          out);
    fclose(out);
    char flag[] = "--trace=t";
    cr_assert_eq(LOAD(file, flag), PSD_OK, "%s", err.text);
    const struct {
        psd_option_id_t id;
        const char *tail;
    } placed[] = { { PSD_OPT_server_key, "keys/ps.key" },
                   { PSD_OPT_allow, "../allow" },
                   { PSD_OPT_checkpoint_dir, "ck" },
                   { PSD_OPT_run_dir, "run" },
                   { PSD_OPT_save, "m.st" },
                   { PSD_OPT_cluster_file, "c" },
                   { PSD_OPT_status_token, "tok" },
                   { PSD_OPT_hostfile, "hosts" },
                   { PSD_OPT_data_labels, "l.gz" } };
    for (size_t i = 0; i < sizeof placed / sizeof *placed; i++) {
        snprintf(want, sizeof want, "%s/%s", folder, placed[i].tail);
        expect_text(placed[i].id, want);
    }
    snprintf(want, sizeof want, "idx:%s/im.gz", folder);
    expect_text(PSD_OPT_data_train, want);
    snprintf(want, sizeof want, "ipc://%s/sock", folder);
    expect_text(PSD_OPT_listen, want);
    expect_text(PSD_OPT_server_public, "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7");
    expect_text(PSD_OPT_worker_key, "/abs/w.key");
    expect_text(PSD_OPT_trace, "t");
    expect_text(PSD_OPT_join, "tcp://h:1");
    expect_text(PSD_OPT_data_test, "glyphs:10");
    expect_text(PSD_OPT_data_test_labels, "");
    unlink(file);
    rmdir(folder);
}
