#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/system/log.h"
#include "server/entrance/acl.h"

#define K1    "7Ps%rW6GI77Z}kZ.>W{k*iHEUrnlONs(<1/)Nvdg"
#define K2    "mS1%#fYoyTK3Hhfx^6huW>9YpZ^*5dd]HVbZN:pC"
#define K3    ">04Wbd<WUu{/:wp?3o$OCC4XW+sq0Z}B5Ne.3:{-"
#define K4    "rG15S7<q^StaBroN$PulHoj1m1Kw11xe?Uhc}m[("
#define USERS "ps server " K1 "\ngpu worker " K2 " 0,2 1Ki\nop admin " K3 "\n"

static char path[] = "/tmp/psd-test-XXXXXX", why[256];
static psd_acl_t *acl;
static psd_err_t err;

/* As an editor saves: a new file replaces the old one. */
static void write_list(const char *text)
{
    char other[64];
    snprintf(other, sizeof other, "%s.new", path);
    FILE *file = fopen(other, "w");
    fputs(text, file);
    fclose(file);
    chmod(other, 0600);
    cr_assert_eq(rename(other, path), 0);
}

static void setup(void)
{
    psd_log_init(&(psd_log_config_t){ .level = PSD_LOG_ERROR, .comp = "test", .job = "acl" });
    close(mkstemp(path));
    write_list(USERS "mon monitor " K4);
    cr_assert_not_null(acl = psd_acl_new(path, &err), "%s", err.text);
}
static void teardown(void)
{
    psd_acl_destroy(&acl);
    unlink(path);
}
TestSuite(acl, .init = setup, .fini = teardown, .timeout = 600);

/* The peer that the list names for the holder of this key. */
static psd_peer_t come(const char *key)
{
    uint8_t bytes[PSD_KEY_BYTES];
    cr_assert(psd_key_decode(bytes, key));
    const uint32_t user = psd_acl_admit(acl, bytes);
    return user ? psd_peer_make(99, user) : 0;
}

static psd_refusal_t judge(psd_peer_t from, psd_kind_t kind, uint32_t shard, uint64_t held)
{
    return psd_acl_judge(acl, from, kind, shard, held, why, sizeof why);
}

Test(acl, each_role_may_send_only_its_own_kinds_of_messages)
{
    static const struct {
        const char *key;
        unsigned may;
    } users[] = { { K1, PSD_FROM_SHARD }, { K2, PSD_FROM_WORKER | PSD_FROM_FOLLOWER }, { K3, PSD_FROM_OPERATOR }, { K4, 0 } };
    for (size_t u = 0; u < 4; u++) {
        const psd_peer_t peer = come(users[u].key);
        cr_assert(peer);
#define X(name, number, sender, ...)                                                                                               \
    cr_expect_eq(judge(peer, PSD_MSG_##name, 0, 0), (sender)&users[u].may ? PSD_REFUSAL_NONE : PSD_REFUSAL_SENDER, "%zu " #name, u);
        PSD_MESSAGES(X)
#undef X
    }
    judge(come(K4), PSD_MSG_HELLO, 0, 0);
    cr_expect_str_eq(why, "mon has the role monitor, which may not send HELLO; use a key of another role (psdctl keygen --role)");
}

Test(acl, a_reader_may_ask_for_weights_and_do_nothing_else)
{
    write_list("eye reader " K4 "\n");
    psd_acl_reload(acl, true);
    const psd_peer_t eye = come(K4);
    cr_expect_eq(judge(eye, PSD_MSG_FOLLOW, 0, 0), PSD_REFUSAL_NONE);
    cr_expect_eq(judge(eye, PSD_MSG_READ, 1, 0), PSD_REFUSAL_NONE);
    cr_expect_eq(judge(eye, PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_SENDER);
    cr_expect_eq(judge(eye, PSD_MSG_PUSH, 0, 0), PSD_REFUSAL_SENDER);
    cr_expect_eq(judge(eye, PSD_MSG_ADMIN, 0, 0), PSD_REFUSAL_SENDER);
    cr_expect_str_eq(why, "eye has the role reader, which may not send ADMIN; use a key of another role (psdctl keygen --role)");
}

Test(acl, a_key_that_is_not_on_the_list_has_no_user)
{
    cr_expect_eq(come("Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"), 0);
    cr_expect_eq(psd_acl_denied(acl), 1);
    cr_expect_eq(judge(psd_peer_make(99, 0), PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_SENDER);
    cr_expect_eq(judge(psd_peer_make(99, 77), PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_SENDER);
}

Test(acl, a_users_servers_and_bytes_are_bounded)
{
    const psd_peer_t gpu = come(K2);
    cr_expect_eq(judge(gpu, PSD_MSG_PUSH, 2, 1024), PSD_REFUSAL_NONE);
    cr_expect_eq(judge(gpu, PSD_MSG_PUSH, 1, 0), PSD_REFUSAL_SENDER);
    cr_expect_str_eq(why, "gpu may not send messages to server 1");
    cr_expect_eq(judge(gpu, PSD_MSG_PUSH, 0, 1025), PSD_REFUSAL_FULL);
    cr_expect_str_eq(why, "gpu has 1025 bytes of messages here; its limit is 1024");
}

Test(acl, a_user_removed_from_the_list_is_unknown_from_then_on)
{
    const psd_peer_t gpu = come(K2), op = come(K3);
    cr_expect_not(psd_acl_reload(acl, false), "nothing has changed");
    write_list("op admin " K3 "\n");
    cr_expect(psd_acl_reload(acl, false), "gpu had come: connections are to be closed");
    cr_expect_eq(judge(gpu, PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_SENDER);
    cr_expect_eq(come(K2), 0);
    cr_expect_eq(come(K3), op, "the same number as before");
    cr_expect_eq(judge(op, PSD_MSG_ADMIN, 0, 0), PSD_REFUSAL_NONE);
    write_list(USERS);
    cr_expect_not(psd_acl_reload(acl, false), "no peer is gone");
    cr_expect_eq(come(K2), gpu, "a name has one number for ever");
}

Test(acl, only_a_change_that_affects_an_admitted_key_closes_connections)
{
    come(K2);
    write_list(USERS "more worker " K4);
    cr_expect_not(psd_acl_reload(acl, false), "mon, the owner of the key, was not connected");
    write_list("ps server " K1 "\ngpu worker " K2 " 0,2 2Ki\n");
    cr_expect_not(psd_acl_reload(acl, false), "a bound of bytes may change beside training");
    static const char *const lists[] = { "gpu worker " K4 " 0,2 1Ki", "gpu worker " K2 " 0 1Ki",
                                         "gpu admin " K2 " 0,2 1Ki" }; /* only its key, its servers or its role */
    for (size_t i = 0; i < 3; i++) {
        write_list(USERS);
        psd_acl_reload(acl, false);
        come(K2);
        write_list(lists[i]);
        cr_expect(psd_acl_reload(acl, false), "%s", lists[i]);
        cr_expect_not(psd_acl_reload(acl, true), "they are closed");
    }
}

Test(acl, a_list_that_is_wrong_changes_nothing)
{
    const psd_peer_t gpu = come(K2);
    write_list(USERS "gpu worker " K4 "\n");
    cr_expect_not(psd_acl_reload(acl, false));
    cr_expect_eq(judge(gpu, PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_NONE);
    cr_expect_neq(come(K4), 0, "mon is still there");
    unlink(path);
    cr_expect_not(psd_acl_reload(acl, true));
    cr_expect_eq(judge(gpu, PSD_MSG_HELLO, 0, 0), PSD_REFUSAL_NONE);
    write_list("op admin " K3 "\n");
    cr_expect(psd_acl_reload(acl, false), "and it is read when it is there again");
}

Test(acl, the_message_for_a_servers_wrong_key_names_its_owner)
{
    cr_expect_eq(psd_acl_own(acl, K1, true, &err), PSD_OK);
    cr_expect_eq(psd_acl_own(acl, K2, false, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "worker gpu"), "%s", err.text);
    cr_expect_eq(psd_acl_own(acl, K3, true, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, "admin op"), "%s", err.text);
    static const char nobody[] = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7";
    cr_expect_eq(psd_acl_own(acl, nobody, false, &err), PSD_OK, "a single server need not be in its own list");
    cr_expect_eq(psd_acl_own(acl, nobody, true, &err), PSD_ECONFIG);
    cr_expect_not_null(strstr(err.text, nobody), "%s", err.text);
}
