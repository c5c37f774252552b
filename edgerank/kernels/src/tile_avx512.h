// 6 rows by 64 columns of sums in 24 registers. A panel holds 64 columns, four rows of the matrix
// side by side: [depth / 4][64][4].
#pragma once

#include <cstring>

#include "simd_avx512.h"

namespace {

using Integers = __m512i;

constexpr int TILE_ROWS = 6;
constexpr int64_t PANEL_COLUMNS = 64;
#if !defined(PANEL_DEPTH)
#define PANEL_DEPTH 4
#endif
constexpr int64_t DEPTH_STEP = PANEL_DEPTH;  // a panel is filled up to multiples of it
constexpr int INTEGER_OFFSET = 0;

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

// Lays a matrix [depth, columns] out in panels; what fills the last ones up is zero.
inline void pack(const int8_t* weight, int64_t depth, int64_t columns, int8_t* panels) {
  for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
    const int64_t count = columns - column < PANEL_COLUMNS ? columns - column : PANEL_COLUMNS;
    const __mmask64 mask = count == 64 ? ~__mmask64(0) : (__mmask64(1) << count) - 1;
    const int64_t padded = (depth + DEPTH_STEP - 1) / DEPTH_STEP * DEPTH_STEP;
    for (int64_t k = 0; k < padded; k += 4, panels += 4 * PANEL_COLUMNS) {
      __m512i rows[4];
      for (int i = 0; i < 4; ++i) {
        rows[i] = k + i < depth ? _mm512_maskz_loadu_epi8(mask, weight + (k + i) * columns + column)
                                : _mm512_setzero_si512();
      }
      // four rows of 64 bytes into 64 columns of four bytes
      const __m512i low01 = _mm512_unpacklo_epi8(rows[0], rows[1]);
      const __m512i high01 = _mm512_unpackhi_epi8(rows[0], rows[1]);
      const __m512i low23 = _mm512_unpacklo_epi8(rows[2], rows[3]);
      const __m512i high23 = _mm512_unpackhi_epi8(rows[2], rows[3]);
      // lane l of fours[j] holds columns 16 l + 4 j and the three after it
      const __m512i fours[4] = {
          _mm512_unpacklo_epi16(low01, low23), _mm512_unpackhi_epi16(low01, low23),
          _mm512_unpacklo_epi16(high01, high23), _mm512_unpackhi_epi16(high01, high23)};
      const __m512i left01 = _mm512_shuffle_i32x4(fours[0], fours[1], 0x44);
      const __m512i left23 = _mm512_shuffle_i32x4(fours[2], fours[3], 0x44);
      const __m512i right01 = _mm512_shuffle_i32x4(fours[0], fours[1], 0xee);
      const __m512i right23 = _mm512_shuffle_i32x4(fours[2], fours[3], 0xee);
      _mm512_storeu_si512(panels, _mm512_shuffle_i32x4(left01, left23, 0x88));
      _mm512_storeu_si512(panels + 64, _mm512_shuffle_i32x4(left01, left23, 0xdd));
      _mm512_storeu_si512(panels + 128, _mm512_shuffle_i32x4(right01, right23, 0x88));
      _mm512_storeu_si512(panels + 192, _mm512_shuffle_i32x4(right01, right23, 0xdd));
    }
  }
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
  for (int64_t step = 0; step < steps * (DEPTH_STEP / 4); ++step, panel += 256, rows += 4) {
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
