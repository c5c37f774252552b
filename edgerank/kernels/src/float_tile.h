// Products of matrices of floats, a tile of rows and vectors of columns after the other. Elements
// are floats, or pairs of smaller ones whose two products are added (bfloat16.h).
// Included after a simd_*.h.
#pragma once

#include <cstdint>

namespace {

constexpr int FLOAT_ROWS = 6;  // of a tile, by TILE_VECTORS vectors

// Rows of elements, which lie `stride` apart.
template <typename Element>
struct ElementRows {
  const Element* first;
  int64_t stride;
};

// sums[Rows][Vectors] = a · b: a's elements lie row_stride and depth_stride apart, b's rows
// b_stride.
template <int Rows, int Vectors, typename Element>
inline void float_tile(const Element* a, int64_t row_stride, int64_t depth_stride, const Element* b,
                       int64_t b_stride, int64_t depth, Floats (&sums)[Rows][Vectors]) {
#pragma GCC unroll 16
  for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) sums[i][j] = splat(0);
  }
  for (int64_t k = 0; k < depth; ++k, a += depth_stride, b += b_stride) {
    decltype(load(b)) columns[Vectors];
#pragma GCC unroll 16
    for (int j = 0; j < Vectors; ++j) columns[j] = load(b + j * WIDTH);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
      const auto element = splat(a[i * row_stride]);
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) {
        sums[i][j] = multiply_add(element, columns[j], sums[i][j]);
      }
    }
  }
}

// Calls tile.template operator()<Rows, Vectors>(row, column) for tiles that cover all.
template <int Vectors, typename Tile, int Rows = FLOAT_ROWS>
inline void cover_rows(int64_t row, int64_t num_rows, int64_t column, const Tile& tile) {
  if constexpr (Rows > 0) {
    for (; row + Rows <= num_rows; row += Rows) tile.template at<Rows, Vectors>(row, column);
    if (row < num_rows) cover_rows<Vectors, Tile, Rows - 1>(row, num_rows, column, tile);
  }
}

template <typename Tile, int Vectors = TILE_VECTORS>
inline void cover(int64_t num_rows, int64_t column, int64_t num_columns, const Tile& tile) {
  if constexpr (Vectors > 0) {
    for (; column + (Vectors - 1) * WIDTH < num_columns; column += Vectors * WIDTH) {
      cover_rows<Vectors>(0, num_rows, column, tile);
    }
    if (column < num_columns) cover<Tile, Vectors / 2>(num_rows, column, num_columns, tile);
  }
}

// products [rows][columns] = rows [rows][size] · columns [size][columns]; whole vectors are stored.
template <typename Element>
struct ProductTile {
  const Element* rows;
  int64_t row_stride;
  const Element* columns;
  int64_t column_stride;  // from an element of all columns to the next
  int64_t size;
  float* products;
  int64_t product_stride;

  template <int Rows, int Vectors>
  void at(int64_t row, int64_t column) const {
    Floats sums[Rows][Vectors];
    float_tile<Rows, Vectors>(rows + row * row_stride, row_stride, 1, columns + column,
                              column_stride, size, sums);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; ++i) {
#pragma GCC unroll 16
      for (int j = 0; j < Vectors; ++j) {
        store(products + (row + i) * product_stride + column + j * WIDTH, sums[i][j]);
      }
    }
  }
};

}  // namespace
