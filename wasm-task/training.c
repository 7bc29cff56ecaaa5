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
        return fail("an example has %u features, and layer %t takes %u", (uint64_t)data->features, first->name, (uint64_t)first->inputs);
    for (uint32_t k = 0; k < data->count; k++)
        if ((uint32_t)data->labels[k] >= last->outputs)
            return fail("label %d of example %u is none of 0 to %u", data->labels[k], (uint64_t)k, (uint64_t)last->outputs - 1);
    for (const linear *each = first; each <= last; each++)
        if (!is_finite(each->weight, (uint64_t)each->inputs * each->outputs) || !is_finite(each->bias, each->outputs))
            return fail("layer %t arrived with what is no finite number", each->name);
    return true;
}

// The examples are looked at only now: each of them, and 188 MB of pictures cost 5 % of an epoch.
static bool fail_for_numbers(const examples *data) {
    for (uint32_t k = 0; k < data->count; k++)
        if (!is_finite(data->x + (uint64_t)k * data->features, data->features))
            return fail("example %u holds what is no finite number", (uint64_t)k);
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

bool train(const chain *model, const examples *data, const hyperparameters *told, fitted *result) {
    if (!check(model, data)) return false;
    const uint32_t size = told->batch_size < data->count ? (uint32_t)told->batch_size : data->count;
    const rule how = {told->lr, told->momentum, told->weight_decay, told->proximal_mu};
    network net;
    if (!network_begin(&net, model, size, how)) return false;
    uint32_t *places = allocate(data->count * (uint64_t)sizeof(uint32_t));
    if (places == 0) return fail_for_memory("the order of the examples");
    for (uint32_t k = 0; k < data->count; k++) places[k] = k;

    uint64_t random = told->seed, seen = 0, steps = 0;
    score sum = {0, 0};
    for (uint64_t epoch = 0; epoch < told->epochs || told->epochs == 0; epoch++) {
        shuffle(places, data->count, &random);
        for (uint32_t first = 0; first < data->count; first += size) {
            if (told->steps != 0 && steps == told->steps) goto done;
            const uint32_t count = data->count - first < size ? data->count - first : size;
            step(&net, data, places + first, count, &sum);
            seen += count;
            steps++;
        }
    }
done:
    if (!network_end(&net, model) || sum.loss * 0 != 0) return fail_for_numbers(data);
    *result = (fitted){sum.loss / (double)seen, (double)sum.hits / (double)seen, steps};
    return true;
}
