#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "common/system/json.h"

static unsigned long fails_at, count;

static void *starved_malloc(size_t n) { return ++count == fails_at ? NULL : malloc(n); }

static json_t *make(void)
{
    json_t *root = json_object();
    for (int i = 0; i < 60; i++) {
        char key[16];
        snprintf(key, sizeof key, "key %d", i);
        json_object_set_new(root, key, json_pack("{s:i, s:[f, n, s]}", "i", i, "list", 0.5 * i, "text \"quoted\""));
    }
    return root;
}

Test(json, a_text_is_that_of_jansson)
{
    json_t *root = make();
    const size_t flags[] = { JSON_COMPACT, JSON_INDENT(2), JSON_INDENT(2) | JSON_REAL_PRECISION(17) };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        char *ours = psd_json_text(root, flags[i]), *theirs = json_dumps(root, flags[i]);
        cr_expect_str_eq(ours, theirs);
        free(ours);
        free(theirs);
    }
    json_decref(root);
    cr_expect_null(psd_json_text(NULL, 0));
}

Test(json, without_memory_there_is_no_text_rather_than_a_part_of_it)
{
    json_t *root = make();
    char *whole = psd_json_text(root, JSON_INDENT(2));
    cr_assert_not_null(whole);
    unsigned long lost = 0;
    json_set_alloc_funcs(starved_malloc, free);
    for (fails_at = 1;; fails_at++) {
        count = 0;
        char *text = psd_json_text(root, JSON_INDENT(2));
        lost += !text;
        if (text)
            cr_expect_str_eq(text, whole, "allocation %lu failed", fails_at);
        free(text);
        if (count < fails_at)
            break;
    }
    json_set_alloc_funcs(malloc, free);
    cr_expect_gt(lost, 10);
    free(whole);
    json_decref(root);
}
