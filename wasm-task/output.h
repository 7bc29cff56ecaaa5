// JSON as it is written: into a buffer that somebody drains, or that is all there is.
#pragma once
#include "text.h"

typedef struct output {
    char *bytes;
    uint32_t size, room;
    void (*drain)(struct output *);  // sets size to 0; none: what does not fit is left out
} output;

void put(output *, text);
void put_char(output *, char);
void put_words(output *, const char *);
void put_string(output *, text);  // between quotes, escaped
void put_count(output *, uint64_t);
void put_number(output *, double);  // finite, 9 digits: a float32 comes back bit for bit
