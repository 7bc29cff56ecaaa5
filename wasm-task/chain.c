#include "chain.h"

#include "fault.h"
#include "memory.h"

static const char WEIGHT[] = ".weight", BIAS[] = ".bias";

static const array *find(const array *arrays, uint32_t count, text stem, const char *ending) {
    for (uint32_t k = 0; k < count; k++) {
        text name = arrays[k].name;
        if (cut_ending(&name, text_of(ending)) && same(name, stem)) return &arrays[k];
    }
    return 0;
}

// Makes a layer of two arrays; a flat weight has as many rows as there are biases.
static bool join(text name, const array *weight, const array *bias, linear *layer) {
    if (bias->rank > 1) return fail("array %t has %u dimensions, and needs 1", bias->name, bias->rank);
    if (weight->rank != 0 && weight->rank != 2)
        return fail("array %t has %u dimensions, and needs 2", weight->name, weight->rank);
    if (bias->count == 0 || weight->count == 0) return fail("layer %t is empty", name);
    const uint64_t outputs = weight->rank == 0 ? bias->count : weight->shape[0], inputs = weight->count / bias->count;
    if (outputs != bias->count) return fail("layer %t has %l rows of weights, and %l biases", name, outputs, bias->count);
    if (inputs * outputs != weight->count)
        return fail("layer %t has %l weights, which is no multiple of its %l biases", name, weight->count, outputs);
    *layer = (linear){name, (uint32_t)inputs, (uint32_t)outputs, weight->values, bias->values};
    return true;
}

static bool check(const chain *found) {
    if (found->depth == 0) return fail("the model has no layer");
    const linear *last = &found->layers[found->depth - 1];
    for (const linear *above = &found->layers[1]; above <= last; above++)
        if (above->inputs != above[-1].outputs)
            return fail("layer %t takes %u values, and layer %t before it gives %u", above->name, above->inputs, above[-1].name,
                        above[-1].outputs);
    return last->outputs > 1 || fail("the last layer, %t, has 1 output, and needs one for each class", last->name);
}

bool find_chain(const array *arrays, uint32_t count, chain *found) {
    *found = (chain){0, allocate((count / 2 + (uint64_t)1) * sizeof(linear))};
    if (found->layers == 0) return fail_for_memory("the layers");
    for (const array *each = arrays; each < arrays + count; each++) {
        text stem = each->name;
        const bool is_weight = cut_ending(&stem, text_of(WEIGHT)), is_bias = !is_weight && cut_ending(&stem, text_of(BIAS));
        if (!is_weight && !is_bias) return fail("array %t is no %s and no %s of a linear layer", each->name, WEIGHT, BIAS);
        const array *other = find(arrays, count, stem, is_weight ? BIAS : WEIGHT);
        if (other == 0) return fail("array %t has no %s beside it", each->name, is_weight ? BIAS : WEIGHT);
        if (find(arrays, count, stem, is_weight ? WEIGHT : BIAS) != each) return fail("two arrays are named %t", each->name);
        if (is_weight && !join(stem, each, other, &found->layers[found->depth++])) return false;
    }
    return check(found);
}
