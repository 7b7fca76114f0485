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

// Whether products are right, of small whole numbers, which are exact in both dtypes: sizes beside those of registers,
// rows that do not touch, and the sum of two.
template <typename T>
bool right() {
    constexpr Shape S{37, 33, 18, 20, 40, 35};
    const auto number = [](int64_t i, int64_t j) { return static_cast<float>((i * 5 + j * 3) % 7 - 3); };
    std::vector<T> left(S.m * S.ld_left), by(S.k * S.ld_right);
    std::vector<float> out(S.m * S.ld_out, -1.0f);
    for (int64_t i = 0; i < S.m; ++i) {
        for (int64_t k = 0; k < S.k; ++k) left[i * S.ld_left + k] = put<T>(number(i, k));
    }
    for (int64_t k = 0; k < S.k; ++k) {
        T* const row = by.data() + k / PAIR<T> * PAIR<T> * S.ld_right + k % PAIR<T>;
        for (int64_t j = 0; j < S.n; ++j) row[j * PAIR<T>] = put<T>(number(k, j));
    }
    try {
        multiply(S, left.data(), by.data(), out.data(), false);
        multiply(S, left.data(), by.data(), out.data(), true);
        multiplied();
    } catch (...) {  // this processor does not multiply it
        return false;
    }
    for (int64_t i = 0; i < S.m; ++i) {
        for (int64_t j = 0; j < S.ld_out; ++j) {
            float wanted = j < S.n ? 0.0f : -1.0f;  // beside it, nothing is written
            for (int64_t k = 0; k < S.k && j < S.n; ++k) wanted += 2.0f * number(i, k) * number(k, j);
            if (out[i * S.ld_out + j] != wanted) return false;
        }
    }
    return true;
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
