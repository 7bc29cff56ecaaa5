#include "passes.h"

#include "numbers.h"

static uint32_t size_of_quad(const network *net) {
    return net->rows * 4;
}

static uint32_t columns_of(const sheet *of) {
    return of->width + 4;
}

// No memcpy: for rows of this size a memory.copy, which is a call of the host's, costs more than it saves.
static void gather(const network *net, const examples *data, const uint32_t *places, uint32_t count) {
    const sheet *to = &net->sheets[0];
    const uint32_t features = data->features;
    for (uint32_t first = 0; first < count; first += GROUP) {
        float *group = to->groups + first * columns_of(to), *quads = to->quads + first * 4;
        const float *rows[GROUP];
        for (uint32_t row = 0; row < GROUP; row++) {  // the last one again where a group is not full; it has no gradient then
            const uint32_t place = first + row < count ? first + row : count - 1;
            rows[row] = data->x + places[place] * features;
        }
        uint32_t k = 0;
        for (; k + 4 <= features; k += 4, quads += size_of_quad(net)) {
            const f4 block[GROUP] = {load(rows[0] + k), load(rows[1] + k), load(rows[2] + k), load(rows[3] + k)};
            for (int row = 0; row < GROUP; row++) store(quads + row * 4, block[row]);
            store_turned(group + k * GROUP, GROUP, block[0], block[1], block[2], block[3]);
        }
        for (; k < features; k++)
            for (uint32_t row = 0; row < GROUP; row++) quads[row * 4 + k % 4] = group[k * GROUP + row] = rows[row][k];
    }
}

ALWAYS_INLINE void store_group(float *group, const tile *of) {
    for (int half = 0; half < 2; half++)
        store_turned(group + half * 16, GROUP, of->at[half], of->at[2 + half], of->at[4 + half], of->at[6 + half]);
}

// quads: none behind the last layer, after which there is no ReLU either; next: from a quad to the next one.
ON_ITS_OWN void forward_tile(uint32_t steps, const float *from, const float *weights, float *group, float *quads, uint32_t next) {
    tile sums = multiply(steps, from, weights);
    if (quads != 0)
        for (int k = 0; k < 8; k++) {
            sums.at[k] = select(sums.at[k] > 0.0f, sums.at[k], four(0));
            store(quads + k % 2 * next + k / 2 * 4, sums.at[k]);
        }
    store_group(group, &sums);
}

static void forward(const network *net, uint32_t place, uint32_t count) {
    const sheet *from = &net->sheets[place], *to = from + 1;
    const uint32_t next = size_of_quad(net);
    for (uint32_t panel = 0; panel < panels_of(to); panel++) {
        const float *weights = net->layers[place].weights + panel * columns_of(from) * PANEL;
        for (uint32_t first = 0; first < count; first += GROUP) {
            float *group = to->groups + first * columns_of(to) + panel * PANEL * GROUP;
            float *quads = to->quads == 0 ? 0 : to->quads + 2 * panel * next + first * 4;
            forward_tile(from->width + 1, from->groups + first * columns_of(from), weights, group, quads, next);
        }
    }
}

// What the last layer says of four examples: `live` of them count, each by its share of the batch.
typedef struct {
    const float *logits;  // [outputs][4]
    float *slopes;        // of the same shape
    int32_t labels[GROUP];
    uint32_t live;
    float share;
} last_group;

// Adds softmax's cross-entropy and the hits to the score, and writes the gradient of the batch's mean.
static void softmax_group(const last_group *of, uint32_t outputs, score *told) {
    f4 most = load(of->logits), sum = four(0);
    i4 best = {0};
    for (int k = 1; k < (int)outputs; k++) {
        const f4 logit = load(of->logits + k * GROUP);
        const i4 is_more = logit > most;
        most = select(is_more, logit, most);
        best = (is_more & k) | (~is_more & best);
    }
    for (uint32_t k = 0; k < outputs; k++) {
        const f4 part = exp_of_four(load(of->logits + k * GROUP) - most);
        store(of->slopes + k * GROUP, part);
        sum += part;
    }
    const i4 lanes = {0, 1, 2, 3};
    const f4 scale = select(lanes < (int)of->live, of->share / sum, four(0));
    for (uint32_t k = 0; k < outputs; k++) store(of->slopes + k * GROUP, load(of->slopes + k * GROUP) * scale);
    for (uint32_t row = 0; row < of->live; row++) {
        const uint32_t place = (uint32_t)of->labels[row] * GROUP + row;
        told->loss += log_of(sum[row]) + (most[row] - of->logits[place]);
        told->hits += best[row] == of->labels[row];
        of->slopes[place] -= of->share;
    }
}

static void softmax(const network *net, const examples *data, const uint32_t *places, uint32_t count, score *told) {
    const sheet *last = &net->sheets[net->depth];
    for (uint32_t first = 0; first < count; first += GROUP) {
        last_group group = {.logits = last->groups + first * columns_of(last),
                            .slopes = last->slope_groups + first * last->width};
        group.live = count - first < GROUP ? count - first : GROUP;
        group.share = 1 / (float)count;
        for (uint32_t row = 0; row < group.live; row++) group.labels[row] = data->labels[places[first + row]];
        softmax_group(&group, last->size, told);
        for (uint32_t k = 0; k < last->width; k += 4) {
            float *panel = last->slope_panels + (k / PANEL * net->rows + first) * PANEL + k % PANEL;
            const float *slopes = group.slopes + k * GROUP;
            store_turned(panel, PANEL, load(slopes), load(slopes + 4), load(slopes + 8), load(slopes + 12));
        }
    }
}

// values: of which those at 0 have let no gradient through. group: none where no layer below needs it.
ON_ITS_OWN void backward_tile(uint32_t steps, const float *from, const float *turned, const float *values, uint32_t next,
                              float *panel, float *group) {
    tile sums = multiply(steps, from, turned);
    for (int k = 0; k < 8; k++) {
        sums.at[k] = select(load(values + k % 2 * next + k / 2 * 4) > 0.0f, sums.at[k], four(0));
        store(panel + k * 4, sums.at[k]);
    }
    if (group != 0) store_group(group, &sums);
}

static void turn(const layer *of, const sheet *from, const sheet *to) {
    for (uint32_t output = 0; output < to->width; output += 4)
        for (uint32_t input = 0; input < from->width; input += 4) {
            const float *block = of->weights + (output / PANEL * columns_of(from) + input) * PANEL + output % PANEL;
            float *turned = of->turned + (input / PANEL * to->width + output) * PANEL + input % PANEL;
            store_turned(turned, PANEL, load(block), load(block + PANEL), load(block + 2 * PANEL), load(block + 3 * PANEL));
        }
}

static void backward(const network *net, uint32_t place, uint32_t count) {
    const sheet *to = &net->sheets[place], *from = to + 1;
    const layer *of = &net->layers[place];
    const uint32_t next = size_of_quad(net);
    turn(of, to, from);
    for (uint32_t panel = 0; panel < panels_of(to); panel++)
        for (uint32_t first = 0; first < count; first += GROUP) {
            const float *turned = of->turned + panel * from->width * PANEL;
            const float *values = to->quads + 2 * panel * next + first * 4;
            float *slopes = to->slope_panels + (panel * net->rows + first) * PANEL;
            float *group = to->slope_groups == 0 ? 0 : to->slope_groups + first * to->width + panel * PANEL * GROUP;
            backward_tile(from->size, from->slope_groups + first * from->width, turned, values, next, slopes, group);
        }
}

// A step of four inputs' weights to eight outputs; velocities, starts: none where they do not count.
ON_ITS_OWN void update_tile(uint32_t steps, const float *quad, const float *slopes, float *weights, float *velocities,
                            const float *starts, const rule *how) {
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
            const float *values = from->quads + quad * size_of_quad(net), *slopes = to->slope_panels + panel * net->rows * PANEL;
            const uint32_t at = (panel * columns_of(from) + quad * 4) * PANEL;
            float *velocities = of->velocities == 0 ? 0 : of->velocities + at;
            const float *starts = of->starts == 0 ? 0 : of->starts + at;
            update_tile(steps, values, slopes, of->weights + at, velocities, starts, &net->rule);
        }
}

void step(const network *net, const examples *data, const uint32_t *places, uint32_t count, score *told) {
    gather(net, data, places, count);
    for (uint32_t k = 0; k < net->depth; k++) forward(net, k, count);
    softmax(net, data, places, count, told);
    for (uint32_t k = net->depth; k-- > 0;) {
        if (k > 0) backward(net, k, count);
        update(net, k, count);
    }
}
