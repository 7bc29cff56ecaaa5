// Four numbers at a time, and the product of which all else is made.
//
// Shaped for Wasmtime's compiler, Cranelift, as measured: it hoists the loads of a basic block above its arithmetic, so that
// plain unrolled loops spill, and it does not fold a load into a broadcast. Hence one load of four values whose lanes are spread
// by shuffles, and a test after each step, which keeps blocks small; the loop's end, where it looks whether its time is up, comes
// every 8th step.
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#define ON_ITS_OWN static __attribute__((noinline))  // so that a tile's sums have all registers

typedef float f4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int32_t i4 __attribute__((vector_size(16), aligned(4), may_alias));

enum { GROUP = 4, PANEL = 8 };

ALWAYS_INLINE f4 load(const float *from) {
    return *(const f4 *)from;
}

ALWAYS_INLINE void store(float *to, f4 values) {
    *(f4 *)to = values;
}

ALWAYS_INLINE f4 four(float value) {
    return (f4){value, value, value, value};
}

ALWAYS_INLINE f4 select(i4 condition, f4 yes, f4 no) {
    return (f4)((condition & (i4)yes) | (~condition & (i4)no));
}

// Stores four rows as four columns: each of the four that are stored has one value of each row, and begins `next` after the last.
ALWAYS_INLINE void store_turned(float *to, uint32_t next, f4 a, f4 b, f4 c, f4 d) {
    const f4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5), ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
    const f4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5), cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
    store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
    store(to + next, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
    store(to + 2 * next, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
    store(to + 3 * next, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
}

// Four rows of eight columns: at[2 * row] has a row's first four, at[2 * row + 1] its last four.
typedef struct {
    f4 at[GROUP * 2];
} tile;

typedef struct {
    uint32_t steps;  // that are left
    const float *left, *right;
} factors;

// Adds the next of left's four values times the next of right's eight; was it the last step?
ALWAYS_INLINE bool add_last(tile *sums, factors *of) {
    const f4 rows = load(of->left), low = load(of->right), high = load(of->right + 4);
    const f4 spread[GROUP] = {
        __builtin_shufflevector(rows, rows, 0, 0, 0, 0),
        __builtin_shufflevector(rows, rows, 1, 1, 1, 1),
        __builtin_shufflevector(rows, rows, 2, 2, 2, 2),
        __builtin_shufflevector(rows, rows, 3, 3, 3, 3),
    };
    for (int row = 0; row < GROUP; row++) {
        sums->at[2 * row] += spread[row] * low;
        sums->at[2 * row + 1] += spread[row] * high;
    }
    of->left += GROUP;
    of->right += PANEL;
    return --of->steps == 0;
}

// The sum of left's columns times right's rows, of at least one: left is [steps][4], right is [steps][8].
ALWAYS_INLINE tile multiply(uint32_t steps, const float *left, const float *right) {
    tile sums = {0};
    factors of = {steps, left, right};
    while (!add_last(&sums, &of) && !add_last(&sums, &of) && !add_last(&sums, &of) && !add_last(&sums, &of) &&
           !add_last(&sums, &of) && !add_last(&sums, &of) && !add_last(&sums, &of) && !add_last(&sums, &of))
        continue;
    return sums;
}
