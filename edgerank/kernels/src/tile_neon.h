// Rows by 16 columns of sums, with the instructions of FEAT_I8MM if they are compiled for, else
// with those of FEAT_DotProd. A panel holds 16 columns.
#pragma once

#include <cstring>

#include "simd_neon.h"

namespace {

using Integers = int32x4_t;

constexpr int64_t PANEL_COLUMNS = 16;

inline Integers load_integers(const int32_t* from) { return vld1q_s32(from); }
inline Integers subtract(Integers a, Integers b) { return vsubq_s32(a, b); }
inline Floats to_floats(Integers x) { return vcvtq_f32_s32(x); }

// The elements of row k from `column` on that belong to a panel, with zeros for those that the
// matrix lacks.
inline int8x16_t columns_of(const int8_t* weight, int64_t depth, int64_t columns, int64_t k,
                            int64_t column) {
  if (k >= depth) return vdupq_n_s8(0);
  const int8_t* from = weight + k * columns + column;
  if (columns - column >= PANEL_COLUMNS) return vld1q_s8(from);
  int8_t bytes[PANEL_COLUMNS] = {};
  std::memcpy(bytes, from, static_cast<size_t>(columns - column));
  return vld1q_s8(bytes);
}

// Writes four rows of the matrix as 16 columns of four bytes.
inline void pack_fours(const int8_t* weight, int64_t depth, int64_t columns, int64_t k,
                       int64_t column, int8_t* to) {
  int8x16x4_t rows;
  for (int i = 0; i < 4; ++i) rows.val[i] = columns_of(weight, depth, columns, k + i, column);
  vst4q_s8(to, rows);
}

#if defined(__ARM_FEATURE_MATMUL_INT8)

// 6 rows in pairs by 8 pairs of columns: 24 registers of 2 x 2 sums. A panel holds eight rows of
// the matrix side by side: [depth / 8][16][8].
constexpr int TILE_ROWS = 6;
constexpr int64_t DEPTH_STEP = 8;
constexpr int INTEGER_OFFSET = 0;

// Lays a matrix [depth, columns] out in panels; what fills the last ones up is zero.
inline void pack(const int8_t* weight, int64_t depth, int64_t columns, int8_t* panels) {
  const int64_t steps = (depth + DEPTH_STEP - 1) / DEPTH_STEP;
  for (int64_t step = 0; step < steps; ++step) {
    for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
      int32_t fours[2][PANEL_COLUMNS];
      for (int i = 0; i < 2; ++i) {
        pack_fours(weight, depth, columns, step * DEPTH_STEP + 4 * i, column,
                   reinterpret_cast<int8_t*>(fours[i]));
      }
      int8_t* to = panels + (column * steps + step * PANEL_COLUMNS) * DEPTH_STEP;
      for (int j = 0; j < PANEL_COLUMNS; j += 4) {
        const int32x4x2_t eights = {{vld1q_s32(fours[0] + j), vld1q_s32(fours[1] + j)}};
        vst2q_s32(reinterpret_cast<int32_t*>(to + j * DEPTH_STEP), eights);
      }
    }
  }
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panel, int64_t steps,
                 Integers (&sums)[Rows][4]) {
  constexpr int PAIRS = (Rows + 1) / 2;
  int32x4_t squares[PAIRS][8];  // sums of rows 2 p, 2 p + 1 by columns 2 c, 2 c + 1
#pragma GCC unroll 16
  for (int p = 0; p < PAIRS; ++p) {
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) squares[p][c] = vdupq_n_s32(0);
  }
  for (int64_t step = 0; step < steps; ++step, panel += 128, rows += 8) {
    uint8x16_t pairs[PAIRS];
#pragma GCC unroll 16
    for (int p = 0; p < PAIRS; ++p) {
      const uint8_t* upper = rows + 2 * p * stride;
      const uint8_t* lower = 2 * p + 1 < Rows ? upper + stride : upper;
      pairs[p] = vcombine_u8(vld1_u8(upper), vld1_u8(lower));
    }
#pragma GCC unroll 16
    for (int c = 0; c < 8; ++c) {
      const int8x16_t columns = vld1q_s8(panel + 16 * c);
#pragma GCC unroll 16
      for (int p = 0; p < PAIRS; ++p) {
        squares[p][c] = vusmmlaq_s32(squares[p][c], pairs[p], columns);
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

// 4 rows by 16 columns: 16 registers of sums, 4 of rows and some of columns. A panel holds four
// rows of the matrix side by side: [depth / 4][16][4], filled up so that 16 bytes of a row can be
// read at once.
constexpr int TILE_ROWS = 4;
constexpr int64_t DEPTH_STEP = 16;
constexpr int INTEGER_OFFSET = 128;  // sdot takes no unsigned integers

// Lays a matrix [depth, columns] out in panels; what fills the last ones up is zero.
inline void pack(const int8_t* weight, int64_t depth, int64_t columns, int8_t* panels) {
  const int64_t padded = (depth + DEPTH_STEP - 1) / DEPTH_STEP * DEPTH_STEP;
  for (int64_t k = 0; k < padded; k += 4) {
    for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
      pack_fours(weight, depth, columns, k, column, panels + column * padded + k * PANEL_COLUMNS);
    }
  }
}

// Adds the products of four elements of each row, those of the given lane.
template <int Lane, int Rows>
inline void add_products(Integers (&sums)[Rows][4], const int8x16_t (&rows)[Rows],
                         const int8_t* panel) {
#pragma GCC unroll 16
  for (int j = 0; j < 4; ++j) {
    const int8x16_t columns = vld1q_s8(panel + 64 * Lane + 16 * j);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      sums[i][j] = vdotq_laneq_s32(sums[i][j], columns, rows[i], Lane);
    }
  }
}

template <int Rows>
inline void tile(const uint8_t* rows, int64_t stride, const int8_t* panel, int64_t steps,
                 Integers (&sums)[Rows][4]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < 4; ++j) sums[i][j] = vdupq_n_s32(0);
  }
  const uint8x16_t offset = vdupq_n_u8(INTEGER_OFFSET);
  for (int64_t step = 0; step < steps; ++step, panel += 256, rows += 16) {
    int8x16_t signed_rows[Rows];
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      signed_rows[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(rows + i * stride), offset));
    }
    add_products<0>(sums, signed_rows, panel);
    add_products<1>(sums, signed_rows, panel);
    add_products<2>(sums, signed_rows, panel);
    add_products<3>(sums, signed_rows, panel);
  }
}

#endif

}  // namespace
