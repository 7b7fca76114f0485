// The softmax of some rows over the whole vocabulary, and gradients through it: products and the walk over the logits
// alternate tile by tile, in cache. What is computed of a logit is what `TilePass` in objective/tile.py says. The
// vocabulary goes down and the rows go across, so that nothing is added up within a vector register, and what is kept
// for the weight's gradient lies as its product wants it.

#include "product.h"

namespace lmx {
namespace {

constexpr int64_t TILE = 128;        // of the vocabulary
constexpr int64_t BLOCK = 256;       // rows at most that are worked on at once
constexpr int64_t IN_CACHE = 98304;  // numbers of their hidden states, which stay in the second cache

struct Head {
    int64_t vocabulary, width, rows;
    const float* bias;
    const int64_t* targets;
    const float *rivals, *start;
    float headroom, softcap;
    bool sloped;  // keep is to be a gradient: times the slope of a softcap, and zero at targets

    int64_t block() const { return std::clamp<int64_t>(IN_CACHE / width / 16 * 16, 64, BLOCK); }
};

// What is known of each row in one part of the vocabulary.
struct Seen {
    float *reference, *peak, *target, *above, *total, *moment;

    Seen(float* first, int64_t stride)
        : reference(first), peak(first + stride), target(first + 2 * stride), above(first + 3 * stride),
          total(first + 4 * stride), moment(first + 5 * stride) {}
};

// Of each row, over all tiles so far.
struct Sums {
    std::vector<double> total, moment;
};

template <typename T>
struct Gradients {
    T* keep;      // (vocabulary, rows): exp(x - reference); or null
    float* pull;  // [block][width][rows of the block]: sum of keep times weight; or null
};

// One tile of logits, (width, rows): the vocabulary goes down.
struct Tile {
    float* x;
    int64_t first, width, row, rows;
};

// tanh, near zero by the first terms of its series: of a large softcap the cap is the largest factor of any error.
inline float tanh_to_the_last_digit(float y) {
    const float s = y * y;
    const float near = y * (1.0f + s * (-1.0f / 3 + s * (2.0f / 15 + s * (-17.0f / 315 + s * (62.0f / 2835)))));
    return s < 0.09f ? near : tanh_of(y);
}

void finish_logits(const Head& head, const Tile& tile) {
    for (int64_t v = 0; v < tile.width; ++v) {
        float* const x = tile.x + v * tile.rows;
        if (head.bias != nullptr) {
            for (int64_t i = 0; i < tile.rows; ++i) x[i] += head.bias[tile.first + v];
        }
        if (head.softcap != 0.0f) {
            for (int64_t i = 0; i < tile.rows; ++i) x[i] = head.softcap * tanh_to_the_last_digit(x[i] / head.softcap);
        }
    }
}

// Brings peaks, ranks and targets up to date. Returns whether a logit is out of reach of its row's reference.
bool look(const Head& head, const Tile& tile, const Seen& seen) {
    float top[BLOCK], count[BLOCK];
    std::fill_n(top, tile.rows, -INFINITY);
    std::fill_n(count, tile.rows, 0.0f);
    const float* const rivals = head.rivals == nullptr ? nullptr : head.rivals + tile.row;
    for (int64_t v = 0; v < tile.width; ++v) {
        const float* const x = tile.x + v * tile.rows;
        for (int64_t i = 0; i < tile.rows; ++i) top[i] = x[i] > top[i] ? x[i] : top[i];
        if (rivals == nullptr) continue;
        for (int64_t i = 0; i < tile.rows; ++i) count[i] += x[i] >= rivals[i] ? 1.0f : 0.0f;
    }
    bool out_of_reach = false;
    for (int64_t i = 0; i < tile.rows; ++i) {
        const int64_t row = tile.row + i, column = head.targets[row] - tile.first;
        if (column >= 0 && column < tile.width) seen.target[row] = tile.x[column * tile.rows + i];
        seen.above[row] += count[i];
        seen.peak[row] = std::max(seen.peak[row], top[i]);
        out_of_reach |= top[i] > seen.reference[row] + head.headroom;
    }
    return out_of_reach;
}

// exp(x - reference) of two rows of a tile, left times the slope of a softcap; in half precision also side by side, as
// the right matrix of a product.
template <typename T, bool KEEP, bool SLOPED>
void two_exponentials(const float* x, const float* y, const float* reference, float slope, float* total,
                      float* moment, T* to_x, T* to_y, uint32_t* paired, int64_t rows) {
#pragma omp simd
    for (int64_t i = 0; i < rows; ++i) {
        const float s = x[i] - reference[i], t = y[i] - reference[i];
        float d = power_of_two(s * LOG2_E), e = power_of_two(t * LOG2_E);
        total[i] += d + e;
        moment[i] += s * d + t * e;
        if (SLOPED) {
            d *= 1.0f - x[i] * x[i] * slope;
            e *= 1.0f - y[i] * y[i] * slope;
        }
        if (!KEEP) continue;
        if constexpr (PAIR<T> == 2) {
            const uint32_t left = rounded(d), right = rounded(e);
            to_x[i] = static_cast<T>(left >> 16);
            to_y[i] = static_cast<T>(right >> 16);
            paired[i] = left >> 16 | (right & 0xffff0000u);
        } else {
            to_x[i] = d;
            to_y[i] = e;
        }
    }
}

template <typename T>
void exponentials(const Head& head, const Tile& tile, const Seen& seen, Sums& sums, const Gradients<T>& gradients,
                  uint32_t* paired) {
    float total[BLOCK], moment[BLOCK], reference[BLOCK];
    T beside[BLOCK];
    std::fill_n(total, tile.rows, 0.0f);
    std::fill_n(moment, tile.rows, 0.0f);
    std::copy_n(seen.reference + tile.row, tile.rows, reference);
    const bool sloped = head.sloped && head.softcap != 0.0f;
    const float slope = sloped ? 1.0f / (head.softcap * head.softcap) : 0.0f;
    T* const keep = gradients.keep == nullptr ? nullptr : gradients.keep + tile.first * head.rows + tile.row;
    const auto two = keep == nullptr ? two_exponentials<T, false, false>
                     : sloped        ? two_exponentials<T, true, true>
                                     : two_exponentials<T, true, false>;
    for (int64_t v = 0; v < tile.width; v += 2) {
        float *const x = tile.x + v * tile.rows, *const y = x + tile.rows;
        T *const to_x = keep == nullptr ? nullptr : keep + v * head.rows, *to_y = to_x + head.rows;
        if (v + 1 == tile.width) {  // a row that is as good as nothing, and written nowhere
            for (int64_t i = 0; i < tile.rows; ++i) y[i] = reference[i] - 100.0f - 1e-3f * std::abs(reference[i]);
            to_y = beside;
        }
        two(x, y, reference, slope, total, moment, to_x, to_y, paired + v / 2 * tile.rows, tile.rows);
    }
    for (int64_t i = 0; i < tile.rows; ++i) {
        const int64_t row = tile.row + i, column = head.targets[row] - tile.first;
        sums.total[row] += static_cast<double>(total[i]);
        sums.moment[row] += static_cast<double>(moment[i]);
        if (!head.sloped || keep == nullptr || column < 0 || column >= tile.width) continue;
        keep[column * head.rows + i] = T(0);
        if (PAIR<T> == 2) paired[column / 2 * tile.rows + i] &= column % 2 == 0 ? 0xffff0000u : 0x0000ffffu;
    }
}

// (tile, width) turned into (width, tile); `columns` is the tile's width, or one more: then the last is zero.
void turn(const float* from, int64_t width, int64_t tile, int64_t columns, float* to) {
    for (int64_t c = 0; c < width; ++c) {
        for (int64_t v = 0; v < tile; ++v) to[c * columns + v] = from[v * width + c];
    }
}

void turn(const Half* from, int64_t width, int64_t tile, int64_t columns, Half* to) {
    uint32_t both[TILE] = {};
    for (int64_t c = 0; c < width; c += 2) {
        for (int64_t v = 0; v < tile; ++v) std::memcpy(both + v, from + v * width + c, sizeof *both);
        for (int64_t v = 0; v < columns; ++v) to[c * columns + v] = static_cast<Half>(both[v]);
        for (int64_t v = 0; v < columns; ++v) to[(c + 1) * columns + v] = static_cast<Half>(both[v] >> 16);
    }
}

// The hidden states of each block of rows as the right matrix: [block][width / PAIR][rows of the block][PAIR].
template <typename T>
void turn_hidden(const T* hidden, int64_t width, int64_t rows, int64_t most, T* to, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(enough(rows* width, threads))
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t block = row / most * most, size = std::min(most, rows - block);
        T* const out = to + block * width + (row - block) * PAIR<T>;
        for (int64_t c = 0; c < width; ++c) {
            out[c / PAIR<T> * size * PAIR<T> + c % PAIR<T>] = hidden[row * width + c];
        }
    }
}

// A row whose logits went out of reach takes their maximum for its reference: what was summed becomes smaller.
template <typename T>
void move_references(const Head& head, const Tile& tile, const Seen& seen, Sums& sums, const Gradients<T>& gradients,
                     int64_t from) {
    for (int64_t row = tile.row; row < tile.row + tile.rows; ++row) {
        float top = -INFINITY;
        for (int64_t v = 0; v < tile.width; ++v) top = std::max(top, tile.x[v * tile.rows + row - tile.row]);
        if (!(top > seen.reference[row] + head.headroom)) continue;
        const float shift = seen.reference[row] - top, scale = std::exp(shift);
        seen.reference[row] = top;
        if (sums.total[row] != 0.0) sums.moment[row] = scale * (sums.moment[row] + shift * sums.total[row]);
        sums.total[row] *= scale;
        for (int64_t v = from; v < tile.first && gradients.keep != nullptr; ++v) {
            T& kept = gradients.keep[v * head.rows + row];
            kept = put<T>(get(kept) * scale);
        }
        for (int64_t c = 0; c < head.width && gradients.pull != nullptr; ++c) {
            gradients.pull[tile.row * head.width + c * tile.rows + row - tile.row] *= scale;
        }
    }
}

// Numbers in the dtype of the products, at `to` where they must be rounded.
inline const Half* as_product(const Half* from, int64_t, Half*) { return from; }
inline const float* as_product(const float* from, int64_t, float*) { return from; }

inline const Half* as_product(const float* from, int64_t count, Half* to) {
    for (int64_t i = 0; i < count; ++i) to[i] = put<Half>(from[i]);
    return to;
}

// A part of the vocabulary, and of the rows.
struct Share {
    int64_t from, to, first_row, last_row;
};

template <typename T, typename W>
void go_over(const Share& share, const Head& head, const W* weight, const T* hidden, const Seen& seen,
             const Gradients<T>& gradients) {
    const int64_t block = head.block();
    const bool pulls = gradients.pull != nullptr;
    std::vector<float> logits(TILE * block);
    std::vector<T> lowered(std::is_same_v<T, W> ? 0 : TILE * head.width), turned(pulls ? TILE * head.width : 0);
    std::vector<uint32_t> paired(PAIR<T> == 2 ? TILE / 2 * block : 0);
    Sums sums{std::vector<double>(head.rows), std::vector<double>(head.rows)};
    for (int64_t first = share.from; first < share.to; first += TILE) {
        const int64_t width = std::min(TILE, share.to - first), even = (width + PAIR<T> - 1) / PAIR<T> * PAIR<T>;
        const T* const by = as_product(weight + first * head.width, width * head.width, lowered.data());
        if (pulls) turn(by, head.width, width, even, turned.data());
        for (int64_t row = share.first_row; row < share.last_row; row += block) {
            const int64_t rows = std::min(block, head.rows - row);
            const Tile tile{logits.data(), first, width, row, rows};
            multiply({width, rows, head.width, head.width, rows, rows}, by, hidden + row * head.width, tile.x, false);
            finish_logits(head, tile);
            if (look(head, tile, seen)) move_references(head, tile, seen, sums, gradients, share.from);
            exponentials(head, tile, seen, sums, gradients, paired.data());
            if (!pulls) continue;
            const bool pairs = PAIR<T> == 2;
            const T* const right = pairs ? reinterpret_cast<const T*>(paired.data())
                                         : gradients.keep + first * head.rows + row;
            multiply({head.width, rows, even, even, pairs ? rows : head.rows, rows}, turned.data(), right,
                     gradients.pull + row * head.width, first > share.from);
        }
    }
    for (int64_t row = share.first_row; row < share.last_row; ++row) {
        seen.total[row] = static_cast<float>(sums.total[row]);
        seen.moment[row] = static_cast<float>(sums.moment[row]);
    }
}

// Its rows of [block][width][rows of the block] turned into (rows, width).
void turn_back(const Share& share, const Head& head, const float* from, float* to) {
    for (int64_t first = share.first_row; first < share.last_row; first += head.block()) {
        const int64_t size = std::min(head.block(), head.rows - first);
        for (int64_t row = 0; row < size; ++row) {
            for (int64_t c = 0; c < head.width; ++c) {
                to[(first + row) * head.width + c] = from[first * head.width + c * size + row];
            }
        }
    }
}

// Runs `work` on 0 ... count - 1, in several threads. Returns whether all came to an end: no exception may leave a thread.
template <typename Work>
bool in_threads(int64_t count, int64_t threads, const Work& work) {
    int failed = 0;
#pragma omp parallel num_threads(static_cast<int>(threads)) reduction(+ : failed)
    {
#pragma omp for schedule(static)
        for (int64_t number = 0; number < count; ++number) {
            try {
                work(number);
            } catch (...) {
                ++failed;
            }
        }
        multiplied();
    }
    return failed == 0;
}

template <typename T, typename W>
bool softmax(const Head& head, const W* weight, const T* hidden, T* keep, float* pull, float* seen,
             const int64_t* bounds, int64_t parts, int64_t groups, int64_t threads) {
    const int64_t block = head.block(), blocks = (head.rows + block - 1) / block;
    std::vector<T> turned(head.rows * head.width);
    turn_hidden(hidden, head.width, head.rows, block, turned.data(), threads);
    std::vector<float> sums(pull == nullptr ? 0 : parts * head.rows * head.width);
    return in_threads(parts * groups, threads, [&](int64_t number) {
        const int64_t part = number / groups, group = number % groups;
        const Share share{bounds[part], bounds[part + 1], std::min(head.rows, group * blocks / groups * block),
                          std::min(head.rows, (group + 1) * blocks / groups * block)};
        const Seen rows(seen + part * head.rows, parts * head.rows);
        for (int64_t row = share.first_row; row < share.last_row; ++row) {
            rows.reference[row] = head.start[row];
            rows.peak[row] = rows.target[row] = -INFINITY;
            rows.above[row] = 0.0f;
        }
        float* const sum = pull == nullptr ? nullptr : sums.data() + part * head.rows * head.width;
        go_over(share, head, weight, turned.data(), rows, Gradients<T>{keep, sum});
        if (pull != nullptr) turn_back(share, head, sum, pull + part * head.rows * head.width);
    });
}

template <typename T>
bool gradient(const T* keep, const T* hidden, float* d_weight, bool add, int64_t vocabulary, int64_t width,
              int64_t rows, int64_t threads) {
    std::vector<T> paired(PAIR<T> == 2 ? rows * width : 0);
    if (PAIR<T> == 2) pair_rows(hidden, width, rows, width, paired.data());
    const T* const right = PAIR<T> == 2 ? paired.data() : hidden;
    return in_threads((vocabulary + TILE - 1) / TILE, threads, [&](int64_t number) {
        const int64_t first = number * TILE, tile = std::min(TILE, vocabulary - first);
        multiply({tile, width, rows, rows, width, width}, keep + first * rows, right, d_weight + first * width, add);
    });
}

}  // namespace
}  // namespace lmx

using lmx::Half;

// Shapes: weight (vocabulary, width); bias (vocabulary); hidden (rows, width); targets, rivals and start (rows): logits
// to be ranked against, and the first reference; keep (vocabulary, rows); pull (parts, rows, width); seen (6, parts,
// rows) in the order of `Seen`; bounds (parts + 1) of the parts of the vocabulary, each of which is done in `groups` of
// rows. hidden and keep are bfloat16 where `half`, weight where `half_weight`. bias, rivals, keep and pull may be null;
// pull needs keep; softcap 0 is none. With `sloped` keep is to be the gradient of the logits. `done` is whether it came
// to an end.
extern "C" void lmx_head(const void* weight, int64_t half_weight, const float* bias, const void* hidden, int64_t half,
                         const int64_t* targets, const float* rivals, const float* start, void* keep,
                         float* pull, float* seen, const int64_t* bounds, int64_t parts, int64_t groups,
                         int64_t vocabulary, int64_t width, int64_t rows, float headroom, float softcap,
                         int64_t sloped, bool* done, int64_t threads) {
    const lmx::Head head{vocabulary, width, rows, bias, targets, rivals, start, headroom, softcap, sloped != 0};
    auto run = [&](auto* weight, auto* hidden, auto* keep) {
        *done = lmx::softmax(head, weight, hidden, keep, pull, seen, bounds, parts, groups, threads);
    };
    if (half && half_weight) {
        run(static_cast<const Half*>(weight), static_cast<const Half*>(hidden), static_cast<Half*>(keep));
    } else if (half) {
        run(static_cast<const float*>(weight), static_cast<const Half*>(hidden), static_cast<Half*>(keep));
    } else {
        run(static_cast<const float*>(weight), static_cast<const float*>(hidden), static_cast<float*>(keep));
    }
}

// d_weight (vocabulary, width) becomes keep (vocabulary, rows) times hidden (rows, width), or has it added.
extern "C" void lmx_head_gradient(const void* keep, int64_t half, const void* hidden, float* d_weight, int64_t add,
                                  int64_t vocabulary, int64_t width, int64_t rows, bool* done, int64_t threads) {
    auto run = [&](auto* keep, auto* hidden) {
        *done = lmx::gradient(keep, hidden, d_weight, add != 0, vocabulary, width, rows, threads);
    };
    if (half) {
        run(static_cast<const Half*>(keep), static_cast<const Half*>(hidden));
    } else {
        run(static_cast<const float*>(keep), static_cast<const float*>(hidden));
    }
}
