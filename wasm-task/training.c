#include "training.h"

#include "fault.h"
#include "memory.h"
#include "numbers.h"

static bool is_finite(const float *numbers, uint64_t count) {
    float doubt = 0;  // 0 times what is not finite is not 0
    for (uint64_t k = 0; k < count; k++) doubt += numbers[k] * 0;
    return doubt == 0;
}

static bool check(const chain *model, const examples *data) {
    const linear *first = &model->layers[0], *last = &model->layers[model->depth - 1];
    if (data->count == 0) return fail("there is no example to train on");
    if (data->features != first->inputs)
        return fail("an example has %u features, and layer %t takes %u", data->features, first->name, first->inputs);
    for (uint32_t k = 0; k < data->count; k++)
        if ((uint32_t)data->labels[k] >= last->outputs)
            return fail("label %d of example %u is none of 0 to %u", data->labels[k], k, last->outputs - 1);
    for (const linear *each = first; each <= last; each++)
        if (!is_finite(each->weight, (uint64_t)each->inputs * each->outputs) || !is_finite(each->bias, each->outputs))
            return fail("layer %t arrived with what is no finite number", each->name);
    return true;
}

// The examples are looked at only now: one that is not finite always spoils the weights of its inputs, by 0 times it at least.
static bool fail_for_numbers(const examples *data) {
    for (uint32_t k = 0; k < data->count; k++)
        if (!is_finite(data->x + k * data->features, data->features)) return fail("example %u holds what is no finite number", k);
    return fail("training has left the finite numbers: a smaller lr may help");
}

// Fisher and Yates's, with a bias below 2**-32 times the count.
static void shuffle(uint32_t *places, uint32_t count, uint64_t *random) {
    for (uint32_t left = count; left > 1; left--) {
        const uint32_t chosen = (uint32_t)((next_random(random) >> 32) * left >> 32), last = places[left - 1];
        places[left - 1] = places[chosen];
        places[chosen] = last;
    }
}

static uint64_t steps_of(const hyperparameters *told, uint64_t steps_of_epoch) {
    const uint64_t steps = told->steps, most_epochs = UINT64_MAX / steps_of_epoch;
    const uint64_t of_epochs = (told->epochs < most_epochs ? told->epochs : most_epochs) * steps_of_epoch;
    if (steps == 0 || of_epochs == 0) return steps + of_epochs;
    return steps < of_epochs ? steps : of_epochs;
}

bool train(const chain *model, const examples *data, const hyperparameters *told, fitted *result) {
    if (!check(model, data)) return false;
    const uint32_t size = told->batch_size < data->count ? (uint32_t)told->batch_size : data->count;
    network net;
    if (!network_begin(&net, model, size, (rule){told->lr, told->momentum, told->weight_decay, told->proximal_mu})) return false;
    uint32_t *places = allocate(data->count * (uint64_t)sizeof(uint32_t));
    if (places == 0) return fail_for_memory("the order of the examples");
    for (uint32_t k = 0; k < data->count; k++) places[k] = k;

    const uint64_t steps_of_epoch = (data->count - 1) / size + 1, steps = steps_of(told, steps_of_epoch);
    uint64_t random = told->seed, seen = 0;
    score sum = {0, 0};
    for (uint64_t done = 0; done < steps; done++) {
        const uint32_t first = (uint32_t)(done % steps_of_epoch) * size, left = data->count - first;
        const uint32_t count = left < size ? left : size;
        if (first == 0) shuffle(places, data->count, &random);
        step(&net, data, places + first, count, &sum);
        seen += count;
    }
    if (!network_end(&net, model) || sum.loss * 0 != 0) return fail_for_numbers(data);
    *result = (fitted){sum.loss / (double)seen, (double)sum.hits / (double)seen, steps};
    return true;
}
