#include <criterion/criterion.h>

#include "common/words.h"

TestSuite(words, .timeout = 10);

Test(words, the_distance_counts_letters_added_dropped_and_replaced)
{
    cr_expect_eq(psd_words_distance("lease", "lease"), 0);
    cr_expect_eq(psd_words_distance("leese", "lease"), 1);
    cr_expect_eq(psd_words_distance("leas", "lease"), 1);
    cr_expect_eq(psd_words_distance("leaase", "lease"), 1);
    cr_expect_eq(psd_words_distance("kitten", "sitting"), 3);
    cr_expect_eq(psd_words_distance("", "abc"), 3);
}

Test(words, the_nearest_is_the_first_of_those_that_are_near_enough)
{
    psd_nearest_t nearest = { 0 };
    psd_nearest_consider(&nearest, "statsu", "checkpoint");
    cr_expect_str_eq(nearest.word, "");
    psd_nearest_consider(&nearest, "statsu", "status");
    psd_nearest_consider(&nearest, "statsu", "stat");
    cr_expect_str_eq(nearest.word, "status");
}

Test(words, a_short_word_is_not_changed_wholly)
{
    psd_nearest_t nearest = { 0 };
    psd_nearest_consider(&nearest, "k", "lr");
    psd_nearest_consider(&nearest, "ab", "xy");
    cr_expect_str_eq(nearest.word, "");
}

Test(words, a_word_longer_than_any_of_ours_is_near_to_none)
{
    char word[300];
    psd_nearest_t nearest = { 0 };
    memset(word, 'a', sizeof word);
    word[sizeof word - 1] = '\0';
    cr_expect_geq(psd_words_distance(word, "a"), 100);
    psd_nearest_consider(&nearest, word, "aaaa");
    cr_expect_str_eq(nearest.word, "");
}
