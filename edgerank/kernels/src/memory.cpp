#include "memory.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "rounded_up.h"

#if defined(_WIN32)
#include <malloc.h>
#else
#include <sys/mman.h>
#include <unistd.h>
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
  // a fault for each small page would take a third of the time that packing does
  if (bytes >= HUGE_PAGE) madvise(data, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
#endif
  return data;
}

void free_aligned(void* data) { std::free(data); }

#endif

#if defined(__linux__)

namespace {

// Whether an address range lies in a private mapping of a file, as /proc/self/maps has it.
bool is_mapped_file(uintptr_t begin, uintptr_t end) {
  std::FILE* maps = std::fopen("/proc/self/maps", "re");
  if (!maps) return false;
  bool found = false;
  char line[512];
  while (!found && std::fgets(line, sizeof(line), maps)) {
    unsigned long first, last, inode;
    char access[5];
    if (std::sscanf(line, "%lx-%lx %4s %*s %*s %lu", &first, &last, access, &inode) != 4) continue;
    found = first <= begin && end <= last && inode != 0 && access[3] == 'p';
  }
  std::fclose(maps);
  return found;
}

}  // namespace

void release_mapped(const void* data, size_t bytes) {
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t first = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (first + page - 1) / page * page, end = (first + bytes) / page * page;
  if (begin < end && is_mapped_file(begin, end)) {
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
  }
}

#else

void release_mapped(const void*, size_t) {}

#endif
