/* optim_hash.h - a fingerprint of every optimizer: long pseudo-random trajectories, hashed bit by bit. Every
 * compiler, optimisation level and instruction set must give the committed ones
 * (tests/golden/optim_hash.expected). */
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/optim/aggregate.h"
#include "common/optim/optimizer.h"
#include "common/optim/whole.h"
#include "common/base/rng.h"
#include "tests/support/alone.h"

enum { HASH_N = 1031, HASH_STEPS = 64, HASH_TEXT = 2 * PSD_RULE_TEXT };

/* Values for branches that the defaults do not take. */
static const char *const hash_variants[] = {
    "sgd(weight_decay=0.1)",
    "sgd(momentum=0.8, dampening=0.3)",
    "sgd(momentum=0.8, dampening=0.3, weight_decay=0.1)",
    "nesterov(weight_decay=0.1)",
    "adagrad(weight_decay=0.1, lr_decay=0.01, initial_accumulator=0.1)",
    "adadelta(weight_decay=0.1)",
    "rmsprop(momentum=0.9)",
    "rmsprop(centered=1, weight_decay=0.1)",
    "rmsprop(momentum=0.9, centered=1)",
    "adam(weight_decay=0.1)",
    "adam(amsgrad=1)",
    "adam(amsgrad=1, weight_decay=0.1, beta1=0)",
    "adamw(amsgrad=1, beta2=0.9)",
    "nadam(weight_decay=0.1, momentum_decay=0.1)",
    "nadam(weight_decay=0.1, decoupled=1)",
    "radam(weight_decay=0.1, beta2=0.9)",
    "radam(weight_decay=0.1, decoupled=1, beta2=0.6)",
    "adamax(weight_decay=0.1)",
    "lamb(weight_decay=0, always_adapt=0, trust_clip=1)",
    "lion(weight_decay=0.1)",
    "dlion(weight_decay=0.1, mean=1)",
    "signsgd(weight_decay=0.1)",
    "signum(weight_decay=0.1)",
    "adopt(weight_decay=0.1, clip=0)",
    "adopt(weight_decay=0.1, decoupled=1)",
    "ademamix(weight_decay=0.1, alpha_warmup=20, beta3_warmup=15)",
    "sfadamw(weight_decay=0.1, warmup_steps=7, r=0.5, weight_lr_power=1.5)",
    "prodigy(weight_decay=0.1, decoupled=0, d0=0.001, safeguard_warmup=1)",
    "prodigy(weight_decay=0.1, d0=0.001, growth_rate=1.1, use_bias_correction=1)",
    "lars(weight_decay=0.1, nesterov=1)",
    "lars(momentum=0, always_adapt=0)",
    "adafactor(lr=0.2, weight_decay=0.1, clip_d=0.5, beta2_decay=-0.5)",
    "muon(lr=0.1, momentum=0.8, nesterov=0, ns_steps=3, weight_decay=0.1)",
    "cautious(adam(weight_decay=0.1))",
    "cautious(adamw)",
    "cautious(nadam(decoupled=1, weight_decay=0.1))",
    "cautious(radam)",
    "cautious(lion(weight_decay=0.1))",
    "cautious(nesterov)",
};
static const char *const hash_wraps[] = { "%s", "lookahead(%s, k=5)", "lookahead(%s, k=3, alpha=0.8, pullback=reset)",
                                          "lookahead(%s, k=4, alpha=0.3, pullback=pullback)" };
enum { HASH_VARIANTS = sizeof hash_variants / sizeof *hash_variants, HASH_WRAPS = sizeof hash_wraps / sizeof *hash_wraps };

/* FNV-1a (Fowler, Noll, Vo), taking whole words. */
static inline uint64_t hash_floats(uint64_t hash, const float *values, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        hash = (hash ^ bits) * 0x100000001b3u;
    }
    return hash;
}

/* A number from 2^-14 to 2^2 in size, of either sign, or, one time in eight, 0. */
static inline float hash_draw(uint64_t *stream)
{
    const uint64_t bits = psd_splitmix64(stream);
    const double size = (double)(1u << (bits >> 8 & 15)) / 16384.0;
    return (bits & 7) ? (float)((2.0 * psd_uniform(stream) - 1.0) * size * 2.0) : 0.0f;
}

/* Tensors for rules that depend on shapes: square and not, tall and wide, several matrices, a vector. */
static const psd_shape_t hash_shapes[] = {
    { 2, 1, 32, 32 }, { 2, 1, 11, 93 }, { 2, 1, 103, 9 }, { 3, 3, 11, 31 }, { .n_dims = 1 }
};
enum { HASH_SHAPES = sizeof hash_shapes / sizeof *hash_shapes };

/* The fingerprint of a rule along a trajectory of a tensor of that shape; NULL: a vector. */
static inline uint64_t hash_tensor(const psd_rule_t *rule, const psd_shape_t *shape)
{
    static float w[HASH_N], g[HASH_N], u[HASH_N], kept[HASH_N], slots[PSD_MAX_SLOTS][HASH_N];
    float *const slot[PSD_MAX_SLOTS] = { slots[0], slots[1], slots[2], slots[3], slots[4] };
    uint64_t stream = 42, hash = 0xcbf29ce484222325u;
    psd_rule_state_t state;
    psd_whole_t whole = {
        .n = HASH_N, .w = w, .slot = slot, .state = &state, .gradient = (const float *const[]){ psd_rule_votes(rule) ? u : g }
    };
    if (shape)
        whole.shape = *shape;
    if (shape && shape->n_dims > 1)
        whole.n = shape->n_matrices * shape->rows * shape->cols;

    for (size_t i = 0; i < HASH_N; i++)
        w[i] = hash_draw(&stream);
    psd_rule_init(rule, &state, w, slot, HASH_N);
    memset(kept, 0, sizeof kept);
    for (int t = 0; t < HASH_STEPS; t++) {
        for (size_t i = 0; i < HASH_N; i++)
            g[i] = hash_draw(&stream);
        if (psd_rule_votes(rule))
            psd_rule_vote(rule, u, kept, g, HASH_N);
        psd_whole_step(alone(rule), &(psd_clip_t){ .norm = 0 }, &whole, 1, (double[]){ 1 }, 1, 0,
                       &(const double){ psd_rule_lr(rule) });
        hash = hash_floats(hash, w, HASH_N);
    }
    for (int i = 0; i < rule->n_slots; i++)
        hash = hash_floats(hash, slots[i], HASH_N);
    return hash;
}

/* The fingerprint of a rule. */
static inline uint64_t hash_rule(const psd_rule_t *rule)
{
    uint64_t hash = 0;
    if (!psd_rule_is_whole(rule))
        return hash_tensor(rule, NULL);
    for (size_t i = 0; i < HASH_SHAPES; i++)
        if (!rule->opt->others || hash_shapes[i].n_dims == 2)
            hash = hash * 31 + hash_tensor(rule, &hash_shapes[i]);
    return hash;
}

/* The fingerprint of sums over one to five workers, of which the third may be missing. */
static inline uint64_t hash_sums(void)
{
    static float g[5][HASH_N], out[HASH_N];
    const double weight[] = { 0.125, 1.0 / 3.0, 0.2, 1e-3, 0.7 };
    uint64_t stream = 43, hash = 0xcbf29ce484222325u;
    for (size_t k = 0; k < 5; k++)
        for (size_t i = 0; i < HASH_N; i++)
            g[k][i] = hash_draw(&stream);
    for (size_t k = 1; k <= 5; k++)
        for (int missing = 0; missing < 2; missing++) {
            const float *const part[] = { g[0], g[1], missing ? NULL : g[2], g[3], g[4] };
            psd_aggregate(out, part, weight, k, HASH_N);
            hash = hash_floats(hash, out, HASH_N);
        }
    return hash;
}

/* The i-th line, "<hash> <rule>": all optimizers by default, the variants, each in every wrap; at last the
 * sums. False past the end. */
static inline bool hash_line(size_t i, char line[HASH_TEXT])
{
    char spec[PSD_RULE_TEXT], name[PSD_RULE_TEXT];
    size_t n_rows = 0;
    while (psd_optimizer_at(n_rows))
        n_rows++;
    const size_t which = i / HASH_WRAPS;
    if (which == n_rows + HASH_VARIANTS && i % HASH_WRAPS == 0) {
        snprintf(line, HASH_TEXT, "%016llx sums", (unsigned long long)hash_sums());
        return true;
    }
    if (which >= n_rows + HASH_VARIANTS)
        return false;
    snprintf(name, sizeof name, "%s", which < n_rows ? psd_optimizer_at(which)->name : hash_variants[which - n_rows]);
    char *end = spec;
    for (const char *c = hash_wraps[i % HASH_WRAPS]; *c; c++) {
        if (c[0] == '%' && c[1] == 's') {
            end += snprintf(end, (size_t)(spec + sizeof spec - end), "%s", name);
            c++;
        } else {
            *end++ = *c;
        }
    }
    *end = '\0';
    psd_rule_t rule;
    psd_err_t err = { 0 };
    if (psd_rule_parse(&rule, spec, &err) && i % HASH_WRAPS) { /* some stay without Lookahead */
        snprintf(line, HASH_TEXT, "refused          %s", spec);
        return true;
    }
    if (err.code) {
        fprintf(stderr, "%s: %s\n", spec, err.text);
        abort();
    }
    snprintf(line, HASH_TEXT, "%016llx %s", (unsigned long long)hash_rule(&rule), spec);
    return true;
}
