#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "deploy/psdctl/run/order.h"

static psd_order_t order;
static psd_err_t err;

TestSuite(order, .timeout = 60);

static int parse(const char *line) { return psd_order_parse(&order, line, strlen(line), &err); }

Test(order, an_order_printed_at_one_end_is_read_at_the_other)
{
    static psd_keyring_t keys = { .secret = { { "server.key", "secret a\n" }, { "worker.key", "secret \"b\"" }, { "allow", "" } } };
    setenv("OPENBLAS_CORETYPE", "Haswell", 1);
    char *line = psd_order_print("/home/ann's job", "runs/1", (char *[]){ "psd", "--job=\xc3\xa9 \\", "", NULL }, &keys);
    cr_assert_not_null(line);
    cr_assert_eq(line[strcspn(line, "\n")], '\n');
    cr_expect_eq(line[strcspn(line, "\n") + 1], '\0', "one line, its end included");
    cr_assert_eq(parse(line), PSD_OK, "%s", err.text);
    free(line);
    cr_expect_str_eq(order.directory, "/home/ann's job");
    cr_expect_str_eq(order.make, "runs/1");
    cr_assert_eq(order.n_words, 3);
    cr_expect_str_eq(order.word[0], "psd");
    cr_expect_str_eq(order.word[1], "--job=\xc3\xa9 \\");
    cr_expect_str_eq(order.word[2], "");
    cr_expect_str_eq(json_string_value(json_object_get(order.environment, "OPENBLAS_CORETYPE")), "Haswell");
    cr_expect_str_eq(json_string_value(json_object_get(order.secrets, "--server-key")), "secret a\n");
    cr_expect_str_eq(json_string_value(json_object_get(order.secrets, "--worker-key")), "secret \"b\"");
    cr_expect_str_eq(json_string_value(json_object_get(order.secrets, "--allow")), "");
    psd_order_clear(&order);
    cr_expect_null(order.all);
}

Test(order, without_keys_there_are_no_secrets)
{
    char *line = psd_order_print("/", "", (char *[]){ "psd-worker", NULL }, NULL);
    cr_assert_eq(parse(line), PSD_OK, "%s", err.text);
    free(line);
    cr_expect_eq(json_object_size(order.secrets), 0);
    psd_order_clear(&order);
}

Test(order, as_many_words_as_there_may_be_are_read_and_one_more_is_refused)
{
    char *words[PSD_ORDER_WORDS + 2];
    for (size_t i = 0; i < PSD_ORDER_WORDS + 1; i++)
        words[i] = "w";
    words[PSD_ORDER_WORDS + 1] = NULL;
    char *line = psd_order_print("/", "", words, NULL);
    cr_expect_eq(parse(line), PSD_EUSAGE);
    free(line);
    words[PSD_ORDER_WORDS] = NULL;
    line = psd_order_print("/", "", words, NULL);
    cr_expect_eq(parse(line), PSD_OK, "%s", err.text);
    cr_expect_eq(order.n_words, PSD_ORDER_WORDS);
    free(line);
    psd_order_clear(&order);
}

#define AROUND(members) "{\"directory\":\"/\",\"make\":\"\"," members "}"

Test(order, a_malformed_order_is_refused_and_nothing_is_kept)
{
    static const char *const lines[] = {
        "",
        "alive",
        "[]",
        "{}",
        AROUND("\"environment\":{},\"words\":[\"psd\"]"),
        AROUND("\"environment\":{},\"words\":[],\"secrets\":{}"),
        AROUND("\"environment\":{},\"words\":[\"psd\",1],\"secrets\":{}"),
        AROUND("\"environment\":{},\"words\":\"psd\",\"secrets\":{}"),
        AROUND("\"environment\":{\"A\":null},\"words\":[\"psd\"],\"secrets\":{}"),
        AROUND("\"environment\":[],\"words\":[\"psd\"],\"secrets\":{}"),
        AROUND("\"environment\":{},\"words\":[\"psd\"],\"secrets\":{\"--server-key\":7}"),
        AROUND("\"environment\":{},\"words\":[\"psd\"],\"secrets\":{},\"make\":\"twice\""),
        AROUND("\"environment\":{},\"words\":[\"psd\"],\"secrets\":{}") "x",
    };
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        cr_expect_eq(parse(lines[i]), PSD_EUSAGE, "%s", lines[i]);
        cr_expect(!order.all && !order.n_words);
        cr_expect_not_null(strstr(err.text, "only psdctl launch starts psdctl this way"), "%s", err.text);
    }
}
