from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LongDocuments(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LONG_DOCUMENTS_UNSPECIFIED: _ClassVar[LongDocuments]
    LONG_DOCUMENTS_TRUNCATE: _ClassVar[LongDocuments]
    LONG_DOCUMENTS_SPLIT: _ClassVar[LongDocuments]
    LONG_DOCUMENTS_REFUSE: _ClassVar[LongDocuments]
LONG_DOCUMENTS_UNSPECIFIED: LongDocuments
LONG_DOCUMENTS_TRUNCATE: LongDocuments
LONG_DOCUMENTS_SPLIT: LongDocuments
LONG_DOCUMENTS_REFUSE: LongDocuments

class Options(_message.Message):
    __slots__ = ("model", "instruction", "normalize", "long_documents")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    NORMALIZE_FIELD_NUMBER: _ClassVar[int]
    LONG_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    model: str
    instruction: str
    normalize: bool
    long_documents: LongDocuments
    def __init__(self, model: _Optional[str] = ..., instruction: _Optional[str] = ..., normalize: _Optional[bool] = ..., long_documents: _Optional[_Union[LongDocuments, str]] = ...) -> None: ...

class RerankRequest(_message.Message):
    __slots__ = ("query", "documents", "top_k", "return_documents", "options", "document_ids", "store")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    RETURN_DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_IDS_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    query: str
    documents: _containers.RepeatedScalarFieldContainer[str]
    top_k: int
    return_documents: bool
    options: Options
    document_ids: _containers.RepeatedScalarFieldContainer[str]
    store: str
    def __init__(self, query: _Optional[str] = ..., documents: _Optional[_Iterable[str]] = ..., top_k: _Optional[int] = ..., return_documents: _Optional[bool] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., document_ids: _Optional[_Iterable[str]] = ..., store: _Optional[str] = ...) -> None: ...

class RerankResponse(_message.Message):
    __slots__ = ("results", "usage", "timings", "model")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    usage: Usage
    timings: Timings
    model: str
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class Result(_message.Message):
    __slots__ = ("index", "score", "document")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    index: int
    score: float
    document: str
    def __init__(self, index: _Optional[int] = ..., score: _Optional[float] = ..., document: _Optional[str] = ...) -> None: ...

class RerankStreamRequest(_message.Message):
    __slots__ = ("start", "documents")
    START_FIELD_NUMBER: _ClassVar[int]
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    start: RerankStreamStart
    documents: DocumentChunk
    def __init__(self, start: _Optional[_Union[RerankStreamStart, _Mapping]] = ..., documents: _Optional[_Union[DocumentChunk, _Mapping]] = ...) -> None: ...

class RerankStreamStart(_message.Message):
    __slots__ = ("query", "options")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    query: str
    options: Options
    def __init__(self, query: _Optional[str] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class DocumentChunk(_message.Message):
    __slots__ = ("documents",)
    DOCUMENTS_FIELD_NUMBER: _ClassVar[int]
    documents: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, documents: _Optional[_Iterable[str]] = ...) -> None: ...

class RerankStreamResponse(_message.Message):
    __slots__ = ("results", "usage", "timings")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[Result]
    usage: Usage
    timings: Timings
    def __init__(self, results: _Optional[_Iterable[_Union[Result, _Mapping]]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ...) -> None: ...

class ScorePairsRequest(_message.Message):
    __slots__ = ("pairs", "options")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    pairs: _containers.RepeatedCompositeFieldContainer[Pair]
    options: Options
    def __init__(self, pairs: _Optional[_Iterable[_Union[Pair, _Mapping]]] = ..., options: _Optional[_Union[Options, _Mapping]] = ...) -> None: ...

class Pair(_message.Message):
    __slots__ = ("query", "document")
    QUERY_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    query: str
    document: str
    def __init__(self, query: _Optional[str] = ..., document: _Optional[str] = ...) -> None: ...

class ScorePairsResponse(_message.Message):
    __slots__ = ("scores", "usage", "timings", "model")
    SCORES_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    scores: _containers.RepeatedScalarFieldContainer[float]
    usage: Usage
    timings: Timings
    model: str
    def __init__(self, scores: _Optional[_Iterable[float]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., model: _Optional[str] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("tokens",)
    TOKENS_FIELD_NUMBER: _ClassVar[int]
    tokens: int
    def __init__(self, tokens: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("total_ns", "tokenize_ns", "queue_ns", "inference_ns")
    TOTAL_NS_FIELD_NUMBER: _ClassVar[int]
    TOKENIZE_NS_FIELD_NUMBER: _ClassVar[int]
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    INFERENCE_NS_FIELD_NUMBER: _ClassVar[int]
    total_ns: int
    tokenize_ns: int
    queue_ns: int
    inference_ns: int
    def __init__(self, total_ns: _Optional[int] = ..., tokenize_ns: _Optional[int] = ..., queue_ns: _Optional[int] = ..., inference_ns: _Optional[int] = ...) -> None: ...

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "source", "family", "precision", "max_length", "takes_instruction", "digest", "fidelity", "variant", "variant_reason", "kernels", "kernels_reason")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    PRECISION_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    TAKES_INSTRUCTION_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    FIDELITY_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    VARIANT_REASON_FIELD_NUMBER: _ClassVar[int]
    KERNELS_FIELD_NUMBER: _ClassVar[int]
    KERNELS_REASON_FIELD_NUMBER: _ClassVar[int]
    name: str
    source: str
    family: str
    precision: str
    max_length: int
    takes_instruction: bool
    digest: str
    fidelity: Fidelity
    variant: str
    variant_reason: str
    kernels: str
    kernels_reason: str
    def __init__(self, name: _Optional[str] = ..., source: _Optional[str] = ..., family: _Optional[str] = ..., precision: _Optional[str] = ..., max_length: _Optional[int] = ..., takes_instruction: _Optional[bool] = ..., digest: _Optional[str] = ..., fidelity: _Optional[_Union[Fidelity, _Mapping]] = ..., variant: _Optional[str] = ..., variant_reason: _Optional[str] = ..., kernels: _Optional[str] = ..., kernels_reason: _Optional[str] = ...) -> None: ...

class Fidelity(_message.Message):
    __slots__ = ("pairs", "spread", "mean_error", "p99_error", "max_error", "kendall_tau", "top10_overlap")
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    SPREAD_FIELD_NUMBER: _ClassVar[int]
    MEAN_ERROR_FIELD_NUMBER: _ClassVar[int]
    P99_ERROR_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_FIELD_NUMBER: _ClassVar[int]
    KENDALL_TAU_FIELD_NUMBER: _ClassVar[int]
    TOP10_OVERLAP_FIELD_NUMBER: _ClassVar[int]
    pairs: int
    spread: float
    mean_error: float
    p99_error: float
    max_error: float
    kendall_tau: float
    top10_overlap: float
    def __init__(self, pairs: _Optional[int] = ..., spread: _Optional[float] = ..., mean_error: _Optional[float] = ..., p99_error: _Optional[float] = ..., max_error: _Optional[float] = ..., kendall_tau: _Optional[float] = ..., top10_overlap: _Optional[float] = ...) -> None: ...
