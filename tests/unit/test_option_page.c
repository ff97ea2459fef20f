#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/config/option_page.h"

TestSuite(option_page, .timeout = 600);

/* The schema of a key, followed through its sections; an option below a key that has a value itself is written with its dots. */
static json_t *at(json_t *root, const char *key)
{
    char copy[128], *rest = copy, *part;
    json_t *node = root, *whole = json_object_get(json_object_get(root, "properties"), key);
    if (whole)
        return whole;
    snprintf(copy, sizeof copy, "%s", key);
    while ((part = strsep(&rest, ".")))
        node = json_object_get(json_object_get(node, "properties"), part);
    return node;
}

static json_t *schema(void)
{
    char *text = psd_option_schema();
    json_error_t why;
    json_t *root = json_loads(text, 0, &why);
    cr_assert_not_null(root, "%s", why.text);
    free(text);
    return root;
}

Test(option_page, the_schema_has_every_key_with_its_meaning_and_takes_no_other)
{
    json_t *root = schema();
    const psd_option_t *row;
    for (size_t i = 0; (row = psd_option_at(i)); i++) {
        json_t *one = at(root, row->key);
        cr_assert_not_null(one, "%s", row->key);
        cr_expect_str_eq(json_string_value(json_object_get(one, "description")), row->help);
        cr_expect(json_object_get(one, "type") || json_object_get(one, "enum") || json_object_get(one, "anyOf"), "%s", row->key);
    }
    cr_expect(json_is_false(json_object_get(root, "additionalProperties")));
    cr_expect(json_is_false(json_object_get(at(root, "data"), "additionalProperties")));
    json_decref(root);
}

Test(option_page, the_schema_has_ranges_words_patterns_and_lists)
{
    json_t *root = schema();
    json_t *servers = json_array_get(json_object_get(at(root, "servers"), "anyOf"), 0);
    cr_expect_eq(json_integer_value(json_object_get(servers, "minimum")), 1);
    cr_expect_eq(json_integer_value(json_object_get(servers, "maximum")), 256);
    json_t *mode = json_object_get(at(root, "sync.mode"), "enum");
    cr_expect_eq(json_array_size(mode), 2);
    cr_expect_str_eq(json_string_value(json_array_get(mode, 0)), "bsp");
    cr_expect_str_eq(json_string_value(json_object_get(at(root, "lease"), "pattern")), "^[0-9]+(\\.[0-9]+)?(ms|s|m|h)$");
    cr_expect_str_eq(json_string_value(json_object_get(at(root, "model.layers"), "type")), "array");
    cr_expect_str_eq(json_string_value(json_object_get(at(root, "data.shuffle"), "type")), "boolean");
    json_t *batch = json_object_get(at(root, "data.batch"), "anyOf"); /* full, or a number */
    cr_expect_eq(json_array_size(batch), 2);
    json_decref(root);
}

Test(option_page, help_for_a_word_lists_what_holds_it_in_name_or_meaning)
{
    char text[8192];
    cr_redirect_stdout();
    psd_option_help("psd", PSD_PROGRAM_SERVER, "CHECKPOINT");
    psd_option_help("psd", PSD_PROGRAM_SERVER, "nothing of the kind");
    fflush(stdout);
    text[fread(text, 1, sizeof text - 1, cr_get_redirected_stdout())] = '\0';
    cr_expect_not_null(strstr(text, "--checkpoint-dir"));
    cr_expect_null(strstr(text, "--lease"));
    cr_expect_not_null(strstr(text, "no option of psd contains \"nothing of the kind\""));
}

Test(option_page, help_of_a_verb_says_what_that_verb_does)
{
    char text[1 << 16];
    cr_redirect_stdout();
    psd_option_help("psdctl verify", PSD_PROGRAM_CTL, NULL);
    fflush(stdout);
    text[fread(text, 1, sizeof text - 1, cr_get_redirected_stdout())] = '\0';
    cr_expect_not_null(strstr(text, "single process"));
    cr_expect_null(strstr(text, "PROGRAM"), "verify takes no program");
    cr_expect_not_null(strstr(psd_option_program_of("psdctl run", PSD_PROGRAM_CTL)->usage, "[-- PROGRAM...]"));
    cr_expect(psd_option_program_of("psd-server", PSD_PROGRAM_SERVER) == psd_option_program_of("psd", PSD_PROGRAM_SERVER),
              "renamed");
}

Test(option_page, bounds_are_numbers_in_the_unit_of_the_value)
{
    double least, most;
    cr_assert(psd_option_bounds(psd_option_find("lease"), &least, &most));
    cr_expect_eq(least, 100);
    cr_expect(isinf(most));
    cr_assert(psd_option_bounds(psd_option_find("compare.lr_sweep"), &least, &most));
    cr_expect(least == 1e-6 && most == 1e6);
    cr_expect_not(psd_option_bounds(psd_option_find("sync.mode"), &least, &most));
}

Test(option_page, text_of_a_manual_page_is_no_command)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_man_text(out, ".de x\n'br\na-b \\n");
    fclose(out);
    cr_expect_str_eq(text, "\\&.de x\n\\&'br\na\\-b \\en");
    free(text);
}
