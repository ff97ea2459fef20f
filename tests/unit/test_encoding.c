#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/encoding.h"

static psd_encoding_t *self;
static psd_err_t err;

static char **texts(size_t n, const char *const *from)
{
    char **text = calloc(n, sizeof *text);
    for (size_t i = 0; i < n; i++)
        text[i] = strdup(from[i]);
    return text;
}

/* A number, words with one feature each, hashed words, and classes named by words. */
static void setup(void)
{
    self = psd_encoding_new(3, NULL);
    self->column[0] = (psd_table_column_t){ .name = strdup("age"), .log1p = true, .mean = 0.1, .scale = 3, .fill = 1.0 / 3 };
    self->column[1] = (psd_table_column_t){ .name = strdup("city"),
                                            .is_word = true,
                                            .n_words = 3,
                                            .word = texts(3, (const char *const[]){ "", "Oslo", "R\xc3\xb6m" }),
                                            .scale = 1 };
    self->column[2] = (psd_table_column_t){ .name = strdup("id"), .is_word = true, .is_hashed = true, .scale = 1 };
    self->hash_bits = 5;
    self->fills = true;
    self->n_fields = 7;
    self->label = strdup("y");
    self->n_classes = 2;
    self->class_word = texts(2, (const char *const[]){ "no", "yes" });
    cr_assert_eq(psd_encoding_place(self, "f", NULL), PSD_OK);
}
static void teardown(void) { psd_encoding_destroy(&self); }
TestSuite(encoding, .init = setup, .fini = teardown, .timeout = 60);

Test(encoding, features_follow_the_columns_and_hashed_ones_come_last)
{
    cr_expect_eq(self->n_features, 1 + 3 + 32);
    cr_expect_eq(psd_encoding_feature(self, &self->column[1], "Oslo", 4), 2);
    cr_expect_eq(psd_encoding_feature(self, &self->column[1], "Osl", 3), PSD_NO_FEATURE);
    cr_expect_eq(psd_encoding_feature(self, &self->column[1], "", 0), 1);
    const size_t hashed = psd_encoding_feature(self, &self->column[2], "Oslo", 4);
    cr_expect(hashed >= 4 && hashed < 36);
    cr_expect_eq(psd_encoding_class(self, "yes", 3), 1);
    cr_expect_eq(psd_encoding_class(self, "ye", 2), PSD_NO_FEATURE);
}

Test(encoding, hashed_words_have_the_features_that_the_page_computes)
{
    char line[512], name[32], word[32];
    size_t n = 0, feature;
    FILE *page = fopen(PSD_SOURCE_DIR "/docs/data.md", "r");
    cr_assert_not_null(page);
    self->hash_bits = 16;
    while (fgets(line, sizeof line, page)) {
        if (sscanf(line, "| `%31[^`]` | `%31[^`]` | %zu |", name, word, &feature) != 3)
            continue;
        psd_table_column_t column = { .name = name, .is_word = true, .is_hashed = true, .first = 100 };
        cr_expect_eq(psd_encoding_feature(self, &column, word, strlen(word)), 100 + feature, "%s", line);
        n++;
    }
    fclose(page);
    cr_expect_eq(n, 3);
}

Test(encoding, a_number_is_transformed_then_scaled)
{
    cr_expect_float_eq(psd_encoding_value(&self->column[0], -(M_E - 1)), (-1 - 0.1) / 3, 1e-7);
    self->column[0].scale = 1e-300;
    cr_expect(isfinite(psd_encoding_value(&self->column[0], 5)), "another set's number stays a float");
}

Test(encoding, a_printed_encoding_reads_back_to_the_last_bit)
{
    char *text = psd_encoding_print(self, &err);
    cr_assert_not_null(text, "%s", err.text);
    psd_encoding_t *back = psd_encoding_parse(text, &err);
    cr_assert_not_null(back, "%s", err.text);
    cr_expect_eq(back->n_features, self->n_features);
    cr_expect_eq(back->n_fields, 7);
    cr_expect_eq(back->column[0].mean, 0.1);
    cr_expect_eq(back->column[0].fill, 1.0 / 3);
    cr_expect(back->column[0].log1p && back->fills);
    cr_expect_str_eq(back->column[1].word[2], "R\xc3\xb6m");
    cr_expect(back->column[2].is_hashed);
    cr_expect_eq(psd_encoding_feature(back, &back->column[2], "x", 1), psd_encoding_feature(self, &self->column[2], "x", 1));
    cr_expect_str_eq(back->class_word[1], "yes");
    cr_expect_str_eq(back->label, "y");
    char *again = psd_encoding_print(back, &err);
    cr_expect_str_eq(again, text);
    free(again);
    free(text);
    psd_encoding_destroy(&back);
}

Test(encoding, words_that_are_no_utf_8_are_named_by_their_column)
{
    free(self->column[1].word[2]);
    self->column[1].word[2] = strdup("R\xf6m");
    cr_expect_null(psd_encoding_print(self, &err));
    cr_expect_eq(err.code, PSD_EDATA);
    cr_expect_str_eq(err.text, "column 'city': its name or a word in it is not UTF-8; save the file as UTF-8");
    memcpy(self->column[1].word[2], "Rom", 4);
    self->label[0] = '\xf6';
    cr_expect_null(psd_encoding_print(self, &err));
    cr_expect(strstr(err.text, "its name or a word in it is not UTF-8"), "%s", err.text);
}

Test(encoding, a_damaged_note_is_refused_with_a_reason)
{
    static const struct {
        const char *text, *why;
    } cases[] = {
        { "{", "it is not JSON" },
        { "{\"schema\":\"psd.encoding/1\",\"columns\":[]}", "it has no columns" },
        { "{\"schema\":\"psd.encoding/2\",\"columns\":[1]}", "another version" },
        { "{\"schema\":\"psd.encoding/1\",\"columns\":[{}]}", "the label has no name" },
        { "{\"schema\":\"psd.encoding/1\",\"label\":\"y\",\"hash_bits\":60,\"columns\":[{}]}", "hash_bits is not 1 to 24" },
        { "{\"schema\":\"psd.encoding/1\",\"label\":\"y\",\"hash_bits\":6,\"columns\":[{}]}", "a column has no name" },
        { "{\"schema\":\"psd.encoding/1\",\"label\":\"y\",\"hash_bits\":6,\"columns\":[{\"name\":\"a\",\"scale\":0}]}",
          "scale is not above 0" },
        { "{\"schema\":\"psd.encoding/1\",\"label\":\"y\",\"hash_bits\":6,\"columns\":[{\"name\":\"a\",\"words\":[\"b\",\"a\"]}]}",
          "not in order" },
        { "{\"schema\":\"psd.encoding/1\",\"label\":\"y\",\"hash_bits\":6,\"columns\":[{\"name\":\"a\",\"words\":[\"b\",\"b\"]}]}",
          "not in order" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect_null(psd_encoding_parse(cases[i].text, &err));
        cr_expect_eq(err.code, PSD_EDATA);
        cr_expect_not_null(strstr(err.text, cases[i].why), "%s", err.text);
    }
}
