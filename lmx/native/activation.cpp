// Activations of the feed-forward, gated or not, in float32, from and to bfloat16 or float32.

#include "numbers.h"

namespace lmx {
namespace {

constexpr float TWICE = 1.59576912f;  // 2 * sqrt(2 / pi)
constexpr float CUBE = 0.044715f;
constexpr int64_t SPAN = 4096;

// Both are x * sigmoid(s(x)): s = x for SiLU, and 2 * sqrt(2 / pi) * (x + 0.044715 * x^3) for GELU by tanh.
struct Silu {
    static float argument(float x) { return x; }
    static float slope(float) { return 1.0f; }
};

struct GeluTanh {
    static float argument(float x) { return TWICE * x * (1.0f + CUBE * x * x); }
    static float slope(float x) { return TWICE * (1.0f + 3.0f * CUBE * x * x); }
};

template <typename F, typename T>
void forward(const T* x, const T* up, T* out, int64_t numbers, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(enough(numbers, threads))
    for (int64_t start = 0; start < numbers; start += SPAN) {
        const int64_t stop = std::min(numbers, start + SPAN);
        if (up == nullptr) {
            for (int64_t i = start; i < stop; ++i) out[i] = put<T>(get(x[i]) * sigmoid(F::argument(get(x[i]))));
        } else {
            for (int64_t i = start; i < stop; ++i) {
                out[i] = put<T>(get(x[i]) * sigmoid(F::argument(get(x[i]))) * get(up[i]));
            }
        }
    }
}

template <typename F, typename T>
void backward(const T* d, const T* x, const T* up, T* d_x, T* d_up, int64_t numbers, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(enough(numbers, threads))
    for (int64_t start = 0; start < numbers; start += SPAN) {
        const int64_t stop = std::min(numbers, start + SPAN);
        if (up == nullptr) {
            for (int64_t i = start; i < stop; ++i) {
                const float value = get(x[i]), s = sigmoid(F::argument(value));
                d_x[i] = put<T>(get(d[i]) * s * (1.0f + value * (1.0f - s) * F::slope(value)));
            }
        } else {
            for (int64_t i = start; i < stop; ++i) {
                const float value = get(x[i]), s = sigmoid(F::argument(value)), wide = get(d[i]);
                d_x[i] = put<T>(wide * get(up[i]) * s * (1.0f + value * (1.0f - s) * F::slope(value)));
                d_up[i] = put<T>(wide * value * s);
            }
        }
    }
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// All arrays are of `numbers`, bfloat16 where `half`. Without a gate, `up` and `d_up` are null; else x is the gate.
extern "C" void lmx_activation(int64_t gelu, int64_t half, const void* x, const void* up, void* out,
                               int64_t numbers, int64_t threads) {
    auto run = [&](auto* from) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
        auto* const function = gelu ? lmx::forward<lmx::GeluTanh, T> : lmx::forward<lmx::Silu, T>;
        function(from, static_cast<const T*>(up), static_cast<T*>(out), numbers, threads);
    };
    half ? run(static_cast<const Half*>(x)) : run(static_cast<const float*>(x));
}

extern "C" void lmx_activation_backward(int64_t gelu, int64_t half, const void* d, const void* x, const void* up,
                                        void* d_x, void* d_up, int64_t numbers, int64_t threads) {
    auto run = [&](auto* from) {
        using T = std::remove_const_t<std::remove_pointer_t<decltype(from)>>;
        auto* const function = gelu ? lmx::backward<lmx::GeluTanh, T> : lmx::backward<lmx::Silu, T>;
        function(static_cast<const T*>(d), from, static_cast<const T*>(up), static_cast<T*>(d_x),
                 static_cast<T*>(d_up), numbers, threads);
    };
    half ? run(static_cast<const Half*>(x)) : run(static_cast<const float*>(x));
}
