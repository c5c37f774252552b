// Some rows by the 16 columns of a panel.
#pragma once

#include <cstring>

#include "kernels.h"
#include "simd_avx2.h"

namespace {

using Integers = __m256i;

#if defined(__AVXVNNI__)
constexpr int TILE_ROWS = 6;  // enough sums to hide the latency of vpdpbusd
constexpr int INTEGER_OFFSET = 0;
#else
constexpr int TILE_ROWS = 4;  // pairs of products take registers too
constexpr int INTEGER_OFFSET = 128;
#endif
constexpr int64_t TILE_COLUMNS = PANEL_COLUMNS;

inline Integers load_integers(const int32_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
inline Integers subtract(Integers a, Integers b) { return _mm256_sub_epi32(a, b); }
inline Integers times(Integers a, int b) { return _mm256_mullo_epi32(a, _mm256_set1_epi32(b)); }
inline Floats to_floats(Integers x) { return _mm256_cvtepi32_ps(x); }

// Four integers of a row, once for each of 8 columns.
struct Four {
  __m256i integers;
#if !defined(__AVXVNNI__)
  __m256i sizes;
#endif

  explicit Four(const uint8_t* row) {
    int32_t four;
    std::memcpy(&four, row, sizeof(four));
    integers = _mm256_set1_epi32(four);
#if !defined(__AVXVNNI__)
    sizes = _mm256_abs_epi8(integers);  // 0 to 128, without a sign
#endif
  }
};

// Adds to each of 8 sums the products of four integers of a row and four int8 of `columns`.
inline Integers add_products(Integers sums, const Four& row, __m256i columns) {
#if defined(__AVXVNNI__)
  return _mm256_dpbusd_avx_epi32(sums, row.integers, columns);
#else
  // a pair is at most 2 * 128 * 127 = 32512, and so exact in 16 bits; weights are never -128, which
  // would lose its sign
  const __m256i pairs = _mm256_maddubs_epi16(row.sizes, _mm256_sign_epi8(columns, row.integers));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                 Integers (&sums)[Rows][2]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) sums[i][0] = sums[i][1] = _mm256_setzero_si256();
  for (int64_t k = 0; k < depth; k += 4, panels += 64, rows += 4) {
    const auto* both = reinterpret_cast<const __m256i*>(panels);
    const __m256i left = _mm256_loadu_si256(both), right = _mm256_loadu_si256(both + 1);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Four four(rows + i * stride);
      sums[i][0] = add_products(sums[i][0], four, left);
      sums[i][1] = add_products(sums[i][1], four, right);
    }
  }
}

}  // namespace
