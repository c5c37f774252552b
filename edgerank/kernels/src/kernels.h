// What is compiled once for each instruction set, and the operands that it is given.
//
// Operators (row_operators.cpp, attention.cpp) read ONNX Runtime's
// tensors and cut the work into tasks; a task calls one of the functions below. The functions'
// sources (rows.h, product.h, attend.h) are included by instruction_set_*.cpp, each of which is
// compiled with its own flags.
#pragma once

#include <cstdint>

// How rows become integers. The arithmetic is that of the stock operators in
// quantize/graph/int8.py, operation by operation:
//
//   peak     = max |x|, or with a one-sided range max(max x, floor)
//   step     = peak * (1 / levels)
//   integers = clamp(round(x * (levels / peak)) + zero_point, 0, 255), ties to even
//   y        = float(sum of (integers - zero_point) * weights) * scales * step + bias
//
// A zero point of 128 means the symmetric range of 127 levels to each side; any other leaves
// 255 - zero_point levels above zero.
//
// Refined rows have a second term, for what rounding took from them, which is at most half a step:
//
//   scaled   = x * (levels / peak)
//   rests    = clamp(round((scaled - round(scaled)) * units) + zero_point, 0, 255)
//   y       += float(sum of (rests - zero_point) * weights) * scales * step / units
//
// with 2 * zero_point units in a step, a power of two in both ranges in use: dividing is exact.
//
// Where a matrix also has what rounding took from its weights, refined rows are multiplied by that:
//
//   y       += float(sum of (integers - zero_point) * rests of weights) * their scales * step
//
// Blocks of a row's channels may be multiplied by a Hadamard matrix (of ones and minus ones) before
// all of this. The matrices that read the row are rounded likewise.
constexpr int64_t LEAST_MIXED_BLOCK = 16;  // a vector of any instruction set

struct RowRange {
  int zero_point = 128;
  float floor = 0;          // the least peak of a one-sided range
  int64_t mixed_block = 0;  // channels, a power of two that divides their number; 0: none

  bool is_symmetric() const { return zero_point == 128; }
  float levels() const { return is_symmetric() ? 127.0f : 255.0f - float(zero_point); }
  float units() const { return 2.0f * float(zero_point); }
};

// Which rows are refined, of those of a task or of all.
struct RefinedRows {
  const int64_t* numbers = nullptr;  // ascending
  int64_t count = 0;
  int64_t first = 0;  // the number of row 0

  int64_t row(int64_t place) const { return numbers[place] - first; }
  // Those among `num_rows` rows from `row` on, counted from there.
  RefinedRows among(int64_t row, int64_t num_rows) const {
    const int64_t begin = place_of(first + row), end = place_of(first + row + num_rows);
    return {numbers + begin, end - begin, first + row};
  }
  // How many of the numbers are less than this one.
  int64_t place_of(int64_t number) const {
    int64_t low = 0, high = count;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (numbers[middle] < number) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// How int8 matrices [depth, columns] lie in the file of the weights, where all instruction sets
// read them: in panels of 16 columns, with four rows of the matrix side by side, [columns /
// 16][depth / 4][16][4]. Zeros fill both sides up to whole multiples of 64, so that no instruction
// set's tile ends within a matrix. quantize/graph/panels.py writes them.
constexpr int64_t PANEL_COLUMNS = 16, MATRIX_STEP = 64;

// How far ahead tiles of x86 ask for what they read of a panel, in bytes: a CPU by itself does so
// only up to the end of a page.
constexpr int64_t PREFETCH = 2048;

// A matrix as integers.
struct IntegerMatrix {
  const int8_t* panels = nullptr;
  const int32_t* sums = nullptr;  // of the weights of each column
  const float* scales = nullptr;  // of the columns
};

// An int8 matrix [depth, columns] times rows less their zero point, and what turns sums into
// floats. It belongs to somebody else, and is aligned as its elements are.
struct Matrix {
  int64_t depth = 0;
  int64_t columns = 0;
  IntegerMatrix rounded;
  int zero_point = 0;           // of the rows
  const float* bias = nullptr;  // of the columns, or null
  IntegerMatrix rests;          // what rounding took from the weights; null panels: not known
};

enum class NormKind : int { none = 0, layer = 1, rms = 2 };

struct Norm {
  NormKind kind = NormKind::none;
  const float* gain = nullptr;
  const float* bias = nullptr;  // or null
  float epsilon = 0;
};

enum class Activation : int { none = 0, gelu = 1, gelu_tanh = 2, silu = 3 };

// y = x · matrix + bias + residual * residual_scales
struct Linear {
  RowRange range;
  Matrix matrix;
  const float* residual_scales = nullptr;  // of the columns, or null
};

// Heads of queries or of keys, which are the leading columns of a projection's part.
struct Heads {
  int64_t count = 0;
  int64_t size = 0;
  Norm norm;  // of each head
};

// Queries, and keys beside values: products of the same normalised rows.
struct Projection {
  Norm norm;
  RowRange range;
  int64_t width = 0;
  int num_parts = 0;
  Matrix parts[2];
  Heads heads[2];  // count 0: neither normalised nor rotated
};

// y = (activation(n · up + bias) * (n · gate)) · down + bias + residual * residual_scales
//
// where n = norm(x); without a gate its factor is 1. The residual is rows that are given, or n, or
// there is none.
struct FeedForward {
  Norm norm;
  RowRange range;
  RowRange inner_range;
  Activation activation = Activation::none;
  bool is_gated = false;
  bool adds_normed = true;  // n, where no residual is given
  Matrix up, gate, down;
  const float* residual_scales = nullptr;
};

// Consecutive rows of keys, with their values beside them.
struct KeyRun {
  const float* keys = nullptr;  // the first, at the head
  int64_t count = 0;
};

// Tables of positions of a head, transposed, and which of their columns belongs to a distance.
struct PositionTables {
  const float* keys = nullptr;  // [size][stride], with a vector's room after the last column
  const float* queries = nullptr;
  int64_t stride = 0;
  const int32_t* buckets = nullptr;  // of distance 0, amid the others; null: there are no tables
};

// Attention of some of a sequence's queries to its keys, for one head of keys and values.
struct AttentionTask {
  // queries: consecutive rows, of each of which `num_heads` heads share the keys
  const float* query = nullptr;  // the first, at the first of the heads
  int64_t query_stride = 0;
  int64_t num_queries = 0;
  int64_t num_heads = 0;
  int64_t head_size = 0;
  float scale = 1;
  // keys: those of the past before those of the flat axis
  KeyRun runs[2];
  int64_t key_stride = 0;
  int64_t value_offset = 0;             // from a key to its value
  const int32_t* first_seen = nullptr;  // for each query, the first key that it sees
  const int32_t* end_seen = nullptr;    // and the first after those that it sees
  float* output = nullptr;              // as the queries
  int64_t output_stride = 0;
  // what distances add to the logits, if there is one head
  PositionTables tables;
  const float* biases = nullptr;  // of distance 0, amid the others; null: there are none
  int64_t first_position = 0;     // of the queries; keys are counted from 0
};

// Parts of stored documents, each of consecutive tokens, and a query that is compared with them.
// edgerank/store/by_kernels.py has the same structure.
struct NearestTask {
  const int8_t* vectors = nullptr;  // of the documents' tokens: [tokens][width]
  const float* scales = nullptr;    // of the vectors
  const int32_t* token_ids = nullptr;
  const int64_t* starts = nullptr;  // of the parts, the first token
  const int64_t* ends = nullptr;    // and the first after the part
  const float* query = nullptr;     // of the query's tokens: [num_query][width]
  const float* shares = nullptr;
  const int32_t* query_ids = nullptr;  // null: ids are not compared
  int64_t width = 0;
  int64_t num_query = 0;
  float nearest_of_none = 0;  // a part without tokens
  float saturation_base = 0, saturation_slope = 0;
  // of the parts: sum of share * largest dot product with a token of the part, and
  // sum of share * n / (n + base + slope * tokens), with n tokens that have the same id
  float* nearest = nullptr;
  float* exact = nullptr;
};

// Pooled vectors of stored documents, and a query's: also in edgerank/store/by_kernels.py.
struct PooledTask {
  const int16_t* vectors = nullptr;  // [parts][width]
  const float* scales = nullptr;     // of the vectors
  const int64_t* places = nullptr;   // the parts that are compared
  const float* query = nullptr;      // [width]
  int64_t width = 0;
  float* products = nullptr;  // dot products with the places' vectors
};

// How many rows a task has.
struct TaskSize {
  int step;       // a multiple of this
  int limit;      // at most so many
  int64_t cache;  // and no more than fill so many bytes
};

struct Kernels {
  const char* name;  // as Linux names the instruction set
  TaskSize task_size;

  // Each returns false if there is no memory left for what it keeps on the way.
  //
  // rows of x from the first on; `normed` may be null
  bool (*project)(const Projection&, const float* x, int64_t rows, const float* cosines,
                  const float* sines, const RefinedRows&, float* const outputs[2], float* normed);
  bool (*linear)(const Linear&, const float* x, int64_t rows, const RefinedRows&,
                 const float* residual, float* y);
  bool (*feed_forward)(const FeedForward&, const float* x, int64_t rows, const RefinedRows&,
                       const float* residual, float* y);
  bool (*attend)(const AttentionTask&);
  // parts from `first` to before `last`
  bool (*nearest)(const NearestTask&, int64_t first, int64_t last);
  bool (*pooled)(const PooledTask&, int64_t first, int64_t last);
};
