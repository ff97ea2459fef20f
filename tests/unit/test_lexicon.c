#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "worker/lexicon.h"

TestSuite(lexicon, .timeout = 60);

Test(lexicon, words_are_numbered_as_they_come_and_keep_their_number)
{
    psd_lexicon_t *self = psd_lexicon_new();
    cr_expect_eq(psd_lexicon_number(self, "Rome", 4), 0);
    cr_expect_eq(psd_lexicon_number(self, "Oslo", 4), 1);
    cr_expect_eq(psd_lexicon_number(self, "Romer", 4), 0, "four bytes of it");
    cr_expect_eq(psd_lexicon_number(self, "", 0), 2);
    cr_expect_eq(psd_lexicon_number(self, "Oslo", 4), 1);
    cr_expect_eq(psd_lexicon_size(self), 3);
    size_t n;
    cr_expect_eq(strncmp(psd_lexicon_word(self, 1, &n), "Oslo", 4), 0);
    cr_expect_eq(n, 4);
    psd_lexicon_destroy(&self);
    cr_expect_null(self);
}

Test(lexicon, a_hundred_thousand_words_are_distinguished)
{
    enum { N = 100000, WIDTH = 8 };
    static char text[N][WIDTH];
    psd_lexicon_t *self = psd_lexicon_new();
    for (unsigned i = 0; i < N; i++)
        cr_assert_eq(psd_lexicon_number(self, text[i], (size_t)snprintf(text[i], WIDTH, "%u", i)), i);
    for (unsigned i = 0; i < N; i += 997)
        cr_assert_eq(psd_lexicon_number(self, text[i], strlen(text[i])), i);
    cr_expect_eq(psd_lexicon_size(self), N);
    psd_lexicon_destroy(&self);
}
