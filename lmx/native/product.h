// Products of small matrices that stay in cache, by torch's own kernel for one block.

#pragma once

#include "numbers.h"

namespace lmx {

// How many rows of the right matrix stand side by side: [k / PAIR][n][PAIR].
template <typename T>
constexpr int64_t PAIR = sizeof(float) / sizeof(T);

// out (m, n) = left (m, k) * right (k, n), or added to it, in float32; `ld` are the lengths of rows. k is even in
// half precision.
struct Shape {
    int64_t m, n, k, ld_left, ld_right, ld_out;
};

void multiply(const Shape& shape, const float* left, const float* right, float* out, bool add);
void multiply(const Shape& shape, const Half* left, const Half* right, float* out, bool add);

// To be called by each thread after its last product: a matrix unit is handed back.
void multiplied();

// The rows of (rows, width) side by side as the right matrix of a product wants them; `rows` is even.
template <typename T>
void pair_rows(const T* from, int64_t stride, int64_t rows, int64_t width, T* to) {
    for (int64_t row = 0; row < rows; row += PAIR<T>) {
        const T *const first = from + row * stride, *const second = first + (PAIR<T> - 1) * stride;
        for (int64_t i = 0; i < width; ++i) {
            to[row * width + PAIR<T> * i] = first[i];
            to[row * width + PAIR<T> * i + PAIR<T> - 1] = second[i];
        }
    }
}

}  // namespace lmx
