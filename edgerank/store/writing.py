"""Changes of a store: segments with new documents, and lists of deleted ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
from tqdm import tqdm

from edgerank.documents import Document, document_text
from edgerank.errors import InputError, StoreError
from edgerank.lock import writing
from edgerank.manifest import File
from edgerank.reranker import Reranker
from edgerank.store.arrays import write_array
from edgerank.store.encoding import encode_documents, words_of
from edgerank.store.features import StoreRule
from edgerank.store.format import (
    FORMAT_VERSION,
    LOCK_NAME,
    OWN_FILE,
    STORE_NAME,
    Binding,
    SegmentInfo,
    StoreManifest,
    commit,
    decode_store_manifest,
    new_name,
    read_content,
    read_store_manifest,
    remove_leftovers,
)
from edgerank.store.segments import Segment, SegmentWriter, open_segment

SEGMENT_DOCUMENTS = 1 << 14  # an interrupted build loses no more than these
BATCH_DOCUMENTS = 256  # encoded together
BATCH_CHARACTERS = 1 << 20  # of the texts of a batch, which bounds the memory

Named = tuple[str, Document]  # an id and its document


@dataclass(frozen=True)
class Encoder:
    """A model, and the rule by which a store keeps its vectors."""

    reranker: Reranker
    rule: StoreRule

    def binding(self) -> Binding:
        """Describe the model that a store of this encoder belongs to."""
        bundle = self.reranker.bundle
        [[part]] = encode_documents(self.reranker, self.rule, ["a"])
        return Binding(
            bundle.manifest.source.model,
            bundle.digest,
            bundle.manifest.scoring.rule,
            self.reranker.max_length,
            len(part.pooled),
        )


def build(
    directory: Path, documents: Iterable[Named], encoder: Encoder, *, show_progress: bool = False
) -> None:
    """Make a store of documents, or continue an interrupted build of the same documents.

    :raises InputError: a document or its id is unusable
    :raises StoreError: the directory has a store or other files, or the disk is full
    """
    with _named_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        _check_is_free(directory)
    with _changing(directory):
        manifest = _begun(directory, encoder.binding())
        incoming, known, digest = _resumed(directory, manifest, documents)

        def keep(info: SegmentInfo, files: dict[str, File]) -> None:
            nonlocal manifest
            manifest = msgspec.structs.replace(
                _with_segments(manifest, [(info, files)]), corpus=digest.hexdigest()
            )
            commit(directory, manifest)

        _write(directory, encoder, incoming, known, digest.update, keep, show_progress)
        commit(directory, msgspec.structs.replace(manifest, is_complete=True, corpus=""))


def add(
    directory: Path,
    documents: Iterable[Named],
    encoder: Encoder,
    *,
    replace: bool = False,
    show_progress: bool = False,
) -> int:
    """Add all documents, or none after an error; return their number.

    :param replace: whether to replace documents in the store that have the same ids
    :raises InputError: a document or its id is unusable, or the id is in the store
    :raises StoreError: the store is unusable, or the disk is full
    """
    with _changing(directory):
        manifest = read_store_manifest(directory)
        check_binding(directory, manifest, encoder.reranker)
        segments = open_segments(directory, manifest, encoder.rule)
        places = places_of(segments)
        made: list[tuple[SegmentInfo, dict[str, File]]] = []
        known: set[str] = set() if replace else set(places)
        _write(
            directory,
            encoder,
            _checked(documents),
            known,
            lambda content: None,
            lambda info, files: made.append((info, files)),
            show_progress,
        )
        replaced = [places[name] for name in known if replace and name in places]
        manifest = _without(directory, manifest, segments, replaced)
        commit(directory, _with_segments(manifest, made))
        return sum(info.documents for info, _ in made)


def delete(directory: Path, ids: Iterable[str], rule: StoreRule) -> int:
    """Delete all of the documents, or none after an error; return their number.

    :raises InputError: an id is not in the store
    :raises StoreError: the store is unusable, or the disk is full
    """
    with _changing(directory):
        manifest = read_store_manifest(directory)
        segments = open_segments(directory, manifest, rule)
        gone = set(find(places_of(segments), ids))
        commit(directory, _without(directory, manifest, segments, sorted(gone)))
        return len(gone)


def open_segments(directory: Path, manifest: StoreManifest, rule: StoreRule) -> list[Segment]:
    """Map all segments.

    :raises StoreError: a file is missing, or does not fit the others
    """
    return [open_segment(directory, info, manifest.binding, rule) for info in manifest.segments]


def places_of(segments: Sequence[Segment]) -> dict[str, tuple[int, int]]:
    """Return, by id, the index of a document's segment and its index there."""
    return {
        name: (number, place)
        for number, segment in enumerate(segments)
        for place, (name, is_deleted) in enumerate(
            zip(segment.names, segment.is_deleted.tolist(), strict=True)
        )
        if not is_deleted
    }


def find(places: Mapping[str, tuple[int, int]], ids: Iterable[str]) -> list[tuple[int, int]]:
    """Look up documents in the result of ``places_of``.

    :raises InputError: an id is not in the store
    """
    found = []
    for index, name in enumerate(ids):
        place = places.get(name) if isinstance(name, str) else None
        if place is None:
            raise InputError("ids", f"{name!r} is not in the store", index)
        found.append(place)
    return found


def check_binding(directory: Path, manifest: StoreManifest, reranker: Reranker) -> None:
    """Check that a store is complete, and that this model made it.

    :raises StoreError: it is not
    """
    binding, bundle = manifest.binding, reranker.bundle
    if not manifest.is_complete:
        raise StoreError(
            f"{directory}: its build was broken off; the same `edgerank store build` goes on"
        )
    if binding.bundle != bundle.digest:
        raise StoreError(
            f"{directory}: its vectors are of {binding.model}, of the bundle with digest"
            f" {binding.bundle[:12]}, and {bundle.directory} has {bundle.digest[:12]}; open it with"
            " that bundle, or build it again"
        )
    if binding.max_length != reranker.max_length:
        raise StoreError(
            f"{directory}: its documents are in parts of {binding.max_length} tokens, and the model"
            f" has max_length={reranker.max_length}"
        )


@contextmanager
def _changing(directory: Path) -> Iterator[None]:
    """Hold the lock; before and after a change, remove files that store.json does not name.

    :raises StoreError: another process is writing, or the disk is full
    """
    with _named_errors(directory), writing(directory / LOCK_NAME, StoreError):
        _clean(directory)
        try:
            yield
        finally:
            _clean(directory)


def _clean(directory: Path) -> None:
    """Remove files that store.json does not name, if it can be read."""
    if not (directory / STORE_NAME).exists():
        remove_leftovers(directory, None)
        return
    with suppress(StoreError):
        remove_leftovers(directory, decode_store_manifest(directory, read_content(directory)))


@contextmanager
def _named_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the disk into StoreError."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{directory}: it cannot be written: {error.strerror or error}; the store is what it"
            " was before"
        ) from error


def _check_is_free(directory: Path) -> None:
    """Check that a directory is empty, or has an interrupted build."""
    if (directory / STORE_NAME).exists():
        if decode_store_manifest(directory, read_content(directory)).is_complete:
            raise StoreError(
                f"{directory}: there is a store; `edgerank store add` adds documents to it"
            )
        return
    strangers = [path.name for path in directory.iterdir() if not _is_own(path)]
    if strangers:
        raise StoreError(f"{directory}: it holds {strangers[0]} and is no store; choose another")


def _is_own(path: Path) -> bool:
    return path.name == LOCK_NAME or OWN_FILE.fullmatch(path.name) is not None


def _begun(directory: Path, binding: Binding) -> StoreManifest:
    """Return the manifest of an interrupted build, or begin with an empty one."""
    if not (directory / STORE_NAME).exists():
        manifest = StoreManifest(FORMAT_VERSION, binding, False, "", (), {})
        commit(directory, manifest)
        return manifest
    manifest = read_store_manifest(directory)
    if manifest.is_complete:
        raise StoreError(f"{directory}: another process has built a store there")
    if manifest.binding != binding:
        raise StoreError(
            f"{directory}: a build by another model or with other settings was broken off here;"
            " go on with those, or remove the directory"
        )
    return manifest


def _resumed(
    directory: Path, manifest: StoreManifest, documents: Iterable[Named]
) -> tuple[Iterator[tuple[int, str, str]], set[str], hashlib._Hash]:
    """Skip documents that an interrupted build has stored, if they are still the same.

    :return: the documents that are left, the ids of the stored ones, and their digest
    """
    digest = hashlib.sha256()
    known = set()
    incoming = _checked(documents)
    for _, name, text in islice(incoming, manifest.num_documents):
        digest.update(_content(name, text))
        known.add(name)
    if manifest.segments and digest.hexdigest() != manifest.corpus:
        raise StoreError(
            f"{directory}: the documents are not those of the build that was broken off here; go on"
            " with those, or remove the directory"
        )
    return incoming, known, digest


def _write(
    directory: Path,
    encoder: Encoder,
    documents: Iterator[tuple[int, str, str]],
    known: set[str],
    note: Callable[[bytes], None],
    keep: Callable[[SegmentInfo, dict[str, File]], None],
    show_progress: bool,
) -> None:
    """Encode documents and write them, segment by segment.

    :param known: ids that no document may have; the ids of written documents are added
    :param note: called with each document before its segment is complete
    :param keep: called with each complete segment
    """
    writer: SegmentWriter | None = None
    try:
        with tqdm(
            total=None, initial=len(known), unit="doc", desc="store", disable=not show_progress
        ) as bar:
            for batch in _batches(documents, known):
                writer = writer or SegmentWriter(directory, encoder.rule)
                texts = [text for _, text in batch]
                encoded = encode_documents(encoder.reranker, encoder.rule, texts)
                for (name, text), parts in zip(batch, encoded, strict=True):
                    writer.add(name, words_of(text), parts)
                    note(_content(name, text))
                bar.update(len(batch))
                if writer.num_documents >= SEGMENT_DOCUMENTS:
                    finished, writer = writer, None
                    keep(*finished.finish())
        if writer is not None:
            finished, writer = writer, None
            keep(*finished.finish())
    finally:
        if writer is not None:
            writer.close()


def _batches(
    documents: Iterator[tuple[int, str, str]], known: set[str]
) -> Iterator[list[tuple[str, str]]]:
    batch: list[tuple[str, str]] = []
    size = 0
    for index, name, text in documents:
        if name in known:
            raise InputError("documents", f"the id {name!r} is there already", index)
        known.add(name)
        if batch and (len(batch) == BATCH_DOCUMENTS or size + len(text) > BATCH_CHARACTERS):
            yield batch
            batch, size = [], 0
        batch.append((name, text))
        size += len(text)
    if batch:
        yield batch


def _checked(documents: Iterable[Named]) -> Iterator[tuple[int, str, str]]:
    """Yield index, id and text of each document.

    :raises InputError: one is unusable
    """
    for index, document in enumerate(documents):
        if not isinstance(document, tuple | list) or len(document) != 2:
            raise InputError("documents", "expected a pair of an id and a document", index)
        name, content = document
        if not isinstance(name, str) or not name:
            raise InputError("documents", f"the id must be a string, not {name!r}", index)
        yield index, document_text(name, "documents", index), document_text(content, index=index)


def _content(name: str, text: str) -> bytes:
    return b"".join(
        len(each).to_bytes(8, "little") + each for each in (name.encode(), text.encode())
    )


def _with_segments(
    manifest: StoreManifest, made: Sequence[tuple[SegmentInfo, dict[str, File]]]
) -> StoreManifest:
    files = dict(manifest.files)
    for _, new in made:
        files.update(new)
    segments = (*manifest.segments, *(info for info, _ in made))
    return msgspec.structs.replace(manifest, segments=segments, files=files)


def _without(
    directory: Path,
    manifest: StoreManifest,
    segments: Sequence[Segment],
    gone: Sequence[tuple[int, int]],
) -> StoreManifest:
    """Record deleted documents; drop a segment without remaining documents."""
    files = dict(manifest.files)
    infos: list[SegmentInfo] = []
    for number, segment in enumerate(segments):
        is_deleted = segment.is_deleted.copy()
        is_deleted[[place for other, place in gone if other == number]] = True
        info = segment.info
        if is_deleted.all():
            files = {name: file for name, file in files.items() if not name.startswith(info.name)}
            files.pop(info.deleted or "", None)
            continue
        if (is_deleted != segment.is_deleted).any():
            files.pop(info.deleted or "", None)
            name = f"{new_name()}.deleted"
            places = np.flatnonzero(is_deleted).astype(np.int32)
            files[name] = write_array(directory / name, places)
            info = msgspec.structs.replace(info, deleted=name, num_deleted=len(places))
        infos.append(info)
    return msgspec.structs.replace(manifest, segments=tuple(infos), files=files)
