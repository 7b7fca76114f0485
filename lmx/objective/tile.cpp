// The walk over a tile of logits in bfloat16: what `TilePass` in tile.py does, without leaving the cache.
//
// No header of torch is needed, so that it compiles in a second. The loops are plain: the compiler vectorises them.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr float LOG2_E = 1.44269504f;

inline float as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline uint32_t as_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float from_bf16(uint16_t half) { return as_float(static_cast<uint32_t>(half) << 16); }

// to the nearest, ties to even
inline uint16_t to_bf16(float value) {
    const uint32_t bits = as_bits(value);
    return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 2^t by a polynomial of degree 6 on [-1/2, 1/2] (least squares at Chebyshev's points, within 1e-8 of 2^t but for
// rounding) and the exponent put in by its bits. NaN stays NaN; below 2^-126 it stays there.
inline float power_of_two(float t) {
    t = t < -126.0f ? -126.0f : t;
    const float shifted = t + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to a whole number
    const float f = t - (shifted - 12582912.0f);
    float p = 0.000153375768f;
    p = p * f + 0.00133998604f;
    p = p * f + 0.00961851953f;
    p = p * f + 0.05550329f;
    p = p * f + 0.240226466f;
    p = p * f + 0.693147206f;
    p = p * f + 1.0f;
    return p * as_float((as_bits(shifted) << 23) + 0x3f800000u);
}

inline float tanh_of(float y) {
    y = y > 40.0f ? 40.0f : y;  // beyond, its power of two would be no float
    return 1.0f - 2.0f / (1.0f + power_of_two(2.0f * LOG2_E * y));
}

// What is known of a row: brought up to date, but for total and moment, which are of this tile.
struct Row {
    float &reference, &peak, &target, &above, &total, &moment;
};

inline void walk(const uint16_t* product, const float* bias, int64_t width, float rival, int64_t column,
                 float headroom, float softcap, bool sloped, float* x, uint16_t* keep, Row row) {
    for (int64_t i = 0; i < width; ++i) x[i] = from_bf16(product[i]) + (bias != nullptr ? bias[i] : 0.0f);
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
        keep[i] = to_bf16(e);
    }
    if (sloped && softcap != 0.0f) {
        for (int64_t i = 0; i < width; ++i) {
            const float e = power_of_two((x[i] - reference) * LOG2_E), y = x[i] / softcap;
            keep[i] = to_bf16(e * (1.0f - y * y));
        }
    }
    row.total = total;
    row.moment = moment;
}

}  // namespace

// Shapes: product (rows, width); bias (width); column, rivals, reference, peak, target, above, total and moment
// (rows); keep (rows, width), `stride` apart. bias, rivals and keep may be null; softcap 0 is none.
extern "C" void lmx_tile(const uint16_t* product, const float* bias, const int64_t* column, const float* rivals,
                         float* reference, float* peak, float* target, float* above, uint16_t* keep,
                         int64_t stride, float* total, float* moment, int64_t rows, int64_t width, float headroom,
                         float softcap, int sloped, int threads) {
#pragma omp parallel num_threads(threads)
    {
        std::vector<float> logits(width);
        std::vector<uint16_t> unwanted(keep == nullptr ? width : 0);
#pragma omp for schedule(static)
        for (int64_t row = 0; row < rows; ++row) {
            uint16_t* const to = keep == nullptr ? unwanted.data() : keep + row * stride;
            walk(product + row * width, bias, width, rivals != nullptr ? rivals[row] : INFINITY, column[row],
                 headroom, softcap, sloped, logits.data(), to,
                 {reference[row], peak[row], target[row], above[row], total[row], moment[row]});
        }
    }
}
