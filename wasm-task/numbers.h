// Random numbers, exp and log: of adds, multiplications and divisions alone, so that each engine gives the same bits.
#pragma once
#include "tile.h"

static const double LN_2 = 0.69314718055994530942;

// splitmix64. Source: Steele, Lea and Flood 2014, figure 14 (doi:10.1145/2660193.2660195).
static inline uint64_t next_random(uint64_t *state) {
    uint64_t mixed = *state += 0x9e3779b97f4a7c15;
    mixed = (mixed ^ mixed >> 30) * 0xbf58476d1ce4e5b9;
    mixed = (mixed ^ mixed >> 27) * 0x94d049bb133111eb;
    return mixed ^ mixed >> 31;
}

// exp of four numbers that are 0 or less, within 1e-7 of its size; of less than -87 it is exp(-87), which is nothing beside a 1.
//
// exp(x) = 2**n exp(r) with n = round(x / ln 2), and Taylor's series for |r| <= ln(2) / 2, whose next term is below 6e-9.
ALWAYS_INLINE f4 exp_of_four(f4 x) {
    x = select(x > -87.0f, x, four(-87.0f));
    const f4 to_whole = four(0x1.8p23f);  // numbers of this size have no places after the point
    const f4 n = (x * (float)(1 / LN_2) + to_whole) - to_whole;
    const f4 r = (x - n * 0x1.63p-1f) + n * 0x1.bd0106p-13f;  // ln 2 in two parts: n times the first one's 9 bits is exact
    f4 sum = r * (1.0f / 5040) + 1.0f / 720;
    sum = sum * r + 1.0f / 120;
    sum = sum * r + 1.0f / 24;
    sum = sum * r + 1.0f / 6;
    sum = sum * r + 1.0f / 2;
    sum = sum * r + 1.0f;
    sum = sum * r + 1.0f;
    const i4 power = (__builtin_convertvector(n, i4) + 127) << 23;
    return sum * (f4)power;
}

// log of a finite number of at least 1, within 1e-10: 2 artanh((m - 1) / (m + 1)) + e ln 2, for m 2**e with m near 1.
static inline double log_of(double number) {
    union {
        double number;
        uint64_t bits;
    } parts = {number};
    int exponent = (int)(parts.bits >> 52) - 1023;
    parts.bits = (parts.bits & 0x000fffffffffffff) | 0x3ff0000000000000;
    double m = parts.number;
    if (m > 1.41421356) {
        m /= 2;
        exponent++;
    }
    const double s = (m - 1) / (m + 1), z = s * s;
    const double series = 1 + z * (1.0 / 3 + z * (1.0 / 5 + z * (1.0 / 7 + z * (1.0 / 9 + z / 11))));
    return 2 * s * series + exponent * LN_2;
}
