// What the tests of the kernels share: checks, a digest, memory with a guard page behind it, and
// numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels.h"

// Counts a check; one that does not hold is printed, and makes the program fail.
__attribute__((format(printf, 2, 3))) void expect(bool holds, const char* format, ...);

// Adds the bits of a computed number to the digest.
void digest(float number);
// Returns the digest of all numbers since the last call.
uint64_t take_digest();

// What attention of an instruction set multiplies: floats, or those rounded to bfloat16, with eight
// significant bits. Its softmax and its sums are of floats in any case.
struct Operand {
  bool is_bfloat16;

  explicit Operand(const Kernels& kernels);
  double operator()(float x) const;  // x as it is multiplied
  // how far weights of a softmax may be off, relative to them
  double doubt() const { return is_bfloat16 ? 1.0 / 512 : 0; }
};

// Whether there is memory left for the kernels.
extern bool has_memory;

// Memory that ends where the next page cannot be touched, so that whoever reads or writes behind
// it crashes. Masked accesses do not.
class Guarded {
 public:
  explicit Guarded(int64_t count = 0, float value = 0);
  Guarded(Guarded&& other) noexcept;
  Guarded& operator=(Guarded&&) = delete;
  ~Guarded();

  float* data() { return data_; }  // null if there are none
  const float* data() const { return data_; }
  int64_t size() const { return count_; }
  float& operator[](int64_t i) { return data_[i]; }
  float operator[](int64_t i) const { return data_[i]; }

 private:
  int64_t count_;
  void* pages_ = nullptr;
  size_t bytes_ = 0;
  float* data_ = nullptr;
};

// Reproducible numbers.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed * 2654435769u + 88172645463325252u) {}
  int64_t below(int64_t end);
  bool coin() { return below(2) == 1; }
  float uniform(float low, float high);
  float normal();
  Guarded normals(int64_t count, float mean = 0, float deviation = 1);

 private:
  uint64_t state_;
};

// Which of a task's rows are refined: none, some or all.
struct Refined {
  std::vector<int64_t> numbers;  // in the whole, of which the task has rows from some number on
  RefinedRows rows;

  Refined(Random& random, int64_t num_rows);
  bool has(int64_t row) const;
};

// Integers of a matrix by themselves, and as they lie in a file.
struct Integers8 {
  int64_t depth, columns;
  std::vector<int8_t> values;  // [depth, columns]
  std::vector<int32_t> sums;   // of the columns
  Guarded scales;              // of the columns

  // Elements are from -127 to 127. Panels may lie at any address.
  Integers8(Random& random, int64_t depth, int64_t columns);
  IntegerMatrix view() const { return {panels_, sums.data(), scales.data()}; }

 private:
  Guarded memory_;
  int8_t* panels_;
};

struct Weights {
  int64_t depth, columns;
  Integers8 rounded, rests;
  bool has_rests;
  Guarded bias;  // of the columns; may be empty

  Weights(Random& random, int64_t depth, int64_t columns, bool has_bias);
  Matrix view(const RowRange& range) const;
};

// A norm with its vectors.
struct NormOf {
  Guarded gain, bias;
  Norm view;

  NormOf(Random& random, NormKind kind, int64_t width, bool has_bias);
};

// Kinds of rows that have gone wrong somewhere before.
enum class RowKind {
  normal,
  outlier,
  equal,
  zeros,
  ties,
  alternating,
  single,
  tiny,
  denormal,
  huge
};
constexpr int NUM_ROW_KINDS = 10;

// Rows of all kinds, none of which exceeds `most`.
Guarded make_rows(Random& random, int64_t rows, int64_t width, float most);

void test_linear(const Kernels& kernels);
void test_projection(const Kernels& kernels);
void test_feed_forward(const Kernels& kernels);
void test_attention(const Kernels& kernels);
void test_positions(const Kernels& kernels);
void test_nearest(const Kernels& kernels);
void test_memory(const Kernels& kernels);
