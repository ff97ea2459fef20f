/* save_checkpoint.c - save_checkpoint DIR CLOCK: save a small model of two servers as a checkpoint, for tests that make system
 * calls fail, or kill the process at them. Exit code of the first error. */
#include <stdio.h>
#include <stdlib.h>

#include "server/checkpoint/checkpoint.h"
#include "tests/support/alone.h"

enum { SERVERS = 2 };
static float array[3][PSD_MAX_CHUNK];

static int save_shard(const char *dir, psd_ckpt_facts_t facts, const psd_tensor_list_t *model, const psd_partition_t *map,
                      const psd_rule_t *rule, psd_err_t *err)
{
    const psd_rule_state_t state = { .t = facts.clock };
    psd_ckpt_writer_t *writer = psd_ckpt_begin(dir, &facts, model, map, alone(rule), err);
    if (!writer)
        return err->code;
    for (uint32_t p = 0; p < map->n_held[facts.shard]; p++) {
        const int rc = psd_ckpt_chunk(writer, p, array[0], (float *[]){ array[1], array[2] }, &state, err);
        if (rc) {
            psd_ckpt_abandon(&writer);
            return rc;
        }
    }
    return psd_ckpt_end(&writer, err);
}

static int save(const char *dir, uint64_t clock, psd_err_t *err)
{
    psd_tensor_desc_t tensor[] = { { .name = "a", .n_dims = 1, .dim = { 1100 }, .n_elements = 1100 },
                                   { .name = "b[0]", .n_dims = 1, .dim = { 3 }, .n_elements = 3 } };
    const psd_tensor_list_t model = { .n = 2, .tensor = tensor };
    psd_ckpt_facts_t facts = { .job = (char[]){ "job" },
                               .settings = (char[]){ "mode=bsp" },
                               .clock = clock,
                               .version = clock,
                               .view_id = 1,
                               .lr = 0.01,
                               .n_shards = SERVERS,
                               .n_applied = 1,
                               .applied = &(psd_applied_t){ 0, 1, clock } };
    psd_partition_t map;
    psd_rule_t rule;
    int rc = psd_rule_parse(&rule, "adam", err);
    if (rc || (rc = psd_partition_make(&map, (const uint64_t[]){ 1100, 3 }, 2, SERVERS, 1, err)))
        return rc;
    for (facts.shard = 0; !rc && facts.shard < SERVERS; facts.shard++)
        rc = save_shard(dir, facts, &model, &map, &rule, err);
    if (!rc)
        rc = psd_ckpt_commit(dir, &facts, &model, 2, err);
    psd_partition_clear(&map);
    return rc;
}

int main(int argc, char **argv)
{
    psd_err_t err = { 0 };
    if (argc != 3)
        return fputs("Usage: save_checkpoint DIR CLOCK\n", stderr), 64;
    const uint64_t clock = strtoull(argv[2], NULL, 10);
    for (size_t i = 0; i < PSD_MAX_CHUNK; i++)
        array[0][i] = array[1][i] = array[2][i] = (float)(i + clock);
    const int rc = save(argv[1], clock, &err);
    if (rc)
        fprintf(stderr, "save_checkpoint: %s\n", err.text);
    return psd_err_exit_code(rc);
}
