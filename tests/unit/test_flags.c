#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <string.h>

#include "common/config/flags.h"
#include "common/config/usage.h"

enum { STEPS, DROP, RULES, QUIET, HEADER, MODE };
static const psd_option_t rows[] = {
    [STEPS] = { .key = "steps", .type = PSD_OPTION_UINT64, .preset = "30", .range = "1..100", .letter = 's', .help = "so many" },
    [DROP] = { .key = "drop-rate", .type = PSD_OPTION_DOUBLE, .argument = "SHARE", .help = "what is lost" },
    [RULES] = { .key = "rule", .type = PSD_OPTION_TEXTS, .help = "what is tried" },
    [QUIET] = { .key = "quiet", .type = PSD_OPTION_SWITCH, .letter = 'q', .help = "say nothing" },
    [HEADER] = { .key = "header", .type = PSD_OPTION_BOOL, .help = "whether there is one" },
    [MODE] = { .key = "mode", .type = PSD_OPTION_STRING, .preset = "few", .range = "few|all", .help = "which" },
    { .key = NULL },
};
static const psd_usage_t usage = {
    .name = "tool", .words = "FROM [TO]", .does = "try things", .about = "", .flag = rows, .examples = "tool a b\n"
};

static psd_given_t given;
static psd_err_t err;

static void teardown(void) { psd_usage_clear(&given); }

TestSuite(flags, .fini = teardown, .timeout = 60);

static int count(char *const *words)
{
    int n = 0;
    while (words[n])
        n++;
    return n;
}

static int read_as(const psd_usage_t *as, char *const *words)
{
    psd_usage_clear(&given);
    err = (psd_err_t){ 0 };
    return psd_usage_read(as, count(words), words, &given, &err);
}
#define READ(...) read_as(&usage, (char *[]){ "tool", __VA_ARGS__, NULL })

Test(flags, a_value_stands_behind_the_equals_sign_or_in_the_next_word)
{
    cr_assert_eq(READ("--steps=7", "--drop-rate", "-0.5", "a"), PSD_OK, "%s", err.text);
    cr_expect_eq(given.value[STEPS].u, 7);
    cr_expect_eq(given.value[DROP].d, -0.5);
    cr_assert_eq(READ("-s8", "a"), PSD_OK, "%s", err.text);
    cr_expect_eq(given.value[STEPS].u, 8);
    cr_assert_eq(READ("-s", "9", "a"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(given.flag[STEPS], "9");
    cr_expect_str_eq(given.word[0], "a");
}

Test(flags, an_omitted_flag_has_its_default_and_a_switch_is_given_or_not)
{
    cr_assert_eq(READ("a", "-q", "--header"), PSD_OK, "%s", err.text);
    cr_expect_null(given.flag[STEPS]);
    cr_expect_eq(given.value[STEPS].u, 30);
    cr_expect_str_eq(given.value[MODE].text, "few");
    cr_expect_null(given.value[DROP].text);
    cr_expect_str_eq(given.flag[QUIET], "");
    cr_expect(given.value[QUIET].u && given.value[HEADER].u);
    cr_assert_eq(READ("a", "--header=false"), PSD_OK, "%s", err.text);
    cr_expect_not(given.value[QUIET].u || given.value[HEADER].u);
}

Test(flags, the_last_of_several_counts_but_texts_add_up)
{
    cr_assert_eq(READ("--steps=1", "--rule=sgd", "--steps=2", "--rule", "adam;lion", "--quiet", "a"), PSD_OK, "%s", err.text);
    cr_expect_eq(given.value[STEPS].u, 2);
    cr_assert_eq(given.value[RULES].n_list, 3);
    cr_expect_str_eq(given.value[RULES].item[0], "sgd");
    cr_expect_str_eq(given.value[RULES].item[2], "lion");
}

Test(flags, texts_stand_in_one_word_or_in_several_up_to_the_next_flag)
{
    cr_assert_eq(READ("a", "--rule", "sgd", "adam;lion", "--steps=2"), PSD_OK, "%s", err.text);
    cr_assert_eq(given.value[RULES].n_list, 3);
    cr_expect_str_eq(given.value[RULES].item[2], "lion");
    cr_assert_eq(READ("--rule=sgd", "a"), PSD_OK, "%s", err.text);
    cr_expect_eq(given.value[RULES].n_list, 1, "with = it is one word");
    cr_expect_str_eq(given.word[0], "a");
    cr_assert_eq(READ("--rule", "sgd", "--", "a"), PSD_OK, "%s", err.text);
    cr_expect_eq(given.value[RULES].n_list, 1, "up to the two dashes");
}

Test(flags, after_two_dashes_everything_is_a_word_and_one_dash_is_a_word)
{
    cr_assert_eq(READ("--quiet", "--", "--steps", "-"), PSD_OK, "%s", err.text);
    cr_assert_eq(given.n_words, 2);
    cr_expect_str_eq(given.word[0], "--steps");
    cr_expect_str_eq(given.word[1], "-");
    cr_assert_eq(READ("-"), PSD_OK, "%s", err.text);
    cr_expect_str_eq(given.word[0], "-");
    cr_expect_null(given.word[1]);
}

Test(flags, a_mistake_is_named_with_what_is_accepted)
{
    static const struct {
        char *words[4];
        const char *says;
    } wrong[] = {
        { { "a", "--step=3" }, "unknown option --step; did you mean --steps?" },
        { { "a", "--qiuet" }, "unknown option --qiuet; did you mean --quiet?" },
        { { "a", "--hlep" }, "unknown option --hlep; did you mean --help?" },
        { { "a", "--frobnicate=1" }, "unknown option --frobnicate; --help lists them all" },
        { { "a", "--\033[2J" }, "unknown option --?[2J; --help lists them all" },
        { { "a", "--version" }, "unknown option --version; --help lists them all" },
        { { "a", "-x" }, "unknown option -x; --help lists them all" },
        { { "a", "-qq" }, "unknown option -qq; --help lists them all" },
        { { "a", "--workers-min=2" }, "--workers-min is an option of psd, not of tool; leave it out" },
        { { "a", "--steps" }, "--steps needs a value: N" },
        { { "a", "-s" }, "-s needs a value: N" },
        { { "a", "--drop-rate" }, "--drop-rate needs a value: SHARE" },
        { { "a", "--quiet=yes" }, "--quiet takes no value" },
        { { "a", "--steps=many" },
          "--steps: steps is \"many\", not a valid whole number; decimal digits, with k, m, g, Ki, Mi or Gi if large" },
        { { "a", "--steps=101" }, "--steps: steps is 101; it takes 1 to 100" },
        { { "a", "--mode=al" }, "--mode: mode is \"al\"; it takes few or all; did you mean all?" },
        { { "a", "--header=no" }, "--header: header is \"no\", not true or false; write true or false" },
        { { "a", "b", "c" }, "one word too many: c; it takes FROM [TO]" },
        { { "-q" }, "an argument is missing; write tool [options] FROM [TO]" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        char *words[6] = { "tool", wrong[i].words[0], wrong[i].words[1], wrong[i].words[2], NULL };
        cr_expect_eq(read_as(&usage, words), PSD_EUSAGE, "%s", wrong[i].says);
        cr_expect_str_eq(err.text, wrong[i].says);
    }
}

Test(flags, flags_of_the_option_table_are_passed_on_unchanged)
{
    psd_usage_t both = usage;
    both.programs = PSD_PROGRAM_CTL;
    char *words[] = { "tool", "job.yaml", "--servers", "2", "--quiet", "--job", "--quiet", "-c", "x", "--leese", "--", "-q", NULL };
    static const char *const rest[] = {
        "tool", "job.yaml", "--servers", "2", "--job", "--quiet", "-c", "x", "--leese", "--", "-q"
    };
    cr_assert_eq(read_as(&both, words), PSD_OK, "%s", err.text);
    cr_expect_eq(given.n_words, 0);
    cr_expect_str_eq(given.flag[QUIET], "");
    cr_assert_eq(given.argc, sizeof rest / sizeof *rest);
    for (int i = 0; i < given.argc; i++)
        cr_expect_str_eq(given.argv[i], rest[i]);
}

Test(flags, flags_of_other_programs_are_refused_beside_a_job_file)
{
    char *words[] = { "psd", "--data-batch=2" };
    psd_flags_t flags = { .name = "psd", .programs = PSD_PROGRAM_SERVER, .argc = 2, .argv = words, .next = 1 };
    cr_expect_eq(psd_flags_next(&flags), PSD_FLAGS_WRONG);
    cr_expect_str_eq(flags.why, "--data-batch is an option of psd-worker; in the job file, data.batch is fine");
}

Test(flags, help_config_and_version_are_kinds_of_their_own)
{
    static char *words[] = { "psd", "--help", "--help=lease", "-h", "-c", "a", "-cb", "--config=c", "-V", "--version", "word" };
    static const struct {
        psd_flags_kind_t kind;
        const char *value;
    } kinds[] = { { PSD_FLAGS_HELP, NULL },   { PSD_FLAGS_HELP, "lease" }, { PSD_FLAGS_HELP, NULL },    { PSD_FLAGS_CONFIG, "a" },
                  { PSD_FLAGS_CONFIG, "b" },  { PSD_FLAGS_CONFIG, "c" },   { PSD_FLAGS_VERSION, NULL }, { PSD_FLAGS_VERSION, NULL },
                  { PSD_FLAGS_WORD, "word" }, { PSD_FLAGS_END, NULL } };
    psd_flags_t flags = { .name = "psd", .programs = PSD_PROGRAM_SERVER, .argc = 11, .argv = words, .next = 1 };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        cr_expect_eq(psd_flags_next(&flags), kinds[i].kind, "%zu", i);
        if (!flags.value || !kinds[i].value)
            cr_expect_eq(flags.value, kinds[i].value, "%zu", i);
        else
            cr_expect_str_eq(flags.value, kinds[i].value);
    }
}

Test(flags, help_shows_each_row_with_what_it_takes_and_its_preset)
{
    cr_redirect_stdout();
    cr_assert_eq(READ("--no-such", "--help"), PSD_EUSAGE);
    cr_assert_eq(READ("--help", "--no-such"), 1);
    fflush(stdout);
    cr_assert_stdout_eq_str("Usage: tool [options] FROM [TO]\nTry things.\n\n"
                            "  --steps=N              so many [30]\n"
                            "  --drop-rate=SHARE      what is lost\n"
                            "  --rule=TEXT;TEXT;...   what is tried\n"
                            "  --quiet                say nothing\n"
                            "  --header=true|false    whether there is one\n"
                            "  --mode=TEXT            which [few]\n"
                            "\n  tool a b\n");
}
