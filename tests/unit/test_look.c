#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "common/base/rng.h"
#include "common/optim/isa.h"
#include "common/optim/look.h"

TestSuite(look, .timeout = 600);

enum { N = 4096 };

Test(look, terms_are_those_of_the_gradient_and_of_the_weights_before_and_after)
{
    /* By hand: gradients 3, 0, -4, 0; weights 1, 2, 2, 4 become 2, 2, 0, 4. */
    double look[PSD_LOOK_TERMS] = { 0 };
    psd_look_add(look, (float[]){ 3, 0, -4, 0 }, (float[]){ 1, 2, 2, 4 }, (float[]){ 2, 2, 0, 4 }, 4, 4);
    cr_expect_eq(look[PSD_LOOK_N], 4);
    cr_expect_eq(look[PSD_LOOK_GRADIENT2], 9 + 16);
    cr_expect_eq(look[PSD_LOOK_ZEROS], 2);
    cr_expect_eq(look[PSD_LOOK_REACHED], 1, "only -4 reaches the bound of 4");
    cr_expect_eq(look[PSD_LOOK_WEIGHT2], 1 + 4 + 4 + 16);
    cr_expect_eq(look[PSD_LOOK_UPDATE2], 1 + 4);
}

Test(look, terms_have_the_same_bits_on_every_instruction_set)
{
    static float g[N], before[N], after[N];
    double first[PSD_LOOK_TERMS] = { 0 };
    uint64_t stream = 7;
    for (size_t i = 0; i < N; i++) {
        g[i] = i % 5 ? (float)psd_uniform(&stream) - 0.5f : 0;
        before[i] = (float)psd_uniform(&stream);
        after[i] = before[i] - 0.01f * g[i];
    }
    for (size_t k = 0; psd_isa_at(k); k++)
        for (size_t n = N; n > N - 20; n--) { /* lengths that are not whole registers, too */
            double look[PSD_LOOK_TERMS] = { 0 };
            psd_isa_select(psd_isa_at(0), NULL);
            memset(first, 0, sizeof first);
            psd_look_add(first, g, before, after, n, 0.4f);
            cr_assert_eq(psd_isa_select(psd_isa_at(k), NULL), PSD_OK);
            psd_look_add(look, g, before, after, n, 0.4f);
            cr_expect_eq(memcmp(first, look, sizeof look), 0, "%s, %zu elements", psd_isa_at(k), n);
        }
    cr_expect_gt(first[PSD_LOOK_REACHED], 0);
    cr_expect_gt(first[PSD_LOOK_ZEROS], 0);
}

Test(look, a_gradient_whose_square_is_no_float_reaches_the_bound_for_it)
{
    double look[PSD_LOOK_TERMS] = { 0 };
    const float large[] = { 2e19f, -2e19f, 1e19f, INFINITY };
    psd_look_add(look, large, large, large, 4, PSD_LOOK_OVERFLOWS);
    cr_expect_eq(look[PSD_LOOK_REACHED], 3);
    cr_expect(isinf(large[0] * large[0]) && isfinite(large[2] * large[2]));
}

Test(look, chunks_without_gradients_do_not_change_the_rate_of_their_tensor)
{
    double tensor[PSD_LOOK_TERMS] = { 0 }, with[PSD_LOOK_TERMS] = { [PSD_LOOK_N] = 2, [PSD_LOOK_RATE] = 0.5 },
           without[PSD_LOOK_TERMS] = { 0 };
    psd_look_join(tensor, with);
    psd_look_join(tensor, with);
    psd_look_join(tensor, without);
    cr_expect_eq(tensor[PSD_LOOK_N], 4);
    cr_expect_eq(tensor[PSD_LOOK_RATE], 0.5);
}
