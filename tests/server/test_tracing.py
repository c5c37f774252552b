"""Spans, as a collector of OpenTelemetry gets them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from edgerank._proto import rerank_pb2 as pb
from edgerank._proto import rerank_pb2_grpc
from tests.support.serving import ServerProcess

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"  # W3C Trace Context


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that it is sent."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.services: set[str] = set()

    def Export(self, request, context):
        for sent in request.resource_spans:
            self.services |= {
                attribute.value.string_value
                for attribute in sent.resource.attributes
                if attribute.key == "service.name"
            }
            for scope in sent.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(ThreadPoolExecutor(2))
    collector = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(None)


def test_calls_and_their_stages_are_spans_of_the_caller_s_trace(bundles, collector):
    kept, endpoint = collector
    options = ["--model", bundles / "cross-encoder.int8", "--otlp-endpoint", endpoint]
    with ServerProcess(*options) as server, grpc.insecure_channel(server.address) as channel:
        stub = rerank_pb2_grpc.RerankerStub(channel)
        metadata = [("traceparent", CALLER), ("x-request-id", "one")]
        request = pb.RerankRequest(query="who wrote dune?", documents=["Frank Herbert", "Paris"])
        answer = stub.Rerank(request, metadata=metadata, timeout=30)
        start = pb.RerankStreamRequest(start=pb.RerankStreamStart(query="secret words"))
        documents = pb.RerankStreamRequest(documents=pb.DocumentChunk(documents=["a", "b"]))
        list(stub.RerankStream(iter([start, documents]), timeout=30))
        with pytest.raises(grpc.RpcError):
            stub.Rerank(pb.RerankRequest(query=" ", documents=["secret words"]), timeout=30)
        assert server.terminate() == 0
        assert not server.records("Exception while exporting Span batch.")

    assert kept.services == {"edgerank"}
    by_id = {span.span_id: span for span in kept.spans}
    (call,) = [span for span in kept.spans if span.parent_span_id.hex() == CALLER.split("-")[2]]
    assert (call.name, call.kind) == ("/edgerank.v1.Reranker/Rerank", Span.SPAN_KIND_SERVER)
    stages = {span.name: span for span in kept.spans if span.parent_span_id == call.span_id}
    assert set(stages) == {"tokenize", "inference"}
    for span in stages.values():
        assert span.trace_id.hex() == CALLER.split("-")[1]
        assert call.start_time_unix_nano <= span.start_time_unix_nano
        assert span.end_time_unix_nano <= call.end_time_unix_nano
    told = attributes(stages["inference"])
    assert told["edgerank.request_id"] == "one"
    assert told["edgerank.model"] == "cross-encoder.int8"
    assert told["edgerank.documents"] == 2
    assert told["edgerank.tokens"] == answer.usage.tokens
    assert told["edgerank.inference_s"] == pytest.approx(
        answer.timings.inference_ns / 1e9, abs=1e-6
    )

    calls = [span for span in by_id.values() if span.kind == Span.SPAN_KIND_SERVER]
    codes = sorted((span.name, attributes(span)["rpc.grpc.status_code"]) for span in calls)
    rerank, stream = "/edgerank.v1.Reranker/Rerank", "/edgerank.v1.Reranker/RerankStream"
    assert codes == [(rerank, 0), (rerank, 3), (stream, 0)]
    assert "secret words" not in str(kept.spans)


def test_calls_over_http_are_spans_of_the_caller_s_trace(bundles, collector):
    kept, endpoint = collector
    options = ["--model", bundles / "cross-encoder.int8", "--otlp-endpoint", endpoint]
    with ServerProcess(*options, "--no-grpc", "--http", "127.0.0.1:0") as server:
        url = f"http://{server.http}"
        body = {"query": "secret words", "documents": ["Frank Herbert", "Paris"]}
        assert httpx.post(f"{url}/v1/rerank", json=body, headers={"traceparent": CALLER}).json()
        assert httpx.post(f"{url}/v1/rerank", json={**body, "query": " "}).status_code == 400
        assert httpx.get(f"{url}/ready").status_code == 200
        assert server.terminate() == 0
    (call,) = [span for span in kept.spans if span.parent_span_id.hex() == CALLER.split("-")[2]]
    assert (call.name, call.kind) == ("POST /v1/rerank", Span.SPAN_KIND_SERVER)
    stages = {span.name for span in kept.spans if span.parent_span_id == call.span_id}
    assert stages == {"tokenize", "inference"}
    calls = [span for span in kept.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert sorted(attributes(span)["http.status_code"] for span in calls) == [200, 400]
    assert "secret words" not in str(kept.spans)


def attributes(span: Span) -> dict[str, object]:
    return {
        attribute.key: getattr(attribute.value, attribute.value.WhichOneof("value"))
        for attribute in span.attributes
    }
