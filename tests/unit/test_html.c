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
