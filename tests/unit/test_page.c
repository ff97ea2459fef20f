#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/status/page.h"

TestSuite(page, .timeout = 600);

static void assert_shows(const char *json, const char *html)
{
    char *page = psd_page_render(json, NULL);
    cr_assert_not_null(strstr(page, html), "lacks \"%s\" in:\n%s", html, page);
    cr_assert_not_null(strstr(page, "</html>"));
    free(page);
}

Test(page, the_numbers_people_look_for_come_first)
{
    const char *json = "{\"job\":\"mnist\",\"state\":\"training\",\"progress\":{\"step\":1200},\"loss\":{\"train\":0.25},"
                       "\"report\":{\"name\":\"val/accuracy\",\"value\":0.97}}";
    assert_shows(json, "<h1>mnist</h1><span class='state good'>training</span>");
    assert_shows(json, "<b>1200</b>step");
    assert_shows(json, "<b>0.25</b>training loss");
    assert_shows(json, "<b>0.97</b>val/accuracy");
}

Test(page, each_number_is_under_its_name)
{
    const char *json = "{\"progress\":{\"step\":1,\"epoch\":2,\"samples\":3,\"left_seconds\":4},\"loss\":{\"train\":5,\"val\":6},"
                       "\"optimizer\":{\"lr_now\":7},\"uptime_seconds\":8}";
    static const char *const cards[] = { "<b>1</b>step",    "<b>2</b>epoch",         "<b>5</b>training loss", "<b>6</b>test loss",
                                         "<b>3</b>samples", "<b>7</b>learning rate", "<b>4 s</b>left",        "<b>8 s</b>up" };
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        assert_shows(json, cards[i]);
}

Test(page, a_state_is_good_bad_or_neither)
{
    static const char *const states[][2] = { { "training", " good" }, { "finished", " good" }, { "failed", " bad" },
                                             { "degraded", "" },      { "paused", "" },        { "stopped", "" } };
    char json[64], html[96];
    for (size_t i = 0; i < sizeof states / sizeof *states; i++) {
        snprintf(json, sizeof json, "{\"state\":\"%s\"}", states[i][0]);
        snprintf(html, sizeof html, "<span class='state%s'>%s</span>", states[i][1], states[i][0]);
        assert_shows(json, html);
    }
}

Test(page, problems_stand_before_the_numbers)
{
    assert_shows("{\"progress\":{\"step\":1},\"alerts\":[\"rounds wait for worker 1 <b>\",\"a second\"]}",
                 "</header><ul class=alerts><li>rounds wait for worker 1 &lt;b&gt;<li>a second</ul><div class=cards>");
    assert_shows("{\"progress\":{\"step\":1},\"alerts\":[]}", "</header><div class=cards>");
}

Test(page, the_loss_is_a_curve_as_far_as_it_is_known)
{
    static psd_history_t history;
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1000, .loss = NAN });
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1001, .loss = 3 });
    char *page = psd_page_render("{}", &history);
    cr_expect_null(strstr(page, "<svg"), "one point does not make a curve");
    free(page);
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1002, .loss = 2 });
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1004, .loss = 1 });
    psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1005, .loss = INFINITY });
    page = psd_page_render("{}", &history);
    /* 600 wide for 3 s; 112 high for losses from 1 to 3, 4 from the top. */
    cr_expect_not_null(strstr(page, "points='0.0,4.0 200.0,60.0 600.0,116.0 '"), "%s", page);
    cr_expect_not_null(strstr(page, "between 1 and 3 in 3 s"));
    free(page);
}

Test(page, of_a_long_curve_points_at_equal_distances_and_the_newest_are_drawn)
{
    static psd_history_t history;
    enum { N = 500 };
    for (unsigned i = 0; i < N; i++)
        psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1000 + i, .loss = N - i });
    char *page = psd_page_render("{}", &history), *points = strstr(page, "points='");
    cr_assert_not_null(points);
    unsigned n = 0;
    double x, y, before = NAN;
    int used;
    for (points += strlen("points='"); sscanf(points, "%lf,%lf %n", &x, &y, &used) == 2; points += used, before = x, n++)
        cr_expect(!n || fabs(x - before - 3 * 600 / 499.0) < 0.11, "%f after %f", x, before);
    cr_expect_eq(n, 167, "each third of 499 and the newest");
    cr_expect(x == 600 && y == 116, "the newest is at %f, %f", x, y);
    free(page);
}

Test(page, steps_without_a_finite_loss_are_left_out_of_the_curve)
{
    static psd_history_t history;
    enum { FIRST = 300, N = 500 };
    for (unsigned i = 0; i < N; i++)
        psd_history_add(&history, &(psd_history_point_t){ .unix_s = 1000 + i, .loss = i < FIRST || i == 400 ? NAN : N - i });
    char *page = psd_page_render("{}", &history), *points = strstr(page, "points='");
    cr_assert_not_null(points);
    unsigned n = 0;
    double x, y;
    int used;
    for (points += strlen("points='"); sscanf(points, "%lf,%lf %n", &x, &y, &used) == 2; points += used, n++)
        cr_expect(isfinite(y));
    cr_expect_eq(*points, '\'', "%.20s", points);
    cr_expect_eq(n, N - FIRST - 1, "199 intervals are few enough for each point");
    cr_expect_not_null(strstr(page, "between 1 and 200 in 3 min 19 s"), "%s", page);
    free(page);
}

Test(page, a_list_of_objects_is_a_table)
{
    assert_shows("{\"workers\":[{\"id\":0,\"lag_steps\":2},{\"id\":1,\"lag_steps\":3}]}",
                 "<h2>workers</h2><div class='wide list'><table><tr><th>id<th>lag "
                 "steps<tr><td>0<td>2<tr><td>1<td>3</table>");
}

Test(page, a_list_within_a_section_is_a_table_too_without_what_only_scripts_read)
{
    char *page = psd_page_render("{\"health\": {\"every\": 100, \"columns\": [1, 2], \"tensors\": "
                                 "[{\"name\": \"fc1\", \"state\": \"dead\", \"strip\": \"--\"}]}}",
                                 NULL);
    cr_expect_not_null(strstr(page, "<h2>tensors</h2>"));
    cr_expect_not_null(strstr(page, "<tr><th>name<th>state<tr><td>fc1<td>dead</table>"), "%s", page);
    cr_expect_null(strstr(page, "columns"));
    free(page);
}

Test(page, units_are_for_people)
{
    assert_shows("{\"x\":{\"age_seconds\":75}}", "<th>age<td>1 min 15 s");
    assert_shows("{\"x\":{\"age_seconds\":3599}}", "<td>59 min 59 s");
    assert_shows("{\"x\":{\"age_seconds\":3600}}", "<td>1 h 00 min");
    assert_shows("{\"x\":{\"age_seconds\":7325}}", "2 h 02 min");
    assert_shows("{\"x\":{\"age_seconds\":60}}", "<td>1 min 00 s");
    assert_shows("{\"x\":{\"age_seconds\":1}}", "<td>1 s");
    assert_shows("{\"x\":{\"age_seconds\":0}}", "<td>0 s");
    assert_shows("{\"x\":{\"age_seconds\":0.9994}}", "<td>999 ms");
    assert_shows("{\"x\":{\"age_seconds\":0.9996}}", "<td>1 s");
    assert_shows("{\"x\":{\"age_seconds\":0.001}}", "<td>1 ms");
    assert_shows("{\"x\":{\"age_seconds\":0.0009996}}", "<td>1 ms");
    assert_shows("{\"x\":{\"sent_bytes\":1023}}", "<td>1023 B");
    assert_shows("{\"x\":{\"age_seconds\":0.0125}}", "12.5 ms");
    assert_shows("{\"x\":{\"apply_seconds_p99\":4.5e-6}}", "<th>apply p99<td>4.5 µs");
    assert_shows("{\"x\":{\"rejected\":{\"job\":0}}}", "rejected job<td>0");
    assert_shows("{\"x\":{\"sent_bytes\":1048576}}", "<th>sent bytes<td>1 MiB");
    assert_shows("{\"x\":{\"sent_bytes\":3377699720527872}}", "<th>sent bytes<td>3072 TiB");
}

Test(page, what_a_card_or_the_header_shows_has_no_section)
{
    const char *json =
        "{\"shard\":{\"index\":1,\"count\":3},\"report\":{\"name\":\"auc\",\"value\":0.5},\"loss\":{\"train\":1,\"val\":2},"
        "\"progress\":{\"step\":4,\"rounds\":5}}";
    char *page = psd_page_render(json, NULL);
    cr_expect_not_null(strstr(page, "<span>shard 1 of 3</span>"));
    cr_expect(!strstr(page, "<h2>shard</h2>") && !strstr(page, "<h2>report</h2>") && !strstr(page, "<h2>loss</h2>"), "%s", page);
    cr_expect_not_null(strstr(page, "<h2>progress</h2><table><tr><th>step<td>4<tr><th>rounds<td>5</table>"), "rounds have no card");
    free(page);
}

Test(page, an_unknown_section_shows_as_it_comes)
{
    assert_shows("{\"new_thing\":{\"a_b\":true,\"deep\":{\"c\":null},\"list\":[1,2],\"empty\":[]}}",
                 "<h2>new thing</h2><table><tr><th>a b<td>yes<tr><th>deep c<td>–<tr><th>list<td>1, "
                 "2<tr><th>empty<td>none");
    assert_shows("{\"shards\":[{\"rejected\":{\"stale\":3,\"job\":0,\"shape\":1}}]}", "<td>stale 3, shape 1");
}

Test(page, texts_of_users_cannot_become_markup)
{
    assert_shows("{\"job\":\"<script>alert('1')</script>\"}", "<h1>&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;</h1>");
    assert_shows("{\"<b>\":{\"<i>\":\"\\\"&\"}}", "<h2>&lt;b&gt;</h2><table><tr><th>&lt;i&gt;<td>&quot;&amp;");
    assert_shows("{\"state\":\"<u>\",\"reason\":\"worker 1 (<b>)\"}", "&lt;u&gt;</span><span>worker 1 (&lt;b&gt;)</span>");
    assert_shows("{\"report\":{\"name\":\"<b>\",\"value\":1}}", "<b>1</b>&lt;b&gt;</div>");
}

Test(page, a_malformed_document_gives_a_page_that_reports_it)
{
    assert_shows("", "no status yet");
    assert_shows("[1,2]", "no status yet");
    assert_shows("{\"job\":", "no status yet");
    assert_shows("{\"workers\":[],\"shard\":7,\"progress\":[1],\"job\":3}", "no status yet");
}
