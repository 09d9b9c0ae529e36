// Vectors, the exponential function, and products with matrices that have their outputs packed in panels.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

// Floats of a register, rows of the largest tile, and registers for a tile's sums.
#if defined(__AVX512F__)
constexpr int LANES = 16, MAX_ROWS = 8, SUMS = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8, MAX_ROWS = 2, SUMS = 8;
#else
constexpr int LANES = 4, MAX_ROWS = 1, SUMS = 8;
#endif
constexpr int PANEL = 32;  // outputs that have their weights side by side
constexpr int VECTORS = PANEL / LANES;
constexpr int LINE = 16;  // floats of a cache line
constexpr int BLOCK = 32;  // positions of a KV block
constexpr int GROUP = 4;  // panels that a thread computes at once
constexpr int64_t WORTH_THREADS = 1 << 20;  // multiplications below which one thread is as fast

typedef float Vector __attribute__((vector_size(LANES * 4)));
typedef int32_t Mask __attribute__((vector_size(LANES * 4)));
typedef float Unaligned __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
constexpr float LOWEST = -std::numeric_limits<float>::infinity();

typedef int32_t UnalignedMask __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
Vector load(const float *p) { return *reinterpret_cast<const Unaligned *>(p); }
Mask load(const int32_t *p) { return *reinterpret_cast<const UnalignedMask *>(p); }
void store(float *p, Vector v) { *reinterpret_cast<Unaligned *>(p) = v; }
Vector all(float x) { return x - Vector{}; }
Vector larger(Vector a, Vector b) { return a > b ? a : b; }
Mask lane_numbers() {
    Mask numbers;
    for (int lane = 0; lane < LANES; lane++) numbers[lane] = lane;
    return numbers;
}
int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

template <class Combine> float reduce(Vector v, Combine combine) {
#pragma GCC unroll 4
    for (int half = LANES / 2; half; half /= 2)
#pragma GCC unroll 8
        for (int lane = 0; lane < half; lane++) v[lane] = combine(v[lane], v[lane + half]);
    return v[0];
}
float sum(Vector v) { return reduce(v, [](float a, float b) { return a + b; }); }
float largest(Vector v) { return reduce(v, [](float a, float b) { return a > b ? a : b; }); }

// e^x, within 2 units in the last place; x above 88 counts as 88, and the result is 0 below -87.
Vector exponential(Vector x) {
    const Vector given = x;
    x = x > 88.0f ? all(88.0f) : x;
    x = x < -87.0f ? all(-87.0f) : x;
    const Vector shifted = x * 1.44269504f + 12582912.0f;  // rounds to an integer in the low bits
    const Vector whole = shifted - 12582912.0f;
    const Vector rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;
    Vector y = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * rest + 8.3334519073e-3f;
    y = y * rest + 4.1665795894e-2f;
    y = y * rest + 1.6666665459e-1f;
    y = y * rest + 5.0000001201e-1f;
    y = y * (rest * rest) + rest + 1.0f;
    const Mask power = (__builtin_convertvector(whole, Mask) + 127) << 23;
    return given < -87.0f ? all(0.0f) : y * (Vector)power;
}

struct Matrix {
    const float *panels;  // [panels, inputs, PANEL]
    int64_t inputs, outputs;
};

template <int ROWS, int PANELS, bool ADD>
void tile(const float *x, int64_t x_stride, const float *panels, int64_t inputs, float *out, int64_t out_stride) {
    Vector sums[ROWS][PANELS * VECTORS] = {};
    for (int64_t i = 0; i < inputs; i++) {
        if (ROWS == MAX_ROWS)  // of the next group: with few rows the processor's own prefetch is ahead of the products
            for (int64_t f = 0; f < PANEL; f += LINE) __builtin_prefetch(panels + (GROUP * inputs + i) * PANEL + f);
#pragma GCC unroll 8
        for (int v = 0; v < PANELS * VECTORS; v++) {
            const Vector weight = load(panels + (v / VECTORS * inputs + i) * PANEL + v % VECTORS * LANES);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) sums[r][v] += weight * x[r * x_stride + i];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int v = 0; v < PANELS * VECTORS; v++) {
            float *to = out + r * out_stride + v * LANES;
            store(to, ADD ? load(to) + sums[r][v] : sums[r][v]);
        }
}

// Up to GROUP panels for all rows. One row has too few sums for the processor's pipeline, so it takes more panels.
template <int ROWS, bool ADD>
void panels_for_rows(const float *x, int64_t x_stride, int64_t rows, const float *panels, int64_t count, int64_t inputs,
                     float *out, int64_t out_stride) {
    constexpr int PANELS = std::max(1, std::min(GROUP, SUMS / (ROWS * VECTORS)));
    for (; rows >= ROWS; rows -= ROWS, x += ROWS * x_stride, out += ROWS * out_stride) {
        int64_t p = 0;
        for (; p + PANELS <= count; p += PANELS)
            tile<ROWS, PANELS, ADD>(x, x_stride, panels + p * inputs * PANEL, inputs, out + p * PANEL, out_stride);
        for (; p < count; p++)
            tile<ROWS, 1, ADD>(x, x_stride, panels + p * inputs * PANEL, inputs, out + p * PANEL, out_stride);
    }
    if constexpr (ROWS > 1)
        if (rows) panels_for_rows<ROWS / 2, ADD>(x, x_stride, rows, panels, count, inputs, out, out_stride);
}

// Call work(0), ..., work(count - 1), on several threads if there is enough to do.
template <class Work> void share(int threads, int64_t count, int64_t multiplications, Work work) {
    if (threads == 1 || multiplications < WORTH_THREADS) {
        for (int64_t i = 0; i < count; i++) work(i);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < count; i++) work(i);
}

// out [rows, outputs] = x [rows, inputs] times the matrix, or that is added to it.
template <bool ADD = false>
void multiply(int threads, const float *x, int64_t x_stride, int64_t rows, const Matrix &m, float *out,
              int64_t out_stride) {
    const int64_t count = padded(m.outputs) / PANEL;
    share(threads, (count + GROUP - 1) / GROUP, rows * m.inputs * m.outputs, [&](int64_t group) {
        const int64_t first = group * GROUP;
        panels_for_rows<MAX_ROWS, ADD>(x, x_stride, rows, m.panels + first * m.inputs * PANEL,
                                       std::min<int64_t>(GROUP, count - first), m.inputs, out + first * PANEL,
                                       out_stride);
    });
}

}  // namespace
