/* number.h - numbers as text, the same in every locale: with a decimal point, and with enough digits to read back the same
 * value. */
#pragma once

#include <stddef.h>

enum { PSD_NUMBER_TEXT = 32 /* longest printed number, with its end */ };

/* Read the decimal number that `text` starts with ("-1.5e-3"; no space, hex, inf or nan before it). Returns the number of
 * characters read, 0 when there is no number. A number beyond double's range reads as infinity. */
size_t psd_number_read(const char *text, double *value);

/* Print the shortest text that reads back as exactly `value`. Returns `buf`. */
char *psd_number_print(double value, char buf[PSD_NUMBER_TEXT]);

/* Print with `digits` significant digits, as "%.*g". Returns `buf`. */
char *psd_number_print_digits(double value, int digits, char buf[PSD_NUMBER_TEXT]);
