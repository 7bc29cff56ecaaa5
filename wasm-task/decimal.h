// Powers of ten, for numbers as text.
#pragma once

enum { MOST_EXACT = 22 };  // 10**22 is the last one that a double holds exactly

static inline double scaled_by_ten(double number, int exponent) {
    static const double powers[MOST_EXACT + 1] = {1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
                                                  1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};
    for (; exponent > MOST_EXACT; exponent -= MOST_EXACT) number *= powers[MOST_EXACT];
    for (; exponent < -MOST_EXACT; exponent += MOST_EXACT) number /= powers[MOST_EXACT];
    return exponent < 0 ? number / powers[-exponent] : number * powers[exponent];
}
