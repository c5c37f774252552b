// What ONNX Runtime calls when a session registers the library.
#include "instruction_sets.h"
#include "operator.h"
#include "operators.h"

extern "C" __attribute__((visibility("default"))) OrtStatus* RegisterCustomOps(
    OrtSessionOptions* options, const OrtApiBase* base) {
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (!api) {
    // every version has the entry that makes a status
    return base->GetApi(1)->CreateStatus(
        ORT_FAIL, "edgerank.kernels: this ONNX Runtime is older than 1.20; install a newer one");
  }
  ort = api;
  const Choice choice = chosen();
  if (!choice.kernels) {
    return api->CreateStatus(ORT_FAIL, "edgerank.kernels: this CPU has no instruction set in use");
  }
  OrtCustomOpDomain* domain = nullptr;
  if (OrtStatus* status = api->CreateCustomOpDomain("edgerank.kernels", &domain)) return status;
  OrtCustomOp* (*const makers[])(const Kernels&, int) = {
      projection_operator, linear_operator,         feed_forward_operator,
      attention_operator,  attention_mask_operator, position_buckets_operator};
  for (const auto make : makers) {
    OrtCustomOp* op = make(*choice.kernels, choice.threads);
    if (!op) return no_memory();
    if (OrtStatus* status = api->CustomOpDomain_Add(domain, op)) return status;
  }
  return api->AddCustomOpDomain(options, domain);
}
