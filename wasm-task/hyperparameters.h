// How to train, as flower_app's task.py has it.
#pragma once
#include "text.h"

typedef struct {
    uint64_t epochs, steps, batch_size;
    float lr, momentum, weight_decay, proximal_mu;
    uint64_t seed;
} hyperparameters;

// needs_all: may no key be missing? Else epochs and batch_size are 1 and 16, lr is 0.01, and the others are 0.
bool read_hyperparameters(text told, bool needs_all, hyperparameters *);
