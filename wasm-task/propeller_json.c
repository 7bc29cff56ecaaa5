#include "propeller_json.h"

#include "fault.h"
#include "json.h"
#include "memory.h"

static const char SCHEMA[] = "fl-demo-dataset-v1";

// How many values the list that comes next has at most: one more than commas before its end.
static uint32_t room_of_list(const json *from) {
    uint32_t commas = 0;
    for (const char *at = from->at; at < from->end && *at != ']'; at++) commas += *at == ',';
    return commas + 1;
}

// Gives how many numbers there are, of which the first `room` are written.
static uint32_t read_floats(json *from, float *to, uint32_t room) {
    uint32_t count = 0;
    for (json_open(from, '['); json_next(from, ']'); count++) {
        const float number = (float)json_number(from);
        if (count < room) to[count] = number;
    }
    return count;
}

bool read_arrays(text told, arrays *found) {
    json from = json_of(told);
    uint32_t count;
    if (!json_count(from, &count)) return fail("MODEL_DATA is no JSON object");
    *found = (arrays){0, allocate((count + (uint64_t)1) * sizeof(array))};
    if (found->list == 0) return fail_for_memory("the list of arrays");
    for (json_open(&from, '{'); json_next(&from, '}');) {
        array *one = &found->list[found->count++];
        one->name = json_key(&from);
        const uint32_t room = room_of_list(&from);
        one->values = allocate(room * (uint64_t)sizeof(float));
        if (one->values == 0) return fail_for_memory("the model");
        one->count = read_floats(&from, one->values, room);
        if (from.has_failed) return fail("MODEL_DATA: array %t is no list of numbers", one->name);
    }
    return json_is_whole(&from) || fail("MODEL_DATA is no JSON object of lists of numbers");
}

// Examples as they come; there are no more of them than opening braces.
typedef struct {
    float *x;
    int32_t *labels;
    uint32_t count, features, room;
} dataset;

static bool make_room(dataset *to, const json *from) {
    to->features = room_of_list(from);
    to->room = 1;  // for the one that has begun
    for (const char *at = from->at; at < from->end; at++) to->room += *at == '{';
    to->x = allocate((uint64_t)to->room * to->features * sizeof(float));
    to->labels = allocate(to->room * (uint64_t)sizeof(int32_t));
    return (to->x != 0 && to->labels != 0) || fail_for_memory("the examples");
}

static bool read_x(json *from, dataset *to) {
    const uint32_t place = to->count;
    const bool is_first = to->x == 0;
    if (is_first && !make_room(to, from)) return false;
    const uint32_t count = read_floats(from, to->x + (uint64_t)place * to->features, to->features);
    if (is_first) to->features = count;
    if (from->has_failed || count == 0) return fail("DATASET_DATA: x of example %u is no list of numbers", place);
    if (count == to->features) return true;
    return fail("DATASET_DATA: example %u has %u values in x, and the first one %u", place, count, to->features);
}

static bool read_label(json *from, uint32_t place, int32_t *label) {
    const double number = json_number(from);
    const bool is_in_range = !from->has_failed && number >= INT32_MIN && number <= INT32_MAX;
    if (!is_in_range || number != (int32_t)number) return fail("DATASET_DATA: y of example %u is no whole number", place);
    *label = (int32_t)number;
    return true;
}

static bool read_example(json *from, dataset *to) {
    bool has_x = false, has_label = false;
    int32_t label = 0;
    for (json_open(from, '{'); json_next(from, '}');) {
        const text key = json_key(from);
        if (!has_x && same(key, text_of("x"))) {
            has_x = true;
            if (!read_x(from, to)) return false;
        } else if (!has_label && same(key, text_of("y"))) {
            has_label = true;
            if (!read_label(from, to->count, &label)) return false;
        } else {
            json_skip(from);
        }
    }
    if (from->has_failed) return true;  // the caller says so
    if (!has_x || !has_label) return fail("DATASET_DATA: example %u has no %s", to->count, has_x ? "y" : "x");
    to->labels[to->count++] = label;
    return true;
}

bool read_dataset(text told, examples *data) {
    dataset found = {0, 0, 0, 0, 0};
    json from = json_of(told);
    double size = -1;
    for (json_open(&from, '{'); json_next(&from, '}');) {
        const text key = json_key(&from);
        if (same(key, text_of("data"))) {
            for (json_open(&from, '['); json_next(&from, ']');)
                if (!read_example(&from, &found)) return false;
        } else if (same(key, text_of("schema"))) {
            const text schema = json_string(&from);
            if (!same(schema, text_of(SCHEMA))) return fail("DATASET_DATA has the schema %t, and needs %s", schema, SCHEMA);
        } else if (same(key, text_of("size"))) {
            size = json_number(&from);
        } else {
            json_skip(&from);
        }
    }
    if (!json_is_whole(&from)) return fail("DATASET_DATA is no JSON object with examples in data");
    if (size >= 0 && size != found.count) return fail("DATASET_DATA has %u examples, and its size is %g", found.count, size);
    *data = (examples){found.x, found.labels, found.count, found.features};
    return true;
}
