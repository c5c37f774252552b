#include "check.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "memory.h"
#include "rounded_up.h"

namespace {

constexpr uint64_t FNV_OFFSET = 14695981039346656037u, FNV_PRIME = 1099511628211u;
uint64_t running_digest = FNV_OFFSET;

}  // namespace

void digest(float number) {
  uint32_t bits = 0;  // of anything that is not a number
  if (number == number) std::memcpy(&bits, &number, sizeof(bits));
  running_digest = (running_digest ^ bits) * FNV_PRIME;
}

uint64_t take_digest() {
  const uint64_t digest = running_digest;
  running_digest = FNV_OFFSET;
  return digest;
}

Operand::Operand(const Kernels& kernels)
    : is_bfloat16(std::strcmp(kernels.name, "avx512_bf16") == 0) {}

double Operand::operator()(float x) const {
  if (!is_bfloat16 || x == 0) return double(x);
  const int exponent = std::ilogb(x);
  return std::ldexp(std::nearbyint(std::ldexp(double(x), 7 - exponent)), exponent - 7);
}

bool has_memory = true;

// memory.cpp is compiled with another name for its function, see test_native.py
void* allocate_from_system(size_t bytes);
void* allocate_aligned(size_t bytes) { return has_memory ? allocate_from_system(bytes) : nullptr; }

Guarded::Guarded(int64_t count, float value) : count_(count) {
  if (count == 0) return;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t size = static_cast<size_t>(count) * sizeof(float);
  const size_t usable = (size + page - 1) / page * page;
  bytes_ = usable + page;
  pages_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages_ == MAP_FAILED || mprotect(static_cast<char*>(pages_) + usable, page, PROT_NONE) != 0) {
    std::abort();
  }
  data_ = reinterpret_cast<float*>(static_cast<char*>(pages_) + usable - size);
  for (int64_t i = 0; i < count; ++i) data_[i] = value;
}

Guarded::Guarded(Guarded&& other) noexcept
    : count_(other.count_),
      pages_(std::exchange(other.pages_, nullptr)),
      bytes_(other.bytes_),
      data_(other.data_) {}

Guarded::~Guarded() {
  if (pages_) munmap(pages_, bytes_);
}

int64_t Random::below(int64_t end) {
  state_ ^= state_ << 13;
  state_ ^= state_ >> 7;
  state_ ^= state_ << 17;
  return static_cast<int64_t>((state_ >> 20) % static_cast<uint64_t>(end));
}

float Random::uniform(float low, float high) {
  return low + (high - low) * static_cast<float>(below(1 << 24)) / float(1 << 24);
}

float Random::normal() {
  float sum = -6;
  for (int i = 0; i < 12; ++i) sum += uniform(0, 1);
  return sum;
}

Guarded Random::normals(int64_t count, float mean, float deviation) {
  Guarded numbers(count);
  for (int64_t i = 0; i < count; ++i) numbers[i] = mean + deviation * normal();
  return numbers;
}

Integers8::Integers8(Random& random, int64_t rows, int64_t width)
    : depth(rows),
      columns(width),
      values(static_cast<size_t>(rows * width)),
      sums(static_cast<size_t>(width)),
      scales(width),
      memory_(rounded_up(rows, MATRIX_STEP) * rounded_up(width, MATRIX_STEP) / 4 + 1),
      panels_(reinterpret_cast<int8_t*>(memory_.data()) + 1 + random.below(4)) {
  const int64_t padded_depth = rounded_up(depth, MATRIX_STEP);
  for (int64_t n = 0; n < columns; ++n) {
    scales[n] = random.uniform(0.001f, 0.01f);
    // some columns are at the end of their range throughout, so that sums are as large as they get
    const int kind = static_cast<int>(random.below(8));
    for (int64_t k = 0; k < depth; ++k) {
      int64_t value = random.below(255) - 127;
      if (kind < 2) value = kind ? 127 : -127;
      if (kind == 2) value = k % 2 ? 127 : -127;
      values[static_cast<size_t>(k * columns + n)] = static_cast<int8_t>(value);
      sums[static_cast<size_t>(n)] += static_cast<int32_t>(value);
      panels_[n / 16 * 16 * padded_depth + k / 4 * 64 + n % 16 * 4 + k % 4] =
          static_cast<int8_t>(value);
    }
  }
}

Weights::Weights(Random& random, int64_t rows, int64_t width, bool has_bias)
    : depth(rows),
      columns(width),
      rounded(random, rows, width),
      rests(random, rows, width),
      has_rests(random.coin()),
      bias(random.normals(has_bias ? width : 0)) {}

Matrix Weights::view(const RowRange& range) const {
  return {depth,          columns,
          rounded.view(), range.zero_point,
          bias.data(),    has_rests ? rests.view() : IntegerMatrix{}};
}

NormOf::NormOf(Random& random, NormKind kind, int64_t width, bool has_bias)
    : gain(random.normals(width, 1, 0.2f)), bias(random.normals(has_bias ? width : 0)) {
  view = {kind, gain.data(), bias.data(), 1e-5f};
}

Refined::Refined(Random& random, int64_t num_rows) {
  const int64_t first = random.below(100), kind = random.below(3);
  for (int64_t row = 0; row < num_rows; ++row) {
    if (kind == 2 || (kind == 1 && random.below(4) == 0)) numbers.push_back(first + row);
  }
  rows = {numbers.data(), static_cast<int64_t>(numbers.size()), first};
}

bool Refined::has(int64_t row) const {
  return std::count(numbers.begin(), numbers.end(), rows.first + row) > 0;
}

Guarded make_rows(Random& random, int64_t rows, int64_t width, float most) {
  Guarded x(rows * width);
  const int64_t first = random.below(NUM_ROW_KINDS);
  for (int64_t row = 0; row < rows; ++row) {
    const auto kind = static_cast<RowKind>((first + row) % NUM_ROW_KINDS);
    const int64_t special = random.below(width);
    const float level = random.normal();
    for (int64_t k = 0; k < width; ++k) {
      float value = 0;
      switch (kind) {
        case RowKind::normal:
          value = random.normal();
          break;
        case RowKind::outlier:
          value = k == special ? 1000.0f * level : random.normal();
          break;
        case RowKind::equal:
          value = level;
          break;
        case RowKind::zeros:
          break;
        case RowKind::ties:  // a half between integers, where the peak is the number of levels
          value = k == special ? 127.0f : float(random.below(253) - 126) + 0.5f;
          break;
        case RowKind::alternating:  // all integers at the ends of their range
          value = k % 2 ? -level : level;
          break;
        case RowKind::single:
          value = k == special ? level : 0.0f;
          break;
        case RowKind::tiny:
          value = 1e-30f * random.normal();
          break;
        case RowKind::denormal:
          value = 1e-40f * random.normal();
          break;
        case RowKind::huge:  // the compiler orders operands, but not statements: one draw in each
          value = random.coin() ? most : -most;
          value *= random.uniform(0, 1);
          break;
      }
      x[row * width + k] = value;
    }
  }
  return x;
}
