/* seal.h - numbers of fixed width in a text, and the CRC that a text holds of itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PSD_SEAL_DIGITS = 8 /* digits of a CRC */ };

/* Write `value` as `n_digits` hexadecimal digits, without an end. */
void psd_seal_put(char *at, int n_digits, uint64_t value);

/* Read them; false for what is none. Lower case only: one way to write a number, so that no flipped bit goes unseen. */
bool psd_seal_get(const char *at, int n_digits, uint64_t *value);

/* Write the CRC-32C of all `n_bytes` as 8 hexadecimal digits `at`, which count as zeros; whether it is there. */
void psd_seal(char *bytes, size_t n_bytes, char *at);
bool psd_seal_ok(const char *bytes, size_t n_bytes, const char *at, uint32_t *crc);
