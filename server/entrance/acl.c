#include "server/entrance/acl.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/system/log.h"

/* What a role may send; the kinds say who sends them (proto/message.h). */
static const unsigned may_send[] = {
    [PSD_ROLE_WORKER] = PSD_FROM_WORKER | PSD_FROM_FOLLOWER,
    [PSD_ROLE_READER] = PSD_FROM_FOLLOWER,
    [PSD_ROLE_MONITOR] = 0,
    [PSD_ROLE_ADMIN] = PSD_FROM_OPERATOR,
    [PSD_ROLE_SERVER] = PSD_FROM_SHARD,
};

/* A user that was on the list at some time. */
typedef struct known {
    char name[PSD_USER_NAME];
    const psd_user_t *user; /* on the present list; NULL: no longer there */
    bool came;              /* has connected since connections were last closed */
} known_t;

struct psd_acl {
    char *path;
    struct stat seen; /* the file, when it was last read */
    psd_allow_t list;
    known_t *known; /* by the user's number less 1 */
    uint32_t n_known;
    uint64_t denied;
};

static known_t *find(const psd_acl_t *self, const char *name)
{
    for (uint32_t i = 0; i < self->n_known; i++)
        if (!strcmp(self->known[i].name, name))
            return &self->known[i];
    return NULL;
}

/* Give a number to each name that has none yet. */
static int learn(psd_acl_t *self, const psd_allow_t *list, psd_err_t *err)
{
    uint32_t n = self->n_known;
    for (size_t i = 0; i < list->n; i++)
        n += !find(self, list->user[i].name);
    known_t *known = n < PSD_MAX_USERS ? realloc(self->known, (n + 1) * sizeof *known) : NULL;
    if (!known)
        return psd_err_set(err, PSD_ENOMEM, "no room for %u users; users of earlier lists count until psd is restarted", n);
    self->known = known;
    for (size_t i = 0; i < list->n; i++)
        if (!find(self, list->user[i].name)) {
            self->known[self->n_known] = (known_t){ .user = NULL };
            memcpy(self->known[self->n_known++].name, list->user[i].name, PSD_USER_NAME);
        }
    return PSD_OK;
}

/* Whether the two entries allow different things. */
static bool is_other(const psd_user_t *before, const psd_user_t *now)
{
    return !now || before->role != now->role || memcmp(&before->shards, &now->shards, sizeof now->shards) != 0 ||
           memcmp(before->key, now->key, PSD_KEY_BYTES) != 0;
}

/* Whether a connected user has been removed or has another role. */
static bool take(psd_acl_t *self, psd_allow_t *list)
{
    bool gone = false;
    for (uint32_t i = 0; i < self->n_known; i++) {
        known_t *k = &self->known[i];
        const psd_user_t *now = psd_allow_by_name(list, k->name);
        if (k->user && k->came && is_other(k->user, now)) {
            psd_log_info("user.gone", "name=%s role=%s", k->name, psd_role_name(k->user->role));
            gone = true;
        }
        k->user = now;
    }
    psd_allow_clear(&self->list);
    self->list = *list;
    for (uint32_t i = 0; gone && i < self->n_known; i++)
        self->known[i].came = false;
    psd_log_info("allow.read", "file=%s users=%zu", self->path, self->list.n);
    return gone;
}

static int read_list(psd_acl_t *self, bool *gone, psd_err_t *err)
{
    psd_allow_t list;
    int rc = psd_allow_load(&list, self->path, err);
    if (rc == PSD_OK && (rc = learn(self, &list, err)) != PSD_OK)
        psd_allow_clear(&list);
    if (rc == PSD_OK)
        *gone = take(self, &list);
    return rc;
}

/* Whether the file has changed since it was last read. Its times are noted before it is read, so that a change during the read is
 * seen next time. */
static bool has_changed(psd_acl_t *self)
{
    struct stat now = { .st_ino = 0 };
    if (stat(self->path, &now) != 0)
        now = (struct stat){ .st_ino = 0 };
    bool changed = now.st_ino != self->seen.st_ino || now.st_size != self->seen.st_size || now.st_mode != self->seen.st_mode ||
                   now.st_mtim.tv_sec != self->seen.st_mtim.tv_sec || now.st_mtim.tv_nsec != self->seen.st_mtim.tv_nsec;
    self->seen = now;
    return changed;
}

psd_acl_t *psd_acl_new(const char *path, psd_err_t *err)
{
    psd_acl_t *self = calloc(1, sizeof *self);
    bool gone;
    if (!self || !(self->path = strdup(path))) {
        psd_err_set(err, PSD_ENOMEM, "no memory for the allow-list");
        psd_acl_destroy(&self);
        return NULL;
    }
    has_changed(self);
    if (read_list(self, &gone, err) != PSD_OK)
        psd_acl_destroy(&self);
    return self;
}

void psd_acl_destroy(psd_acl_t **self_p)
{
    psd_acl_t *self = *self_p;
    *self_p = NULL;
    if (!self)
        return;
    psd_allow_clear(&self->list);
    free(self->known);
    free(self->path);
    free(self);
}

int psd_acl_own(const psd_acl_t *self, const char public[PSD_KEY_TEXT], bool has_others, psd_err_t *err)
{
    uint8_t key[PSD_KEY_BYTES];
    const psd_user_t *user = psd_key_decode(key, public) ? psd_allow_by_key(&self->list, key) : NULL;
    if (user && user->role != PSD_ROLE_SERVER)
        return psd_err_set(err, PSD_ECONFIG,
                           "server.key is the key of %s %s in %.200s: a server needs a key of role server, made by psdctl "
                           "keygen NAME --role=server",
                           psd_role_name(user->role), user->name, self->path);
    if (!user && has_others)
        return psd_err_set(err, PSD_ECONFIG,
                           "%.200s has no line for this server's key, so other servers would refuse it: add "
                           "\"NAME server %.40s\"",
                           self->path, public);
    return PSD_OK;
}

bool psd_acl_reload(psd_acl_t *self, bool asked)
{
    psd_err_t err;
    bool gone = false;
    if (!has_changed(self) && !asked)
        return false;
    if (read_list(self, &gone, &err) != PSD_OK)
        psd_log_error("allow.refused", "kept=\"the list before, of %zu users\" reason=\"%s\"", self->list.n, err.text);
    return gone;
}

uint32_t psd_acl_admit(void *arg, const uint8_t key[PSD_KEY_BYTES])
{
    psd_acl_t *self = arg;
    const psd_user_t *user = psd_allow_by_key(&self->list, key);
    if (!user) {
        self->denied++;
        return 0;
    }
    known_t *known = find(self, user->name);
    known->came = true;
    return (uint32_t)(known - self->known) + 1;
}

psd_refusal_t psd_acl_judge(const psd_acl_t *self, psd_peer_t from, psd_kind_t kind, uint32_t shard, uint64_t held, char *why,
                            size_t n)
{
    const uint32_t number = psd_peer_user(from);
    const psd_user_t *user = number && number <= self->n_known ? self->known[number - 1].user : NULL;
    if (!user) {
        snprintf(why, n, "you are not on the allow-list");
        return PSD_REFUSAL_SENDER;
    }
    if (!(psd_kind_sender(kind) & may_send[user->role])) {
        snprintf(why, n, "%s has the role %s, which may not send %s; use a key of another role (psdctl keygen --role)", user->name,
                 psd_role_name(user->role), psd_kind_name(kind));
        return PSD_REFUSAL_SENDER;
    }
    if (shard < PSD_MAX_SERVERS && !psd_server_set_has(&user->shards, shard)) {
        snprintf(why, n, "%s may not send messages to server %u", user->name, shard);
        return PSD_REFUSAL_SENDER;
    }
    if (held > user->max_bytes) {
        snprintf(why, n, "%s has %" PRIu64 " bytes of messages here; its limit is %" PRIu64, user->name, held, user->max_bytes);
        return PSD_REFUSAL_FULL;
    }
    return PSD_REFUSAL_NONE;
}

uint64_t psd_acl_denied(const psd_acl_t *self) { return self->denied; }
