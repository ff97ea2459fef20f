#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "worker/table.h"

TestSuite(table, .timeout = 60);

static psd_err_t err;

static psd_encoding_t *columns(bool second_is_word)
{
    psd_encoding_t *encoding = psd_encoding_new(2, NULL);
    encoding->column[0].name = strdup("a");
    encoding->column[1].name = strdup("b");
    encoding->column[1].is_word = second_is_word;
    encoding->label = strdup("y");
    return encoding;
}

static void end(psd_table_t *table, psd_dataset_t *set)
{
    cr_assert_eq(psd_table_end(table, set, &err), PSD_OK, "%s", err.text);
    psd_table_clear(table);
}

Test(table, numbers_become_dense_features_by_a_mean_of_those_that_are_there)
{
    const psd_dataset_options_t options = { .na = PSD_NA_MEAN, .standardise = true };
    psd_encoding_t *encoding = columns(false);
    psd_dataset_t *set = calloc(1, sizeof *set);
    psd_table_t table;
    cr_assert_eq(psd_table_begin(&table, &encoding, &options, "f", &err), PSD_OK);
    cr_expect_null(encoding, "it is the table's");
    const float rows[][2] = { { 1, 4 }, { NAN, 4 }, { 5, NAN } };
    for (size_t i = 0; i < 3; i++, table.n_rows++)
        memcpy(psd_table_row(&table, &err), rows[i], sizeof rows[i]);
    end(&table, set);
    cr_expect_arr_eq(set->dense, ((float[]){ -1, 0, 0, 0, 1, 0 }), 24, "a: mean 3, deviation 2; b is constant");
    cr_expect_eq(set->n_features, 2);
    psd_dataset_destroy(&set);
}

Test(table, rows_with_words_are_sparse_and_zeros_are_left_out)
{
    const psd_dataset_options_t options = { .one_hot = 5 };
    psd_encoding_t *encoding = columns(true);
    psd_dataset_t *set = calloc(1, sizeof *set);
    psd_table_t table;
    cr_assert_eq(psd_table_begin(&table, &encoding, &options, "f", &err), PSD_OK);
    static const char *const words[] = { "x", "w", "x", NULL };
    const float numbers[] = { 0, 2, 3, 4 };
    for (size_t i = 0; i < 4; i++, table.n_rows++) {
        psd_cell_t *cell = psd_table_row(&table, &err);
        cell[0].number = numbers[i];
        cell[1].word = words[i] ? psd_table_word(&table, 1, words[i], 1, &err) : PSD_NO_WORD;
    }
    end(&table, set);
    cr_expect_arr_eq(set->row_start, ((uint64_t[]){ 0, 1, 3, 5, 6 }), 40);
    cr_expect_arr_eq(set->column, ((uint32_t[]){ 2, 0, 1, 0, 2, 0 }), 24, "a is 0, w is 1, x is 2");
    cr_expect_arr_eq(set->value, ((float[]){ 1, 2, 1, 3, 1, 4 }), 24);
    set->n_rows = 4;
    psd_dataset_destroy(&set);
}

Test(table, a_missing_number_is_the_mean_of_the_logarithms_where_these_are_trained)
{
    for (int standardise = 0; standardise < 2; standardise++) {
        const psd_dataset_options_t options = { .na = PSD_NA_MEAN, .standardise = standardise };
        psd_encoding_t *encoding = columns(false);
        encoding->column[0].log1p = encoding->column[1].log1p = true;
        psd_dataset_t *set = calloc(1, sizeof *set);
        psd_table_t table;
        cr_assert_eq(psd_table_begin(&table, &encoding, &options, "f", &err), PSD_OK);
        const float rows[][2] = { { 0, 0 }, { 6.389056F, -6.389056F }, { NAN, NAN } }; /* e^2 - 1: the logarithms are 0 and 2 */
        for (size_t i = 0; i < 3; i++, table.n_rows++)
            memcpy(psd_table_row(&table, &err), rows[i], sizeof rows[i]);
        end(&table, set);
        cr_expect_float_eq(set->dense[4], standardise ? 0 : 1, 1e-6, "%g", (double)set->dense[4]);
        cr_expect_float_eq(set->dense[5], standardise ? 0 : -1, 1e-6, "%g", (double)set->dense[5]);
        cr_expect_float_eq(set->encoding->column[0].fill, M_E - 1, 1e-6,
                           "the logarithm is taken of it, so it is a number of the file");
        psd_dataset_destroy(&set);
    }
}

Test(table, log1p_of_all_columns_is_of_those_that_hold_numbers)
{
    const psd_dataset_options_t options = { .log1p = (const char *const[]){ "*" }, .n_log1p = 1 };
    psd_encoding_t *encoding = columns(true);
    cr_assert_eq(psd_table_mark_log1p(encoding, &options, "f", &err), PSD_OK, "%s", err.text);
    cr_expect(encoding->column[0].log1p && !encoding->column[1].log1p);
    psd_encoding_destroy(&encoding);
}

Test(table, words_with_one_hash_add_up)
{
    const psd_dataset_options_t options = { .one_hot = 0, .hash_bits = 1 };
    psd_encoding_t *encoding = columns(true);
    encoding->column[0].is_word = true;
    psd_dataset_t *set = calloc(1, sizeof *set);
    psd_table_t table;
    cr_assert_eq(psd_table_begin(&table, &encoding, &options, "f", &err), PSD_OK);
    static const char *const words = "abcdefgh";
    for (size_t i = 0; i < 8; i++, table.n_rows++) {
        psd_cell_t *cell = psd_table_row(&table, &err);
        cell[0].word = psd_table_word(&table, 0, words + i, 1, &err);
        cell[1].word = psd_table_word(&table, 1, words + i, 1, &err);
    }
    end(&table, set);
    size_t doubled = 0;
    for (size_t i = 0; i < 8; i++) {
        const uint64_t n = set->row_start[i + 1] - set->row_start[i];
        doubled += n == 1;
        cr_expect(n == 2 || (n == 1 && set->value[set->row_start[i]] == 2));
    }
    cr_expect(doubled > 0 && doubled < 8, "two columns hash a word apart: %zu of 8 rows have one feature", doubled);
    set->n_rows = 8;
    psd_dataset_destroy(&set);
}
