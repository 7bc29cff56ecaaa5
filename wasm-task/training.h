// A fit: the model in, the same arrays changed in place out.
#pragma once
#include "hyperparameters.h"
#include "passes.h"

// Means over the batches' examples, each as the model met it.
typedef struct {
    double loss, accuracy;
    uint64_t steps;
} fitted;

bool train(const chain *, const examples *, const hyperparameters *, fitted *);
