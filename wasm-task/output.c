#include "output.h"

#include "decimal.h"

enum { DIGITS = 9, LEAST_FIXED = -4 };

void put_char(output *to, char letter) {
    if (to->size == to->room) {
        if (to->drain == 0) return;
        to->drain(to);
    }
    to->bytes[to->size++] = letter;
}

void put(output *to, text told) {
    for (uint32_t k = 0; k < told.size; k++) put_char(to, told.at[k]);
}

void put_words(output *to, const char *words) {
    put(to, text_of(words));
}

void put_string(output *to, text told) {
    put_char(to, '"');
    for (uint32_t k = 0; k < told.size; k++) {
        const unsigned char letter = (unsigned char)told.at[k];
        if (letter < ' ') {
            put_words(to, "\\u00");
            put_char(to, "0123456789abcdef"[letter >> 4]);
            put_char(to, "0123456789abcdef"[letter & 15]);
            continue;
        }
        if (letter == '"' || letter == '\\') put_char(to, '\\');
        put_char(to, (char)letter);
    }
    put_char(to, '"');
}

void put_count(output *to, uint64_t count) {
    char digits[20];
    uint32_t first = sizeof digits;
    do {
        digits[--first] = (char)('0' + count % 10);
        count /= 10;
    } while (count != 0);
    put(to, (text){digits + first, (uint32_t)sizeof digits - first});
}

// Gives the first DIGITS digits of a number above 0 without the zeros at their end, and the exponent of ten of the first one.
static text digits_of(double number, char digits[DIGITS], int *exponent) {
    union {
        double number;
        uint64_t bits;
    } parts = {number};
    const int binary = (int)(parts.bits >> 52) - 1023;
    *exponent = binary * 78913 >> 18;  // log10(2) * 2**18; it may be one too low
    uint64_t whole = (uint64_t)(scaled_by_ten(number, DIGITS - 1 - *exponent) + 0.5);
    if (whole >= 1000000000) whole = (uint64_t)(scaled_by_ten(number, DIGITS - 1 - ++*exponent) + 0.5);
    for (uint32_t k = DIGITS; k-- > 0; whole /= 10) digits[k] = (char)('0' + whole % 10);
    uint32_t size = DIGITS;
    while (size > 1 && digits[size - 1] == '0') size--;
    return (text){digits, size};
}

// As C's %.9g has it, but for a zero in front of an exponent of one digit.
void put_number(output *to, double number) {
    const bool is_negative = number < 0 || (number == 0 && 1 / number < 0);
    if (is_negative) put_char(to, '-');
    if (number == 0) {
        put_words(to, is_negative ? "0.0" : "0");  // -0 would be a whole number, which has no sign
        return;
    }
    char room[DIGITS];
    int exponent;
    const text digits = digits_of(is_negative ? -number : number, room, &exponent);
    const bool is_fixed = exponent >= LEAST_FIXED && exponent < DIGITS;
    int before = is_fixed ? exponent + 1 : 1;  // how many digits stand before the point
    if (before <= 0) put_words(to, "0.");
    for (; before < 0; before++) put_char(to, '0');
    for (int k = 0; k < (int)digits.size || k < before; k++) {
        if (k == before && k > 0) put_char(to, '.');
        put_char(to, k < (int)digits.size ? digits.at[k] : '0');
    }
    if (is_fixed) return;
    put_words(to, exponent < 0 ? "e-" : "e");
    put_count(to, (uint64_t)(exponent < 0 ? -exponent : exponent));
}
