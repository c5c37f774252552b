// The part of ONNX Runtime's C API that custom operators need.
//
// No package ships onnxruntime_c_api.h. OrtApi is a table of function pointers that only ever grows
// at its end, so an entry is known by its place for good; those in use are declared below.
// tests/kernels checks each supported release of onnxruntime against this file.
#pragma once

#include <cstddef>
#include <cstdint>

struct OrtCustomOpDomain;
struct OrtKernelContext;
struct OrtKernelInfo;
struct OrtSessionOptions;
struct OrtShapeInferContext;
struct OrtStatus;  // null for success
struct OrtTensorTypeAndShapeInfo;
struct OrtValue;

constexpr uint32_t ORT_API_VERSION = 20;  // of onnxruntime 1.20, the first with all that is used

enum OrtErrorCode : int { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 };

enum ONNXTensorElementDataType : int {
  ONNX_FLOAT = 1,
  ONNX_UINT8 = 2,
  ONNX_INT8 = 3,
  ONNX_INT32 = 6,
  ONNX_INT64 = 7,
};

enum OrtCustomOpInputOutputCharacteristic : int { ORT_REQUIRED = 0, ORT_OPTIONAL = 1 };

enum OrtMemType : int { ORT_MEM_TYPE_DEFAULT = 0 };

union OrtApi {
  void* slots[275];

  template <int Slot, typename Function>
  Function* entry() const {
    static_assert(Slot < 275, "beyond the entries of API version 20");
    return reinterpret_cast<Function*>(slots[Slot]);
  }

  OrtStatus* CreateStatus(OrtErrorCode code, const char* message) const {
    return entry<0, OrtStatus*(OrtErrorCode, const char*)>()(code, message);
  }
  OrtStatus* CreateCustomOpDomain(const char* domain, OrtCustomOpDomain** out) const {
    return entry<26, OrtStatus*(const char*, OrtCustomOpDomain**)>()(domain, out);
  }
  OrtStatus* CustomOpDomain_Add(OrtCustomOpDomain* domain, const struct OrtCustomOp* op) const {
    return entry<27, OrtStatus*(OrtCustomOpDomain*, const OrtCustomOp*)>()(domain, op);
  }
  OrtStatus* AddCustomOpDomain(OrtSessionOptions* options, OrtCustomOpDomain* domain) const {
    return entry<28, OrtStatus*(OrtSessionOptions*, OrtCustomOpDomain*)>()(options, domain);
  }
  OrtStatus* GetTensorMutableData(OrtValue* value, void** out) const {
    return entry<51, OrtStatus*(OrtValue*, void**)>()(value, out);
  }
  OrtStatus* GetDimensionsCount(const OrtTensorTypeAndShapeInfo* info, size_t* out) const {
    return entry<61, OrtStatus*(const OrtTensorTypeAndShapeInfo*, size_t*)>()(info, out);
  }
  OrtStatus* GetDimensions(const OrtTensorTypeAndShapeInfo* info, int64_t* out, size_t n) const {
    return entry<62, OrtStatus*(const OrtTensorTypeAndShapeInfo*, int64_t*, size_t)>()(info, out,
                                                                                       n);
  }
  OrtStatus* GetTensorTypeAndShape(const OrtValue* value, OrtTensorTypeAndShapeInfo** out) const {
    return entry<65, OrtStatus*(const OrtValue*, OrtTensorTypeAndShapeInfo**)>()(value, out);
  }
  OrtStatus* KernelInfoGetAttribute_float(const OrtKernelInfo* info, const char* name,
                                          float* out) const {
    return entry<85, OrtStatus*(const OrtKernelInfo*, const char*, float*)>()(info, name, out);
  }
  OrtStatus* KernelInfoGetAttribute_int64(const OrtKernelInfo* info, const char* name,
                                          int64_t* out) const {
    return entry<86, OrtStatus*(const OrtKernelInfo*, const char*, int64_t*)>()(info, name, out);
  }
  OrtStatus* KernelContext_GetInputCount(const OrtKernelContext* context, size_t* out) const {
    return entry<88, OrtStatus*(const OrtKernelContext*, size_t*)>()(context, out);
  }
  OrtStatus* KernelContext_GetOutputCount(const OrtKernelContext* context, size_t* out) const {
    return entry<89, OrtStatus*(const OrtKernelContext*, size_t*)>()(context, out);
  }
  OrtStatus* KernelContext_GetInput(const OrtKernelContext* context, size_t index,
                                    const OrtValue** out) const {
    return entry<90, OrtStatus*(const OrtKernelContext*, size_t, const OrtValue**)>()(context,
                                                                                      index, out);
  }
  // null where the node leaves the output out
  OrtStatus* KernelContext_GetOutput(OrtKernelContext* context, size_t index, const int64_t* shape,
                                     size_t rank, OrtValue** out) const {
    return entry<91, OrtStatus*(OrtKernelContext*, size_t, const int64_t*, size_t, OrtValue**)>()(
        context, index, shape, rank, out);
  }
  void ReleaseStatus(OrtStatus* status) const { entry<93, void(OrtStatus*)>()(status); }
  void ReleaseTensorTypeAndShapeInfo(OrtTensorTypeAndShapeInfo* info) const {
    entry<99, void(OrtTensorTypeAndShapeInfo*)>()(info);
  }
  OrtStatus* KernelInfo_GetInputCount(const OrtKernelInfo* info, size_t* out) const {
    return entry<230, OrtStatus*(const OrtKernelInfo*, size_t*)>()(info, out);
  }
  // the name is empty where the node leaves the input out; the size counts a 0 at the end
  OrtStatus* KernelInfo_GetInputName(const OrtKernelInfo* info, size_t index, char* out,
                                     size_t* size) const {
    return entry<232, OrtStatus*(const OrtKernelInfo*, size_t, char*, size_t*)>()(info, index, out,
                                                                                  size);
  }
  OrtStatus* KernelInfoGetConstantInput_tensor(const OrtKernelInfo* info, size_t index,
                                               int* is_constant, const OrtValue** out) const {
    return entry<249, OrtStatus*(const OrtKernelInfo*, size_t, int*, const OrtValue**)>()(
        info, index, is_constant, out);
  }
  // calls function(data, 0 .. total - 1) on the session's threads; num_batches 0: as they come free
  OrtStatus* KernelContext_ParallelFor(const OrtKernelContext* context,
                                       void (*function)(void*, size_t), size_t total,
                                       size_t num_batches, void* data) const {
    return entry<274, OrtStatus*(const OrtKernelContext*, void (*)(void*, size_t), size_t, size_t,
                                 void*)>()(context, function, total, num_batches, data);
  }
};

struct OrtApiBase {
  const OrtApi* (*GetApi)(uint32_t version);  // null for a version that the runtime lacks
  const char* (*GetVersionString)();
};

// What ONNX Runtime asks of an operator; the order is that of its header.
struct OrtCustomOp {
  uint32_t version;
  void* (*CreateKernel)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*);
  const char* (*GetName)(const OrtCustomOp*);
  const char* (*GetExecutionProviderType)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetInputType)(const OrtCustomOp*, size_t);
  size_t (*GetInputTypeCount)(const OrtCustomOp*);
  ONNXTensorElementDataType (*GetOutputType)(const OrtCustomOp*, size_t);
  size_t (*GetOutputTypeCount)(const OrtCustomOp*);
  void (*KernelCompute)(void*, OrtKernelContext*);
  void (*KernelDestroy)(void*);
  OrtCustomOpInputOutputCharacteristic (*GetInputCharacteristic)(const OrtCustomOp*, size_t);
  OrtCustomOpInputOutputCharacteristic (*GetOutputCharacteristic)(const OrtCustomOp*, size_t);
  OrtMemType (*GetInputMemoryType)(const OrtCustomOp*, size_t);
  int (*GetVariadicInputMinArity)(const OrtCustomOp*);
  int (*GetVariadicInputHomogeneity)(const OrtCustomOp*);
  int (*GetVariadicOutputMinArity)(const OrtCustomOp*);
  int (*GetVariadicOutputHomogeneity)(const OrtCustomOp*);
  OrtStatus* (*CreateKernelV2)(const OrtCustomOp*, const OrtApi*, const OrtKernelInfo*, void**);
  OrtStatus* (*KernelComputeV2)(void*, OrtKernelContext*);
  OrtStatus* (*InferOutputShapeFn)(const OrtCustomOp*, OrtShapeInferContext*);
  int (*GetStartVersion)(const OrtCustomOp*);
  int (*GetEndVersion)(const OrtCustomOp*);
  size_t (*GetMayInplace)(int** input, int** output);
  void (*ReleaseMayInplace)(int* input, int* output);
  size_t (*GetAliasMap)(int** input, int** output);
  void (*ReleaseAliasMap)(int* input, int* output);
};
