/* seal.h - numbers of fixed width in a text, and the CRC that a text contains of itself. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PSD_SEAL_DIGITS = 8 /* digits of a CRC */ };

/* Write `value` as `n_digits` hexadecimal digits, without an end. */
void psd_seal_put(char *at, int n_digits, uint64_t value);

/* Read them; false for anything else. Lower case only: each number has one spelling, so that every flipped bit is detected. */
bool psd_seal_get(const char *at, int n_digits, uint64_t *value);

/* Write the CRC-32C of all `n_bytes` as 8 hexadecimal digits at `at`, which count as zeros in it. The other function checks it. */
void psd_seal(char *bytes, size_t n_bytes, char *at);
bool psd_seal_ok(const char *bytes, size_t n_bytes, const char *at, uint32_t *crc);
