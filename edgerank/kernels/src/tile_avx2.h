// Some rows by 16 columns of sums. A panel holds 16 columns, four rows of the matrix side by side:
// [depth / 4][16][4].
#pragma once

#include <cstring>

#include "simd_avx2.h"

namespace {

using Integers = __m256i;

#if defined(__AVXVNNI__)
constexpr int TILE_ROWS = 6;  // enough sums to hide the latency of vpdpbusd
#else
constexpr int TILE_ROWS = 4;  // pairs of products take registers too
#endif
constexpr int64_t PANEL_COLUMNS = 16;
constexpr int64_t DEPTH_STEP = 4;
constexpr int INTEGER_OFFSET = 0;

inline Integers load_integers(const int32_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline Integers subtract(Integers a, Integers b) { return _mm256_sub_epi32(a, b); }
inline Floats to_floats(Integers x) { return _mm256_cvtepi32_ps(x); }

// Adds to each of 8 sums the products of four uint8 of `row` and four int8 of `columns`.
inline Integers add_products(Integers sums, __m256i row, __m256i columns) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sums, row, columns);
#else
  // exact, for weights are rounded so that no pair of products leaves 16 bits
  const __m256i pairs = _mm256_maddubs_epi16(row, columns);
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

// The first `count` bytes, at most 16, before zeros.
inline __m128i columns_of(const int8_t* row, int64_t count) {
  if (count >= PANEL_COLUMNS) return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row));
  alignas(16) int8_t bytes[PANEL_COLUMNS] = {};
  std::memcpy(bytes, row, static_cast<size_t>(count));
  return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
}

// Lays a matrix [depth, columns] out in panels; what fills the last ones up is zero.
inline void pack(const int8_t* weight, int64_t depth, int64_t columns, int8_t* panels) {
  const int64_t steps = (depth + DEPTH_STEP - 1) / DEPTH_STEP;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
      __m128i rows[4];
      for (int i = 0; i < 4; ++i) {
        const int64_t k = step * DEPTH_STEP + i;
        rows[i] = k < depth ? columns_of(weight + k * columns + column, columns - column)
                            : _mm_setzero_si128();
      }
      // four rows of 16 bytes into 16 columns of four bytes
      const __m128i low01 = _mm_unpacklo_epi8(rows[0], rows[1]);
      const __m128i high01 = _mm_unpackhi_epi8(rows[0], rows[1]);
      const __m128i low23 = _mm_unpacklo_epi8(rows[2], rows[3]);
      const __m128i high23 = _mm_unpackhi_epi8(rows[2], rows[3]);
      auto* to = reinterpret_cast<__m128i*>(panels + column * steps * DEPTH_STEP +
                                            step * DEPTH_STEP * PANEL_COLUMNS);
      _mm_store_si128(to, _mm_unpacklo_epi16(low01, low23));
      _mm_store_si128(to + 1, _mm_unpackhi_epi16(low01, low23));
      _mm_store_si128(to + 2, _mm_unpacklo_epi16(high01, high23));
      _mm_store_si128(to + 3, _mm_unpackhi_epi16(high01, high23));
    }
  }
}

inline __m256i four_of(const uint8_t* row) {
  int32_t four;
  std::memcpy(&four, row, sizeof(four));
  return _mm256_set1_epi32(four);
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panel, int64_t steps,
                 Integers (&sums)[Rows][2]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  for (int64_t step = 0; step < steps; ++step, panel += 64, rows += 4) {
    const auto* both = reinterpret_cast<const __m256i*>(panel);
    const __m256i left = _mm256_load_si256(both), right = _mm256_load_si256(both + 1);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const __m256i four = four_of(rows + i * stride);
      sums[i][0] = add_products(sums[i][0], four, left);
      sums[i][1] = add_products(sums[i][1], four, right);
    }
  }
}

}  // namespace
