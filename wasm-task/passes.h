// The passes of one step: a batch in, its loss and hits out, and the weights moved.
#pragma once
#include "network.h"

typedef struct {
    const float *x;         // [count][features]
    const int32_t *labels;  // [count], below the network's outputs
    uint32_t count, features;
} examples;

typedef struct {
    double loss;  // summed
    uint64_t hits;
} score;

// places: of the batch's examples, from 1 to the network's rows of them.
void step(const network *, const examples *, const uint32_t *places, uint32_t count, score *);
