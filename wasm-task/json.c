#include "json.h"

#include "decimal.h"

enum { DEEPEST = 32, MOST_EXPONENT = 9999 };

static void fail_here(json *from) {
    from->at = from->end;
    from->has_failed = true;
}

static bool is_next(const json *from, char letter) {
    return from->at < from->end && *from->at == letter;
}

static bool takes(json *from, char letter) {
    const bool is = is_next(from, letter);
    from->at += is;
    return is;
}

static void skip_space(json *from) {
    while (is_next(from, ' ') || is_next(from, '\n') || is_next(from, '\r') || is_next(from, '\t')) from->at++;
}

static void expect(json *from, char letter) {
    skip_space(from);
    if (!takes(from, letter)) fail_here(from);
}

void json_open(json *from, char bracket) {
    expect(from, bracket);
    from->is_first = true;
}

bool json_next(json *from, char bracket) {
    skip_space(from);
    const bool is_first = from->is_first;
    from->is_first = false;
    if (takes(from, bracket)) return false;
    if (!is_first) expect(from, ',');
    if (from->at == from->end) fail_here(from);
    return !from->has_failed;
}

text json_key(json *from) {
    const text key = json_string(from);
    expect(from, ':');
    return key;
}

static bool is_hex(char letter) {
    return (letter >= '0' && letter <= '9') || (letter >= 'a' && letter <= 'f') || (letter >= 'A' && letter <= 'F');
}

static void take_escaped(json *from) {
    if (takes(from, 'u')) {
        for (int k = 0; k < 4; k++) {
            if (from->at == from->end || !is_hex(*from->at)) return fail_here(from);
            from->at++;
        }
        return;
    }
    for (const char *known = "\"\\/bfnrt"; *known != 0; known++)
        if (takes(from, *known)) return;
    fail_here(from);
}

text json_string(json *from) {
    expect(from, '"');
    const char *first = from->at;
    while (from->at < from->end && *from->at != '"') {
        if ((unsigned char)*from->at < ' ') fail_here(from);
        else if (*from->at++ == '\\') take_escaped(from);
    }
    const text found = {first, (uint32_t)(from->at - first)};
    expect(from, '"');
    return from->has_failed ? (text){first, 0} : found;
}

// The digits of a number, those that 64 bits have no room for left out; count: of the last run of digits.
typedef struct {
    uint64_t digits;
    int left_out, count;
} decimal;

static void take_digits(json *from, decimal *number) {
    number->count = 0;
    for (; from->at < from->end && *from->at >= '0' && *from->at <= '9'; from->at++, number->count++) {
        if (number->digits < UINT64_MAX / 10 - 1) number->digits = number->digits * 10 + (uint64_t)(*from->at - '0');
        else number->left_out++;
    }
    if (number->count == 0) fail_here(from);
}

static int take_exponent(json *from) {
    const bool is_negative = takes(from, '-');
    if (!is_negative) takes(from, '+');
    decimal exponent = {0, 0, 0};
    take_digits(from, &exponent);
    const int size = exponent.digits > MOST_EXPONENT ? MOST_EXPONENT : (int)exponent.digits;
    return is_negative ? -size : size;
}

// The nearest double where the digits are below 2**53 and the exponent is 22 at most; else a few units of its last place away,
// which is nothing to a float32.
double json_number(json *from) {
    skip_space(from);
    const bool is_negative = takes(from, '-'), begins_with_zero = is_next(from, '0');
    decimal number = {0, 0, 0};
    take_digits(from, &number);
    if (begins_with_zero && number.count > 1) fail_here(from);
    int exponent = 0;
    if (takes(from, '.')) {
        take_digits(from, &number);
        exponent = -number.count;
    }
    if (takes(from, 'e') || takes(from, 'E')) exponent += take_exponent(from);
    if (from->has_failed) return 0;
    const double size = number.digits == 0 ? 0 : scaled_by_ten((double)number.digits, exponent + number.left_out);
    return is_negative ? -size : size;
}

static void skip_word(json *from, const char *word) {
    for (; *word != 0; word++)
        if (!takes(from, *word)) return fail_here(from);
}

static void skip_at(json *from, int depth) {
    skip_space(from);
    if (depth > DEEPEST || from->at == from->end) return fail_here(from);
    switch (*from->at) {
        case '"': json_string(from); return;
        case 't': skip_word(from, "true"); return;
        case 'f': skip_word(from, "false"); return;
        case 'n': skip_word(from, "null"); return;
        case '[':
            for (json_open(from, '['); json_next(from, ']');) skip_at(from, depth + 1);
            return;
        case '{':
            for (json_open(from, '{'); json_next(from, '}'); skip_at(from, depth + 1)) json_key(from);
            return;
        default: json_number(from);
    }
}

void json_skip(json *from) {
    skip_at(from, 0);
}

bool json_count(json from, uint32_t *count) {
    *count = 0;
    for (json_open(&from, '{'); json_next(&from, '}'); ++*count) {
        json_key(&from);
        json_skip(&from);
    }
    return !from.has_failed;
}

bool json_is_whole(json *from) {
    skip_space(from);
    return !from->has_failed && from->at == from->end;
}
