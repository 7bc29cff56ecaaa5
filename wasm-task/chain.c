#include "chain.h"

#include "fault.h"
#include "memory.h"

static const array *find(const array *arrays, uint32_t count, text stem, const char *ending) {
    for (uint32_t k = 0; k < count; k++) {
        text name = arrays[k].name;
        if (cut_ending(&name, text_of(ending)) && same(name, stem)) return &arrays[k];
    }
    return 0;
}

static bool join(text stem, const array *weight, const array *bias, linear *layer) {
    if (bias->rank > 1) return fail("array %t has %u dimensions, and needs 1", bias->name, (uint64_t)bias->rank);
    if (bias->count == 0 || weight->count == 0) return fail("layer %t is empty", stem);
    uint64_t outputs = bias->count, inputs = weight->count / outputs;
    if (weight->rank != 0) {
        if (weight->rank != 2) return fail("array %t has %u dimensions, and needs 2", weight->name, (uint64_t)weight->rank);
        if (weight->shape[0] != outputs)
            return fail("array %t has %u rows, and array %t %u values", weight->name, weight->shape[0], bias->name, outputs);
    }
    if (inputs * outputs != weight->count)
        return fail("array %t has %u values, which is no multiple of the %u of array %t", weight->name, weight->count, outputs, bias->name);
    *layer = (linear){stem, (uint32_t)inputs, (uint32_t)outputs, weight->values, bias->values};
    return true;
}

bool find_chain(const array *arrays, uint32_t count, chain *found) {
    *found = (chain){0, allocate((count / 2 + 1) * (uint64_t)sizeof(linear))};
    if (found->layers == 0) return fail_for_memory("the layers");
    for (uint32_t k = 0; k < count; k++) {
        text stem = arrays[k].name;
        if (cut_ending(&stem, text_of(".bias"))) {
            if (find(arrays, count, stem, ".weight") == 0) return fail("array %t has no %t.weight beside it", arrays[k].name, stem);
            continue;
        }
        if (!cut_ending(&stem, text_of(".weight")))
            return fail("array %t is neither the .weight nor the .bias of a linear layer", arrays[k].name);
        const array *bias = find(arrays, count, stem, ".bias");
        if (bias == 0) return fail("array %t has no %t.bias beside it", arrays[k].name, stem);
        if (found->depth == count / 2) return fail("two arrays are named %t", arrays[k].name);
        linear *layer = &found->layers[found->depth++];
        if (!join(stem, &arrays[k], bias, layer)) return false;
        if (found->depth == 1) continue;
        const linear *below = layer - 1;
        if (layer->inputs != below->outputs)
            return fail("layer %t takes %u values, and layer %t before it gives %u", stem, (uint64_t)layer->inputs, below->name, (uint64_t)below->outputs);
    }
    if (found->depth == 0) return fail("the model has no layer");
    if (2 * found->depth != count) return fail("two arrays have the same name");
    const linear *last = &found->layers[found->depth - 1];
    if (last->outputs < 2) return fail("layer %t, the last one, has 1 output, and cross-entropy needs one for each class", last->name);
    return true;
}
