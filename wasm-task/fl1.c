// The ABI fl/1, of which ABI.md says all: no import, tensors in place, a report in JSON.
#include "fault.h"
#include "memory.h"
#include "output.h"
#include "tensors.h"
#include "training.h"

#define EXPORT(name) __attribute__((export_name(#name)))

static char report[2048];
static output words = {report, 0, sizeof report, 0};

EXPORT(fl_abi) int32_t fl_abi(void) {
    return 1;
}

EXPORT(fl_alloc) void *fl_alloc(uint32_t bytes) {
    return allocate(bytes);
}

static bool read_model(char *blob, uint32_t size, chain *model) {
    tensors found;
    if (!read_tensors("the model", blob, size, &found)) return false;
    array *arrays = allocate((found.count + 1) * (uint64_t)sizeof(array));
    if (arrays == 0) return fail_for_memory("the list of arrays");
    for (uint32_t k = 0; k < found.count; k++) {
        const tensor *one = &found.list[k];
        if (!same(one->dtype, text_of("F32")))
            return fail("tensor %t of the model is %t, and needs to be F32", one->name, one->dtype);
        if (one->rank == 0) return fail("tensor %t of the model has no dimension", one->name);
        arrays[k] = (array){one->name, (float *)one->bytes, one->count, one->rank, {one->shape[0], one->shape[1]}};
    }
    return find_chain(arrays, found.count, model);
}

static bool read_examples(char *blob, uint32_t size, examples *data) {
    tensors found;
    if (!read_tensors("the data", blob, size, &found)) return false;
    const tensor *x = find_tensor(&found, "x"), *y = find_tensor(&found, "y");
    if (x == 0 || x->rank != 2 || !same(x->dtype, text_of("F32"))) return fail("the data need x, F32 of 2 dimensions");
    if (y == 0 || y->rank != 1 || !same(y->dtype, text_of("I32"))) return fail("the data need y, I32 of 1 dimension");
    if (x->shape[0] != y->shape[0]) return fail("there are %l examples in x, and %l labels in y", x->shape[0], y->shape[0]);
    *data = (examples){(const float *)x->bytes, (const int32_t *)y->bytes, (uint32_t)x->shape[0], (uint32_t)x->shape[1]};
    return true;
}

static void put_fitted(const fitted *result) {
    put_words(&words, "{\"metrics\":{\"loss\":");
    put_number(&words, result->loss);
    put_words(&words, ",\"accuracy\":");
    put_number(&words, result->accuracy);
    put_words(&words, "},\"steps\":");
    put_count(&words, result->steps);
    put_words(&words, "}");
}

static void put_fault(void) {
    put_words(&words, "{\"error\":");
    put_string(&words, fault());
    put_words(&words, "}");
}

EXPORT(fl_train)
uint64_t fl_train(const char *config, uint32_t config_size, char *model, uint32_t model_size, char *data, uint32_t data_size) {
    hyperparameters told;
    chain layers;
    examples own;
    fitted result;
    words.size = 0;
    const bool is_done = read_hyperparameters((text){config, config_size}, true, &told) &&
                         read_model(model, model_size, &layers) && read_examples(data, data_size, &own) &&
                         train(&layers, &own, &told, &result);
    if (is_done) put_fitted(&result);
    else put_fault();
    return (uint64_t)(uintptr_t)report << 32 | words.size;
}
