#include "operator.h"

#include <cstdio>

#include "memory.h"
#include "rounded_up.h"

const OrtApi* ort = nullptr;

namespace {

Tensor describe(const OrtValue* value, Errors& errors) {
  Tensor tensor;
  if (!value) return tensor;
  OrtTensorTypeAndShapeInfo* info = nullptr;
  errors.check(ort->GetTensorTypeAndShape(value, &info));
  if (!info) return tensor;
  size_t rank = 0;
  errors.check(ort->GetDimensionsCount(info, &rank));
  errors.require(rank <= 8, "edgerank.kernels: a tensor has more than 8 dimensions");
  if (!errors.any()) {
    tensor.rank = static_cast<int>(rank);
    errors.check(ort->GetDimensions(info, tensor.shape, rank));
    errors.check(ort->GetTensorMutableData(const_cast<OrtValue*>(value), &tensor.data));
  }
  ort->ReleaseTensorTypeAndShapeInfo(info);
  // an empty tensor has no data, but is there
  static char nothing[64];
  if (!tensor.data && !errors.any()) tensor.data = nothing;
  return tensor;
}

}  // namespace

Tensor Node::constant(size_t index, const char* name) const {
  size_t count = 0;
  errors_.check(ort->KernelInfo_GetInputCount(info_, &count));
  if (index >= count) return {};
  size_t name_size = 0;  // of the value's name, with a 0 at its end
  errors_.check(ort->KernelInfo_GetInputName(info_, index, nullptr, &name_size));
  if (name_size <= 1 || errors_.any()) return {};
  int is_constant = 0;
  const OrtValue* value = nullptr;
  errors_.check(ort->KernelInfoGetConstantInput_tensor(info_, index, &is_constant, &value));
  char message[80];
  std::snprintf(message, sizeof(message), "edgerank.kernels: %s must be constant", name);
  errors_.require(is_constant, message);
  return is_constant ? describe(value, errors_) : Tensor{};
}

int64_t Node::integer(const char* name, int64_t otherwise) const {
  int64_t value = otherwise;
  if (OrtStatus* status = ort->KernelInfoGetAttribute_int64(info_, name, &value)) {
    ort->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

float Node::number(const char* name, float otherwise) const {
  float value = otherwise;
  if (OrtStatus* status = ort->KernelInfoGetAttribute_float(info_, name, &value)) {
    ort->ReleaseStatus(status);
    return otherwise;
  }
  return value;
}

Tensor Call::input(size_t index) const {
  size_t count = 0;
  errors_.check(ort->KernelContext_GetInputCount(context_, &count));
  if (index >= count) return {};
  const OrtValue* value = nullptr;
  errors_.check(ort->KernelContext_GetInput(context_, index, &value));
  return describe(value, errors_);
}

float* Call::output(size_t index, const int64_t* shape, int rank) const {
  size_t count = 0;
  errors_.check(ort->KernelContext_GetOutputCount(context_, &count));
  if (index >= count) return nullptr;
  OrtValue* value = nullptr;
  errors_.check(
      ort->KernelContext_GetOutput(context_, index, shape, static_cast<size_t>(rank), &value));
  void* data = nullptr;
  if (value) errors_.check(ort->GetTensorMutableData(value, &data));
  return static_cast<float*>(data);
}

Memory::~Memory() { free_aligned(data_); }

void* Memory::allocate(size_t bytes) {
  free_aligned(data_);
  data_ = allocate_aligned(bytes);
  return data_;
}

namespace {

// The panels, scales and sums at three inputs; without panels, if the node leaves them out.
IntegerMatrix load_integers(const Node& node, int64_t depth, int64_t columns, size_t first) {
  Errors& errors = node.errors();
  const Tensor panels = node.constant(first, "a weight");
  const Tensor scales = node.constant(first + 1, "a weight's scales");
  const Tensor sums = node.constant(first + 2, "a weight's sums");
  if (!panels || errors.any()) return {};
  errors.require(
      scales && scales.size() == columns && columns > 0 && sums && sums.size() == columns,
      "edgerank.kernels: a weight must have constant scales and sums of its columns");
  errors.require(panels.rank == 4 &&
                     panels.shape[0] * PANEL_COLUMNS == rounded_up(columns, MATRIX_STEP) &&
                     panels.shape[1] * 4 == rounded_up(depth, MATRIX_STEP) &&
                     panels.shape[2] == PANEL_COLUMNS && panels.shape[3] == 4,
                 "edgerank.kernels: a weight must be panels [N / 16, K / 4, 16, 4] of rows of K and"
                 " columns of N numbers, both filled up to multiples of 64");
  if (errors.any()) return {};
  return {static_cast<const int8_t*>(panels.data), static_cast<const int32_t*>(sums.data),
          scales.floats()};
}

}  // namespace

Matrix load_matrix(const Node& node, const RowRange& range, int64_t depth, size_t first,
                   size_t rests, int bias_index) {
  Errors& errors = node.errors();
  Matrix matrix;
  matrix.depth = depth;
  matrix.columns = node.constant(first + 1, "a weight's scales").size();
  matrix.zero_point = range.zero_point;
  matrix.rounded = load_integers(node, depth, matrix.columns, first);
  if (!matrix.rounded.panels) return {};
  matrix.rests = load_integers(node, depth, matrix.columns, rests);
  Tensor bias;
  if (bias_index >= 0) bias = node.constant(static_cast<size_t>(bias_index), "a bias");
  matrix.bias = bias.floats();
  errors.require(range.mixed_block == 0 || depth % range.mixed_block == 0,
                 "edgerank.kernels: channels cannot be mixed in blocks of this size");
  errors.require(!bias || bias.size() == matrix.columns,
                 "edgerank.kernels: a bias must have one number for each column");
  return errors.any() ? Matrix{} : matrix;
}

const float* load_vector(const Node& node, size_t index, const char* name, int64_t size) {
  const Tensor tensor = node.constant(index, name);
  node.errors().require(!tensor || tensor.size() == size,
                        "edgerank.kernels: a vector has not the size of the rows it belongs to");
  return tensor.floats();
}

Norm load_norm(const Node& node, size_t gain, int64_t width) {
  Norm norm;
  norm.kind = static_cast<NormKind>(node.integer("norm", 0));
  if (norm.kind == NormKind::none) return norm;
  norm.gain = load_vector(node, gain, "a norm's gain", width);
  norm.bias = load_vector(node, gain + 1, "a norm's bias", width);
  norm.epsilon = node.number("epsilon", 1e-5f);
  node.errors().require(norm.gain != nullptr, "edgerank.kernels: a norm lacks its gain");
  return norm;
}

int64_t row_width(const Node& node) {
  const int64_t width = node.integer("width", 0);
  node.errors().require(width > 0, "edgerank.kernels: an operator lacks the width of its rows");
  return width;
}

RowRange row_range(const Node& node, size_t zero_point, const char* floor, const char* block) {
  RowRange range;
  const Tensor tensor = node.constant(zero_point, "a zero point");
  if (tensor && tensor.size() == 1) range.zero_point = *static_cast<const uint8_t*>(tensor.data);
  node.errors().require(
      tensor && tensor.size() == 1 && range.zero_point > 0 && range.zero_point < 255,
      "edgerank.kernels: a zero point must be one number from 1 to 254");
  range.floor = node.number(floor, 0);
  const int64_t size = range.mixed_block = node.integer(block, 0);
  node.errors().require(size == 0 || (size >= LEAST_MIXED_BLOCK && (size & (size - 1)) == 0),
                        "edgerank.kernels: channels cannot be mixed in blocks of this size");
  node.errors().require(size == 0 || range.is_symmetric(),
                        "edgerank.kernels: mixed channels need a symmetric range (zero point 128)");
  return range;
}

int64_t rows_of_a_task(const Kernels& kernels, int64_t num_rows, int threads,
                       int64_t bytes_per_row) {
  const int64_t step = kernels.task_size.step, limit = kernels.task_size.limit;
  const int64_t least = rounded_up(18, step);
  int64_t most = kernels.task_size.cache / bytes_per_row / step * step;
  if (most > limit) most = limit;
  // two tasks for each thread, so that one which is late is helped, but none of a few rows alone
  const int64_t half_share = rounded_up((num_rows + 2 * threads - 1) / (2 * threads), step);
  if (threads > 1 && most > half_share) most = half_share > least ? half_share : least;
  // the largest of those that let threads end soonest
  int64_t best = step, soonest = INT64_MAX;
  for (int64_t rows = most; rows >= step; rows -= step) {
    const int64_t tasks = (num_rows + rows - 1) / rows;
    const int64_t end = (tasks + threads - 1) / threads * rows;
    if (end < soonest) {
      best = rows;
      soonest = end;
    }
  }
  return best;
}
