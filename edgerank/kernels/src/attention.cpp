// RaggedAttention: each sequence of a flat token axis attends to its own keys. And AttentionMask,
// whose stock body computes what stock attention needs and compiled attention does not.
#include "operator.h"
#include "operators.h"
#include "position_tables.h"

namespace {

// A sequence's queries and keys.
struct Sequence {
  int64_t first_row;  // of its queries on the flat axis
  int64_t num_queries;
  int64_t num_keys;
  // the rows of its keys, counted over past ++ flat axis, in up to two runs
  int64_t run_rows[2];
  int64_t run_lengths[2];
};

struct AttentionKernel {
  static constexpr const char* NAME = "RaggedAttention";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_FLOAT,  // query [T, heads * size]
      ONNX_FLOAT,  // keys beside values [T, 2 * kv heads * size]
      ONNX_INT64,  // query rows [B, L]
      ONNX_INT64,  // key rows [B, S]
      ONNX_INT64,  // slots [T]
      ONNX_INT64,  // visible [B, L]
      ONNX_FLOAT,  // what AttentionMask puts out
      ONNX_FLOAT,  // past, as the keys [P, 2 * kv heads * size]
      ONNX_INT64,  // parts [T]: a token sees those of its own number
      ONNX_FLOAT,  // biases of distances [heads, 2N - 1]
      ONNX_FLOAT,  // keys of positions [heads, P, size]
      ONNX_FLOAT,  // queries of positions, likewise
      ONNX_INT32,  // buckets of distances
      ONNX_INT64,  // what PositionBuckets puts out, three tensors
      ONNX_INT64, ONNX_INT32,
  };
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {ONNX_FLOAT};
  static constexpr size_t NUM_INPUTS = 16, NUM_REQUIRED = 7, NUM_OUTPUTS = 1;

  const Kernels* kernels = nullptr;
  int threads = 1;
  int64_t num_heads = 0, num_kv_heads = 0, window = -1;
  bool is_causal = false;  // the window: a query's own key is the last that it sees
  float scale = 0;
  NodeTables tables;

  void load(const Node& node, const Kernels& chosen, int num_threads) {
    kernels = &chosen;
    threads = num_threads;
    num_heads = node.integer("num_heads", 0);
    num_kv_heads = node.integer("num_kv_heads", num_heads);
    window = node.integer("window", -1);
    is_causal = node.integer("is_causal", 0) != 0;
    scale = node.number("scale", 0);
    node.errors().require(num_heads > 0 && num_kv_heads > 0 && num_heads % num_kv_heads == 0,
                          "edgerank.kernels: kv heads must divide heads");
    if (node.errors().any()) return;
    tables.load(node, 10, 11, 12, num_heads);
    node.errors().require(!tables || num_heads == num_kv_heads,
                          "edgerank.kernels: tables of positions are for keys that no heads share");
  }

  void compute(const Call& call) const {
    const Tensor query = call.input(0), keys = call.input(1), query_rows = call.input(2);
    const Tensor key_rows = call.input(3), slots = call.input(4), visible = call.input(5);
    const Tensor past = call.input(7), parts = call.input(8), biases = call.input(9);
    Errors& errors = call.errors();
    errors.require(
        query.rank == 2 && keys.rank == 2 && query_rows.rank == 2 && key_rows.rank == 2 &&
            slots.size() == query.shape[0] && visible.rank == 2 &&
            visible.shape[0] == query_rows.shape[0] && visible.shape[1] == query_rows.shape[1] &&
            key_rows.shape[0] == query_rows.shape[0] && (!parts || parts.size() == query.shape[0]),
        "edgerank.kernels: attention's inputs do not fit each other");
    if (errors.any()) return;
    const int64_t size = query.shape[1] / num_heads;
    errors.require(query.shape[1] == num_heads * size && keys.shape[1] == 2 * num_kv_heads * size,
                   "edgerank.kernels: attention's heads do not fit its rows");
    errors.require(!past || (past.rank == 2 && past.shape[1] == keys.shape[1]),
                   "edgerank.kernels: the past has another width than the keys");
    errors.require(bool(tables) == bool(call.input(10)) && bool(tables) == bool(call.input(11)) &&
                       bool(tables) == bool(call.input(12)),
                   "edgerank.kernels: tables of positions and their buckets must be constant");
    errors.require(
        !tables || (!past && tables.head_size() == size && query_rows.last() <= tables.reach() &&
                    key_rows.last() <= tables.reach()),
        "edgerank.kernels: tables of positions do not fit the heads or the lengths");
    const int64_t num_distances = biases.last(), reach = (num_distances + 1) / 2;
    errors.require(!biases || (!past && num_heads == num_kv_heads && biases.rank == 2 &&
                               biases.shape[0] == num_heads && num_distances % 2 == 1 &&
                               query_rows.last() <= reach && key_rows.last() <= reach),
                   "edgerank.kernels: biases of distances do not fit the heads or the lengths");
    float* output = call.output(0, query.shape, 2);
    if (errors.any() || query.shape[0] == 0) return;

    const int64_t past_length = past ? past.shape[0] : 0;
    const int64_t last_row = past_length + keys.shape[0];
    const int64_t num_sequences = query_rows.shape[0];
    Array<Sequence> sequences;
    Array<int32_t> first_seen, end_seen;
    errors.require_memory(sequences.allocate(num_sequences) &&
                          first_seen.allocate(query.shape[0]) && end_seen.allocate(query.shape[0]));
    if (errors.any()) return;
    read_sequences(query_rows, key_rows, slots, visible, past_length, last_row, sequences, errors);
    if (errors.any()) return;
    for (int64_t b = 0; b < num_sequences; ++b) {
      set_seen(sequences[b], visible.integers() + b * visible.last(),
               parts ? parts.integers() : nullptr, first_seen.data(), end_seen.data());
    }

    const int64_t sharing = num_heads / num_kv_heads;
    const int64_t chunk = queries_of_a_task(query.shape[0], query_rows.last(), num_sequences);
    const int64_t chunks = (query_rows.last() + chunk - 1) / chunk;
    call.parallel(num_sequences * num_kv_heads * chunks, [&](int64_t task) {
      const Sequence& sequence = sequences[task / chunks / num_kv_heads];
      const int64_t head = task / chunks % num_kv_heads, start = task % chunks * chunk;
      if (start >= sequence.num_queries) return true;
      const int64_t row = sequence.first_row + start;
      AttentionTask one;
      one.query = query.floats() + row * query.shape[1] + head * sharing * size;
      one.query_stride = query.shape[1];
      one.num_queries = sequence.num_queries - start < chunk ? sequence.num_queries - start : chunk;
      one.num_heads = sharing;
      one.head_size = size;
      one.scale = scale != 0 ? scale : 1 / __builtin_sqrtf(static_cast<float>(size));
      one.key_stride = keys.shape[1];
      one.value_offset = num_kv_heads * size;
      for (int i = 0; i < 2; ++i) {
        const int64_t first = sequence.run_rows[i];
        const float* from = first < past_length
                                ? past.floats() + first * keys.shape[1]
                                : keys.floats() + (first - past_length) * keys.shape[1];
        one.runs[i] = {from + head * size, sequence.run_lengths[i]};
      }
      one.first_seen = first_seen.data() + row;
      one.end_seen = end_seen.data() + row;
      one.output = output + row * query.shape[1] + head * sharing * size;
      one.output_stride = query.shape[1];
      if (tables) one.tables = tables.of_head(head);
      if (biases) one.biases = biases.floats() + head * num_distances + reach - 1;
      one.first_position = start;
      return kernels->attend(one);
    });
  }

  // Cuts sequences so that there are some tasks for each thread, but none of a few queries.
  int64_t queries_of_a_task(int64_t num_rows, int64_t longest, int64_t num_sequences) const {
    constexpr int64_t LEAST = 128;
    const int64_t sharing = num_heads / num_kv_heads;
    if (num_sequences * num_kv_heads >= 4 * threads) return longest;
    const int64_t wanted = num_rows * num_kv_heads / (4 * threads) + 1;
    const int64_t least = (LEAST + sharing - 1) / sharing;
    return wanted > least ? wanted : least;
  }

  static void read_sequences(const Tensor& query_rows, const Tensor& key_rows, const Tensor& slots,
                             const Tensor& visible, int64_t past_length, int64_t last_row,
                             Array<Sequence>& sequences, Errors& errors) {
    const int64_t num_sequences = query_rows.shape[0], length = query_rows.shape[1];
    const int64_t num_rows = slots.size();
    for (int64_t t = 0; t < num_rows; ++t) {
      const int64_t slot = slots.integers()[t];
      const bool is_inside = slot >= 0 && slot < num_sequences * length;
      errors.require(is_inside, "edgerank.kernels: a slot lies outside of the grid");
      if (!is_inside) return;
      Sequence& sequence = sequences[slot / length];
      if (sequence.num_queries == 0) sequence.first_row = t;
      errors.require(query_rows.integers()[slot] == t && slot % length == sequence.num_queries &&
                         sequence.first_row + sequence.num_queries == t,
                     "edgerank.kernels: a sequence's rows are not consecutive");
      const int64_t seen = visible.integers()[slot];
      errors.require(seen >= 1 && seen <= key_rows.shape[1],
                     "edgerank.kernels: a query sees more keys than there are");
      if (seen > sequence.num_keys) sequence.num_keys = seen;
      ++sequence.num_queries;
    }
    for (int64_t b = 0; b < num_sequences && !errors.any(); ++b) {
      read_runs(key_rows.integers() + b * key_rows.shape[1], past_length, last_row, sequences[b],
                errors);
    }
  }

  static void read_runs(const int64_t* rows, int64_t past_length, int64_t last_row,
                        Sequence& sequence, Errors& errors) {
    int run = -1;
    for (int64_t s = 0; s < sequence.num_keys; ++s) {
      const bool is_inside = rows[s] >= 0 && rows[s] < last_row;
      errors.require(is_inside, "edgerank.kernels: a key's row is not there");
      const bool follows = s > 0 && rows[s] == rows[s - 1] + 1 && rows[s] != past_length;
      if (!follows) {
        errors.require(++run < 2, "edgerank.kernels: a sequence's keys lie in more than two runs");
        if (errors.any()) return;
        sequence.run_rows[run] = rows[s];
      }
      ++sequence.run_lengths[run];
    }
  }

  // For each query of a sequence, the keys that it sees.
  void set_seen(const Sequence& sequence, const int64_t* visible, const int64_t* parts,
                int32_t* first_seen, int32_t* end_seen) const {
    int64_t part_begin = 0, part_end = 0;
    for (int64_t i = 0; i < sequence.num_queries; ++i) {
      int64_t first = 0, end = visible[i];
      if (window >= 0) {
        const int64_t own = is_causal ? end - 1 : i;
        if (own - window > first) first = own - window;
        if (own + window + 1 < end) end = own + window + 1;
      }
      if (parts && i == part_end) {  // of sequences whose keys are their queries
        const int64_t* part = parts + sequence.first_row;
        part_begin = i;
        while (part_end < sequence.num_queries && part[part_end] == part[i]) ++part_end;
      }
      if (parts && part_begin > first) first = part_begin;
      if (parts && part_end < end) end = part_end;
      first_seen[sequence.first_row + i] = static_cast<int32_t>(first);
      end_seen[sequence.first_row + i] = static_cast<int32_t>(end);
    }
  }
};

struct AttentionMaskKernel {
  static constexpr const char* NAME = "AttentionMask";
  static constexpr ONNXTensorElementDataType INPUTS[] = {
      ONNX_INT64,  // query rows [B, L]
      ONNX_INT64,  // key rows [B, S]
      ONNX_INT64,  // visible [B, L]
      ONNX_INT64,  // parts [T]
      ONNX_FLOAT,  // biases of distances [heads, 2N - 1]
  };
  static constexpr ONNXTensorElementDataType OUTPUTS[] = {ONNX_FLOAT};
  static constexpr size_t NUM_INPUTS = 5, NUM_REQUIRED = 3, NUM_OUTPUTS = 1;

  void load(const Node&, const Kernels&, int) {}

  void compute(const Call& call) const {
    const int64_t shape[1] = {0};
    call.output(0, shape, 1);
  }
};

}  // namespace

OrtCustomOp* attention_operator(const Kernels& kernels, int threads) {
  return operator_for<AttentionKernel>(kernels, threads);
}
OrtCustomOp* attention_mask_operator(const Kernels& kernels, int threads) {
  return operator_for<AttentionMaskKernel>(kernels, threads);
}
