#include "tensors.h"

#include "fault.h"
#include "json.h"
#include "memory.h"

#define MOST_COUNT (UINT64_C(1) << 32)  // of elements: more do not fit a memory, and products of them stay below 2**64

static uint64_t read_whole(json *from) {
    const double number = json_number(from);
    return number >= 0 && number <= 0x1p53 && number == (double)(uint64_t)number ? (uint64_t)number : UINT64_MAX;
}

static void read_shape(json *from, tensor *one) {
    one->shape[0] = one->shape[1] = one->count = 1;
    for (json_open(from, '['); json_next(from, ']'); one->rank++) {
        const uint64_t size = read_whole(from);
        if (one->rank < 2) one->shape[one->rank] = size;
        one->count = size > MOST_COUNT || one->count > MOST_COUNT ? UINT64_MAX : one->count * size;
    }
}

// Reads {"dtype", "shape", "data_offsets"} of a tensor whose bytes begin at `begin`, and gives where they end.
static bool read_one(const char *what, json *from, tensor *one, uint64_t begin, uint64_t *end) {
    uint64_t offsets[2] = {UINT64_MAX, UINT64_MAX};
    bool has_shape = false;
    for (json_open(from, '{'); json_next(from, '}');) {
        const text key = json_key(from);
        if (same(key, text_of("dtype"))) {
            one->dtype = json_string(from);
        } else if (same(key, text_of("shape"))) {
            one->rank = 0;
            read_shape(from, one);
            has_shape = true;
        } else if (same(key, text_of("data_offsets"))) {
            uint32_t place = 0;
            for (json_open(from, '['); json_next(from, ']'); place++) {
                const uint64_t offset = read_whole(from);
                if (place < 2) offsets[place] = offset;
            }
        } else {
            json_skip(from);
        }
    }
    if (from->has_failed) return true;  // the caller says so
    if (one->dtype.size == 0 || !has_shape || offsets[1] == UINT64_MAX)
        return fail("%s: tensor %t lacks a dtype, a shape or data_offsets", what, one->name);
    if (offsets[0] != begin || offsets[1] < begin)
        return fail("%s: tensor %t does not begin where the one before it ends, at %l", what, one->name, begin);
    one->size = offsets[1] - begin;
    *end = offsets[1];
    return true;
}

// Is each element of a tensor of four-byte numbers there, and where it can be read?
static bool check(const char *what, const tensor *one) {
    if (!same(one->dtype, text_of("F32")) && !same(one->dtype, text_of("I32"))) return true;
    if (one->count > MOST_COUNT || one->count * 4 != one->size)
        return fail("%s: tensor %t has %l bytes, which is not what its shape needs", what, one->name, one->size);
    if ((uintptr_t)one->bytes % 4 != 0) return fail("%s: tensor %t does not begin on a multiple of 4 bytes", what, one->name);
    return true;
}

bool read_tensors(const char *what, char *blob, uint32_t size, tensors *found) {
    uint64_t header = 0;
    for (uint32_t k = 0; k < 8 && k < size; k++) header |= (uint64_t)(unsigned char)blob[k] << 8 * k;
    if (size < 8 || header > size - 8) return fail("%s: the header is longer than the %u bytes that there are", what, size);
    json from = json_of((text){blob + 8, (uint32_t)header});
    const uint64_t room = size - 8 - header;
    uint32_t most;
    if (!json_count(from, &most)) return fail("%s: the header is no JSON object of tensors", what);
    *found = (tensors){0, allocate((most + (uint64_t)1) * sizeof(tensor))};
    if (found->list == 0) return fail_for_memory("the list of tensors");
    uint64_t begin = 0;
    for (json_open(&from, '{'); json_next(&from, '}');) {
        const text name = json_key(&from);
        if (same(name, text_of("__metadata__"))) {
            json_skip(&from);
            continue;
        }
        uint64_t end = begin;
        tensor *one = &found->list[found->count++];
        *one = (tensor){.name = name, .bytes = blob + 8 + header + begin};
        if (!read_one(what, &from, one, begin, &end)) return false;
        if (end > room) return fail("%s: tensor %t ends beyond the %l bytes that there are", what, name, room);
        if (!from.has_failed && !check(what, one)) return false;
        begin = end;
    }
    if (!json_is_whole(&from)) return fail("%s: the header is no JSON object of tensors", what);
    if (begin != room) return fail("%s: %l bytes follow the last tensor", what, room - begin);
    return true;
}

const tensor *find_tensor(const tensors *found, const char *name) {
    for (uint32_t k = 0; k < found->count; k++)
        if (same(found->list[k].name, text_of(name))) return &found->list[k];
    return 0;
}
