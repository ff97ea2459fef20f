#include <criterion/criterion.h>

#include "common/base/partition.h"

TestSuite(partition, .timeout = 600);

static psd_partition_t map;

static void make(const uint64_t *sizes, size_t n, uint32_t servers)
{
    cr_assert_eq(psd_partition_make(&map, sizes, n, servers, 1, NULL), PSD_OK);
}

static double imbalance(void)
{
    uint64_t most = 0, total = 0;
    for (uint32_t s = 0; s < map.n_servers; s++) {
        total += map.n_elements[s];
        most = map.n_elements[s] > most ? map.n_elements[s] : most;
    }
    return (double)most * map.n_servers / (double)total;
}

static void teardown(void) { psd_partition_clear(&map); }

Test(partition, every_element_belongs_to_exactly_one_chunk_in_order, .fini = teardown)
{
    uint64_t sizes[] = { 100352, 128, 1280, 10, 1 };
    make(sizes, 5, 3);
    uint32_t c = 0;
    for (uint32_t t = 0; t < 5; t++)
        for (uint64_t at = 0; at < sizes[t]; at += map.chunk[c++].n) {
            cr_assert_lt(c, map.n_chunks);
            cr_assert_eq(map.chunk[c].tensor, t);
            cr_assert_eq(map.chunk[c].offset, at);
        }
    cr_assert_eq(c, map.n_chunks);
}

Test(partition, servers_know_their_chunks_by_part_number, .fini = teardown)
{
    uint64_t sizes[] = { 50000, 3000 };
    make(sizes, 2, 4);
    for (uint32_t s = 0; s < 4; s++)
        for (uint32_t p = 0; p < map.n_parts[s]; p++) {
            const psd_chunk_t *c = &map.chunk[map.held[s][p]];
            cr_assert(c->server == s && c->index == p && c->part == p);
        }
}

Test(partition, chunks_do_not_depend_on_the_number_of_servers, .fini = teardown)
{
    uint64_t sizes[] = { 784 * 512, 512, 512 * 10, 10 };
    psd_partition_t one;
    cr_assert_eq(psd_partition_make(&one, sizes, 4, 1, 1, NULL), PSD_OK);
    for (uint32_t servers = 2; servers <= 7; servers++) {
        make(sizes, 4, servers);
        cr_assert_eq(map.n_chunks, one.n_chunks);
        for (uint32_t i = 0; i < one.n_chunks; i++)
            cr_assert(map.chunk[i].tensor == one.chunk[i].tensor && map.chunk[i].offset == one.chunk[i].offset &&
                      map.chunk[i].n == one.chunk[i].n);
        psd_partition_clear(&map);
    }
    psd_partition_clear(&one);
}

/* An mlp, one huge tensor beside small ones, very many equal ones, and the long-tailed list of an embedding model. */
Test(partition, no_server_holds_over_five_per_cent_more_than_the_mean)
{
    uint64_t even[300], tail[60];
    for (size_t i = 0; i < 300; i++)
        even[i] = 3000;
    for (size_t i = 0; i < 60; i++)
        tail[i] = 40000000 / ((i + 1) * (i + 1)) + 1;
    const struct {
        const uint64_t *sizes;
        size_t n;
    } models[] = {
        { (uint64_t[]){ 100352, 128, 1280, 10 }, 4 }, { (uint64_t[]){ 50000000, 3, 77, 1000 }, 4 }, { even, 300 }, { tail, 60 }
    };
    for (size_t m = 0; m < 4; m++)
        for (uint32_t servers = 1; servers <= 5; servers++) {
            make(models[m].sizes, models[m].n, servers);
            cr_expect_leq(imbalance(), 1.05, "model %zu on %u servers: %.3f", m, servers, imbalance());
            psd_partition_clear(&map);
        }
}

/* Two models of layers with four square matrices, two wide ones and some vectors, the first one with a table that is cut as
 * usual. */
Test(partition, a_whole_tensor_lies_on_one_server_and_owners_are_even_where_the_sizes_let_them_be)
{
    enum { LAYERS = 12, PER_LAYER = 8, ALL = 1 + LAYERS * PER_LAYER };
    static const uint64_t of_layer[PER_LAYER] = { 128 * 128, 128 * 128, 128 * 128, 128 * 128, 128 * 512, 512 * 128, 128, 512 };
    psd_extent_t tensor[ALL] = { { .n = 64 * 1000 } };
    for (uint32_t i = 1; i < ALL; i++)
        tensor[i] = (psd_extent_t){ .n = of_layer[(i - 1) % PER_LAYER], .whole = of_layer[(i - 1) % PER_LAYER] > 1000 };
    for (uint32_t with_table = 0; with_table < 2; with_table++)
        for (uint32_t servers = 1; servers <= 6; servers++) {
            uint32_t owner[ALL];
            memset(owner, 0xff, sizeof owner);
            cr_assert_eq(psd_partition_cut(&map, tensor + !with_table, ALL - !with_table, servers, 1, NULL), PSD_OK);
            for (uint32_t i = 0; i < map.n_chunks; i++) {
                const psd_chunk_t *c = &map.chunk[i];
                if (map.tensor[c->tensor].whole)
                    cr_assert(!c->offset || owner[c->tensor] == c->server);
                owner[c->tensor] = c->server;
            }
            cr_expect_leq(imbalance(), 1.1, "%u servers: %.3f", servers, imbalance());
            psd_partition_clear(&map);
        }
}

Test(partition, a_chunk_never_holds_more_than_a_megabyte, .fini = teardown)
{
    make((uint64_t[]){ UINT64_C(5) << 30 }, 1, 2);
    for (uint32_t i = 0; i < map.n_chunks; i++)
        cr_assert_leq(map.chunk[i].n, 1u << 18);
}

Test(partition, a_model_of_too_many_chunks_is_refused)
{
    psd_err_t err;
    cr_assert_eq(psd_partition_make(&map, (uint64_t[]){ UINT64_C(1) << 40 }, 1, 1, 1, &err), PSD_EINVAL);
    cr_assert_not_null(strstr(err.text, "chunks"));
}

/* Sizes such that most tensors are smaller than a chunk. */
static void make_parts(uint32_t servers, uint32_t most)
{
    static const uint64_t sizes[] = { 3000, 5, 700, 1, 900, 20000, 64 };
    cr_assert_eq(psd_partition_make(&map, sizes, 7, servers, most, NULL), PSD_OK);
}

Test(partition, a_servers_chunks_are_cut_into_parts_in_their_order_and_none_is_left_out)
{
    static const uint32_t most[] = { 1, 1024, 2500, PSD_MOST_OF_PART };
    for (uint32_t servers = 1; servers <= 3; servers++)
        for (size_t m = 0; m < 4; m++) {
            make_parts(servers, most[m]);
            for (uint32_t s = 0; s < servers; s++) {
                uint32_t next = 0;
                for (uint32_t p = 0; p < map.n_parts[s]; p++) {
                    const psd_part_t *part = &map.part[s][p];
                    uint32_t n = 0;
                    cr_expect_eq(part->first, next);
                    for (uint32_t i = 0; i < part->n_chunks; i++) {
                        const psd_chunk_t *c = psd_partition_at(&map, s, p, i);
                        cr_expect(c->server == s && c->index == next + i && c->part == p && c->at == n);
                        n += c->n;
                    }
                    cr_expect_eq(part->n, n);
                    cr_expect(n <= most[m] || part->n_chunks == 1);
                    next += part->n_chunks;
                }
                cr_expect_eq(next, map.n_held[s]);
            }
            psd_partition_clear(&map);
        }
}

Test(partition, parts_of_a_large_tensor_are_stretches_of_it_and_servers_take_turns)
{
    static const uint64_t sizes[] = { (uint64_t)24 << 20, 7 };
    for (uint32_t servers = 1; servers <= 4; servers++) {
        cr_assert_eq(psd_partition_make(&map, sizes, 2, servers, PSD_MOST_OF_PART, NULL), PSD_OK);
        for (uint32_t s = 0; s < servers; s++)
            for (uint32_t p = 0; p < map.n_parts[s]; p++)
                for (uint32_t i = 1; i < map.part[s][p].n_chunks; i++) {
                    const psd_chunk_t *before = psd_partition_at(&map, s, p, i - 1), *c = psd_partition_at(&map, s, p, i);
                    cr_expect(c->tensor || (!before->tensor && c->offset == before->offset + before->n),
                              "%u servers: part %u of server %u", servers, p, s);
                }
        for (uint32_t i = 0; i + 1 < map.n_chunks; i++) {
            const psd_chunk_t *c = &map.chunk[i];
            const uint32_t turn = (uint32_t)(c->offset / PSD_MOST_OF_PART % servers);
            cr_expect(c->tensor || c->server == turn, "%u servers: chunk %u is on %u, not %u", servers, i, c->server, turn);
        }
        psd_partition_clear(&map);
    }
}

Test(partition, a_small_model_is_one_part_of_each_server_for_any_number_of_tensors, .fini = teardown)
{
    make_parts(2, PSD_MOST_OF_PART);
    cr_expect(map.n_parts[0] == 1 && map.n_parts[1] == 1);
}
