// 6 rows by 64 columns of sums in 24 registers. A panel holds 64 columns, four rows of the matrix
// side by side: [depth / 4][64][4].
#pragma once

#include <cstring>

#include "simd_avx512.h"

namespace {

using Integers = __m512i;

constexpr int TILE_ROWS = 6;
constexpr int64_t PANEL_COLUMNS = 64;
constexpr int64_t DEPTH_STEP = 4;

inline Integers load_integers(const int32_t* from) { return _mm512_loadu_si512(from); }
inline Integers subtract(Integers a, Integers b) { return _mm512_sub_epi32(a, b); }
inline Floats to_floats(Integers x) { return _mm512_cvtepi32_ps(x); }

// Adds to each of 16 sums the products of four uint8 of `row` and four int8 of `columns`.
inline Integers add_products(Integers sums, __m512i row, __m512i columns) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sums, row, columns);
#else
  // exact, for weights are rounded so that no pair of products leaves 16 bits
  const __m512i pairs = _mm512_maddubs_epi16(row, columns);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

inline __m512i four_of(const uint8_t* row) {
  int32_t four;
  std::memcpy(&four, row, sizeof(four));
  return _mm512_set1_epi32(four);
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panel, int64_t steps,
                 Integers (&sums)[Rows][4]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) sums[i][j] = _mm512_setzero_si512();
  }
  for (int64_t step = 0; step < steps; ++step, panel += 256, rows += 4) {
    __m512i columns[4];
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) columns[j] = _mm512_load_si512(panel + 64 * j);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const __m512i four = four_of(rows + i * stride);
#pragma GCC unroll 16
      for (int j = 0; j < 4; ++j) sums[i][j] = add_products(sums[i][j], four, columns[j]);
    }
  }
}

}  // namespace
