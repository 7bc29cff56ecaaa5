// The model as it arrives: arrays by name, which are a chain of linear layers, or are refused.
#pragma once
#include "text.h"

typedef struct {
    text name;
    float *values;
    uint64_t count;
    uint32_t rank;  // 0: a flat list, whose shape follows from the bias
    uint64_t shape[2];
} array;

typedef struct {
    text name;
    uint32_t inputs, outputs;
    float *weight;  // [outputs][inputs]
    float *bias;    // [outputs]
} linear;

typedef struct {
    uint32_t depth;
    linear *layers;
} chain;

bool find_chain(const array *, uint32_t count, chain *);
