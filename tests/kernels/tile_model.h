// The instructions of AMX that the kernels use, in plain C++, so that their sources run on a CPU
// without it: included before everything else (-include), it takes the place of the intrinsics.
//
// Operations and faults are those of Intel's Software Developer's Manual, volume 2: LDTILECFG,
// TILELOADD, TILESTORED, TILEZERO, TDPBUSD and TILERELEASE. A fault ends the program.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace tile_model {

constexpr int TILES = 8, ROWS = 16, ROW_BYTES = 64;  // of palette 1

struct Config {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(Config) == 64, "as in memory");

struct State {
  Config config;  // palette 0: no tiles are configured
  uint8_t tiles[TILES][ROWS][ROW_BYTES];
};
inline thread_local State state;  // of a CPU's thread

inline void fault_unless(bool holds, const char* what) {
  if (holds) return;
  std::printf("fault of the tile model: %s\n", what);
  std::abort();
}

inline int rows_of(int tile) { return state.config.rows[tile]; }
inline int bytes_of(int tile) { return state.config.row_bytes[tile]; }

inline void check(int tile) {
  fault_unless(state.config.palette == 1, "tiles are not configured");
  fault_unless(tile >= 0 && tile < TILES, "there are eight tiles");
  fault_unless(rows_of(tile) > 0 && bytes_of(tile) > 0, "the tile is not configured");
}

inline void load_config(const void* from) {
  Config config;
  std::memcpy(&config, from, sizeof(config));
  fault_unless(config.palette <= 1, "the palette is 0 or 1");
  if (config.palette == 1) {
    for (const uint8_t byte : config.reserved) fault_unless(byte == 0, "reserved bytes are zero");
    for (int i = 0; i < 16; ++i) {
      fault_unless(i < TILES || (config.rows[i] == 0 && config.row_bytes[i] == 0),
                   "there are eight tiles");
      fault_unless(config.rows[i] <= ROWS && config.row_bytes[i] <= ROW_BYTES, "a tile is larger");
      fault_unless((config.rows[i] == 0) == (config.row_bytes[i] == 0),
                   "a tile is half configured");
    }
  }
  std::memset(&state, 0, sizeof(state));
  if (config.palette == 1) state.config = config;
}

inline void release() { std::memset(&state, 0, sizeof(state)); }

inline void zero(int tile) {
  check(tile);
  std::memset(state.tiles[tile], 0, sizeof(state.tiles[tile]));
}

inline void load(int tile, const void* base, int64_t stride) {
  check(tile);
  fault_unless(state.config.start_row == 0, "this model restarts no load");
  std::memset(state.tiles[tile], 0, sizeof(state.tiles[tile]));
  for (int row = 0; row < rows_of(tile); ++row) {
    std::memcpy(state.tiles[tile][row], static_cast<const char*>(base) + row * stride,
                static_cast<size_t>(bytes_of(tile)));
  }
}

inline void store(int tile, void* base, int64_t stride) {
  check(tile);
  fault_unless(state.config.start_row == 0, "this model restarts no store");
  for (int row = 0; row < rows_of(tile); ++row) {
    std::memcpy(static_cast<char*>(base) + row * stride, state.tiles[tile][row],
                static_cast<size_t>(bytes_of(tile)));
  }
}

// sums += a · b, of unsigned by signed bytes, in 32 bits that wrap around.
inline void multiply(int sums, int a, int b) {
  check(sums);
  check(a);
  check(b);
  fault_unless(sums != a && sums != b && a != b, "three different tiles");
  fault_unless(bytes_of(sums) % 4 == 0 && bytes_of(a) % 4 == 0 && bytes_of(b) % 4 == 0,
               "rows are of whole fours");
  fault_unless(
      rows_of(sums) == rows_of(a) && bytes_of(sums) == bytes_of(b) && bytes_of(a) / 4 == rows_of(b),
      "the tiles do not fit each other");
  for (int m = 0; m < rows_of(sums); ++m) {
    for (int k = 0; k < bytes_of(a) / 4; ++k) {
      for (int n = 0; n < bytes_of(sums) / 4; ++n) {
        uint8_t* at = state.tiles[sums][m] + 4 * n;
        uint32_t sum;
        std::memcpy(&sum, at, sizeof(sum));
        for (int i = 0; i < 4; ++i) {
          const int weight = static_cast<int8_t>(state.tiles[b][k][4 * n + i]);
          sum += static_cast<uint32_t>(state.tiles[a][m][4 * k + i] * weight);
        }
        std::memcpy(at, &sum, sizeof(sum));
      }
    }
    std::memset(state.tiles[sums][m] + bytes_of(sums), 0,
                static_cast<size_t>(ROW_BYTES - bytes_of(sums)));
  }
}

}  // namespace tile_model

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbusd
#define _tile_loadconfig tile_model::load_config
#define _tile_release tile_model::release
#define _tile_zero tile_model::zero
#define _tile_loadd tile_model::load
#define _tile_stored tile_model::store
#define _tile_dpbusd tile_model::multiply
