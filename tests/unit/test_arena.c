#include <criterion/criterion.h>

#include <pthread.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/memory/arena.h"

static psd_arena_t *arena;
static const size_t MIB = 1 << 20;

static void setup(void) { arena = psd_arena_new(1 << 30, NULL); }
static void teardown(void) { psd_arena_destroy(&arena); }
TestSuite(arena, .init = setup, .fini = teardown, .timeout = 600);

Test(arena, buffers_are_aligned_and_lie_in_a_segment_that_peers_may_have)
{
    uint32_t segment;
    uint64_t offset;
    cr_expect_null(psd_arena_segment(arena, 0), "no memory is mapped before it is needed");
    psd_buf_t *a = psd_arena_new_buf(arena, 100), *b = psd_arena_new_buf(arena, 100);
    cr_expect_eq(a->n_bytes, 100);
    cr_expect_eq((uintptr_t)a->data % 64, 0);
    cr_expect_eq((uintptr_t)b->data % 64, 0);
    cr_assert(psd_arena_find(arena, (char *)b->data + 8, 92, &segment, &offset), "a part of one too");
    cr_expect_eq(psd_arena_segment(arena, segment)->at + offset, (unsigned char *)b->data + 8);
    cr_expect_not(psd_arena_find(arena, &segment, sizeof segment, &segment, &offset), "others' memory does not");
    psd_buf_unref(&a);
    psd_buf_unref(&b);
    cr_expect_eq(psd_arena_used(arena), 0);
}

Test(arena, a_range_that_reaches_beyond_a_segment_is_not_found)
{
    uint32_t segment;
    uint64_t offset;
    psd_buf_t *buf = psd_arena_new_buf(arena, 100);
    const psd_segment_t *memory = psd_arena_segment(arena, 0);
    cr_expect(psd_arena_find(arena, memory->at, memory->n_bytes, &segment, &offset));
    cr_expect_not(psd_arena_find(arena, memory->at, memory->n_bytes + 1, &segment, &offset));
    cr_expect_not(psd_arena_find(arena, memory->at + memory->n_bytes - 1, 2, &segment, &offset));
    cr_expect_not(psd_arena_find(arena, memory->at + memory->n_bytes - 1, SIZE_MAX, &segment, &offset));
    cr_expect_not(psd_arena_find(arena, memory->at - 1, 1, &segment, &offset));
    psd_buf_unref(&buf);
}

/* Each buffer is filled with its own value; if two shared a byte, one of them would find it changed. */
Test(arena, no_two_buffers_share_a_byte_and_all_memory_comes_back)
{
    enum { N = 300 };
    psd_buf_t *buf[N] = { NULL };
    uint64_t random = 1;
    for (int i = 0; i < 6000; i++) {
        const size_t at = psd_splitmix64(&random) % N;
        if (buf[at]) {
            const unsigned char *bytes = buf[at]->data;
            for (size_t b = 0; b < buf[at]->n_bytes; b += 61)
                cr_assert_eq(bytes[b], (unsigned char)at);
            cr_assert_eq(bytes[buf[at]->n_bytes - 1], (unsigned char)at);
            psd_buf_unref(&buf[at]);
        } else {
            const size_t n_bytes = 1 + psd_splitmix64(&random) % (psd_splitmix64(&random) % 8 ? 9000 : 400000);
            cr_assert_not_null(buf[at] = psd_arena_new_buf(arena, n_bytes));
            memset(buf[at]->data, (int)at, n_bytes);
        }
    }
    for (int i = 0; i < N; i++)
        psd_buf_unref(&buf[i]);
    cr_expect_eq(psd_arena_used(arena), 0);
    psd_buf_t *whole = psd_arena_new_buf(arena, 64 * MIB);
    cr_expect_not_null(whole);
    cr_expect_null(psd_arena_segment(arena, 1), "the free blocks have merged into the whole segment");
    psd_buf_unref(&whole);
}

/* 1 MiB and 1 byte are 2049 units of 512. */
Test(arena, a_buffer_takes_no_more_than_it_needs)
{
    psd_buf_t *buf = psd_arena_new_buf(arena, MIB + 1);
    cr_expect_eq(psd_arena_used(arena), 2049 * 512);
    psd_buf_t *rest = psd_arena_new_buf(arena, 32 * MIB), *more = psd_arena_new_buf(arena, 16 * MIB);
    cr_expect(rest && more && !psd_arena_segment(arena, 1), "the rest of its power of two is free");
    psd_buf_unref(&buf);
    psd_buf_unref(&rest);
    psd_buf_unref(&more);
}

Test(arena, it_grows_until_its_limit_and_no_further)
{
    psd_buf_t *large = psd_arena_new_buf(arena, 700 * MIB), *second = psd_arena_new_buf(arena, 300 * MIB);
    cr_assert(large && second);
    ((char *)large->data)[700 * MIB - 1] = 1;
    cr_expect_null(psd_arena_new_buf(arena, 30 * MIB), "1030 MiB of 1024");
    psd_buf_unref(&second);
    second = psd_arena_new_buf(arena, 30 * MIB);
    cr_expect_not_null(second);
    cr_expect_null(psd_arena_new_buf(arena, SIZE_MAX));
    cr_expect_null(psd_arena_new_buf(arena, SIZE_MAX / 2));
    psd_buf_unref(&large);
    psd_buf_unref(&second);
}

Test(arena, a_buffer_outlives_its_arena)
{
    psd_buf_t *buf = psd_arena_new_buf(arena, 1000);
    psd_arena_destroy(&arena);
    memset(buf->data, 1, 1000);
    psd_buf_unref(&buf);
    cr_expect_null(buf);
}

static void *take_and_give(void *arg)
{
    uint64_t random = (uintptr_t)arg;
    for (int i = 0; i < 5000; i++) {
        psd_buf_t *buf = psd_arena_new_buf(arena, 1 + psd_splitmix64(&random) % 5000);
        *(unsigned char *)buf->data = 1;
        psd_buf_unref(&buf);
    }
    return NULL;
}

Test(arena, any_thread_takes_and_gives_back)
{
    pthread_t thread[4];
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, take_and_give, (void *)(i + 1));
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    cr_expect_eq(psd_arena_used(arena), 0);
}

Test(arena, memory_of_a_private_one_has_no_descriptor_that_a_peer_could_get)
{
    psd_arena_t *private = psd_arena_new_private(1 << 30, NULL);
    psd_buf_t *a = psd_arena_new_buf(private, MIB), *b = psd_arena_new_buf(private, MIB);
    cr_assert(a && b);
    memset(a->data, 1, MIB);
    memset(b->data, 2, MIB);
    cr_expect_eq(((const char *)a->data)[MIB - 1], 1);
    cr_expect_eq(psd_arena_segment(private, 0)->fd, -1);
    psd_buf_unref(&a);
    psd_arena_destroy(&private);
    cr_expect_eq(((const char *)b->data)[0], 2, "a buffer outlives it");
    psd_buf_unref(&b);
}
