/* Each state machine has a handler for exactly the kinds that the table of messages (proto/message.h) sends to it. */
#include <criterion/criterion.h>

#include "server/core/admin.h"
#include "server/core/engine.h"
#include "worker/reading.h"
#include "worker/session.h"

enum { N_KINDS = 64 }; /* more than there are kinds */

static bool goes_to(psd_kind_t kind, unsigned receiver) { return (psd_kind_receiver(kind) & receiver) != 0; }

Test(handlers, a_worker_takes_what_the_table_sends_to_workers_and_nothing_else)
{
    for (unsigned k = 0; k < N_KINDS; k++)
        cr_expect_eq(psd_session_takes(k), goes_to(k, PSD_TO_WORKER), "%u %s", k, psd_kind_name(k));
}

Test(handlers, a_shard_takes_what_the_table_sends_to_shards_and_nothing_else)
{
    for (unsigned k = 0; k < N_KINDS; k++)
        cr_expect_eq(psd_engine_takes(k), goes_to(k, PSD_TO_SHARD), "%u %s", k, psd_kind_name(k));
}

Test(handlers, a_follower_takes_what_the_table_sends_to_followers_and_nothing_else)
{
    for (unsigned k = 0; k < N_KINDS; k++)
        cr_expect_eq(psd_reading_takes(k), goes_to(k, PSD_TO_FOLLOWER), "%u %s", k, psd_kind_name(k));
}

Test(handlers, a_coordinator_or_its_admin_takes_what_the_table_sends_to_coordinators_and_nothing_else)
{
    for (unsigned k = 0; k < N_KINDS; k++)
        cr_expect_eq(psd_coordinator_takes(k) + psd_admin_takes(k), goes_to(k, PSD_TO_COORDINATOR), "%u %s", k, psd_kind_name(k));
}

Test(handlers, every_kind_has_a_sender_and_another_receiver)
{
#define X(name, number, sender, receiver, payload, may_be_empty, meaning) { #name, sender, receiver },
    static const struct {
        const char *name;
        unsigned sender, receiver;
    } rows[] = { PSD_MESSAGES(X) };
#undef X
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const unsigned both = rows[i].sender | rows[i].receiver;
        cr_expect(rows[i].sender && rows[i].receiver && (both & (both - 1)), "%s", rows[i].name);
    }
}
