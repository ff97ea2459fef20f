#include <criterion/criterion.h>

#include "common/base/words.h"

TestSuite(words, .timeout = 600);

Test(words, the_distance_counts_letters_added_dropped_and_replaced)
{
    cr_expect_eq(psd_words_distance("lease", "lease"), 0);
    cr_expect_eq(psd_words_distance("leese", "lease"), 1);
    cr_expect_eq(psd_words_distance("leas", "lease"), 1);
    cr_expect_eq(psd_words_distance("leaase", "lease"), 1);
    cr_expect_eq(psd_words_distance("kitten", "sitting"), 3);
    cr_expect_eq(psd_words_distance("", "abc"), 3);
    cr_expect_eq(psd_words_distance("adma", "adam"), 1);
    cr_expect_eq(psd_words_distance("ca", "abc"), 3);
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

static const char *nearest_of(const char *typed, const char *const *words)
{
    static psd_nearest_t nearest;
    nearest = (psd_nearest_t){ 0 };
    for (; *words; words++)
        psd_nearest_consider(&nearest, typed, *words);
    return nearest.word;
}

#define AMONG(...) ((const char *const[]){ __VA_ARGS__, NULL })

Test(words, a_different_word_is_not_taken_for_a_misspelling)
{
    const char *const *rules = AMONG("sgd", "momentum", "adagrad", "adam", "adamw", "lion", "signum");
    cr_expect_str_eq(nearest_of("lamb", rules), "");
    cr_expect_str_eq(nearest_of("lars", rules), "");
    cr_expect_str_eq(nearest_of("muon", rules), "");
    cr_expect_str_eq(nearest_of("shampoo", rules), "");
    cr_expect_str_eq(nearest_of("adma", rules), "adam");
    cr_expect_str_eq(nearest_of("ADAM", rules), "adam");
    cr_expect_str_eq(nearest_of("adam_w", rules), "adamw");
}

Test(words, a_beginning_that_many_share_makes_no_two_words_alike)
{
    cr_expect_str_eq(nearest_of("data.foo", AMONG("data.na", "data.drop")), "");
    cr_expect_str_eq(nearest_of("data.trian", AMONG("data.na", "data.train")), "data.train");
    cr_expect_str_eq(nearest_of("checkpoint burn", AMONG("checkpoint list", "checkpoint prune")), "");
    cr_expect_str_eq(nearest_of("checkpoint lst", AMONG("checkpoint list", "checkpoint prune")), "checkpoint list");
    cr_expect_str_eq(nearest_of("dta.train", AMONG("data.na", "data.train")), "data.train");
}

Test(words, a_word_is_found_by_the_name_that_others_give_it)
{
    const char *const *arguments = AMONG("lr", "beta1", "beta2", "eps", "weight_decay", "amsgrad");
    cr_expect_str_eq(nearest_of("learning_rate", arguments), "lr");
    cr_expect_str_eq(nearest_of("learningRate", arguments), "lr");
    cr_expect_str_eq(nearest_of("epsilon", arguments), "eps");
    cr_expect_str_eq(nearest_of("wd", arguments), "weight_decay");
    cr_expect_str_eq(nearest_of("learning-rate", AMONG("threads", "optimizer")), "optimizer");
    cr_expect_str_eq(nearest_of("batch_size", AMONG("data.na", "data.batch")), "data.batch");
}
