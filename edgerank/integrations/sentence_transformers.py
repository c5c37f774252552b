"""``CrossEncoder``, in place of that of sentence-transformers, which is not imported."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgerank.errors import InputError
from edgerank.integrations.source import open_source
from edgerank.ranking import top
from edgerank.reranker import Reranker

if TYPE_CHECKING:
    from edgerank.client import Client


class CrossEncoder:
    """The methods ``predict`` and ``rank`` of sentence-transformers 6, with the same scores.

    ``prompt`` is the instruction of models that take one. ``batch_size``, ``device``, ``pool`` and
    ``chunk_size`` do not affect scores, and are ignored.
    """

    def __init__(
        self, model_name_or_path: Reranker | Client | str | os.PathLike[str] | None = None
    ) -> None:
        """Open the bundle.

        :param model_name_or_path: a bundle directory, a reranker or a client; the model in the
            package by default
        :raises BundleError: the bundle is missing or unusable
        """
        self._reranker: Any = open_source(model_name_or_path)

    def predict(
        self,
        inputs: Sequence[Any],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> NDArray[np.float32] | np.float32:
        """Score (query, document) pairs, or one pair.

        :return: float32 [len(inputs)], or a float32 for one pair
        :raises InputError: a text or an option is unusable, or an option is not supported
        """
        is_one = len(inputs) > 0 and not isinstance(inputs[0], list | tuple | np.ndarray)
        pairs = [tuple(pair) for pair in ([inputs] if is_one else inputs)]
        if prompt_name is not None:
            raise InputError("prompt_name", "bundles have no named prompts; give prompt")
        if activation_fn is not None:
            raise InputError("activation_fn", "scores go through the activation of the model only")
        if convert_to_tensor or not convert_to_numpy:
            raise InputError("convert_to_tensor", "scores are in NumPy; call torch.from_numpy")
        options: dict[str, Any] = {} if prompt is None else {"instruction": prompt}
        if show_progress_bar and isinstance(self._reranker, Reranker):
            options["show_progress"] = True
        scores: NDArray[np.float32] = np.asarray(self._reranker.score_pairs(pairs, **options))
        return scores[0] if is_one else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Any = None,
        device: Any = None,
        pool: Any = None,
        chunk_size: int | None = None,
    ) -> list[dict[str, Any]]:
        """Rank documents, best first.

        :return: dictionaries with ``corpus_id``, the index of the document, ``score``, and ``text``
            with ``return_documents``
        :raises InputError: a text or an option is unusable, or an option is not supported
        """
        scores = self.predict(
            [(query, document) for document in documents],
            prompt_name=prompt_name,
            prompt=prompt,
            show_progress_bar=show_progress_bar,
            activation_fn=activation_fn,
        )
        assert isinstance(scores, np.ndarray)
        return [
            {
                "corpus_id": index,
                "score": float(scores[index]),
                **({"text": documents[index]} if return_documents else {}),
            }
            for index in top(scores, top_k)
        ]
