#include <criterion/criterion.h>

#include "server/core/journal.h"

TestSuite(journal, .timeout = 600);

/* A log that two shards read; the code of an entry identifies it. */
enum { FIRST = 0, SECOND = 1 };

static psd_journal_t journal;

static void setup(void) { psd_journal_init(&journal, 2); }
static void teardown(void) { psd_journal_clear(&journal); }

static uint64_t append(uint32_t code) { return psd_journal_append(&journal, PSD_MSG_COMMAND, code, psd_payload_copy("x", 1))->seq; }

static size_t repeat(uint32_t shard, uint64_t now_ms, uint32_t *code)
{
    const psd_entry_t *entry = NULL;
    const size_t n = psd_journal_repeat(&journal, shard, now_ms, &entry);
    if (n)
        *code = entry->code;
    return n;
}

Test(journal, entries_are_numbered_from_1_without_a_gap, .init = setup, .fini = teardown)
{
    cr_expect_eq(psd_journal_last(&journal), 0);
    for (uint32_t i = 1; i <= 40; i++) /* more than its first allocation holds */
        cr_expect_eq(append(i), i);
    cr_expect_eq(psd_journal_last(&journal), 40);
}

Test(journal, entries_that_a_shard_has_not_carried_out_are_repeated_oldest_first, .init = setup, .fini = teardown)
{
    uint32_t code = 0;
    for (uint32_t i = 1; i <= 3; i++)
        append(10 * i);
    psd_journal_note_done(&journal, SECOND, 1);
    cr_expect_eq(repeat(FIRST, PSD_JOURNAL_REPEAT_MS, &code), 3);
    cr_expect_eq(code, 10);
    cr_expect_eq(repeat(SECOND, PSD_JOURNAL_REPEAT_MS, &code), 2);
    cr_expect_eq(code, 20);
}

Test(journal, nothing_is_repeated_sooner_than_200_ms_after_it_was_sent, .init = setup, .fini = teardown)
{
    uint32_t code;
    append(1);
    psd_journal_note_sent(&journal, FIRST, 1000);
    cr_expect_eq(repeat(FIRST, 1199, &code), 0);
    cr_expect_eq(repeat(FIRST, 1200, &code), 1);
    cr_expect_eq(repeat(FIRST, 1399, &code), 0); /* a repeated entry is sent too */
    cr_expect_eq(repeat(FIRST, 1400, &code), 1);
}

Test(journal, an_entry_is_kept_until_the_last_shard_has_done_it, .init = setup, .fini = teardown)
{
    uint32_t code = 0;
    append(10);
    append(20);
    psd_journal_note_done(&journal, FIRST, 2);
    psd_journal_forget(&journal);
    cr_expect_eq(repeat(SECOND, 1000, &code), 2);
    psd_journal_note_done(&journal, SECOND, 1);
    psd_journal_forget(&journal);
    cr_expect_eq(repeat(SECOND, 2000, &code), 1);
    cr_expect_eq(code, 20);
    cr_expect(psd_journal_is_done(&journal, FIRST));
    cr_expect_not(psd_journal_is_done(&journal, SECOND));
    cr_expect_eq(append(30), 3); /* numbers continue when entries are forgotten */
    cr_expect_not(psd_journal_is_done(&journal, FIRST));
}

Test(journal, a_confirmation_that_was_overtaken_takes_nothing_back, .init = setup, .fini = teardown)
{
    append(1);
    append(2);
    psd_journal_note_done(&journal, FIRST, 2);
    psd_journal_note_done(&journal, FIRST, 1);
    cr_expect(psd_journal_is_done(&journal, FIRST));
    cr_expect_not(psd_journal_is_done_by_all(&journal));
    psd_journal_note_done(&journal, SECOND, 2);
    cr_expect(psd_journal_is_done_by_all(&journal));
}

Test(journal, a_cleared_log_begins_again_with_number_1_which_is_not_done, .init = setup, .fini = teardown)
{
    append(1);
    psd_journal_note_done(&journal, FIRST, 1);
    psd_journal_clear(&journal);
    cr_expect_eq(psd_journal_last(&journal), 0);
    cr_expect_eq(append(7), 1);
    cr_expect_not(psd_journal_is_done(&journal, FIRST));
}
