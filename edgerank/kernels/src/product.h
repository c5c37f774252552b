// Integer products: rows of uint8 times panels of int8, turned into floats while the sums are still
// in registers. Included after a simd_*.h and a tile_*.h, which has the innermost loop:
//
//   TILE_ROWS                   rows that are multiplied at once
//   PANEL_COLUMNS, DEPTH_STEP   the layout of panels
//   INTEGER_OFFSET              what is taken off integers, where instructions want them signed
//   pack(...)                   lays a matrix out
//   tile<Rows>(integers, stride, panel, steps, sums)   sums[Rows][PANEL_COLUMNS / WIDTH] of
//   Integers to_floats(Integers)
#pragma once

#include "kernels.h"

namespace {

constexpr int PANEL_VECTORS = PANEL_COLUMNS / WIDTH;

inline int64_t padded_depth(int64_t depth) {
  return (depth + DEPTH_STEP - 1) / DEPTH_STEP * DEPTH_STEP;
}

// Rows as integers.
struct IntegerRows {
  const uint8_t* integers;
  int64_t stride;
  const float* steps;  // of the rows
};

// Multiplies Rows rows by one panel; finish(row, column, values, count) gets
// float(sum) * scale, for `count` columns, and leaves the row's step to its caller.
template <int Rows, typename Finish>
inline void product_tile(const IntegerRows& rows, int64_t row, const Matrix& matrix, int64_t panel,
                         const Finish& finish) {
  const int64_t depth = padded_depth(matrix.depth);
  Integers sums[Rows][PANEL_VECTORS];
  tile<Rows>(rows.integers + row * rows.stride, rows.stride,
             matrix.panels + panel * depth * PANEL_COLUMNS, depth / DEPTH_STEP, sums);
#pragma GCC unroll 16
  for (int j = 0; j < PANEL_VECTORS; ++j) {
    const int64_t column = panel * PANEL_COLUMNS + j * WIDTH;
    const int64_t left = matrix.columns - column;
    if (left <= 0) break;
    const Integers correction = load_integers(matrix.corrections + column);
    const Floats scale = load(matrix.scales + column);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const Floats values = to_floats(subtract(sums[i][j], correction)) * scale;
      finish(row + i, column, values, left < WIDTH ? left : WIDTH);
    }
  }
}

template <typename Finish, int Rows = TILE_ROWS>
inline void product_tail(const IntegerRows& rows, int64_t row, int64_t left, const Matrix& matrix,
                         int64_t panel, const Finish& finish) {
  if constexpr (Rows > 0) {
    if (left == Rows) {
      product_tile<Rows>(rows, row, matrix, panel, finish);
    } else {
      product_tail<Finish, Rows - 1>(rows, row, left, matrix, panel, finish);
    }
  }
}

// Multiplies rows from `row` on, at most TILE_ROWS, by one panel.
template <typename Finish>
inline int64_t product_step(const IntegerRows& rows, int64_t row, int64_t num_rows,
                            const Matrix& matrix, int64_t panel, const Finish& finish) {
  const int64_t left = num_rows - row < TILE_ROWS ? num_rows - row : TILE_ROWS;
  product_tail(rows, row, left, matrix, panel, finish);
  return left;
}

inline int64_t num_panels(const Matrix& matrix) {
  return (matrix.columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
}

// Multiplies all rows by all panels: a panel stays in the cache while the rows pass by.
template <typename Finish>
inline void product(const IntegerRows& rows, int64_t num_rows, const Matrix& matrix,
                    const Finish& finish) {
  for (int64_t panel = 0; panel < num_panels(matrix); ++panel) {
    for (int64_t row = 0; row < num_rows;) {
      row += product_step(rows, row, num_rows, matrix, panel, finish);
    }
  }
}

inline void put(float* to, Floats x, int64_t count) {
  if (count == WIDTH) {
    store(to, x);
  } else {
    store_first(to, x, count);
  }
}

inline Floats get(const float* from, int64_t count) {
  return count == WIDTH ? load(from) : load_first(from, count);
}

}  // namespace
