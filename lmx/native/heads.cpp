// From a row of queries or keys to heads: RMS-normalised, turned by their rotary angles, scaled, transposed.

#include "numbers.h"

namespace lmx {
namespace {

struct Shape {
    int64_t batch, length, heads, dim;

    int64_t rows() const { return batch * length; }
    // where in (B, H, T, D) a head of row b * T + t stands
    int64_t transposed(int64_t row, int64_t head) const {
        return ((row / length * heads + head) * length + row % length) * dim;
    }
};

struct Rotation {
    const float *cos, *sin;  // (B or 1, T, D / 2); or null
    int64_t batch_stride;
    bool interleaved;  // pairs (2i, 2i + 1), else (i, i + D / 2)
};

// Turn each pair of x by its angle times `sign`.
inline void rotate(float* x, const Rotation& rotation, Shape shape, int64_t row, float sign) {
    const int64_t half = shape.dim / 2;
    const int64_t at = row / shape.length * rotation.batch_stride + row % shape.length * half;
    const float *const cos = rotation.cos + at, *const sin = rotation.sin + at;
    if (rotation.interleaved) {
        for (int64_t i = 0; i < half; ++i) {
            const float a = x[2 * i], b = x[2 * i + 1], s = sign * sin[i];
            x[2 * i] = a * cos[i] - b * s;
            x[2 * i + 1] = b * cos[i] + a * s;
        }
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half], s = sign * sin[i];
        x[i] = a * cos[i] - b * s;
        x[i + half] = b * cos[i] + a * s;
    }
}

template <typename T>
void forward(const T* x, const float* weight, float eps, Rotation rotation, float factor, T* out, float* scale,
             Shape shape, int64_t threads) {
    const int64_t dim = shape.dim;
#pragma omp parallel num_threads(enough(shape.rows() * shape.heads * dim, threads))
    {
        std::vector<float> wide(dim);
        float* const y = wide.data();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < shape.rows(); ++row) {
            for (int64_t head = 0; head < shape.heads; ++head) {
                const int64_t at = row * shape.heads + head;
                const T* const from = x + at * dim;
                T* const to = out + shape.transposed(row, head);
                for (int64_t i = 0; i < dim; ++i) y[i] = get(from[i]);
                if (weight != nullptr) {
                    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
                    for (int64_t i = 0; i < dim; ++i) squares += y[i] * y[i];
                    const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(dim) + eps);
                    for (int64_t i = 0; i < dim; ++i) y[i] *= inverse * weight[i];
                    scale[at] = inverse;
                }
                if (rotation.cos != nullptr) rotate(y, rotation, shape, row, 1.0f);
                for (int64_t i = 0; i < dim; ++i) to[i] = put<T>(factor * y[i]);
            }
        }
    }
}

// Back the same way; the normalisation as in norm.cpp. d_weight is that of each chunk of rows.
template <typename T>
void backward(const T* d_out, const T* x, const float* weight, Rotation rotation, float factor, const float* scale,
              T* d_x, float* d_weight, int64_t chunk_rows, Shape shape, int64_t threads) {
    const int64_t dim = shape.dim, chunks = (shape.rows() + chunk_rows - 1) / chunk_rows;
#pragma omp parallel num_threads(enough(shape.rows() * shape.heads * dim, threads))
    {
        std::vector<float> wide(dim);
        float* const g = wide.data();
#pragma omp for schedule(static)
        for (int64_t chunk = 0; chunk < chunks; ++chunk) {
            const int64_t stop = std::min(shape.rows(), (chunk + 1) * chunk_rows);
            for (int64_t index = chunk * chunk_rows * shape.heads; index < stop * shape.heads; ++index) {
                const int64_t row = index / shape.heads;
                const T* const d = d_out + shape.transposed(row, index % shape.heads);
                T* const to = d_x + index * dim;
                for (int64_t i = 0; i < dim; ++i) g[i] = factor * get(d[i]);
                if (rotation.cos != nullptr) rotate(g, rotation, shape, row, -1.0f);
                if (weight == nullptr) {
                    for (int64_t i = 0; i < dim; ++i) to[i] = put<T>(g[i]);
                    continue;
                }
                const T* const from = x + index * dim;
                const float inverse = scale[index];
                float* const sums = d_weight + chunk * dim;
                float along = 0.0f;
#pragma omp simd reduction(+ : along)
                for (int64_t i = 0; i < dim; ++i) {
                    const float normal = get(from[i]) * inverse;
                    sums[i] += g[i] * normal;
                    g[i] *= weight[i];
                    along += g[i] * normal;
                }
                along /= static_cast<float>(dim);
                for (int64_t i = 0; i < dim; ++i) {
                    to[i] = put<T>(inverse * (g[i] - get(from[i]) * inverse * along));
                }
            }
        }
    }
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// Shapes: x (B, T, H, D), out (B, H, T, D), bfloat16 where `half`; weight (D), null where nothing is normalised;
// cos, sin (B or 1, T, D / 2), null where nothing is turned; scale (B, T, H), of the normalisation.
extern "C" void lmx_heads(const void* x, int64_t half, const float* weight, float eps, const float* cos,
                          const float* sin, int64_t rotation_stride, int64_t interleaved, float factor, void* out,
                          float* scale, int64_t batch, int64_t length, int64_t heads, int64_t dim,
                          int64_t threads) {
    const lmx::Shape shape{batch, length, heads, dim};
    const lmx::Rotation rotation{cos, sin, rotation_stride, interleaved != 0};
    if (half) {
        lmx::forward(static_cast<const Half*>(x), weight, eps, rotation, factor, static_cast<Half*>(out), scale,
                     shape, threads);
    } else {
        lmx::forward(static_cast<const float*>(x), weight, eps, rotation, factor, static_cast<float*>(out), scale,
                     shape, threads);
    }
}

// As above; d_weight (chunks of `chunk` rows, D), zero before; x and scale may be null where weight is.
extern "C" void lmx_heads_backward(const void* d_out, const void* x, int64_t half, const float* weight,
                                   const float* cos, const float* sin, int64_t rotation_stride,
                                   int64_t interleaved, float factor, const float* scale, void* d_x,
                                   float* d_weight, int64_t chunk, int64_t batch, int64_t length, int64_t heads,
                                   int64_t dim, int64_t threads) {
    const lmx::Shape shape{batch, length, heads, dim};
    const lmx::Rotation rotation{cos, sin, rotation_stride, interleaved != 0};
    if (half) {
        lmx::backward(static_cast<const Half*>(d_out), static_cast<const Half*>(x), weight, rotation, factor, scale,
                      static_cast<Half*>(d_x), d_weight, chunk, shape, threads);
    } else {
        lmx::backward(static_cast<const float*>(d_out), static_cast<const float*>(x), weight, rotation, factor,
                      scale, static_cast<float*>(d_x), d_weight, chunk, shape, threads);
    }
}
