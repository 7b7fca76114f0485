// Numbers: bfloat16 as its bits, and powers without a call. No header of torch is needed anywhere, so that all
// compiles in seconds. Loops are plain: the compiler vectorises them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace lmx {

using Half = uint16_t;  // the bits of a bfloat16

constexpr float LOG2_E = 1.44269504f;
constexpr int64_t SMALL = 16384;  // numbers: fewer are done before a second thread has begun

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

inline float get(float value) { return value; }
inline float get(Half half) { return as_float(static_cast<uint32_t>(half) << 16); }

template <typename T>
inline T put(float value);

template <>
inline float put<float>(float value) {
    return value;
}

// The upper half of the bits is the nearest bfloat16, ties to even.
inline uint32_t rounded(float value) {
    const uint32_t bits = as_bits(value);
    return bits + 0x7fff + ((bits >> 16) & 1);
}

template <>
inline Half put<Half>(float value) {
    return static_cast<Half>(rounded(value) >> 16);
}

// 2^t by a polynomial of degree 6 on [-1/2, 1/2] (least squares at Chebyshev's points, within 1e-8 of 2^t but for
// rounding) and the exponent put in by its bits. NaN stays NaN; below 2^-126 it stays there. t is below 128.
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

inline float sigmoid(float x) {
    const float t = -LOG2_E * x;
    return 1.0f / (1.0f + power_of_two(t > 126.0f ? 126.0f : t));
}

inline float tanh_of(float y) {
    y = y > 40.0f ? 40.0f : y;  // beyond, its power of two would be no float
    return 1.0f - 2.0f / (1.0f + power_of_two(2.0f * LOG2_E * y));
}

inline int enough(int64_t numbers, int64_t threads) { return numbers < SMALL ? 1 : static_cast<int>(threads); }

}  // namespace lmx
