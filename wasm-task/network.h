// A chain of linear layers with ReLU between, laid out for tiles of four rows by eight columns.
//
// An array [n / w][m][w] holds a matrix of m rows and n columns in stripes of w columns, one stripe after the other: what a tile
// reads lies side by side. Columns are padded with zeros. A layer's bias is the weight of one more input, which is always 1.
#pragma once
#include "chain.h"
#include "tile.h"

// What lies between two layers, or before the first or behind the last one, for the rows of one batch.
typedef struct {
    uint32_t size, width;  // columns; rounded up to whole panels
    float *groups;         // values, [rows / 4][width + 4][4]: a row of it is a column of four examples; column `width` is 1
    float *quads;          // the same, [(width + 4) / 4][rows][4]
    float *slope_groups;   // the loss's gradient by them, [rows / 4][width][4]; none where no layer below needs it
    float *slope_panels;   // the same, [width / 8][rows][8]
} sheet;

typedef struct {
    float *weights;     // [outputs / 8][inputs' width + 4][8]; row `width` is the bias
    float *velocities;  // of the same shape; none without momentum
    float *starts;      // the weights as they arrived; none without a proximal term
    float *turned;      // [inputs / 8][outputs' width][8]; none in the first layer
} layer;

// How a step moves weights, as Hyperparameters of flower_app's task.py says.
typedef struct {
    float lr, momentum, weight_decay, proximal_mu;
} rule;

typedef struct {
    uint32_t depth, rows;  // rows: of the largest batch, rounded up to whole groups
    sheet *sheets;         // depth + 1 of them; layer k is between sheets k and k + 1
    layer *layers;
    rule rule;
} network;

bool network_begin(network *, const chain *, uint32_t batch_size, rule);
bool network_end(const network *, const chain *);  // writes the weights back; are all of them finite?

ALWAYS_INLINE uint32_t panels_of(const sheet *columns) {
    return columns->width / PANEL;
}

ALWAYS_INLINE uint32_t quads_of(const sheet *columns) {
    return columns->width / 4 + 1;
}
