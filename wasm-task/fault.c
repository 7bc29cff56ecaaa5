#include "fault.h"

#include <stdarg.h>

#include "output.h"

enum { LONGEST_TEXT = 100 };

static char sentence[1024];
static output words = {sentence, 0, sizeof sentence, 0};

static void put_printable(text told) {
    for (uint32_t k = 0; k < told.size && k < LONGEST_TEXT; k++) {
        const bool is_printable = told.at[k] >= ' ' && told.at[k] <= '~';
        put_char(&words, is_printable ? told.at[k] : '?');
    }
    if (told.size > LONGEST_TEXT) put_words(&words, "...");
}

static void put_whole(int32_t number) {
    if (number < 0) put_char(&words, '-');
    put_count(&words, (uint64_t)(number < 0 ? -(int64_t)number : number));
}

static void put_size(double number) {
    if (number * 0 == 0) put_number(&words, number);
    else put_words(&words, number < 0 ? "-infinity" : "infinity");
}

bool fail(const char *form, ...) {
    va_list args;
    va_start(args, form);
    words.size = 0;
    for (; *form != 0; form++) {
        if (*form != '%') {
            put_char(&words, *form);
            continue;
        }
        switch (*++form) {
            case 's': put_words(&words, va_arg(args, const char *)); break;
            case 't': put_printable(va_arg(args, text)); break;
            case 'u': put_count(&words, va_arg(args, uint32_t)); break;
            case 'l': put_count(&words, va_arg(args, uint64_t)); break;
            case 'd': put_whole(va_arg(args, int32_t)); break;
            default: put_size(va_arg(args, double));
        }
    }
    va_end(args);
    return false;
}

bool fail_for_memory(const char *what) {
    return fail("there is not enough memory for %s", what);
}

text fault(void) {
    return (text){sentence, words.size};
}
