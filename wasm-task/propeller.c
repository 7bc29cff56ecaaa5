// The ABI of Propeller, of which ABI.md says all: a WASI command, the environment in, one JSON object on stdout out.
#include "fault.h"
#include "memory.h"
#include "output.h"
#include "propeller_json.h"
#include "training.h"
#include "wasi.h"

enum { NOT_CONFIGURED = 1, FAILED = 2, NOT_WRITTEN = 3 };

typedef struct {
    uint32_t count;
    char **variables;
} environment;

static bool write_all(int32_t descriptor, text told) {
    for (uint32_t done = 0, written; done < told.size; done += written) {
        const wasi_bytes left = {told.at + done, told.size - done};
        if (fd_write(descriptor, &left, 1, &written) != 0 || written == 0) return false;
    }
    return true;
}

static void drain_to_stdout(output *from) {
    if (!write_all(STDOUT, (text){from->bytes, from->size})) proc_exit(NOT_WRITTEN);
    from->size = 0;
}

static char stdout_bytes[1 << 16];
static output words = {stdout_bytes, 0, sizeof stdout_bytes, drain_to_stdout};

static _Noreturn void leave(int32_t code) {
    write_all(STDERR, fault());
    write_all(STDERR, text_of("\n"));
    proc_exit(code);
}

static bool read_environment(environment *own) {
    uint32_t bytes;
    if (environ_sizes_get(&own->count, &bytes) != 0) return fail("the environment cannot be read");
    own->variables = allocate((own->count + (uint64_t)1) * sizeof(char *));
    char *room = allocate(bytes + (uint64_t)1);
    if (own->variables == 0 || room == 0) return fail_for_memory("the environment");
    return environ_get(own->variables, room) == 0 || fail("the environment cannot be read");
}

// What is empty counts as not set.
static bool has_variable(const environment *own, const char *name, text *value) {
    const uint32_t size = text_of(name).size;
    *value = (text){name, 0};
    for (uint32_t k = 0; k < own->count; k++) {
        const text whole = text_of(own->variables[k]);
        if (whole.size <= size + 1 || whole.at[size] != '=' || !same((text){whole.at, size}, text_of(name))) continue;
        *value = (text){whole.at + size + 1, whole.size - size - 1};
        return true;
    }
    return fail("%s is not set", name);
}

static bool read_and_train(const environment *own, arrays *model, examples *data, fitted *result) {
    text model_text, data_text, told_text;
    hyperparameters told;
    chain layers;
    if (!has_variable(own, "HYPERPARAMS", &told_text)) told_text = text_of("{}");
    return has_variable(own, "MODEL_DATA", &model_text) && has_variable(own, "DATASET_DATA", &data_text) &&
           read_hyperparameters(told_text, false, &told) && read_arrays(model_text, model) &&
           find_chain(model->list, model->count, &layers) && read_dataset(data_text, data) && train(&layers, data, &told, result);
}

static void put_named(const char *name, text value) {
    put_words(&words, name);
    put_string(&words, value);
}

static void put_update(const arrays *model) {
    for (uint32_t k = 0; k < model->count; k++) {
        const array *one = &model->list[k];
        put_words(&words, k == 0 ? "\"" : ",\"");
        put(&words, one->name);  // as it came, so escaped
        put_words(&words, "\":[");
        for (uint64_t place = 0; place < one->count; place++) {
            if (place != 0) put_char(&words, ',');
            put_number(&words, one->values[place]);
        }
        put_char(&words, ']');
    }
}

__attribute__((export_name("_start"))) void _start(void) {
    environment own;
    text round_id, proplet_id, model_uri;
    arrays model;
    examples data;
    fitted result;
    if (!read_environment(&own) || !has_variable(&own, "ROUND_ID", &round_id)) leave(NOT_CONFIGURED);
    if (!read_and_train(&own, &model, &data, &result)) leave(FAILED);
    has_variable(&own, "PROPLET_ID", &proplet_id);  // without a value where there is none
    has_variable(&own, "MODEL_URI", &model_uri);
    put_named("{\"round_id\":", round_id);
    put_named(",\"proplet_id\":", proplet_id);
    put_named(",\"base_model_uri\":", model_uri);
    put_words(&words, ",\"num_samples\":");
    put_count(&words, data.count);
    put_words(&words, ",\"metrics\":{\"loss\":");
    put_number(&words, result.loss);
    put_words(&words, ",\"accuracy\":");
    put_number(&words, result.accuracy);
    put_words(&words, "},\"update\":{");
    put_update(&model);
    put_words(&words, "}}\n");
    drain_to_stdout(&words);
}
