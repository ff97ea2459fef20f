#include <criterion/criterion.h>

#include <stdint.h>
#include <sys/resource.h>

#include "worker/floats.h"

static psd_floats_t *floats;

static void setup(void) { cr_assert_not_null(floats = psd_floats_new()); }
static void teardown(void) { psd_floats_destroy(&floats); }
TestSuite(floats, .init = setup, .fini = teardown, .timeout = 600);

static bool is_zero(const float *array, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (array[i] != 0)
            return false;
    return true;
}

static bool is_shared(const float *array, size_t n)
{
    uint32_t segment;
    uint64_t offset;
    return psd_arena_find(psd_floats_arena(floats), array, n * sizeof *array, &segment, &offset);
}

Test(floats, arrays_are_aligned_zero_and_where_servers_can_read_them)
{
    for (size_t n = 1; n <= 300000; n = 7 * n + 1) {
        float *array = psd_floats_take(floats, n);
        cr_assert_not_null(array);
        cr_expect_eq((uintptr_t)array % 64, 0);
        cr_expect(is_zero(array, n));
        cr_expect(is_shared(array, n));
        cr_expect_eq(psd_floats_size(floats, array), n);
    }
}

Test(floats, memory_that_was_given_back_is_zero_again)
{
    float *const first = psd_floats_take(floats, 1000);
    for (size_t i = 0; i < 1000; i++)
        first[i] = 1;
    psd_floats_give_back(floats, first);
    cr_expect_eq(psd_floats_size(floats, first), 0);
    float *const second = psd_floats_take(floats, 1000);
    cr_expect_eq(second, first, "the test looks at the same memory");
    cr_expect(is_zero(second, 1000));
}

Test(floats, an_array_is_known_only_by_its_beginning)
{
    float *const a = psd_floats_take(floats, 100), *const b = psd_floats_take(floats, 200);
    float other;
    cr_expect_eq(psd_floats_size(floats, a), 100);
    cr_expect_eq(psd_floats_size(floats, b), 200);
    cr_expect_eq(psd_floats_size(floats, a + 1), 0);
    cr_expect_eq(psd_floats_size(floats, &other), 0);
    psd_floats_give_back(floats, a);
    cr_expect_eq(psd_floats_size(floats, b), 200);
}

Test(floats, an_empty_array_can_be_had_and_a_too_large_one_cannot)
{
    cr_expect_eq(psd_floats_size(floats, psd_floats_take(floats, 0)), 1);
    cr_expect_null(psd_floats_take(floats, SIZE_MAX));
    cr_expect_null(psd_floats_take(floats, SIZE_MAX / sizeof(float)));
}

Test(floats, where_the_system_gives_no_memory_that_others_may_read_they_lie_in_the_heap)
{
    const struct rlimit none = { 0, 0 };
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &none), 0);
    float *array = psd_floats_take(floats, 1000);
    cr_assert_not_null(array);
    cr_expect_eq((uintptr_t)array % 64, 0);
    cr_expect(is_zero(array, 1000));
    cr_expect_not(is_shared(array, 1000));
    cr_expect_eq(psd_floats_size(floats, array), 1000);
    psd_floats_give_back(floats, array);
}
