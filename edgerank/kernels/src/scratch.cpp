#include "scratch.h"

#include "memory.h"

namespace {

struct Buffer {
  void* data = nullptr;
  size_t size = 0;

  ~Buffer() { free_aligned(data); }
};

thread_local Buffer buffer;

}  // namespace

void* scratch(size_t bytes) {
  if (bytes > buffer.size) {
    free_aligned(buffer.data);
    buffer.data = allocate_aligned(bytes);
    buffer.size = buffer.data ? bytes : 0;
  }
  return buffer.data;
}
