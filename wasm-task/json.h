// JSON as it is read: in one go, where it lies, each value asked for by its kind.
//
//     for (json_open(&from, '{'); json_next(&from, '}');) {
//         const text key = json_key(&from);
//         … one of json_number, json_string, json_skip, json_open …
//     }
//
// Whoever asks for another kind than there is, or meets what is no JSON, has a reader that has failed: it gives empty values and
// no next ones, so that it is enough to look at json_is_whole() at the end.
#pragma once
#include "text.h"

typedef struct {
    const char *at, *end;
    bool is_first, has_failed;
} json;

static inline json json_of(text told) {
    return (json){told.at, told.at + told.size, false, false};
}

void json_open(json *, char bracket);
bool json_next(json *, char bracket);  // is there another one before this bracket?
text json_key(json *);
text json_string(json *);  // what stands between the quotes, with its escapes
double json_number(json *);
void json_skip(json *);
bool json_count(json, uint32_t *count);  // of the keys of the object that begins here; is it whole?
bool json_is_whole(json *);              // all is read, and was as asked for
