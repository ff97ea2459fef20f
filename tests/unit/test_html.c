#include <criterion/criterion.h>
#include <stdlib.h>

#include "common/base/html.h"

TestSuite(html, .timeout = 600);

Test(html, nothing_in_a_text_ends_a_tag_or_an_attribute)
{
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_html_put(out, "a<b>&\"c\"'d'&lt;");
    fclose(out);
    cr_expect_str_eq(text, "a&lt;b&gt;&amp;&quot;c&quot;&#39;d&#39;&amp;lt;");
    free(text);
}

static void put_name(FILE *out, const void *arg) { psd_html_put(out, arg); }
static void put_braces(FILE *out, const void *arg) { fprintf(out, "{{name}}%.0s", (const char *)arg); }

Test(html, each_place_of_a_page_is_filled_once_by_its_row)
{
    static const psd_html_place_t places[] = { { "name", put_name }, { "braces", put_braces } };
    char *text;
    size_t n;
    FILE *out = open_memstream(&text, &n);
    psd_html_fill(out, "<h1>{{name}}</h1>{ }{{braces}}{{name}}<style>a{b:c}</style>", places, 2, "x&y");
    psd_html_fill(out, "|plain", places, 2, NULL);
    fclose(out);
    cr_expect_str_eq(text, "<h1>x&amp;y</h1>{ }{{name}}x&amp;y<style>a{b:c}</style>|plain");
    free(text);
}
