/* real.h - logarithm, exponential and power in double with the same bits on every machine: the C library's round differently
 * with and without FMA. Their relative error is some 1e-15, far below what float32 can see. For the scalars of an update, not
 * for elements. */
#pragma once

#include <math.h>

/* ln x for finite x > 0: x = m 2^e with m near 1, and atanh's series, whose next term is below 1e-21 there. */
static inline double psd_log(double x)
{
    int e = 0;
    for (; x > 1.4142135623730951; x *= 0.5)
        e++;
    for (; x < 0.7071067811865476; x *= 2.0)
        e--;
    const double s = (x - 1.0) / (x + 1.0), s2 = s * s;
    double sum = 0.0;
    for (int k = 27; k > 0; k -= 2)
        sum = sum * s2 + 1.0 / k;
    return 2.0 * s * sum + e * 0.69314718055994530942;
}

/* e^x: x = k ln 2 + r with |r| <= ln(2)/2, and Taylor's series, whose 18th term is below 1e-24 there. */
static inline double psd_exp(double x)
{
    if (x < -700.0)
        return 0.0;
    if (x > 700.0)
        x = 700.0;
    const double k = floor(x / 0.69314718055994530942 + 0.5);
    const double r = (x - k * 0x1.62e42fefa38p-1) - k * 0x1.ef35793c7673p-45; /* ln 2 in two parts */
    double sum = 1.0;
    for (int i = 18; i > 0; i--)
        sum = 1.0 + sum * r / i;
    return ldexp(sum, (int)k);
}

/* x^y for x >= 0; whole powers up to 4 by multiplication. 0^0 is 1. */
static inline double psd_real_power(double x, double y)
{
    if (y >= 0.0 && y <= 4.0 && y == floor(y)) {
        double power = 1.0;
        for (int i = 0; i < (int)y; i++)
            power *= x;
        return power;
    }
    return x > 0.0 ? psd_exp(y * psd_log(x)) : 0.0;
}
