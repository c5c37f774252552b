// Rows times a Hadamard matrix of ones and minus ones, in blocks: a large number is spread over its
// block before the row is rounded. By the fast Walsh-Hadamard transform, whose steps add and
// subtract numbers that lie 1, 2, 4, ... apart. Included after a simd_*.h.
#pragma once

#include <cstdint>

namespace {

// The steps between the lanes of a vector.
template <int distance = 1>
inline Floats mix_lanes(Floats x) {
  if constexpr (distance < WIDTH) {
    alignas(64) float signs[WIDTH];
    for (int i = 0; i < WIDTH; ++i) signs[i] = i & distance ? -1.0f : 1.0f;
    return mix_lanes<2 * distance>(multiply_add(x, load(signs), swapped<distance>(x)));
  } else {
    return x;
  }
}

// The steps between Count vectors that lie `stride` numbers apart, and between their lanes.
template <int Count, bool between_lanes>
inline void mix_vectors(const float* x, int64_t stride, float* y) {
  Floats v[Count];
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) {
    v[i] = load(x + i * stride);
    if constexpr (between_lanes) v[i] = mix_lanes(v[i]);
  }
#pragma GCC unroll 8
  for (int half = 1; half < Count; half *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < Count; ++i) {
      if (i & half) continue;
      const Floats a = v[i], b = v[i + half];
      v[i] = a + b;
      v[i + half] = a - b;
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Count; ++i) store(y + i * stride, v[i]);
}

// The same for a count that is a power of two, up to 8.
template <bool between_lanes>
inline void mix_some(const float* x, int64_t stride, int64_t count, float* y) {
  if (count == 8) mix_vectors<8, between_lanes>(x, stride, y);
  if (count == 4) mix_vectors<4, between_lanes>(x, stride, y);
  if (count == 2) mix_vectors<2, between_lanes>(x, stride, y);
  if (count == 1) mix_vectors<1, between_lanes>(x, stride, y);
}

// Mixes the blocks of a row x to y, which may be the same; a block is a power of two, and a vector
// at least.
inline void mix_blocks(const float* x, int64_t width, int64_t block, float* y) {
  const int64_t near = block < 8 * WIDTH ? block : 8 * WIDTH;  // mixed while in registers
  for (int64_t start = 0; start < width; start += block) {
    for (int64_t at = start; at < start + block; at += near) {
      mix_some<true>(x + at, WIDTH, near / WIDTH, y + at);
    }
    for (int64_t mixed = near; mixed < block;) {
      const int64_t count = block / mixed < 8 ? block / mixed : 8;
      for (int64_t at = start; at < start + block; at += mixed * count) {
        for (int64_t lane = at; lane < at + mixed; lane += WIDTH) {
          mix_some<false>(y + lane, mixed, count, y + lane);
        }
      }
      mixed *= count;
    }
  }
}

}  // namespace
