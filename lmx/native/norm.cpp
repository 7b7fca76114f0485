// RMSNorm and LayerNorm over the last dimension, in float32, from and to bfloat16 or float32.

#include "numbers.h"

namespace lmx {
namespace {

struct Shape {
    int64_t rows, width, chunk;  // chunk: rows whose gradients of the weight are added up together
};

template <typename X, typename Y>
void forward(const X* x, const float* weight, const float* bias, bool centred, float eps, Y* y, float* mean,
             float* scale, Shape shape, int64_t threads) {
    const int64_t width = shape.width;
#pragma omp parallel for schedule(static) num_threads(enough(shape.rows* width, threads))
    for (int64_t row = 0; row < shape.rows; ++row) {
        const X* const from = x + row * width;
        Y* const to = y + row * width;
        float sum = 0.0f, squares = 0.0f;
        if (centred) {
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; ++i) sum += get(from[i]);
        }
        const float centre = sum / static_cast<float>(width);
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; ++i) squares += (get(from[i]) - centre) * (get(from[i]) - centre);
        const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(width) + eps);
        for (int64_t i = 0; i < width; ++i) {
            const float normal = (get(from[i]) - centre) * inverse;
            to[i] = put<Y>(normal * weight[i] + (bias != nullptr ? bias[i] : 0.0f));
        }
        if (centred) mean[row] = centre;
        scale[row] = inverse;
    }
}

// With n = (x - mean) * scale and g = dy * weight: dx = scale * (g - mean(g) - n * mean(g * n)), the middle one
// for LayerNorm alone; d weight = sum of dy * n, d bias = sum of dy.
template <typename X, typename Y>
void backward(const Y* d_y, const X* x, const float* weight, bool centred, const float* mean, const float* scale,
              X* d_x, float* d_weight, float* d_bias, Shape shape, int64_t threads) {
    const int64_t width = shape.width, chunks = (shape.rows + shape.chunk - 1) / shape.chunk;
#pragma omp parallel for schedule(static) num_threads(enough(shape.rows* width, threads))
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        const int64_t stop = std::min(shape.rows, (chunk + 1) * shape.chunk);
        float* const sums = d_weight + chunk * width;
        float* const offsets = d_bias != nullptr ? d_bias + chunk * width : nullptr;
        for (int64_t row = chunk * shape.chunk; row < stop; ++row) {
            const X* const from = x + row * width;
            const Y* const d = d_y + row * width;
            const float centre = centred ? mean[row] : 0.0f, inverse = scale[row];
            float along = 0.0f, total = 0.0f;
#pragma omp simd reduction(+ : along, total)
            for (int64_t i = 0; i < width; ++i) {
                const float normal = (get(from[i]) - centre) * inverse, g = get(d[i]) * weight[i];
                along += g * normal;
                total += g;
                sums[i] += get(d[i]) * normal;
            }
            along /= static_cast<float>(width);
            total = centred ? total / static_cast<float>(width) : 0.0f;
            for (int64_t i = 0; i < width; ++i) {
                const float normal = (get(from[i]) - centre) * inverse, g = get(d[i]) * weight[i];
                d_x[row * width + i] = put<X>(inverse * (g - total - normal * along));
            }
            if (offsets != nullptr) {
                for (int64_t i = 0; i < width; ++i) offsets[i] += get(d[i]);
            }
        }
    }
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// Shapes: x, y (rows, width), bfloat16 where `half_x`, `half_y`; weight, bias (width), the latter may be null; mean
// (null for RMSNorm) and scale (rows).
extern "C" void lmx_norm(const void* x, int64_t half_x, const float* weight, const float* bias, float eps, void* y,
                         int64_t half_y, float* mean, float* scale, int64_t rows, int64_t width, int64_t threads) {
    const lmx::Shape shape{rows, width, 1};
    const bool centred = mean != nullptr;
    auto run = [&](auto* from, auto* to) {
        lmx::forward(from, weight, bias, centred, eps, to, mean, scale, shape, threads);
    };
    if (half_x) {
        run(static_cast<const Half*>(x), static_cast<Half*>(y));
    } else if (half_y) {
        run(static_cast<const float*>(x), static_cast<Half*>(y));
    } else {
        run(static_cast<const float*>(x), static_cast<float*>(y));
    }
}

// As above; d_weight and d_bias (chunks of `chunk` rows, width), zero before; the latter may be null.
extern "C" void lmx_norm_backward(const void* d_y, int64_t half_y, const void* x, int64_t half_x,
                                  const float* weight, const float* mean, const float* scale, void* d_x,
                                  float* d_weight, float* d_bias, int64_t chunk, int64_t rows, int64_t width,
                                  int64_t threads) {
    const lmx::Shape shape{rows, width, chunk};
    const bool centred = mean != nullptr;
    auto run = [&](auto* d, auto* from, auto* to) {
        lmx::backward(d, from, weight, centred, mean, scale, to, d_weight, d_bias, shape, threads);
    };
    if (half_x) {
        run(static_cast<const Half*>(d_y), static_cast<const Half*>(x), static_cast<Half*>(d_x));
    } else if (half_y) {
        run(static_cast<const Half*>(d_y), static_cast<const float*>(x), static_cast<float*>(d_x));
    } else {
        run(static_cast<const float*>(d_y), static_cast<const float*>(x), static_cast<float*>(d_x));
    }
}
