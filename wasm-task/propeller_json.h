// What Propeller hands on as JSON: the model, and the examples.
#pragma once
#include "chain.h"
#include "passes.h"

typedef struct {
    uint32_t count;
    array *list;
} arrays;

// MODEL_DATA: {NAME: [numbers in C order], …}
bool read_arrays(text told, arrays *);

// DATASET_DATA: {"schema": "fl-demo-dataset-v1", "data": [{"x": [numbers], "y": label}, …], "size": how many}, and other keys.
bool read_dataset(text told, examples *);
