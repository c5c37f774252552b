// A task's memory. Included after a simd_*.h.
#pragma once

#include <cstdint>

#include "rounded_up.h"
#include "scratch.h"

namespace {

// A thread's memory, cut into parts that begin on a cache line.
class Workspace {
 public:
  explicit Workspace(int64_t bytes) : next_(static_cast<char*>(scratch(size_t(bytes)))) {}

  explicit operator bool() const { return next_ != nullptr; }  // false: no memory is left

  template <typename T>
  T* take(int64_t count) {
    T* part = reinterpret_cast<T*>(next_);
    next_ += size<T>(count);
    return part;
  }

  template <typename T>
  static int64_t size(int64_t count) {
    return rounded_up(count * static_cast<int64_t>(sizeof(T)), 64);
  }

 private:
  char* next_;
};

}  // namespace
