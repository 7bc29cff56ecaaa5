// The peer: the same fit in plain loops, as one writes them whose compiler is to make them fast. No intrinsics, no tiles.
// Weights lie as [in][out], so that the innermost loops run over outputs that lie side by side.
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void forward(int rows, int in, int out, const float *x, const float *w, const float *bias, float *y) {
    for (int r = 0; r < rows; r++) {
        float *restrict row = y + (size_t)r * out;
        memcpy(row, bias, sizeof(float) * out);
        for (int i = 0; i < in; i++) {
            const float value = x[(size_t)r * in + i];
            const float *restrict line = w + (size_t)i * out;
            for (int o = 0; o < out; o++) row[o] += value * line[o];
        }
    }
}

static void backward(int rows, int in, int out, const float *dy, const float *wt, const float *activation, float *dx) {
    for (int r = 0; r < rows; r++) {
        float *restrict row = dx + (size_t)r * in;
        memset(row, 0, sizeof(float) * in);
        for (int o = 0; o < out; o++) {
            const float value = dy[(size_t)r * out + o];
            const float *restrict line = wt + (size_t)o * in;
            for (int i = 0; i < in; i++) row[i] += value * line[i];
        }
        for (int i = 0; i < in; i++) row[i] = activation[(size_t)r * in + i] > 0 ? row[i] : 0;
    }
}

static void step(int rows, int in, int out, const float *x, const float *dy, float *w, float *v, float *gradient, float lr, float momentum) {
    memset(gradient, 0, sizeof(float) * in * out);
    for (int r = 0; r < rows; r++)
        for (int i = 0; i < in; i++) {
            const float value = x[(size_t)r * in + i];
            const float *restrict line = dy + (size_t)r * out;
            float *restrict sum = gradient + (size_t)i * out;
            for (int o = 0; o < out; o++) sum[o] += value * line[o];
        }
    for (size_t k = 0; k < (size_t)in * out; k++) {
        v[k] = momentum * v[k] + gradient[k];
        w[k] -= lr * v[k];
    }
}

static void step_bias(int rows, int out, const float *dy, float *bias, float *v, float lr, float momentum) {
    for (int o = 0; o < out; o++) {
        float sum = 0;
        for (int r = 0; r < rows; r++) sum += dy[(size_t)r * out + o];
        v[o] = momentum * v[o] + sum;
        bias[o] -= lr * v[o];
    }
}

static float softmax(int rows, int classes, const int *labels, float *z) {
    float loss = 0;
    for (int r = 0; r < rows; r++) {
        float *row = z + (size_t)r * classes, most = row[0], sum = 0;
        for (int c = 1; c < classes; c++) most = row[c] > most ? row[c] : most;
        const float right = row[labels[r]] - most;
        for (int c = 0; c < classes; c++) sum += row[c] = expf(row[c] - most);
        loss += logf(sum) - right;
        for (int c = 0; c < classes; c++) row[c] = (row[c] / sum - (c == labels[r])) / (float)rows;
    }
    return loss;
}

// Two layers; w1 [in][hidden], w2 [hidden][classes]. order: count * epochs places. Gives the mean loss, as the model met each example.
float fit(int count, int in, int hidden, int classes, const float *x, const int *labels, const int *order, int epochs, int size,
          float lr, float momentum, float *w1, float *b1, float *w2, float *b2) {
    float *batch = malloc(sizeof(float) * size * in), *h = malloc(sizeof(float) * size * hidden), *z = malloc(sizeof(float) * size * classes);
    float *dh = malloc(sizeof(float) * size * hidden), *w2t = malloc(sizeof(float) * hidden * classes);
    float *g1 = malloc(sizeof(float) * in * hidden), *g2 = malloc(sizeof(float) * hidden * classes);
    float *v1 = calloc((size_t)in * hidden, sizeof(float)), *v2 = calloc((size_t)hidden * classes, sizeof(float));
    float *u1 = calloc(hidden, sizeof(float)), *u2 = calloc(classes, sizeof(float)), loss = 0;
    int *y = malloc(sizeof(int) * size);
    for (int epoch = 0; epoch < epochs; epoch++) {
        for (int start = 0; start < count; start += size) {
            const int rows = count - start < size ? count - start : size;
            for (int r = 0; r < rows; r++) {
                const int place = order[(size_t)epoch * count + start + r];
                memcpy(batch + (size_t)r * in, x + (size_t)place * in, sizeof(float) * in);
                y[r] = labels[place];
            }
            forward(rows, in, hidden, batch, w1, b1, h);
            for (int k = 0; k < rows * hidden; k++) h[k] = h[k] > 0 ? h[k] : 0;
            forward(rows, hidden, classes, h, w2, b2, z);
            loss += softmax(rows, classes, y, z);
            for (int i = 0; i < hidden; i++)
                for (int c = 0; c < classes; c++) w2t[(size_t)c * hidden + i] = w2[(size_t)i * classes + c];
            backward(rows, hidden, classes, z, w2t, h, dh);
            step(rows, hidden, classes, h, z, w2, v2, g2, lr, momentum);
            step_bias(rows, classes, z, b2, u2, lr, momentum);
            step(rows, in, hidden, batch, dh, w1, v1, g1, lr, momentum);
            step_bias(rows, hidden, dh, b1, u1, lr, momentum);
        }
    }
    float *own[] = {batch, h, z, dh, w2t, g1, g2, v1, v2, u1, u2};
    for (size_t k = 0; k < sizeof own / sizeof *own; k++) free(own[k]);
    free(y);
    return loss / ((float)count * (float)epochs);
}
