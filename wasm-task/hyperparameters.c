#include "hyperparameters.h"

#include "fault.h"
#include "json.h"

enum { EPOCHS, STEPS, BATCH_SIZE, LR, MOMENTUM, WEIGHT_DECAY, PROXIMAL_MU, SEED, SETTINGS };

#define MOST_WHOLE 9007199254740991.0  // 2**53 - 1: a JSON number holds all whole ones up to it
#define MOST_FLOAT 3.4028234663852886e38

typedef struct {
    const char *name;
    double value, least, most;
    bool is_whole, is_told;
} setting;

static bool read_one(json *from, setting *settings) {
    const text key = json_key(from);
    for (setting *one = settings; one < settings + SETTINGS; one++) {
        if (!same(key, text_of(one->name))) continue;
        one->value = json_number(from);
        one->is_told = true;
        return true;
    }
    return from->has_failed || fail("the hyperparameters have a key that is not known: %t", key);
}

static bool check(const setting *one, bool needs_all) {
    if (needs_all && !one->is_told) return fail("the hyperparameters have no %s", one->name);
    const bool is_fine = one->value >= one->least && one->value <= one->most;
    if (is_fine && !(one->is_whole && one->value != (double)(uint64_t)one->value)) return true;
    if (!one->is_whole)
        return fail("%s needs to be a number from %g to %g, got %g", one->name, one->least, one->most, one->value);
    const uint64_t least = (uint64_t)one->least, most = (uint64_t)one->most;
    return fail("%s needs to be a whole number from %l to %l, got %g", one->name, least, most, one->value);
}

bool read_hyperparameters(text told, bool needs_all, hyperparameters *read) {
    setting settings[SETTINGS] = {
        [EPOCHS] = {"epochs", 1, 0, MOST_WHOLE, true, false},
        [STEPS] = {"steps", 0, 0, MOST_WHOLE, true, false},
        [BATCH_SIZE] = {"batch_size", 16, 1, MOST_WHOLE, true, false},
        [LR] = {"lr", 0.01, 0, MOST_FLOAT, false, false},
        [MOMENTUM] = {"momentum", 0, 0, 1, false, false},
        [WEIGHT_DECAY] = {"weight_decay", 0, 0, MOST_FLOAT, false, false},
        [PROXIMAL_MU] = {"proximal_mu", 0, 0, MOST_FLOAT, false, false},
        [SEED] = {"seed", 0, 0, MOST_WHOLE, true, false},
    };
    json from = json_of(told);
    for (json_open(&from, '{'); json_next(&from, '}');)
        if (!read_one(&from, settings)) return false;
    if (!json_is_whole(&from)) return fail("the hyperparameters are no JSON object of numbers");
    for (const setting *one = settings; one < settings + SETTINGS; one++)
        if (!check(one, needs_all)) return false;
    *read = (hyperparameters){
        .epochs = (uint64_t)settings[EPOCHS].value,
        .steps = (uint64_t)settings[STEPS].value,
        .batch_size = (uint64_t)settings[BATCH_SIZE].value,
        .lr = (float)settings[LR].value,
        .momentum = (float)settings[MOMENTUM].value,
        .weight_decay = (float)settings[WEIGHT_DECAY].value,
        .proximal_mu = (float)settings[PROXIMAL_MU].value,
        .seed = (uint64_t)settings[SEED].value,
    };
    return read->epochs != 0 || read->steps != 0 || fail("epochs and steps are both 0: one of them needs to be at least 1");
}
