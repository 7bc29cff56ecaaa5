#include "passes.h"

#include "numbers.h"

// No memcpy: for rows of this size a memory.copy, which is a call of the host's, costs more than it saves.
static void gather(const network *net, const examples *data, const uint32_t *places, uint32_t count) {
    const sheet *to = &net->sheets[0];
    const uint32_t features = data->features, quad = net->rows * 4;
    for (uint32_t first = 0; first < count; first += GROUP) {
        float *group = to->groups + first * (to->width + 4), *quads = to->quads + first * 4;
        const float *rows[GROUP];
        for (uint32_t row = 0; row < GROUP; row++)  // a group that is not full has its last example more than once, and no gradient
            rows[row] = data->x + (uint64_t)places[first + row < count ? first + row : count - 1] * features;
        uint32_t k = 0;
        for (; k + 4 <= features; k += 4, quads += quad) {
            const f4 a = load(rows[0] + k), b = load(rows[1] + k), c = load(rows[2] + k), d = load(rows[3] + k);
            store(quads, a);
            store(quads + 4, b);
            store(quads + 8, c);
            store(quads + 12, d);
            store_turned(group + k * 4, a, b, c, d);
        }
        for (; k < features; k++)
            for (uint32_t row = 0; row < GROUP; row++) quads[row * 4 + k % 4] = group[k * 4 + row] = rows[row][k];
    }
}

ON_ITS_OWN void forward_tile(uint32_t steps, const float *group, const float *weights, float *to_group, float *to_quads, uint32_t quad) {
    tile sums = multiply(steps, group, weights);
    if (to_quads != 0) {  // a hidden layer
        for (int row = 0; row < GROUP; row++)
            for (int half = 0; half < 2; half++) {
                sums.at[2 * row + half] = select(sums.at[2 * row + half] > 0.0f, sums.at[2 * row + half], four(0));
                store(to_quads + (uint32_t)half * quad + row * 4, sums.at[2 * row + half]);
            }
    }
    for (int half = 0; half < 2; half++)
        store_turned(to_group + half * 16, sums.at[half], sums.at[2 + half], sums.at[4 + half], sums.at[6 + half]);
}

static void forward(const network *net, uint32_t place, uint32_t count) {
    const sheet *from = &net->sheets[place], *to = from + 1;
    const uint32_t columns = from->width + 4, to_columns = to->width + 4, quad = net->rows * 4;
    for (uint32_t panel = 0; panel < panels_of(to); panel++) {
        const float *weights = net->layers[place].weights + panel * columns * PANEL;
        for (uint32_t first = 0; first < count; first += GROUP) {
            float *group = to->groups + (first / GROUP * to_columns + panel * PANEL) * GROUP;
            float *quads = to->quads == 0 ? 0 : to->quads + 2 * panel * quad + first * 4;
            forward_tile(from->width + 1, from->groups + first * columns, weights, group, quads, quad);
        }
    }
}

// Softmax and the mean cross-entropy of four examples: adds to the score, and writes the gradient.
static void answer(const sheet *last, const float *logits, float *slopes, const int32_t *labels, uint32_t live, float share, score *told) {
    f4 most = load(logits), sum = four(0);
    i4 best = {0};
    for (uint32_t k = 1; k < last->size; k++) {
        const f4 logit = load(logits + k * 4);
        const i4 is_more = logit > most, here = {(int)k, (int)k, (int)k, (int)k};
        most = select(is_more, logit, most);
        best = (is_more & here) | (~is_more & best);
    }
    for (uint32_t k = 0; k < last->size; k++) {
        const f4 part = exp_of_four(load(logits + k * 4) - most);
        store(slopes + k * 4, part);
        sum += part;
    }
    const i4 lanes = {0, 1, 2, 3}, is_live = lanes < (int)live;
    const f4 scale = select(is_live, share / sum, four(0));
    for (uint32_t k = 0; k < last->size; k++) store(slopes + k * 4, load(slopes + k * 4) * scale);
    for (uint32_t row = 0; row < live; row++) {
        const uint32_t label = (uint32_t)labels[row];
        told->loss += log_of(sum[row]) + (most[row] - logits[label * 4 + row]);
        told->hits += (uint32_t)best[row] == label;
        slopes[label * 4 + row] -= share;
    }
}

static void answer_all(const network *net, const examples *data, const uint32_t *places, uint32_t count, score *told) {
    const sheet *last = &net->sheets[net->depth];
    for (uint32_t first = 0; first < count; first += GROUP) {
        const uint32_t live = count - first < GROUP ? count - first : GROUP;
        int32_t labels[GROUP];
        for (uint32_t row = 0; row < live; row++) labels[row] = data->labels[places[first + row]];
        float *slopes = last->slope_groups + first * last->width;
        answer(last, last->groups + first * (last->width + 4), slopes, labels, live, 1 / (float)count, told);
        for (uint32_t k = 0; k < last->width; k += 4) {
            float *panel = last->slope_panels + (k / PANEL * net->rows + first) * PANEL + k % PANEL;
            float turned[16];
            store_turned(turned, load(slopes + k * 4), load(slopes + k * 4 + 4), load(slopes + k * 4 + 8), load(slopes + k * 4 + 12));
            for (int row = 0; row < GROUP; row++) store(panel + row * PANEL, load(turned + row * 4));
        }
    }
}

ON_ITS_OWN void backward_tile(uint32_t steps, const float *slopes, const float *turned, const float *quads, uint32_t quad, float *to_panel, float *to_group) {
    tile sums = multiply(steps, slopes, turned);
    for (int row = 0; row < GROUP; row++)
        for (int half = 0; half < 2; half++) {
            sums.at[2 * row + half] = select(load(quads + (uint32_t)half * quad + row * 4) > 0.0f, sums.at[2 * row + half], four(0));
            store(to_panel + row * PANEL + half * 4, sums.at[2 * row + half]);
        }
    if (to_group == 0) return;
    for (int half = 0; half < 2; half++)
        store_turned(to_group + half * 16, sums.at[half], sums.at[2 + half], sums.at[4 + half], sums.at[6 + half]);
}

static void turn(const network *net, uint32_t place) {
    const sheet *from = &net->sheets[place], *to = from + 1;
    const layer *of = &net->layers[place];
    for (uint32_t output = 0; output < to->width; output += 4)
        for (uint32_t input = 0; input < from->width; input += 4) {
            const float *weights = of->weights + (output / PANEL * (from->width + 4) + input) * PANEL + output % PANEL;
            float *turned = of->turned + (input / PANEL * to->width + output) * PANEL + input % PANEL;
            float block[16];
            store_turned(block, load(weights), load(weights + PANEL), load(weights + 2 * PANEL), load(weights + 3 * PANEL));
            for (int row = 0; row < 4; row++) store(turned + row * PANEL, load(block + row * 4));
        }
}

static void backward(const network *net, uint32_t place, uint32_t count) {
    const sheet *to = &net->sheets[place], *from = to + 1;
    const uint32_t quad = net->rows * 4;
    turn(net, place);
    for (uint32_t panel = 0; panel < panels_of(to); panel++) {
        const float *turned = net->layers[place].turned + panel * from->width * PANEL;
        for (uint32_t first = 0; first < count; first += GROUP) {
            float *group = to->slope_groups == 0 ? 0 : to->slope_groups + first * to->width + panel * PANEL * GROUP;
            const float *quads = to->quads + 2 * panel * quad + first * 4;
            float *to_panel = to->slope_panels + (panel * net->rows + first) * PANEL;
            backward_tile(from->size, from->slope_groups + first * from->width, turned, quads, quad, to_panel, group);
        }
    }
}

// The gradient by four inputs' weights to eight outputs, and what the rule makes of it.
ON_ITS_OWN void update_tile(uint32_t steps, const float *quad, const float *slopes, float *weights, float *velocities, const float *starts, const rule *how) {
    tile sums = multiply(steps, quad, slopes);
    if (how->weight_decay != 0)
        for (int k = 0; k < 8; k++) sums.at[k] += load(weights + k * 4) * how->weight_decay;
    if (starts != 0)
        for (int k = 0; k < 8; k++) sums.at[k] += (load(weights + k * 4) - load(starts + k * 4)) * how->proximal_mu;
    if (velocities != 0)
        for (int k = 0; k < 8; k++) {
            sums.at[k] += load(velocities + k * 4) * how->momentum;
            store(velocities + k * 4, sums.at[k]);
        }
    for (int k = 0; k < 8; k++) store(weights + k * 4, load(weights + k * 4) - sums.at[k] * how->lr);
}

static void update(const network *net, uint32_t place, uint32_t count) {
    const sheet *from = &net->sheets[place], *to = from + 1;
    const layer *of = &net->layers[place];
    const uint32_t steps = (count + GROUP - 1) / GROUP * GROUP;
    for (uint32_t panel = 0; panel < panels_of(to); panel++)
        for (uint32_t quad = 0; quad < quads_of(from); quad++) {
            const uint32_t at = (panel * (from->width + 4) + quad * 4) * PANEL;
            float *velocities = of->velocities == 0 ? 0 : of->velocities + at;
            const float *starts = of->starts == 0 ? 0 : of->starts + at;
            update_tile(steps, from->quads + quad * net->rows * 4, to->slope_panels + panel * net->rows * PANEL, of->weights + at, velocities, starts, &net->rule);
        }
}

void step(const network *net, const examples *data, const uint32_t *places, uint32_t count, score *told) {
    gather(net, data, places, count);
    for (uint32_t k = 0; k < net->depth; k++) forward(net, k, count);
    answer_all(net, data, places, count, told);
    for (uint32_t k = net->depth; k-- > 0;) {
        if (k > 0) backward(net, k, count);
        update(net, k, count);
    }
}
