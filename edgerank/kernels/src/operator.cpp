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

void PackedMatrix::load(const Node& node, const Kernels& kernels, const RowRange& range,
                        size_t weight_index, size_t scales_index, int bias_index) {
  Errors& errors = node.errors();
  const Tensor weight = node.constant(weight_index, "a weight");
  const Tensor scales = node.constant(scales_index, "a weight's scales");
  if (!weight || errors.any()) return;
  Tensor bias;
  if (bias_index >= 0) bias = node.constant(static_cast<size_t>(bias_index), "a bias");
  errors.require(
      weight.rank == 2 && weight.size() > 0 && scales && scales.size() == weight.shape[1],
      "edgerank.kernels: a weight must be [K, N], with N constant scales");
  errors.require(!bias || bias.size() == weight.last(),
                 "edgerank.kernels: a bias must have one number for each column");
  if (errors.any()) return;
  const int64_t depth = weight.shape[0], columns = weight.shape[1];
  const bool is_packed = pack(kernels, range, static_cast<const int8_t*>(weight.data), depth,
                              columns, scales.floats(), bias.floats());
  errors.require_memory(is_packed);
  release_mapped(weight.data, static_cast<size_t>(depth * columns));
}

bool PackedMatrix::pack(const Kernels& kernels, const RowRange& range, const int8_t* weight,
                        int64_t depth, int64_t columns, const float* scales, const float* bias) {
  const int64_t padded_columns = rounded_up(columns, kernels.panel_columns);
  const int64_t padded_depth = rounded_up(depth, kernels.depth_step);
  const size_t panel_bytes = static_cast<size_t>(padded_depth * padded_columns);
  const size_t column_bytes = static_cast<size_t>(rounded_up(padded_columns * 4, 64));
  auto* bytes = static_cast<char*>(memory_.allocate(panel_bytes + 3 * column_bytes));
  if (!bytes) return false;
  auto* panels = reinterpret_cast<int8_t*>(bytes);
  auto* corrections = reinterpret_cast<int32_t*>(bytes + panel_bytes);
  auto* column_scales = reinterpret_cast<float*>(bytes + panel_bytes + column_bytes);
  auto* column_bias = reinterpret_cast<float*>(bytes + panel_bytes + 2 * column_bytes);
  std::memset(corrections, 0, 3 * column_bytes);
  if (!kernels.pack(weight, depth, columns, panels, corrections)) return false;
  for (int64_t n = 0; n < columns; ++n) corrections[n] *= range.zero_point - kernels.integer_offset;
  std::memcpy(column_scales, scales, static_cast<size_t>(columns) * sizeof(float));
  if (bias) std::memcpy(column_bias, bias, static_cast<size_t>(columns) * sizeof(float));
  view_ = {depth, columns, panels, corrections, column_scales, bias ? column_bias : nullptr};
  return true;
}

void Vector::load(const Node& node, size_t index, const char* name, int64_t size) {
  const Tensor tensor = node.constant(index, name);
  if (!tensor || node.errors().any()) return;
  node.errors().require(tensor.size() == size,
                        "edgerank.kernels: a vector has not the size of the rows it belongs to");
  data_ = static_cast<float*>(memory_.allocate(static_cast<size_t>(size) * sizeof(float) + 64));
  node.errors().require_memory(data_ != nullptr);
  if (!node.errors().any()) {
    std::memcpy(data_, tensor.data, static_cast<size_t>(size) * sizeof(float));
  }
}

void NormParameters::load(const Node& node, size_t gain_index, int64_t width) {
  view.kind = static_cast<NormKind>(node.integer("norm", 0));
  if (view.kind == NormKind::none) return;
  gain.load(node, gain_index, "a norm's gain", width);
  bias.load(node, gain_index + 1, "a norm's bias", width);
  node.errors().require(gain.data() != nullptr, "edgerank.kernels: a norm lacks its gain");
  view.gain = gain.data();
  view.bias = bias.data();
  view.epsilon = node.number("epsilon", 1e-5f);
}

RowRange row_range(const Node& node, size_t zero_point, const char* floor) {
  RowRange range;
  const Tensor tensor = node.constant(zero_point, "a zero point");
  if (tensor && tensor.size() == 1) range.zero_point = *static_cast<const uint8_t*>(tensor.data);
  node.errors().require(
      tensor && tensor.size() == 1 && range.zero_point > 0 && range.zero_point < 255,
      "edgerank.kernels: a zero point must be one number from 1 to 254");
  range.floor = node.number(floor, 0);
  return range;
}

int64_t rows_of_a_task(const Kernels& kernels, int64_t num_rows, int threads,
                       int64_t bytes_per_row) {
  constexpr int64_t CACHE = 512 << 10;  // what rows may take of a core's second-level cache
  const int64_t step = kernels.task_rows;
  const int64_t least = rounded_up(18, step), limit = rounded_up(48, step);
  int64_t most = CACHE / bytes_per_row / step * step;
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
