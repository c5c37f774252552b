#include "memory.h"

#include <cstdlib>

#include "rounded_up.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <sys/mman.h>
#endif

namespace {

size_t whole_lines(size_t bytes) {
  return static_cast<size_t>(rounded_up(static_cast<int64_t>(bytes), 64));
}

}  // namespace

#if defined(_WIN32)

void* allocate_aligned(size_t bytes) { return _aligned_malloc(whole_lines(bytes), 64); }
void free_aligned(void* data) { _aligned_free(data); }

#else

constexpr size_t HUGE_PAGE = size_t(2) << 20;

void* allocate_aligned(size_t bytes) {
  void* data = nullptr;
  const size_t alignment = bytes < HUGE_PAGE ? size_t(64) : HUGE_PAGE;
  if (posix_memalign(&data, alignment, whole_lines(bytes)) != 0) return nullptr;
#if defined(MADV_HUGEPAGE)
  // fewer faults, and fewer misses of the TLB
  if (bytes >= HUGE_PAGE) madvise(data, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
  return data;
}

void free_aligned(void* data) { std::free(data); }

#endif
