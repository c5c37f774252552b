// Tables of positions are transposed once, when a session is made. And PositionBuckets, whose stock
// body computes what stock attention needs of them and compiled attention does not.
#include "position_tables.h"

#include "operators.h"

void NodeTables::load(const Node& node, size_t keys_index, size_t queries_index,
                      size_t buckets_index, int64_t num_heads) {
  const Tensor keys = node.constant(keys_index, "position keys");
  const Tensor queries = node.constant(queries_index, "position queries");
  const Tensor buckets = node.constant(buckets_index, "position buckets");
  Errors& errors = node.errors();
  if (errors.any() || !keys || !queries || !buckets) return;
  errors.require(keys.rank == 3 && queries.rank == 3 && keys.shape[0] == num_heads &&
                     keys.shape[1] > 0 && queries.shape[0] == num_heads &&
                     queries.shape[1] == keys.shape[1] && queries.shape[2] == keys.shape[2],
                 "edgerank.kernels: tables of positions are not [heads, P, head size]");
  errors.require(buckets.rank == 1 && buckets.size() % 2 == 1,
                 "edgerank.kernels: buckets must be those of distances to both sides of 0");
  if (errors.any()) return;
  const auto* rows = static_cast<const int32_t*>(buckets.data);
  for (int64_t i = 0; i < buckets.size(); ++i) {
    errors.require(rows[i] >= (i ? rows[i - 1] : 0) && rows[i] < keys.shape[1],
                   "edgerank.kernels: buckets must not fall, nor lie outside of the tables");
  }
  if (errors.any()) return;
  size_ = keys.shape[2];
  reach_ = (buckets.size() + 1) / 2;
  // room for a vector of 16 after each row, of an odd number of cache lines: rows that lie a power
  // of two apart would share the same few places in the cache
  stride_ = (((keys.shape[1] + 15) / 16 + 1) | 1) * 16;
  keys_ = transposed(keys, keys_memory_);
  queries_ = transposed(queries, queries_memory_);
  const size_t bytes = static_cast<size_t>(buckets.size()) * sizeof(int32_t);
  auto* copied = static_cast<int32_t*>(buckets_memory_.allocate(bytes));
  errors.require_memory(keys_ && queries_ && copied);
  if (errors.any()) return;
  std::memcpy(copied, rows, bytes);
  buckets_ = copied;
}

float* NodeTables::transposed(const Tensor& table, Memory& memory) const {
  const int64_t num_heads = table.shape[0], num_rows = table.shape[1];
  const size_t bytes = static_cast<size_t>(num_heads * size_ * stride_) * sizeof(float);
  auto* columns = static_cast<float*>(memory.allocate(bytes));
  if (!columns) return nullptr;
  std::memset(columns, 0, bytes);
  for (int64_t head = 0; head < num_heads; ++head) {
    for (int64_t row = 0; row < num_rows; ++row) {
      const float* from = table.floats() + (head * num_rows + row) * size_;
      float* to = columns + head * size_ * stride_ + row;
      for (int64_t k = 0; k < size_; ++k) to[k * stride_] = from[k];
    }
  }
  return columns;
}

PositionTables NodeTables::of_head(int64_t head) const {
  const int64_t start = head * size_ * stride_;
  return {keys_ + start, queries_ + start, stride_, buckets_ + reach_ - 1};
}

namespace {

struct PositionBucketsKernel {
  static constexpr const char* NAME = "PositionBuckets";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_INT64,  // query rows [B, L]
      ONNX_INT64,  // key rows [B, S]
      ONNX_INT32,  // buckets of distances
  };
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {
      ONNX_INT64,  // the first row of the tables that occurs [1]
      ONNX_INT64,  // the one after the last [1]
      ONNX_INT32,  // rows of the tables for queries, heads and keys
  };
  static constexpr size_t NUM_INPUTS = 3, NUM_REQUIRED = 3, NUM_OUTPUTS = 3;

  void load(const Node&, const Kernels&, int) {}

  void compute(const Call& call) const {
    const int64_t shape[1] = {0};
    for (size_t i = 0; i < NUM_OUTPUTS; ++i) call.output(i, shape, 1);
  }
};

}  // namespace

OrtCustomOp* position_buckets_operator(const Kernels& kernels, int threads) {
  return operator_for<PositionBucketsKernel>(kernels, threads);
}
