// Rows by the 16 columns of a panel, with the instructions of FEAT_I8MM if they are compiled for,
// else with those of FEAT_DotProd.
#pragma once

#include "kernels.h"
#include "simd_neon.h"

namespace {

using Integers = int32x4_t;

constexpr int64_t TILE_COLUMNS = PANEL_COLUMNS;

inline Integers load_integers(const int32_t* from) { return vld1q_s32(from); }
inline Integers subtract(Integers a, Integers b) { return vsubq_s32(a, b); }
inline Integers times(Integers a, int b) { return vmulq_n_s32(a, b); }
inline Floats to_floats(Integers x) { return vcvtq_f32_s32(x); }

#if defined(__ARM_FEATURE_MATMUL_INT8)

// 6 rows in pairs by 8 pairs of columns: 24 registers of 2 x 2 sums.
constexpr int TILE_ROWS = 6;
constexpr int INTEGER_OFFSET = 0;

// Four columns by four rows of a matrix.
inline int32x4_t fours_of(const int8_t* panels) { return vreinterpretq_s32_s8(vld1q_s8(panels)); }

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                 Integers (&sums)[Rows][4]) {
  constexpr int PAIRS = (Rows + 1) / 2;
  int32x4_t squares[PAIRS][8];  // sums of rows 2 p, 2 p + 1 by columns 2 c, 2 c + 1
#pragma GCC unroll 16
  for (int p = 0; p < PAIRS; ++p) {
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) squares[p][c] = vdupq_n_s32(0);
  }
  for (int64_t k = 0; k < depth; k += 8, panels += 128, rows += 8) {
    uint8x16_t pairs[PAIRS];
#pragma GCC unroll 16
    for (int p = 0; p < PAIRS; ++p) {
      const uint8_t* upper = rows + 2 * p * stride;
      const uint8_t* lower = 2 * p + 1 < Rows ? upper + stride : upper;
      pairs[p] = vcombine_u8(vld1_u8(upper), vld1_u8(lower));
    }
#pragma GCC unroll 16
    for (int c = 0; c < 8; c += 2) {
      // of four columns each: four rows of the matrix, and the four after them
      const int32x4_t first = fours_of(panels + 8 * c), then = fours_of(panels + 64 + 8 * c);
      const int8x16_t left = vreinterpretq_s8_s32(vzip1q_s32(first, then));
      const int8x16_t right = vreinterpretq_s8_s32(vzip2q_s32(first, then));
#pragma GCC unroll 16
      for (int p = 0; p < PAIRS; ++p) {
        squares[p][c] = vusmmlaq_s32(squares[p][c], pairs[p], left);
        squares[p][c + 1] = vusmmlaq_s32(squares[p][c + 1], pairs[p], right);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) {
      const int64x2_t left = vreinterpretq_s64_s32(squares[i / 2][2 * j]);
      const int64x2_t right = vreinterpretq_s64_s32(squares[i / 2][2 * j + 1]);
      sums[i][j] = vreinterpretq_s32_s64(i % 2 ? vzip2q_s64(left, right) : vzip1q_s64(left, right));
    }
  }
}

#else

// 4 rows by 16 columns: 16 registers of sums, 4 of rows and some of columns.
constexpr int TILE_ROWS = 4;
constexpr int INTEGER_OFFSET = 128;  // sdot takes no unsigned integers

// Adds the products of four elements of each row, those of the given lane.
template <int Lane, int Rows>
inline void add_products(Integers (&sums)[Rows][4], const int8x16_t (&rows)[Rows],
                         const int8_t* panels) {
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    const int8x16_t columns = vld1q_s8(panels + 64 * Lane + 16 * j);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sums[i][j] = vdotq_laneq_s32(sums[i][j], columns, rows[i], Lane);
    }
  }
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                 Integers (&sums)[Rows][4]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) sums[i][j] = vdupq_n_s32(0);
  }
  for (int64_t k = 0; k < depth; k += 16, panels += 256, rows += 16) {
    int8x16_t sixteen[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) sixteen[i] = vreinterpretq_s8_u8(vld1q_u8(rows + i * stride));
    add_products<0>(sums, sixteen, panels);
    add_products<1>(sums, sixteen, panels);
    add_products<2>(sums, sixteen, panels);
    add_products<3>(sums, sixteen, panels);
  }
}

#endif

}  // namespace
