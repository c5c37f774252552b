// Compares the kernels of every instruction set that this CPU can run with plain double precision,
// and those of AMX on a model of its instructions (tile_model.h), if they are compiled for it.
// Named instruction sets are the only ones to run.
#include <cinttypes>
#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "check.h"
#include "instruction_sets.h"
#include "reference.h"

#if defined(WITH_TILE_MODEL)
extern const Kernels amx_kernels;
#endif

namespace {

long num_checks = 0, num_failures = 0;
const char* instruction_set = "";

bool is_named(const char* name, int count, char** names) {
  for (int i = 0; i < count; ++i) {
    if (std::strcmp(names[i], name) == 0) return true;
  }
  return count == 0;
}

void test_all(const Kernels& kernels, const char* how) {
  const long before = num_checks;
  std::printf("%s%s: linear", kernels.name, how);
  test_linear(kernels);
  std::printf(", projection");
  test_projection(kernels);
  std::printf(", feed-forward");
  test_feed_forward(kernels);
  const uint64_t of_rows = take_digest();
  std::printf(", attention");
  test_attention(kernels);
  const uint64_t of_attention = take_digest();
  std::printf(", positions");
  test_positions(kernels);
  take_digest();  // of positions
  std::printf(", nearest");
  test_nearest(kernels);
  const uint64_t of_nearest = take_digest();
  std::printf(", memory");
  test_memory(kernels);
  take_digest();  // of rows that are multiplied while memory is short
  std::printf(", %ld checks, digests %016" PRIx64 " of rows, %016" PRIx64
              " of attention, %016" PRIx64 " of nearest\n",
              num_checks - before, of_rows, of_attention, of_nearest);
}

}  // namespace

void expect(bool holds, const char* format, ...) {
  ++num_checks;
  if (holds || ++num_failures > 20) return;
  std::printf("%s: ", instruction_set);
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IONBF, 0);  // a crash loses nothing
  expect(!edgerank_choose("abacus", 1), "an unknown instruction set was taken");
  char names[100];
  std::snprintf(names, sizeof(names), "%s", edgerank_instruction_sets());
  for (char* name = std::strtok(names, ","); name; name = std::strtok(nullptr, ",")) {
    if (!is_named(name, argc - 1, argv + 1)) continue;
    instruction_set = name;
    expect(edgerank_choose(name, 1), "it is listed, but cannot be used");
    const Kernels& kernels = *chosen().kernels;
    expect(std::strcmp(kernels.name, name) == 0, "another one is in use: %s", kernels.name);
    test_all(kernels, "");
  }
#if defined(WITH_TILE_MODEL)
  const bool has_avx512_vnni = edgerank_choose("avx512_vnni", 1);
  if (has_avx512_vnni && is_named("amx", argc - 1, argv + 1)) {
    instruction_set = "amx on the model";
    test_all(amx_kernels, " on the model");
  }
#endif
  if (num_failures) std::printf("%ld of %ld checks failed\n", num_failures, num_checks);
  return num_failures != 0;
}
