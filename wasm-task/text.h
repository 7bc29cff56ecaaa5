// Bytes that lie somewhere, by where and how many.
#pragma once
#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *at;
    uint32_t size;
} text;

// What ends with a zero, without it.
static inline text text_of(const char *words) {
    uint32_t size = 0;
    while (words[size] != 0) size++;
    return (text){words, size};
}

static inline bool same(text a, text b) {
    if (a.size != b.size) return false;
    for (uint32_t k = 0; k < a.size; k++)
        if (a.at[k] != b.at[k]) return false;
    return true;
}

// Takes an ending away, if it is there and something stands before it.
static inline bool cut_ending(text *whole, text ending) {
    if (whole->size <= ending.size) return false;
    const uint32_t stem = whole->size - ending.size;
    if (!same((text){whole->at + stem, ending.size}, ending)) return false;
    whole->size = stem;
    return true;
}
