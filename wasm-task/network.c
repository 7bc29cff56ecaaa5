#include "network.h"

#include "fault.h"
#include "memory.h"

// An array of so many numbers; none if it is not wanted.
static bool have(float **array, bool is_wanted, uint64_t numbers) {
    *array = is_wanted ? allocate(numbers * sizeof(float)) : 0;
    return *array != 0 || !is_wanted;
}

static bool make_sheet(network *made, uint32_t place, uint32_t size) {
    sheet *of = &made->sheets[place];
    const bool is_first = place == 0, is_last = place == made->depth;
    const uint64_t rows = made->rows;
    of->size = size;
    of->width = (size + PANEL - 1) / PANEL * PANEL;
    const uint64_t width = of->width;
    if (!have(&of->groups, true, rows * (width + 4)) || !have(&of->quads, !is_last, rows * (width + 4)) ||
        !have(&of->slope_groups, place > 1 || is_last, rows * width) || !have(&of->slope_panels, !is_first, rows * width))
        return false;
    for (uint32_t row = 0; row < made->rows; row++) {
        of->groups[((row / 4) * (of->width + 4) + of->width) * 4 + row % 4] = 1;
        if (of->quads != 0) of->quads[(of->width / 4 * made->rows + row) * 4] = 1;
    }
    return true;
}

static uint32_t place_of(const sheet *inputs, uint32_t input, uint32_t output) {
    return (output / PANEL * (inputs->width + 4) + input) * PANEL + output % PANEL;
}

static bool make_layer(network *made, uint32_t place, const linear *from) {
    layer *of = &made->layers[place];
    const sheet *inputs = &made->sheets[place], *outputs = inputs + 1;
    const uint64_t numbers = (uint64_t)outputs->width * (inputs->width + 4);
    if (!have(&of->weights, true, numbers) || !have(&of->velocities, made->rule.momentum != 0, numbers) ||
        !have(&of->starts, made->rule.proximal_mu != 0, numbers) ||
        !have(&of->turned, place > 0, (uint64_t)outputs->width * inputs->width))
        return false;
    for (uint32_t output = 0; output < from->outputs; output++) {
        for (uint32_t input = 0; input < from->inputs; input++)
            of->weights[place_of(inputs, input, output)] = from->weight[output * from->inputs + input];
        of->weights[place_of(inputs, inputs->width, output)] = from->bias[output];
    }
    if (of->starts != 0)
        for (uint32_t k = 0; k < numbers; k++) of->starts[k] = of->weights[k];
    return true;
}

bool network_begin(network *made, const chain *model, uint32_t batch_size, rule how) {
    made->depth = model->depth;
    made->rows = (batch_size + GROUP - 1) / GROUP * GROUP;
    made->rule = how;
    made->sheets = allocate((model->depth + 1) * (uint64_t)sizeof(sheet));
    made->layers = allocate(model->depth * (uint64_t)sizeof(layer));
    if (made->sheets == 0 || made->layers == 0) return fail_for_memory("the network");
    bool fits = make_sheet(made, 0, model->layers[0].inputs);
    for (uint32_t k = 0; k < model->depth && fits; k++)
        fits = make_sheet(made, k + 1, model->layers[k].outputs) && make_layer(made, k, &model->layers[k]);
    return fits || fail_for_memory("the network");
}

bool network_end(const network *made, const chain *model) {
    float doubt = 0;  // 0 times what is not finite is not 0
    for (uint32_t k = 0; k < model->depth; k++) {
        const sheet *inputs = &made->sheets[k];
        const linear *to = &model->layers[k];
        const float *weights = made->layers[k].weights;
        for (uint32_t output = 0; output < to->outputs; output++) {
            for (uint32_t input = 0; input < to->inputs; input++) {
                const float weight = weights[place_of(inputs, input, output)];
                to->weight[output * to->inputs + input] = weight;
                doubt += weight * 0;
            }
            to->bias[output] = weights[place_of(inputs, inputs->width, output)];
            doubt += to->bias[output] * 0;
        }
    }
    return doubt == 0;
}
