#include "cpu.h"

#if defined(__x86_64__) || defined(_M_X64)

#include <cpuid.h>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(__linux__)
// Whether the system lets this process use tiles, for which a process has to ask.
static bool may_use_tiles() {
  constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // of asm/prctl.h, and XCR0's bit
  return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
}
#endif

// __builtin_cpu_supports answers no to everything when zig compiles it, so cpuid is read here.
CpuFeatures detect_cpu() {
  CpuFeatures found;
  unsigned eax, ebx, ecx, edx;
  if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx)) return found;
  const bool has_fma = ecx >> 12 & 1;
  const bool has_xgetbv = ecx >> 27 & 1;
  if (!has_xgetbv || !has_fma || !(ecx >> 28 & 1)) return found;
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  const bool saves_ymm = (low & 0x06) == 0x06;  // the system saves XMM and YMM registers
  const bool saves_zmm = (low & 0xe6) == 0xe6;  // and the mask and ZMM registers
  if (!saves_ymm || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return found;
  const unsigned leaves = eax;
  const bool has_tiles = (edx >> 24 & 1) && (edx >> 25 & 1);  // AMX-TILE, AMX-INT8
  const bool has_avx512 = (ebx >> 16 & 1) && (ebx >> 17 & 1) && (ebx >> 30 & 1) && (ebx >> 31 & 1);
  found.avx2 = ebx >> 5 & 1;
  found.avx512 = found.avx2 && saves_zmm && has_avx512;
  found.avx512_vnni = found.avx512 && (ecx >> 11 & 1);
#if defined(__linux__)
  const bool saves_tiles = (low & 0x60000) == 0x60000;  // and the tiles with their configuration
  found.amx = found.avx512_vnni && has_tiles && saves_tiles && may_use_tiles();
#else
  (void)has_tiles;  // other systems are not known to let a process use them
#endif
  if (leaves >= 1 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx)) {
    found.avx_vnni = found.avx2 && (eax >> 4 & 1);
    found.avx512_bf16 = found.avx512_vnni && (eax >> 5 & 1);
  }
  return found;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

CpuFeatures detect_cpu() {
  CpuFeatures found;
  found.dotprod = getauxval(AT_HWCAP) >> 20 & 1;
  found.i8mm = found.dotprod && (getauxval(AT_HWCAP2) >> 13 & 1);
  return found;
}

#elif defined(__aarch64__) && defined(__APPLE__)

#include <sys/sysctl.h>

static bool has(const char* name) {
  int value = 0;
  unsigned long size = sizeof(value);
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}

CpuFeatures detect_cpu() {
  CpuFeatures found;
  found.dotprod = has("hw.optional.arm.FEAT_DotProd");
  found.i8mm = found.dotprod && has("hw.optional.arm.FEAT_I8MM");
  return found;
}

#else

CpuFeatures detect_cpu() { return {}; }

#endif
