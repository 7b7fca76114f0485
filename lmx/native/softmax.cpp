// The softmax of causal attention over a block of queries, where the scores stand, and its gradient.

#include "numbers.h"

namespace lmx {
namespace {

// Query i of the block sees the keys 0 ... first + i; what it does not see becomes zero.
struct Block {
    int64_t matrices, queries, keys, first;

    int64_t visible(int64_t query) const { return std::min(keys, first + query + 1); }
};

struct Bias {
    const float* data;  // (B or 1, H or 1, T, T), of which the block is a part; or null
    int64_t heads, batch_stride, head_stride, row_stride;

    const float* row(int64_t matrix, int64_t query) const {
        if (data == nullptr) return nullptr;
        return data + matrix / heads * batch_stride + matrix % heads * head_stride + query * row_stride;
    }
};

template <typename T>
void forward(T* scores, Block block, Bias bias, int64_t threads) {
#pragma omp parallel num_threads(enough(block.matrices* block.queries* block.keys, threads))
    {
        std::vector<float> wide(block.keys);
        float* const x = wide.data();
#pragma omp for schedule(static)
        for (int64_t row = 0; row < block.matrices * block.queries; ++row) {
            const int64_t query = row % block.queries, visible = block.visible(query);
            const float* const added = bias.row(row / block.queries, block.first + query);
            T* const score = scores + row * block.keys;
            float top = -INFINITY, total = 0.0f;
            for (int64_t i = 0; i < visible; ++i) x[i] = get(score[i]) + (added != nullptr ? added[i] : 0.0f);
#pragma omp simd reduction(max : top)
            for (int64_t i = 0; i < visible; ++i) top = x[i] > top ? x[i] : top;
#pragma omp simd reduction(+ : total)
            for (int64_t i = 0; i < visible; ++i) {
                // what a bias of -inf hides is nothing, not the least power of two
                const float e = x[i] == -INFINITY ? 0.0f : power_of_two((x[i] - top) * LOG2_E);
                x[i] = e;
                total += e;
            }
            const float inverse = 1.0f / total;
            for (int64_t i = 0; i < visible; ++i) score[i] = put<T>(x[i] * inverse);
            for (int64_t i = visible; i < block.keys; ++i) score[i] = T(0);
        }
    }
}

template <typename T>
void backward(const T* weights, T* d_weights, Block block, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(enough(block.matrices* block.queries* block.keys, threads))
    for (int64_t row = 0; row < block.matrices * block.queries; ++row) {
        const int64_t visible = block.visible(row % block.queries);
        const T* const p = weights + row * block.keys;
        T* const d = d_weights + row * block.keys;
        float mean = 0.0f;
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < visible; ++i) mean += get(p[i]) * get(d[i]);
        for (int64_t i = 0; i < visible; ++i) d[i] = put<T>(get(p[i]) * (get(d[i]) - mean));
        for (int64_t i = visible; i < block.keys; ++i) d[i] = T(0);
    }
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// scores and weights: (matrices, queries, keys), bfloat16 where `half`; matrices are batch times heads. Scores become
// weights, and their gradient becomes that of the scores.
extern "C" void lmx_softmax(void* scores, int64_t half, int64_t matrices, int64_t queries, int64_t keys,
                            int64_t first, const float* bias, int64_t heads, int64_t batch_stride,
                            int64_t head_stride, int64_t row_stride, int64_t threads) {
    const lmx::Block block{matrices, queries, keys, first};
    const lmx::Bias added{bias, heads, batch_stride, head_stride, row_stride};
    if (half) {
        lmx::forward(static_cast<Half*>(scores), block, added, threads);
    } else {
        lmx::forward(static_cast<float*>(scores), block, added, threads);
    }
}

extern "C" void lmx_softmax_backward(const void* weights, void* d_weights, int64_t half, int64_t matrices,
                                     int64_t queries, int64_t keys, int64_t first, int64_t threads) {
    const lmx::Block block{matrices, queries, keys, first};
    if (half) {
        lmx::backward(static_cast<const Half*>(weights), static_cast<Half*>(d_weights), block, threads);
    } else {
        lmx::backward(static_cast<const float*>(weights), static_cast<float*>(d_weights), block, threads);
    }
}
