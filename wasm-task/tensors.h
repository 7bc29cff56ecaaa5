// Tensors in safetensors format, where they lie. Source: https://github.com/huggingface/safetensors#format.
#pragma once
#include "text.h"

typedef struct {
    text name, dtype;
    uint32_t rank;
    uint64_t shape[2];  // the first two dimensions, 1 where there are fewer
    uint64_t count;     // of elements
    char *bytes;
    uint64_t size;
} tensor;

typedef struct {
    uint32_t count;
    tensor *list;
} tensors;

// what: names the blob in faults. The tensors need to lie in the order of the header, without gaps, F32 and I32 on whole words.
bool read_tensors(const char *what, char *blob, uint32_t size, tensors *found);
const tensor *find_tensor(const tensors *, const char *name);  // 0: there is none
