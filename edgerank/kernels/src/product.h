// Integer products: rows of uint8 times panels of int8, turned into floats while the sums are still
// in registers. Included after a simd_*.h and a tile_*.h, which has the innermost loop:
//
//   TILE_ROWS                   rows that are multiplied at once
//   PANEL_COLUMNS, DEPTH_STEP   the layout of panels
//   INTEGER_OFFSET              what is taken off integers, where instructions want them signed
//   pack(...)                   lays a matrix out
//   tile<Rows>(integers, stride, panel, steps, sums)   sums[Rows][PANEL_COLUMNS / WIDTH] of
//   Integers to_floats(Integers)
//
// and, where there are instructions for more rows than registers hold sums of (tile_amx.h):
//
//   BLOCK_ROWS                  as many rows
//   BLOCK_STEP                  they are read in multiples of it, as far as the integers' memory
//   block(integers, stride, panel, steps, rows, sums)  sums[rows][PANEL_COLUMNS] in memory
//   BlockSetup                  has to live while blocks are computed
#pragma once

#include "kernels.h"
#include "scratch.h"
#include "workspace.h"

namespace {

constexpr int PANEL_VECTORS = PANEL_COLUMNS / WIDTH;

#if !defined(BLOCK_ROWS)
#define BLOCK_ROWS 0
constexpr int64_t BLOCK_STEP = 1;
struct BlockSetup {
  BlockSetup() {}
};
inline void block(const uint8_t*, int64_t, const int8_t*, int64_t, int64_t, int32_t*) {}
#endif

constexpr int64_t MOST_ROWS = BLOCK_ROWS ? BLOCK_ROWS : TILE_ROWS;  // of a product with a panel
constexpr int TASK_ROWS = BLOCK_ROWS ? BLOCK_ROWS : 6;

inline int64_t padded_depth(int64_t depth) { return rounded_up(depth, DEPTH_STEP); }

// Rows as integers.
struct IntegerRows {
  const uint8_t* integers;
  int64_t stride;
  const float* steps;   // of the rows
  RefinedRows refined;  // and the rests of these, in their order
  const uint8_t* rests = nullptr;
  float units = 1;  // of the rests, in a step
};

// Lays a matrix [depth, columns] out in panels, and adds up its columns, with those that fill the
// last panel up: the sums are the product of a row of ones.
inline bool pack_matrix(const int8_t* weight, int64_t depth, int64_t columns, int8_t* panels,
                        int32_t* sums) {
  const int64_t padded = padded_depth(depth);
  auto* ones = static_cast<uint8_t*>(scratch(static_cast<size_t>(padded)));
  if (!ones) return false;
  pack(weight, depth, columns, panels);
  for (int64_t k = 0; k < padded; ++k) ones[k] = 1 + INTEGER_OFFSET;
  for (int64_t column = 0; column < columns; column += PANEL_COLUMNS) {
    Integers panel_sums[1][PANEL_VECTORS];
    tile<1>(ones, padded, panels + column * padded, padded / DEPTH_STEP, panel_sums);
    for (int j = 0; j < PANEL_VECTORS; ++j) {
      alignas(64) float exact[WIDTH];  // far below 2^24
      store(exact, to_floats(panel_sums[0][j]));
      for (int i = 0; i < WIDTH; ++i) {
        sums[column + j * WIDTH + i] = static_cast<int32_t>(exact[i]);
      }
    }
  }
  return true;
}

// Where a product goes, and what is added to it: y = product + residual * residual_scales.
struct Target {
  float* y;
  int64_t stride;                // of y and of the residual
  const float* residual;         // or null
  const float* residual_scales;  // of the columns, or null for ones
};

inline int64_t num_panels(const Matrix& matrix) {
  return (matrix.columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
}

// How many columns a panel has, without those that fill it up.
inline int64_t columns_of_panel(const Matrix& matrix, int64_t panel) {
  const int64_t left = matrix.columns - panel * PANEL_COLUMNS;
  return left < PANEL_COLUMNS ? left : PANEL_COLUMNS;
}

inline Floats get(const float* from, int64_t count) {
  return count >= WIDTH ? load(from) : load_first(from, count);
}

inline void put(float* to, Floats x, int64_t count) {
  if (count >= WIDTH) {
    store(to, x);
  } else {
    store_first(to, x, count);
  }
}

struct Ones {
  float values[MOST_ROWS];
  constexpr Ones() : values() {
    for (int64_t i = 0; i < MOST_ROWS; ++i) values[i] = 1;
  }
};
constexpr Ones ONES;

// What turns the sums of a vector of columns, from `column` on, into floats:
// y = float(sum) * scale * step + bias + residual * residual_scale.
template <bool has_residual>
struct Finish {
  Integers correction;
  Floats scale, shift, factor;

  Finish(const Matrix& matrix, int64_t column, const Target& target)
      : correction(load_integers(matrix.corrections + column)),
        scale(load(matrix.scales + column)),
        shift(matrix.bias ? load(matrix.bias + column) : splat(0)),
        factor(target.residual_scales ? load(target.residual_scales + column) : splat(1)) {}

  void store_row(Integers sums, float step, const Target& target, int64_t place) const {
    const Floats real = to_floats(subtract(sums, correction)) * scale;
    Floats z = real * splat(step) + shift;
    if constexpr (has_residual) z = z + load(target.residual + place) * factor;
    store(target.y + place, z);
  }
};

// Multiplies Rows rows by one panel of PANEL_COLUMNS columns from `column` on.
//
// A function of its own, so that the innermost loop's sums have the registers to themselves.
template <int Rows, bool has_residual>
__attribute__((noinline)) void whole_tile(const uint8_t* integers, int64_t stride,
                                          const float* steps, const Matrix& matrix, int64_t column,
                                          const Target& target) {
  const int64_t depth = padded_depth(matrix.depth);
  Integers sums[Rows][PANEL_VECTORS];
  tile<Rows>(integers, stride, matrix.panels + column * depth, depth / DEPTH_STEP, sums);
#pragma GCC unroll 16
  for (int j = 0; j < PANEL_VECTORS; ++j) {
    const Finish<has_residual> finish(matrix, column + j * WIDTH, target);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      finish.store_row(sums[i][j], steps[i], target, i * target.stride + j * WIDTH);
    }
  }
}

// Likewise for up to BLOCK_ROWS rows.
template <bool has_residual>
__attribute__((noinline)) void whole_block(int64_t num_rows, const uint8_t* integers,
                                           int64_t stride, const float* steps, const Matrix& matrix,
                                           int64_t column, const Target& target) {
  const int64_t depth = padded_depth(matrix.depth);
  alignas(64) int32_t sums[MOST_ROWS * PANEL_COLUMNS];
  block(integers, stride, matrix.panels + column * depth, depth / DEPTH_STEP, num_rows, sums);
  for (int64_t j = 0; j < PANEL_COLUMNS; j += WIDTH) {
    const Finish<has_residual> finish(matrix, column + j, target);
    for (int64_t i = 0; i < num_rows; ++i) {
      finish.store_row(load_integers(sums + i * PANEL_COLUMNS + j), steps[i], target,
                       i * target.stride + j);
    }
  }
}

template <int Rows = TILE_ROWS>
inline void few_rows(int64_t num_rows, const uint8_t* integers, int64_t stride, const float* steps,
                     const Matrix& matrix, int64_t column, const Target& target) {
  if constexpr (Rows > 0) {
    if (num_rows == Rows && target.residual) {
      whole_tile<Rows, true>(integers, stride, steps, matrix, column, target);
    } else if (num_rows == Rows) {
      whole_tile<Rows, false>(integers, stride, steps, matrix, column, target);
    } else {
      few_rows<Rows - 1>(num_rows, integers, stride, steps, matrix, column, target);
    }
  }
}

inline void some_rows(int64_t num_rows, const uint8_t* integers, int64_t stride, const float* steps,
                      const Matrix& matrix, int64_t column, const Target& target) {
  if constexpr (BLOCK_ROWS > 0) {
    if (num_rows > TILE_ROWS && target.residual) {
      return whole_block<true>(num_rows, integers, stride, steps, matrix, column, target);
    } else if (num_rows > TILE_ROWS) {
      return whole_block<false>(num_rows, integers, stride, steps, matrix, column, target);
    }
  }
  few_rows(num_rows, integers, stride, steps, matrix, column, target);
}

// Multiplies at most MOST_ROWS rows, from `row` on, by one panel; y begins at the rows' first
// column of the panel. Without steps their factor is left to the caller.
inline void product_tile(const IntegerRows& rows, int64_t row, int64_t num_rows,
                         const Matrix& matrix, int64_t panel, const Target& target) {
  const uint8_t* integers = rows.integers + row * rows.stride;
  const float* steps = rows.steps ? rows.steps + row : ONES.values;
  const int64_t column = panel * PANEL_COLUMNS, count = columns_of_panel(matrix, panel);
  if (count == PANEL_COLUMNS) {
    some_rows(num_rows, integers, rows.stride, steps, matrix, column, target);
    return;
  }
  alignas(64) float whole[MOST_ROWS * PANEL_COLUMNS];  // with the columns that fill the panel up
  some_rows(num_rows, integers, rows.stride, steps, matrix, column,
            {whole, PANEL_COLUMNS, nullptr, nullptr});
  for (int64_t i = 0; i < num_rows; ++i) {
    for (int64_t j = 0; j < count; j += WIDTH) {
      Floats z = load(whole + i * PANEL_COLUMNS + j);
      const int64_t place = i * target.stride + j;
      if (target.residual) {
        Floats residual = get(target.residual + place, count - j);
        if (target.residual_scales) {
          residual = residual * get(target.residual_scales + column + j, count - j);
        }
        z = z + residual;
      }
      put(target.y + place, z, count - j);
    }
  }
}

// Adds the second terms of a tile's refined rows, which are counted from its first.
__attribute__((noinline)) inline void add_rests(const IntegerRows& rows, const float* steps,
                                                const RefinedRows& refined, const Matrix& matrix,
                                                int64_t panel, const Target& target) {
  alignas(64) float terms[MOST_ROWS * PANEL_COLUMNS];
  Matrix unbiased = matrix;
  unbiased.bias = nullptr;
  const IntegerRows rests{rows.rests, rows.stride, nullptr, {}};
  const int64_t place = refined.numbers - rows.refined.numbers;
  product_tile(rests, place, refined.count, unbiased, panel,
               {terms, PANEL_COLUMNS, nullptr, nullptr});
  const int64_t columns = columns_of_panel(matrix, panel);
  for (int64_t i = 0; i < refined.count; ++i) {
    const int64_t row = refined.row(i);
    const Floats factor = splat((steps ? steps[row] : 1.0f) / rows.units);
    for (int64_t j = 0; j < columns; j += WIDTH) {
      float* y = target.y + row * target.stride + j;
      const Floats term = get(terms + i * PANEL_COLUMNS + j, columns - j) * factor;
      put(y, get(y, columns - j) + term, columns - j);
    }
  }
}

// As product_tile, with the second terms of those rows that are refined.
inline void refined_tile(const IntegerRows& rows, int64_t row, int64_t num_rows,
                         const Matrix& matrix, int64_t panel, const Target& target) {
  product_tile(rows, row, num_rows, matrix, panel, target);
  if (rows.refined.count == 0) return;
  const RefinedRows refined = rows.refined.among(row, num_rows);
  if (refined.count == 0) return;
  add_rests(rows, rows.steps ? rows.steps + row : nullptr, refined, matrix, panel, target);
}

// Calls visit(row, count) for the tiles of rows.
template <typename Visit>
inline void for_each_tile(int64_t num_rows, const Visit& visit) {
  for (int64_t row = 0; row < num_rows; row += MOST_ROWS) {
    visit(row, num_rows - row < MOST_ROWS ? num_rows - row : MOST_ROWS);
  }
}

// The target of a tile, from that of all rows and columns.
inline Target part_of(const Target& target, int64_t row, int64_t panel) {
  const int64_t at = row * target.stride + panel * PANEL_COLUMNS;
  return {target.y + at, target.stride, target.residual ? target.residual + at : nullptr,
          target.residual_scales};
}

// Multiplies all rows by all panels: a panel stays in the cache while the rows pass by.
inline void product(const IntegerRows& rows, int64_t num_rows, const Matrix& matrix,
                    const Target& target) {
  for (int64_t panel = 0; panel < num_panels(matrix); ++panel) {
    for_each_tile(num_rows, [&](int64_t row, int64_t count) {
      refined_tile(rows, row, count, matrix, panel, part_of(target, row, panel));
    });
  }
}

}  // namespace
