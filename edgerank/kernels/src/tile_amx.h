// Blocks of 32 rows by 64 columns of sums, by AMX, whose eight tiles are 16 rows of 64 bytes: 64
// rows of a panel are one. Few rows are left to the vectors of tile_avx512.h.
#pragma once

#define BLOCK_ROWS 32

#include "tile_avx512.h"

namespace {

constexpr int64_t BLOCK_STEP = 16;

// Palette 1, with all eight tiles as large as they get; the layout is that of the instruction.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64, "the instruction reads 64 bytes");
alignas(64) constexpr TileConfig TILE_CONFIG;

// The thread's tiles are in use.
struct BlockSetup {
  BlockSetup() { _tile_loadconfig(&TILE_CONFIG); }
  ~BlockSetup() { _tile_release(); }
  BlockSetup(const BlockSetup&) = delete;
  BlockSetup& operator=(const BlockSetup&) = delete;
};

inline void zero_sums() {
  // gcc does not know that loading a tile reads memory
  __asm__ volatile("" ::: "memory");
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// 16 rows by 64 columns: sums in tiles 0 to 3.
inline void upper_block(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                        int32_t* sums) {
  const int64_t panel_bytes = depth * PANEL_COLUMNS;
  zero_sums();
  for (int64_t k = 0; k < depth; k += 64, panels += 1024, rows += 64) {
    _tile_loadd(4, rows, stride);
    _tile_loadd(5, panels, 64);
    _tile_dpbusd(0, 4, 5);
    _tile_loadd(6, panels + panel_bytes, 64);
    _tile_dpbusd(1, 4, 6);
    _tile_loadd(7, panels + 2 * panel_bytes, 64);
    _tile_dpbusd(2, 4, 7);
    _tile_loadd(5, panels + 3 * panel_bytes, 64);
    _tile_dpbusd(3, 4, 5);
  }
  _tile_stored(0, sums, 256);
  _tile_stored(1, sums + 16, 256);
  _tile_stored(2, sums + 32, 256);
  _tile_stored(3, sums + 48, 256);
}

// 32 rows by 32 columns: sums in tiles 0 to 3, for which as many tiles are read as multiplied. Rows
// of sums lie 64 apart.
inline void half_block(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                       int32_t* sums) {
  const int64_t panel_bytes = depth * PANEL_COLUMNS;
  const uint8_t* lower = rows + 16 * stride;
  zero_sums();
  for (int64_t k = 0; k < depth; k += 64, panels += 1024, rows += 64, lower += 64) {
    _tile_loadd(4, rows, stride);
    _tile_loadd(6, panels, 64);
    _tile_dpbusd(0, 4, 6);
    _tile_loadd(7, panels + panel_bytes, 64);
    _tile_dpbusd(1, 4, 7);
    _tile_loadd(5, lower, stride);
    _tile_dpbusd(2, 5, 6);
    _tile_dpbusd(3, 5, 7);
  }
  _tile_stored(0, sums, 256);
  _tile_stored(1, sums + 16, 256);
  _tile_stored(2, sums + 1024, 256);
  _tile_stored(3, sums + 1040, 256);
}

// sums [num_rows][64], written for 16 or 32 rows; as many rows of integers are read.
inline void block(const uint8_t* rows, int64_t stride, const int8_t* panels, int64_t depth,
                  int64_t num_rows, int32_t* sums) {
  if (num_rows <= 16) {
    upper_block(rows, stride, panels, depth, sums);
  } else {
    half_block(rows, stride, panels, depth, sums);
    half_block(rows, stride, panels + 2 * depth * PANEL_COLUMNS, depth, sums + 32);
  }
}

}  // namespace
