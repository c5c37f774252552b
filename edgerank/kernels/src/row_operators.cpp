// The operators whose rows are independent: Projection, Linear, FeedForward. Their inputs are those
// of the functions of the same names in quantize/graph/layers.py.
#include "operator.h"
#include "operators.h"

namespace {

// The input with the numbers of those of `rows` rows that are refined.
RefinedRows refined_rows(const Call& call, size_t index, int64_t rows) {
  const Tensor numbers = call.input(index);
  if (!numbers) return {};
  const RefinedRows refined{numbers.integers(), numbers.size()};
  for (int64_t i = 0; i < refined.count; ++i) {
    const int64_t least = i ? refined.numbers[i - 1] + 1 : 0;
    call.errors().require(refined.numbers[i] >= least && refined.numbers[i] < rows,
                          "edgerank.kernels: refined rows must be numbers of rows, ascending");
  }
  return refined;
}

struct ProjectionKernel {
  static constexpr const char* NAME = "Projection";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_FLOAT,                          // x [T, K]
      ONNX_UINT8,                          // zero point
      ONNX_FLOAT, ONNX_FLOAT,              // norm: gain, bias
      ONNX_FLOAT, ONNX_FLOAT,              // cosines, sines [1, T, head size / 2]
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // query: weight, scales, sums,
      ONNX_FLOAT, ONNX_FLOAT,              // bias, head norm
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // keys and values, likewise
      ONNX_FLOAT, ONNX_FLOAT,
      ONNX_FLOAT,                          // Hadamard matrix, for stock operators
      ONNX_INT64,                          // refined rows [R]
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // what rounding took from the query's weight, likewise,
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // and from that of keys and values
  };
  static constexpr size_t NUM_INPUTS = 24, NUM_REQUIRED = 2, NUM_OUTPUTS = 3;
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {ONNX_FLOAT, ONNX_FLOAT, ONNX_FLOAT};

  const Kernels* kernels = nullptr;
  int threads = 1;
  Projection op;

  void load(const Node& node, const Kernels& chosen, int num_threads) {
    kernels = &chosen;
    threads = num_threads;
    op.range = row_range(node, 1, "floor", "mixed_block");
    op.width = row_width(node);
    op.norm = load_norm(node, 2, op.width);
    const char* const counts[2] = {"num_heads", "num_kv_heads"};
    for (size_t part = 0; part < 2; ++part) {
      const size_t first = 6 + 5 * part;
      const Matrix matrix =
          load_matrix(node, op.range, op.width, first, 18 + 3 * part, static_cast<int>(first + 3));
      if (!matrix.rounded.panels || node.errors().any()) continue;
      const int at = op.num_parts++;
      op.parts[at] = matrix;
      Heads& heads = op.heads[at];
      heads.count = node.integer(counts[part], 0);
      heads.size = node.integer("head_size", 0);
      node.errors().require(
          heads.count >= 0 && heads.size >= 0 && heads.count * heads.size <= matrix.columns,
          "edgerank.kernels: a projection has fewer columns than heads");
      if (const float* gain = load_vector(node, first + 4, "a head norm's gain", heads.size)) {
        heads.norm = {NormKind::rms, gain, nullptr, node.number("head_epsilon", 1e-5f)};
      }
    }
    node.errors().require(op.num_parts > 0, "edgerank.kernels: a projection lacks its weights");
  }

  void compute(const Call& call) const {
    const Tensor x = call.input(0), cosines = call.input(4), sines = call.input(5);
    const int64_t rows = x.rank == 2 ? x.shape[0] : 0;
    call.errors().require(x.rank == 2 && x.shape[1] == op.width,
                          "edgerank.kernels: a projection's rows have another width than its norm");
    const int64_t half = op.heads[0].size / 2;
    call.errors().require(
        !cosines || (sines && cosines.size() == rows * half && sines.size() == rows * half),
        "edgerank.kernels: angles are not [1, T, head size / 2]");
    const RefinedRows refined = refined_rows(call, 17, rows);
    if (call.errors().any()) return;
    float* outputs[2] = {};
    for (int part = 0; part < op.num_parts; ++part) {
      const int64_t shape[2] = {rows, op.parts[part].columns};
      outputs[part] = call.output(static_cast<size_t>(part), shape, 2);
      call.errors().require(outputs[part] != nullptr || rows == 0,
                            "edgerank.kernels: a projection's output is left out");
    }
    const int64_t shape[2] = {rows, op.width};
    float* normed = call.output(static_cast<size_t>(op.num_parts), shape, 2);
    if (call.errors().any()) return;
    const int64_t step = rows_of_a_task(*kernels, rows, threads,
                                        5 * op.width + 4 * op.parts[op.num_parts - 1].columns);
    call.parallel_rows(rows, step, [&](int64_t row, int64_t count) {
      float* const parts[2] = {outputs[0] + row * op.parts[0].columns,
                               outputs[1] ? outputs[1] + row * op.parts[1].columns : nullptr};
      return kernels->project(
          op, x.floats() + row * op.width, count, cosines ? cosines.floats() + row * half : nullptr,
          cosines ? sines.floats() + row * half : nullptr, refined.among(row, count), parts,
          normed ? normed + row * op.width : nullptr);
    });
  }
};

struct LinearKernel {
  static constexpr const char* NAME = "Linear";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_FLOAT,                          // x [..., K]
      ONNX_UINT8,                          // zero point
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // weight, scales, sums
      ONNX_FLOAT,                          // bias
      ONNX_FLOAT, ONNX_FLOAT,              // residual [..., N], its scales [N]
      ONNX_FLOAT,                          // Hadamard matrix, for stock operators
      ONNX_INT64,                          // refined rows [R]
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // what rounding took from the weight, likewise
  };
  static constexpr size_t NUM_INPUTS = 13, NUM_REQUIRED = 5, NUM_OUTPUTS = 1;
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {ONNX_FLOAT};

  const Kernels* kernels = nullptr;
  int threads = 1;
  Linear op;

  void load(const Node& node, const Kernels& chosen, int num_threads) {
    kernels = &chosen;
    threads = num_threads;
    op.range = row_range(node, 1, "floor", "mixed_block");
    op.matrix = load_matrix(node, op.range, row_width(node), 2, 10, 5);
    node.errors().require(op.matrix.rounded.panels,
                          "edgerank.kernels: a linear layer lacks its weight");
    op.residual_scales = load_vector(node, 7, "a residual's scales", op.matrix.columns);
  }

  void compute(const Call& call) const {
    const Tensor x = call.input(0), residual = call.input(6);
    const int64_t depth = op.matrix.depth, columns = op.matrix.columns;
    call.errors().require(
        x.rank >= 1 && x.last() == depth,
        "edgerank.kernels: a linear layer's rows have another width than its weight");
    if (call.errors().any()) return;
    const int64_t rows = x.size() / depth;
    call.errors().require(!residual || residual.size() == rows * columns,
                          "edgerank.kernels: a residual is not of the shape that it is added to");
    const RefinedRows refined = refined_rows(call, 9, rows);
    int64_t shape[8];
    std::memcpy(shape, x.shape, sizeof(shape));
    shape[x.rank - 1] = columns;
    float* y = call.output(0, shape, x.rank);
    if (call.errors().any()) return;
    const int64_t step = rows_of_a_task(*kernels, rows, threads, depth + 4 * columns);
    call.parallel_rows(rows, step, [&](int64_t row, int64_t count) {
      return kernels->linear(op, x.floats() + row * depth, count, refined.among(row, count),
                             residual ? residual.floats() + row * columns : nullptr,
                             y + row * columns);
    });
  }
};

struct FeedForwardKernel {
  static constexpr const char* NAME = "FeedForward";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_FLOAT,                          // x [T, K]
      ONNX_UINT8, ONNX_UINT8,              // zero points of x and of what lies between the matrices
      ONNX_FLOAT, ONNX_FLOAT,              // norm: gain, bias
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // up: weight, scales, sums,
      ONNX_FLOAT,                          // bias
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // gate: weight, scales, sums
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // down: weight, scales, sums,
      ONNX_FLOAT,                          // bias
      ONNX_FLOAT, ONNX_FLOAT,              // residual [T, N], its scales [N]
      ONNX_FLOAT, ONNX_FLOAT,              // Hadamard matrices, for stock operators
      ONNX_INT64,                          // refined rows [R]
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // what rounding took from up, likewise, from gate,
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,  // and from down
      ONNX_INT8,  ONNX_FLOAT, ONNX_INT32,
  };
  static constexpr size_t NUM_INPUTS = 30, NUM_REQUIRED = 3, NUM_OUTPUTS = 1;
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {ONNX_FLOAT};

  const Kernels* kernels = nullptr;
  int threads = 1;
  FeedForward op;

  void load(const Node& node, const Kernels& chosen, int num_threads) {
    kernels = &chosen;
    threads = num_threads;
    op.range = row_range(node, 1, "floor", "mixed_block");
    op.inner_range = row_range(node, 2, "inner_floor", "inner_mixed_block");
    const int64_t width = row_width(node);
    op.norm = load_norm(node, 3, width);
    op.up = load_matrix(node, op.range, width, 5, 21, 8);
    op.gate = load_matrix(node, op.range, width, 9, 24, -1);
    op.is_gated = op.gate.rounded.panels != nullptr;
    const char* const lacks = "edgerank.kernels: a feed-forward part lacks its weights";
    node.errors().require(op.up.rounded.panels, lacks);
    op.down = load_matrix(node, op.inner_range, op.up.columns, 12, 27, 15);
    node.errors().require(op.down.rounded.panels, lacks);
    op.adds_normed = node.integer("adds_normed", 1) != 0;
    op.activation = static_cast<Activation>(node.integer("activation", 0));
    node.errors().require(!op.is_gated || op.gate.columns == op.up.columns,
                          "edgerank.kernels: a feed-forward part's matrices do not fit each other");
    // its floor is one of numbers with their step, which gated ones lack
    node.errors().require(!op.is_gated || op.inner_range.is_symmetric(),
                          "edgerank.kernels: a gated feed-forward part needs a symmetric range"
                          " (zero point 128) between its matrices");
    node.errors().require(op.activation >= Activation::none && op.activation <= Activation::silu,
                          "edgerank.kernels: a feed-forward part has an unknown activation");
    op.residual_scales = load_vector(node, 17, "a residual's scales", op.down.columns);
  }

  void compute(const Call& call) const {
    const Tensor x = call.input(0), residual = call.input(16);
    const int64_t rows = x.rank == 2 ? x.shape[0] : 0, columns = op.down.columns;
    call.errors().require(
        x.rank == 2 && x.shape[1] == op.up.depth,
        "edgerank.kernels: a feed-forward part's rows have another width than its weight");
    call.errors().require(
        residual ? residual.size() == rows * columns : columns == op.up.depth || !op.adds_normed,
        "edgerank.kernels: a residual is not of the shape that it is added to");
    const RefinedRows refined = refined_rows(call, 20, rows);
    const int64_t shape[2] = {rows, columns};
    float* y = call.output(0, shape, 2);
    if (call.errors().any()) return;
    const int64_t step = rows_of_a_task(*kernels, rows, threads, 5 * (op.up.columns + op.up.depth));
    call.parallel_rows(rows, step, [&](int64_t row, int64_t count) {
      return kernels->feed_forward(
          op, x.floats() + row * op.up.depth, count, refined.among(row, count),
          residual ? residual.floats() + row * columns : nullptr, y + row * columns);
    });
  }
};

}  // namespace

OrtCustomOp* projection_operator(const Kernels& kernels, int threads) {
  return operator_for<ProjectionKernel>(kernels, threads);
}
OrtCustomOp* linear_operator(const Kernels& kernels, int threads) {
  return operator_for<LinearKernel>(kernels, threads);
}
OrtCustomOp* feed_forward_operator(const Kernels& kernels, int threads) {
  return operator_for<FeedForwardKernel>(kernels, threads);
}
