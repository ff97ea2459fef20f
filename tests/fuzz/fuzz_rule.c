/* fuzz_rule.c - any bytes as a rule: an accepted one must print to text that reads back as the same rule; a refusal must have a
 * sentence. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/optimizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char printed[PSD_RULE_TEXT], again[PSD_RULE_TEXT];
    psd_rule_t rule, back;
    psd_err_t err = { .text = "" };
    char *spec = malloc(size + 1); /* of exactly that size, so that a read past the end is detected */
    assert(spec);
    memcpy(spec, data, size);
    spec[size] = '\0';

    if (psd_rule_parse(&rule, spec, &err) == PSD_OK) {
        assert(psd_rule_parse(&back, psd_rule_print(&rule, printed), &err) == PSD_OK);
        assert(strcmp(printed, psd_rule_print(&back, again)) == 0);
        assert(memcmp(rule.hyper, back.hyper, sizeof rule.hyper) == 0);
        assert(rule.opt == back.opt && rule.n_slots == back.n_slots && rule.slow_slot == back.slow_slot);
        assert(rule.k == back.k && rule.alpha == back.alpha && rule.pullback == back.pullback);
    } else {
        assert(err.code == PSD_ECONFIG && strncmp(err.text, "rule, column ", 13) == 0);
    }
    free(spec);
    return 0;
}
