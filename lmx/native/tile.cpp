// The walk over a tile of logits: what `TilePass` in objective/tile.py does, without leaving the cache.

#include "numbers.h"

namespace lmx {
namespace {

// What is known of a row: brought up to date, but for total and moment, which are of this tile.
struct Row {
    float &reference, &peak, &target, &above, &total, &moment;
};

template <typename T>
void walk(const T* product, const float* bias, int64_t width, float rival, int64_t column,
                 float headroom, float softcap, bool sloped, float* x, T* keep, Row row) {
    for (int64_t i = 0; i < width; ++i) x[i] = get(product[i]) + (bias != nullptr ? bias[i] : 0.0f);
    if (softcap != 0.0f) {
        for (int64_t i = 0; i < width; ++i) x[i] = softcap * tanh_of(x[i] / softcap);
    }
    float top = -INFINITY;
    int count = 0;
#pragma omp simd reduction(max : top) reduction(+ : count)
    for (int64_t i = 0; i < width; ++i) {
        top = x[i] > top ? x[i] : top;
        count += x[i] >= rival;
    }
    row.above += static_cast<float>(count);
    if (column >= 0 && column < width) row.target = x[column];
    if (top > row.reference + headroom) row.reference = top;
    if (top > row.peak) row.peak = top;
    const float reference = row.reference;
    float total = 0.0f, moment = 0.0f;
#pragma omp simd reduction(+ : total, moment)
    for (int64_t i = 0; i < width; ++i) {
        const float e = power_of_two((x[i] - reference) * LOG2_E);
        total += e;
        moment += (x[i] - reference) * e;
        keep[i] = put<T>(e);
    }
    if (sloped && softcap != 0.0f) {
        for (int64_t i = 0; i < width; ++i) {
            const float e = power_of_two((x[i] - reference) * LOG2_E), y = x[i] / softcap;
            keep[i] = put<T>(e * (1.0f - y * y));
        }
    }
    row.total = total;
    row.moment = moment;
}

struct Tile {
    const float* bias;
    const int64_t* column;
    const float* rivals;
    float *reference, *peak, *target, *above, *total, *moment;
    int64_t stride, rows, width;
};

template <typename T>
void walk_rows(const T* product, T* keep, const Tile& tile, float headroom, float softcap, bool sloped,
               int64_t threads) {
#pragma omp parallel num_threads(static_cast<int>(threads))
    {
        std::vector<float> logits(tile.width);
        std::vector<T> unwanted(keep == nullptr ? tile.width : 0);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < tile.rows; ++row) {
            T* const to = keep == nullptr ? unwanted.data() : keep + row * tile.stride;
            walk(product + row * tile.width, tile.bias, tile.width,
                 tile.rivals != nullptr ? tile.rivals[row] : INFINITY, tile.column[row], headroom, softcap, sloped,
                 logits.data(), to,
                 {tile.reference[row], tile.peak[row], tile.target[row], tile.above[row], tile.total[row],
                  tile.moment[row]});
        }
    }
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// Shapes: product (rows, width); bias (width); column, rivals, reference, peak, target, above, total and moment
// (rows); keep (rows, width), `stride` apart; product and keep are bfloat16 where `half`. bias, rivals and keep may be
// null; softcap 0 is none.
extern "C" void lmx_tile(const void* product, int64_t half, const float* bias, const int64_t* column,
                         const float* rivals, float* reference, float* peak, float* target, float* above,
                         void* keep, int64_t stride, float* total, float* moment, int64_t rows, int64_t width,
                         float headroom, float softcap, int64_t sloped, int64_t threads) {
    const lmx::Tile tile{bias,  column, rivals, reference, peak, target, above, total, moment,
                         stride, rows,   width};
    auto run = [&](auto* from, auto* to) {
        lmx::walk_rows(from, to, tile, headroom, softcap, sloped != 0, threads);
    };
    if (half) {
        run(static_cast<const Half*>(product), static_cast<Half*>(keep));
    } else {
        run(static_cast<const float*>(product), static_cast<float*>(keep));
    }
}
