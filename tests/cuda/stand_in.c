/* CUDA's runtime for a machine without a GPU: memory is the host's, copies are counted, and kernels
 * compute nothing. ONNX Runtime's provider for CUDA loads, places operators and moves data by it.
 * Functions that are not here do nothing: the test makes them from the provider's own list. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 256, KINDS = 5, OUT_OF_MEMORY = 2 };

static int handle;                         /* of all streams, events and libraries */
static int failure;                        /* what counting the devices gives */
static size_t copies[KINDS], bytes[KINDS]; /* by cudaMemcpyKind: 1 to the device, 2 to the host */

void stand_in_fail(int code) { failure = code; }
size_t stand_in_copies(int kind) { return copies[kind]; }
size_t stand_in_bytes(int kind) { return bytes[kind]; }
void stand_in_reset(void) {
  memset(copies, 0, sizeof(copies));
  memset(bytes, 0, sizeof(bytes));
}

int cudaMalloc(void** place, size_t size) {
  return posix_memalign(place, ALIGNMENT, size ? size : ALIGNMENT) ? OUT_OF_MEMORY : 0;
}
int cudaMallocFromPoolAsync(void** place, size_t size, void* pool, void* stream) {
  return cudaMalloc(place, size);
}
int cudaMallocHost(void** place, size_t size) { return cudaMalloc(place, size); }
int cudaHostAlloc(void** place, size_t size, unsigned flags) { return cudaMalloc(place, size); }
int cudaFree(void* place) { return free(place), 0; }
int cudaFreeAsync(void* place, void* stream) { return free(place), 0; }
int cudaFreeHost(void* place) { return free(place), 0; }

int cudaMemcpy(void* to, const void* from, size_t size, int kind) {
  copies[kind] += 1;
  bytes[kind] += size;
  memcpy(to, from, size);
  return 0;
}
int cudaMemcpyAsync(void* to, const void* from, size_t size, int kind, void* stream) {
  return cudaMemcpy(to, from, size, kind);
}
int cudaMemcpy2DAsync(char* to, size_t to_pitch, const char* from, size_t from_pitch, size_t width,
                      size_t height, int kind, void* stream) {
  for (size_t row = 0; row < height; row++)
    cudaMemcpy(to + row * to_pitch, from + row * from_pitch, width, kind);
  return 0;
}
int cudaMemset(void* place, int value, size_t size) { return memset(place, value, size), 0; }
int cudaMemsetAsync(void* place, int value, size_t size, void* stream) {
  return cudaMemset(place, value, size);
}

int cudaGetDeviceCount(int* count) { return *count = 1, failure; }
int cudaGetDevice(int* device) { return *device = 0, 0; }
int cudaDriverGetVersion(int* version) { return *version = 13000, 0; }
int cudaRuntimeGetVersion(int* version) { return *version = 13000, 0; }
int cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = (size_t)8 << 30, 0; }
int cudaDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 1024; /* compute capability 9.0 */
  return 0;
}
/* Of cudaDeviceProp, what stands before the compute capability, which is 9.0. */
int cudaGetDeviceProperties(void* properties, int device) {
  struct {
    char name[256], uuid[16], luid[8];
    unsigned luid_mask;
    size_t memory, shared_memory;
    int registers, warp;
    size_t pitch;
    int threads, block[3], grid[3];
    size_t constants;
    int major, minor;
  } told = {.name = "stand-in",
            .memory = (size_t)8 << 30,
            .shared_memory = 48 << 10,
            .registers = 65536,
            .warp = 32,
            .threads = 1024,
            .block = {1024, 1024, 64},
            .grid = {1 << 30, 65535, 65535},
            .major = 9};
  memset(properties, 0, sizeof(told));
  memcpy(properties, &told, sizeof(told));
  return 0;
}
int cudaPointerGetAttributes(int* attributes, const void* place) {
  memset(attributes, 0, 6 * sizeof(int));
  *attributes = 2; /* a device's */
  return 0;
}
int cudaStreamCreate(void** stream) { return *stream = &handle, 0; }
int cudaStreamCreateWithFlags(void** stream, unsigned flags) { return cudaStreamCreate(stream); }
int cudaStreamIsCapturing(void* stream, int* status) { return *status = 0, 0; }
int cudaEventCreate(void** event) { return *event = &handle, 0; }
int cudaEventCreateWithFlags(void** event, unsigned flags) { return cudaEventCreate(event); }
int cudaMemPoolCreate(void** pool, const void* properties) { return *pool = &handle, 0; }
int cudaFuncGetAttributes(void* attributes, const void* function) {
  memset(attributes, 0, 64);
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void* function,
                                                           int threads, size_t memory,
                                                           unsigned flags) {
  return *blocks = 1, 0;
}
const char* cudaGetErrorString(int error) { return "the stand-in fails"; }
const char* cudaGetErrorName(int error) { return "stand-in"; }
void** __cudaRegisterFatBinary(void* binary) {
  static void* place;
  return &place;
}

int cublasCreate_v2(void** made) { return *made = &handle, 0; }
int cublasLtCreate(void** made) { return *made = &handle, 0; }
const char* cublasGetStatusString(int status) { return "the stand-in fails"; }
const char* cublasGetStatusName(int status) { return "stand-in"; }
