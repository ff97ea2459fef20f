#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "worker/records.h"

static psd_records_t records;
static psd_err_t err;

static void begin(const char *text) { psd_records_begin(&records, "f", text, text + strlen(text), ','); }
static void teardown(void) { psd_records_clear(&records); }
TestSuite(records, .fini = teardown, .timeout = 60);

static bool holds(size_t i, const char *text)
{
    const psd_field_t *field = &records.field[i];
    return (size_t)(field->end - field->at) == strlen(text) && !memcmp(field->at, text, strlen(text));
}

Test(records, a_record_is_fields_with_their_places)
{
    begin("a,\"b,\n\"\"c\"\"\"\r\n\r\n\nd,\n");
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK);
    cr_assert_eq(records.n_fields, 2);
    cr_expect(holds(0, "a") && holds(1, "b,\n\"\"c\"\""));
    char *text = psd_field_text(&records.field[1]);
    cr_expect_str_eq(text, "b,\n\"c\"");
    free(text);
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK);
    cr_assert_eq(records.n_fields, 2);
    cr_expect(holds(0, "d") && holds(1, ""));
    cr_expect_eq(records.field[0].line, 5, "the quoted line end and the empty lines count");
    cr_expect_eq(records.field[1].column, 3);
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK);
    cr_expect_eq(records.n_fields, 0);
}

Test(records, a_file_may_end_in_a_carriage_return)
{
    const char text[] = { 'a', ',', 'b', '\r', 'x' };
    psd_records_begin(&records, "f", text, text + 4, ',');
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK, "%s", err.text);
    cr_expect(records.n_fields == 2 && holds(1, "b"));
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK);
    cr_expect_eq(records.n_fields, 0);
}

Test(records, an_open_quote_is_refused_where_it_began)
{
    begin("a,b\n1,\"2\n3");
    psd_records_next(&records, &err);
    cr_assert_eq(psd_records_next(&records, &err), PSD_EDATA);
    cr_expect_str_eq(err.text, "f:2:3: '2\\n3' starts with a quote that is never closed");
}

Test(records, a_name_is_compared_without_blanks_and_with_quotes_made_single)
{
    begin(" a ,\"x\"\"y\"");
    cr_assert_eq(psd_records_next(&records, &err), PSD_OK);
    cr_expect(psd_field_is(&records.field[0], "a"));
    cr_expect(psd_field_is(&records.field[1], "x\"y"));
    cr_expect_not(psd_field_is(&records.field[1], "x\"\"y"));
    cr_expect_not(psd_field_is(&records.field[0], "ab"));
}
