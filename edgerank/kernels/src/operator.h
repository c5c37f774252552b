// What the operators need of ONNX Runtime: tensors, attributes, weights, parallel tasks, and how an
// operator is declared.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <new>

#include "instruction_sets.h"
#include "kernels.h"
#include "onnxruntime_abi.h"

// Set once, before the first kernel is made.
extern const OrtApi* ort;

struct Tensor {
  void* data = nullptr;  // null where a node leaves the tensor out
  int64_t shape[8] = {};
  int rank = 0;

  explicit operator bool() const { return data != nullptr; }
  const float* floats() const { return static_cast<const float*>(data); }
  const int64_t* integers() const { return static_cast<const int64_t*>(data); }
  int64_t size() const {
    int64_t product = 1;
    for (int i = 0; i < rank; ++i) product *= shape[i];
    return product;
  }
  int64_t last() const { return rank ? shape[rank - 1] : 1; }
};

inline OrtStatus* no_memory() {
  return ort->CreateStatus(ORT_FAIL, "edgerank.kernels: no memory is left");
}

// Keeps the first error of several calls.
class Errors {
 public:
  ~Errors() {
    if (first_) ort->ReleaseStatus(first_);
  }
  void check(OrtStatus* status) {
    if (status && first_) {
      ort->ReleaseStatus(status);
    } else if (status) {
      first_ = status;
    }
  }
  void require(bool is_met, const char* message) {
    if (!is_met && !first_) first_ = ort->CreateStatus(ORT_INVALID_ARGUMENT, message);
  }
  void require_memory(bool is_there) {
    if (!is_there && !first_) first_ = no_memory();
  }
  bool any() const { return first_ != nullptr; }
  OrtStatus* take() {
    OrtStatus* status = first_;
    first_ = nullptr;
    return status;
  }

 private:
  OrtStatus* first_ = nullptr;
};

// A node, while its kernel is made.
class Node {
 public:
  Node(const OrtKernelInfo* info, Errors& errors) : info_(info), errors_(errors) {}

  // An input that is an initializer; empty if the node leaves it out.
  Tensor constant(size_t index, const char* name) const;
  int64_t integer(const char* name, int64_t otherwise) const;
  float number(const char* name, float otherwise) const;
  Errors& errors() const { return errors_; }

 private:
  const OrtKernelInfo* info_;
  Errors& errors_;
};

// One computation of a kernel.
class Call {
 public:
  Call(OrtKernelContext* context, Errors& errors) : context_(context), errors_(errors) {}

  Tensor input(size_t index) const;
  // Null if the node leaves the output out; only floats are ever written.
  float* output(size_t index, const int64_t* shape, int rank) const;
  Errors& errors() const { return errors_; }

  // Calls task(0 .. count - 1) on the session's threads; it returns false if there is no memory
  // left, which is an error.
  template <typename Task>
  void parallel(int64_t count, const Task& task) const {
    struct Run {
      const Task& task;
      std::atomic<bool> has_memory{true};
    } run{task};
    if (count == 1) {
      run.has_memory = task(0);
    } else if (count > 1) {
      const auto call = [](void* data, size_t i) {
        auto* self = static_cast<Run*>(data);
        if (!self->task(static_cast<int64_t>(i))) self->has_memory = false;
      };
      errors_.check(
          ort->KernelContext_ParallelFor(context_, call, static_cast<size_t>(count), 0, &run));
    }
    errors_.require_memory(run.has_memory);
  }

  // Calls task(first row, count) for blocks of `step` rows, the last of which may be smaller.
  template <typename Task>
  void parallel_rows(int64_t rows, int64_t step, const Task& task) const {
    parallel((rows + step - 1) / step, [&](int64_t block) {
      const int64_t row = block * step;
      return task(row, rows - row < step ? rows - row : step);
    });
  }

 private:
  OrtKernelContext* context_;
  Errors& errors_;
};

// A block of memory with an owner.
class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory();
  void* allocate(size_t bytes);  // null if there is none left

 private:
  void* data_ = nullptr;
};

// Zeros of a plain type, in memory of their own.
template <typename T>
class Array {
 public:
  // False if there is no memory left.
  bool allocate(int64_t count) {
    const size_t bytes = static_cast<size_t>(count) * sizeof(T);
    data_ = static_cast<T*>(memory_.allocate(bytes + 1));  // of nothing, too
    if (data_) std::memset(static_cast<void*>(data_), 0, bytes);
    return data_ != nullptr;
  }
  T* data() { return data_; }
  T& operator[](int64_t i) { return data_[i]; }

 private:
  Memory memory_;
  T* data_ = nullptr;
};

// Weights stay where ONNX Runtime has them, which keeps constants for as long as their session.

// The matrix at inputs `first` (its panels), `first + 1` (scales), `first + 2` (sums), what
// rounding took from it at `rests` and the two that follow, and, if there is a bias, `bias`, for
// rows of `depth` numbers in a range. Without panels, if the node leaves it out.
Matrix load_matrix(const Node& node, const RowRange& range, int64_t depth, size_t first,
                   size_t rests, int bias);

// The vector of `size` floats at an input; null if the node leaves it out.
const float* load_vector(const Node& node, size_t index, const char* name, int64_t size);

// The norm at inputs `gain` and `gain + 1`, of the kind that the node's attributes name.
Norm load_norm(const Node& node, size_t gain, int64_t width);

// The width of the rows that the node reads.
int64_t row_width(const Node& node);

// The range of rows that are rounded with the zero point at an input.
RowRange row_range(const Node& node, size_t zero_point, const char* floor, const char* block);

// How many rows a task takes, so that `bytes_per_row` of them stay in the cache.
int64_t rows_of_a_task(const Kernels& kernels, int64_t num_rows, int threads,
                       int64_t bytes_per_row);

// Declares an operator to ONNX Runtime. An `Implementation` has
//
//   static constexpr const char* NAME;
//   static constexpr ONNXTensorElementDataType INPUTS[], OUTPUTS[];
//   static constexpr size_t NUM_INPUTS, NUM_REQUIRED, NUM_OUTPUTS;  // required inputs come first
//   void load(const Node&, const Kernels&, int threads);
//   void compute(const Call&) const;
template <typename Implementation>
struct Operator : OrtCustomOp {
  Operator() : OrtCustomOp{} {
    version = ORT_API_VERSION;
    GetName = [](const OrtCustomOp*) { return Implementation::NAME; };
    GetExecutionProviderType = [](const OrtCustomOp*) { return "CPUExecutionProvider"; };
    GetInputTypeCount = [](const OrtCustomOp*) { return std::size_t(Implementation::NUM_INPUTS); };
    GetInputType = [](const OrtCustomOp*, size_t i) { return Implementation::INPUTS[i]; };
    GetOutputTypeCount = [](const OrtCustomOp*) {
      return std::size_t(Implementation::NUM_OUTPUTS);
    };
    GetOutputType = [](const OrtCustomOp*, size_t i) { return Implementation::OUTPUTS[i]; };
    GetInputCharacteristic = [](const OrtCustomOp*, size_t i) {
      return i < Implementation::NUM_REQUIRED ? ORT_REQUIRED : ORT_OPTIONAL;
    };
    GetOutputCharacteristic = [](const OrtCustomOp*, size_t) {
      return Implementation::NUM_OUTPUTS > 1 ? ORT_OPTIONAL : ORT_REQUIRED;
    };
    GetInputMemoryType = [](const OrtCustomOp*, size_t) { return ORT_MEM_TYPE_DEFAULT; };
    GetVariadicInputMinArity = GetVariadicInputHomogeneity = GetVariadicOutputMinArity =
        GetVariadicOutputHomogeneity = [](const OrtCustomOp*) { return 1; };
    GetStartVersion = [](const OrtCustomOp*) { return 1; };
    GetEndVersion = [](const OrtCustomOp*) { return 0x7fffffff; };
    CreateKernelV2 = create;
    KernelComputeV2 = compute;
    KernelDestroy = [](void* kernel) { delete static_cast<Implementation*>(kernel); };
  }

  const Kernels* kernels = nullptr;
  int threads = 1;

 private:
  static OrtStatus* create(const OrtCustomOp* op, const OrtApi*, const OrtKernelInfo* info,
                           void** kernel) {
    auto* made = new (std::nothrow) Implementation;
    if (!made) return no_memory();
    Errors errors;
    const auto* self = static_cast<const Operator*>(op);
    made->load(Node(info, errors), *self->kernels, self->threads);
    if (errors.any()) {
      delete made;
    } else {
      *kernel = made;
    }
    return errors.take();
  }

  static OrtStatus* compute(void* kernel, OrtKernelContext* context) {
    Errors errors;
    static_cast<const Implementation*>(kernel)->compute(Call(context, errors));
    return errors.take();
  }
};

// The operator for an instruction set and a number of threads; null if there is no memory left. One
// lives as long as the library, since sessions refer to it.
template <typename Implementation>
OrtCustomOp* operator_for(const Kernels& kernels, int threads) {
  constexpr int MOST_THREADS = 256;
  static Operator<Implementation>* instances[MAX_INSTRUCTION_SETS][MOST_THREADS];
  if (threads > MOST_THREADS) threads = MOST_THREADS;
  Operator<Implementation>*& instance = instances[place_of(kernels)][threads - 1];
  if (!instance) instance = new (std::nothrow) Operator<Implementation>;
  if (!instance) return nullptr;
  instance->kernels = &kernels;
  instance->threads = threads;
  return instance;
}
