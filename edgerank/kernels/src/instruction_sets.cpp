#include "instruction_sets.h"

#include <atomic>
#include <cstdio>
#include <cstring>

#include "cpu.h"
#include "kernels.h"

#if defined(__x86_64__)
extern const Kernels avx2_kernels, avx_vnni_kernels, avx512_kernels, avx512_vnni_kernels;
extern const Kernels avx512_bf16_kernels, amx_kernels;
#elif defined(__aarch64__)
extern const Kernels dotprod_kernels, i8mm_kernels;
#endif

namespace {

struct Available {
  const Kernels* kernels[MAX_INSTRUCTION_SETS + 1] = {};  // null ends the list
  char names[80] = "";
  std::atomic<const Kernels*> chosen;
  std::atomic<int> threads{1};

  Available() {
    const CpuFeatures cpu = detect_cpu();
    int count = 0;
    const auto add = [&](bool is_there, const Kernels& kernels_of_set) {
      if (is_there) kernels[count++] = &kernels_of_set;
    };
#if defined(__x86_64__)
#if !defined(EDGERANK_WITHOUT_AMX)
    add(cpu.amx, amx_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_AVX512_VNNI)
    add(cpu.avx512_vnni, avx512_vnni_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_AVX_VNNI)
    add(cpu.avx_vnni, avx_vnni_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_AVX512)
    add(cpu.avx512, avx512_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_AVX2)
    add(cpu.avx2, avx2_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_AVX512_BF16)
    add(cpu.avx512_bf16, avx512_bf16_kernels);
#endif
#elif defined(__aarch64__)
#if !defined(EDGERANK_WITHOUT_I8MM)
    add(cpu.i8mm, i8mm_kernels);
#endif
#if !defined(EDGERANK_WITHOUT_DOTPROD)
    add(cpu.dotprod, dotprod_kernels);
#endif
#endif
    for (int i = 0; i < count; ++i) {
      const size_t used = std::strlen(names);
      std::snprintf(names + used, sizeof(names) - used, i ? ",%s" : "%s", kernels[i]->name);
    }
    chosen = kernels[0];
  }
};

Available& available() {
  static Available found;
  return found;
}

// Null if this CPU cannot run it.
const Kernels* kernels_of(const char* instruction_set) {
  for (const Kernels* const* it = available().kernels; *it; ++it) {
    if (std::strcmp((*it)->name, instruction_set) == 0) return *it;
  }
  return nullptr;
}

}  // namespace

Choice chosen() { return {available().chosen, available().threads}; }

int place_of(const Kernels& kernels) {
  int place = 0;
  while (available().kernels[place] != &kernels) ++place;
  return place;
}

const char* edgerank_instruction_sets() { return available().names; }

int edgerank_choose(const char* instruction_set, int threads) {
  const Kernels* kernels = kernels_of(instruction_set);
  if (!kernels) return 0;
  available().chosen = kernels;
  available().threads = threads < 1 ? 1 : threads;
  return 1;
}

int edgerank_nearest(const char* instruction_set, const NearestTask* task, int64_t first,
                     int64_t last) {
  const Kernels* kernels = kernels_of(instruction_set);
  return kernels && kernels->nearest(*task, first, last);
}

int edgerank_pooled(const char* instruction_set, const PooledTask* task, int64_t first,
                    int64_t last) {
  const Kernels* kernels = kernels_of(instruction_set);
  return kernels && kernels->pooled(*task, first, last);
}
