// 6 rows by 64 columns of sums in 24 registers: four panels side by side.
#pragma once

#include <cstring>

#include "kernels.h"
#include "simd_avx512.h"

namespace {

using Integers = __m512i;

constexpr int TILE_ROWS = 6;
constexpr int64_t TILE_COLUMNS = 4 * PANEL_COLUMNS;
#if defined(__AVX512VNNI__)
constexpr int INTEGER_OFFSET = 0;
#else
constexpr int INTEGER_OFFSET = 128;
#endif

inline Integers load_integers(const int32_t* from) { return _mm512_loadu_si512(from); }
inline Integers subtract(Integers a, Integers b) { return _mm512_sub_epi32(a, b); }
inline Integers times(Integers a, int b) { return _mm512_mullo_epi32(a, _mm512_set1_epi32(b)); }
inline Floats to_floats(Integers x) { return _mm512_cvtepi32_ps(x); }

// Four integers of a row, once for each of 16 columns.
struct Four {
#if defined(__AVX512VNNI__)
  __m512i integers;
#else
  __m512i sizes;
  __mmask64 is_negative;
#endif

  explicit Four(const uint8_t* row) {
    int32_t four;
    std::memcpy(&four, row, sizeof(four));
    const __m512i repeated = _mm512_set1_epi32(four);
#if defined(__AVX512VNNI__)
    integers = repeated;
#else
    sizes = _mm512_abs_epi8(repeated);  // 0 to 128, without a sign
    is_negative = _mm512_movepi8_mask(repeated);
#endif
  }
};

// Adds to each of 16 sums the products of four integers of a row and four int8 of `columns`.
inline Integers add_products(Integers sums, const Four& row, __m512i columns) {
#if defined(__AVX512VNNI__)
  return _mm512_dpbusd_epi32(sums, row.integers, columns);
#else
  // a pair is at most 2 * 128 * 127 = 32512, and so exact in 16 bits; weights are never -128, which
  // would lose its sign
  const __m512i turned =
      _mm512_mask_sub_epi8(columns, row.is_negative, _mm512_setzero_si512(), columns);
  const __m512i pairs = _mm512_maddubs_epi16(row.sizes, turned);
  return _mm512_add_epi32(sums, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#endif
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                 Integers (&sums)[Rows][4]) {
  const int64_t panel_bytes = depth * PANEL_COLUMNS;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) sums[i][j] = _mm512_setzero_si512();
  }
  for (int64_t k = 0; k < depth; k += 4, panels += 64, rows += 4) {
    __m512i columns[4];
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) columns[j] = _mm512_loadu_si512(panels + j * panel_bytes);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Four four(rows + i * stride);
#pragma GCC unroll 16
      for (int j = 0; j < 4; ++j) sums[i][j] = add_products(sums[i][j], four, columns[j]);
    }
  }
}

}  // namespace
