// Torch's kernel for one block of a product (at::native::cpublas::brgemm), which its own compiler calls too.

#include "product.h"

namespace lmx {
namespace {

template <typename T>
using Product = void (*)(int64_t m, int64_t n, int64_t k, int64_t ld_left, int64_t ld_right, int64_t ld_out,
                         bool add, const T* left, const T* right, float* out, bool paired);

Product<Half> of_half;
Product<float> of_float;
void (*release)(bool paired);

template <typename T>
void run(Product<T> product, const Shape& s, const T* left, const T* right, float* out, bool add) {
    product(s.m, s.n, s.k, s.ld_left, s.ld_right, s.ld_out, add, left, right, out, PAIR<T> == 2);
}

// Whether products are those of numbers that are exact in both dtypes: here 1 * 2 + 2 * 3 + 3 * 4 + ...
template <typename T>
bool right() {
    constexpr int64_t SIZE = 16, INNER = 4;
    T left[SIZE * INNER], by[SIZE * INNER];
    float out[SIZE * SIZE], wanted = 0.0f;
    for (int64_t i = 0; i < SIZE; ++i) {
        for (int64_t k = 0; k < INNER; ++k) {
            left[i * INNER + k] = put<T>(static_cast<float>(k + 1));
            by[k / PAIR<T> * PAIR<T> * SIZE + i * PAIR<T> + k % PAIR<T>] = put<T>(static_cast<float>(k + 2));
        }
    }
    for (int64_t k = 0; k < INNER; ++k) wanted += static_cast<float>((k + 1) * (k + 2));
    try {
        multiply({SIZE, SIZE, INNER, INNER, SIZE, SIZE}, left, by, out, false);
        multiplied();
    } catch (...) {  // this processor does not multiply it
        return false;
    }
    return std::all_of(out, out + SIZE * SIZE, [&](float each) { return each == wanted; });
}

}  // namespace

void multiply(const Shape& shape, const float* left, const float* right, float* out, bool add) {
    run(of_float, shape, left, right, out, add);
}

void multiply(const Shape& shape, const Half* left, const Half* right, float* out, bool add) {
    run(of_half, shape, left, right, out, add);
}

void multiplied() { release(true); }

}  // namespace lmx

// Takes torch's functions; says whether this processor multiplies bfloat16 with them (1), float32 (2), both (3).
extern "C" int64_t lmx_products(void* half, void* single, void* release) {
    lmx::of_half = reinterpret_cast<lmx::Product<lmx::Half>>(half);
    lmx::of_float = reinterpret_cast<lmx::Product<float>>(single);
    lmx::release = reinterpret_cast<void (*)(bool)>(release);
    return (lmx::right<lmx::Half>() ? 1 : 0) + (lmx::right<float>() ? 2 : 0);
}
