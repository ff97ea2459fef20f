#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/status/history.h"

static psd_history_t history;
static json_t *all;

static void teardown(void) { json_decref(all); }
TestSuite(history, .fini = teardown, .timeout = 600);

static json_t *read_all(const char *key)
{
    char *text = psd_history_json(&history);
    json_decref(all);
    all = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    cr_assert_not_null(all, "%s", text);
    free(text);
    return json_object_get(all, key);
}

static double at(const json_t *rows, size_t row, size_t column)
{
    return json_number_value(json_array_get(json_array_get(rows, row), column));
}

Test(history, points_come_back_in_order_and_unknown_values_are_null)
{
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1.5, .step = 10, .samples = 640, .loss = 0.25, .report = NAN });
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1.75, .step = 12, .loss = INFINITY });
    json_t *rows = read_all("rows");
    cr_assert_eq(json_array_size(rows), 2);
    cr_assert_eq(at(rows, 0, 0), 1.5);
    cr_assert_eq(at(rows, 0, 2), 640);
    cr_assert_eq(at(rows, 0, 5), 0.25);
    cr_assert_eq(at(rows, 1, 1), 12);
    cr_assert(json_is_null(json_array_get(json_array_get(rows, 0), 8)));
    cr_assert(json_is_null(json_array_get(json_array_get(rows, 1), 5)));
    cr_assert_eq(json_array_size(json_object_get(all, "columns")), json_array_size(json_array_get(rows, 0)));
}

Test(history, each_value_is_in_the_column_of_its_name)
{
    const psd_history_point_t point = {
        .unix_s = 1, .step = 2, .samples = 3, .received_bytes = 4, .sent_bytes = 5, .loss = 6, .val_loss = 7, .lr = 8, .report = 9
    };
    static const char *const names[] = {
        "ts", "step", "samples", "received_bytes", "sent_bytes", "loss", "val_loss", "lr", "report"
    };
    psd_history_add(&history, &point);
    const json_t *rows = read_all("rows"), *columns = json_object_get(all, "columns");
    cr_assert_eq(json_array_size(columns), sizeof names / sizeof *names);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        cr_expect_str_eq(json_string_value(json_array_get(columns, i)), names[i]);
        cr_expect_eq(at(rows, 0, i), 1.0 + (double)i, "%s", names[i]);
    }
    cr_expect_str_eq(json_string_value(json_object_get(all, "schema")), "psd.history/1");
}

Test(history, a_long_one_has_room_still_and_its_points_lie_at_equal_distances)
{
    for (uint64_t i = 0; i < 1000000; i++)
        psd_history_add(&history, &(psd_history_point_t){ .unix_s = (double)i, .step = i });
    json_t *rows = read_all("rows");
    size_t n = json_array_size(rows);
    cr_assert_geq(n, PSD_HISTORY_POINTS / 2);
    cr_assert_leq(n, PSD_HISTORY_POINTS);
    for (size_t i = 0; i < n; i++) /* with each 1024th point kept, 1000000 points become fewer than 1024 */
        cr_assert_eq(at(rows, i, 1), 1024.0 * (double)i, "%zu", i);
}

Test(history, the_newest_lines_are_kept)
{
    char text[32];
    for (int i = 0; i < PSD_HISTORY_LINES + 5; i++) {
        snprintf(text, sizeof text, "worker=%d", i);
        psd_history_note(&history, i, "info", "worker.joined", text);
    }
    json_t *events = read_all("events");
    cr_assert_eq(json_array_size(events), PSD_HISTORY_LINES);
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(events, 0), "text")), "worker=5");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(events, PSD_HISTORY_LINES - 1), "text")), "worker=204");
}

Test(history, a_line_that_is_no_utf8_or_was_cut_within_a_character_is_one_all_the_same)
{
    char text[PSD_HISTORY_TEXT + 8] = "xy";
    for (size_t i = 2; i < sizeof text - 2; i += 2)
        memcpy(text + i, "\xc3\xa9", 2);
    psd_history_note(&history, 1, "warn", "peer.refused", text);
    psd_history_note(&history, 2, "warn", "peer.refused", "\xff\x01 name=<b>");
    psd_history_note(&history, 3, "warn", "peer.refused", "\x7f\x80");
    json_t *events = read_all("events");
    cr_assert_eq(json_array_size(events), 3);
    const char *cut = json_string_value(json_object_get(json_array_get(events, 0), "text"));
    cr_expect_eq(strlen(cut), PSD_HISTORY_TEXT - 1);
    cr_expect(!strncmp(cut, "xy", 2) && strspn(cut + 2, "?") == PSD_HISTORY_TEXT - 3, "%s", cut);
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(events, 2), "text")), "\x7f?");
    cr_assert_str_eq(json_string_value(json_object_get(json_array_get(events, 1), "text")), "?\x01 name=<b>");
}

Test(history, it_is_one_line_of_json)
{
    psd_history_add(&history, &(psd_history_point_t){ 1700000000.125, 2, 3, 4, 5, 0.5, NAN, 0.001, INFINITY });
    psd_history_add(&history, &(psd_history_point_t){ 1700000001, 3, 4, 5, 6, -0.25, 0.75, 0.002, 9 });
    psd_history_note(&history, 1700000000.5, "warn", "worker.lost", "name=\"Zo\xc3\xab\" worker=1");
    psd_history_note(&history, 1700000002, "info", "worker.joined", "");
    char *text = psd_history_json(&history);
    cr_expect_str_eq(text,
                     "{\"schema\":\"psd.history/1\",\"columns\":[\"ts\",\"step\",\"samples\",\"received_bytes\","
                     "\"sent_bytes\",\"loss\",\"val_loss\",\"lr\",\"report\"],\"rows\":["
                     "[1700000000.125,2,3,4,5,0.5,null,0.001,null],[1700000001.0,3,4,5,6,-0.25,0.75,0.002,9.0]],\"events\":["
                     "{\"ts\":1700000000.5,\"level\":\"warn\",\"id\":\"worker.lost\",\"text\":\"name=\\\"Zo\xc3\xab\\\" "
                     "worker=1\"},{\"ts\":1700000002.0,\"level\":\"info\",\"id\":\"worker.joined\",\"text\":\"\"}]}",
                     "%s", text);
    free(text);
}

Test(history, among_lines_that_came_equally_often_the_oldest_goes)
{
    char id[32];
    for (int i = 0; i <= PSD_HISTORY_LINES; i++) {
        snprintf(id, sizeof id, "id.%d", i);
        psd_history_note(&history, i, "info", id, "x");
    }
    json_t *events = read_all("events");
    cr_assert_eq(json_array_size(events), PSD_HISTORY_LINES);
    for (size_t i = 0; i < PSD_HISTORY_LINES; i++)
        cr_expect_eq(json_number_value(json_object_get(json_array_get(events, i), "ts")), (double)(i + 1));
    cr_expect_eq(history.n_lines, PSD_HISTORY_LINES + 1, "all that there were");
}

Test(history, repeated_lines_do_not_push_out_lines_that_came_once)
{
    psd_history_note(&history, 1, "info", "worker.joined", "worker=1");
    psd_history_note(&history, 2, "warn", "worker.lost", "worker=1");
    for (int i = 0; i < 10 * PSD_HISTORY_LINES; i++)
        psd_history_note(&history, 3 + i, "info", i % 2 ? "checkpoint.begun" : "checkpoint.committed", "step=1");
    json_t *events = read_all("events");
    cr_assert_eq(json_array_size(events), PSD_HISTORY_LINES);
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(events, 0), "id")), "worker.joined");
    cr_expect_str_eq(json_string_value(json_object_get(json_array_get(events, 1), "id")), "worker.lost");
    cr_expect_eq(json_number_value(json_object_get(json_array_get(events, PSD_HISTORY_LINES - 1), "ts")),
                 2 + 10 * PSD_HISTORY_LINES, "the newest is there");
    cr_expect_eq(history.n_lines, 2 + 10 * PSD_HISTORY_LINES);
}
