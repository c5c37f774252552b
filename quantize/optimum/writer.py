"""Writes the graphs of a checkpoint that optimum exports."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from quantize.checkpoint.files import Checkpoint
from quantize.errors import QuantizeError
from quantize.families.model_spec import OptimumModel
from quantize.graph.precision import Float32
from quantize.measure.fidelity import Reference, WrittenGraph, score_graph
from quantize.measure.preparation import PackedCalibration
from quantize.optimum.export import export
from quantize.optimum.rewrite import ExportedGraph, fold, write_rewritten
from quantize.recipe import Recipe
from quantize.rounding.sensitivity import Sensitivity


class OptimumWriter:
    """Writes the graphs of a checkpoint that is exported whole."""

    def __init__(
        self, checkpoint: Checkpoint, model: OptimumModel, text: PackedCalibration, scratch: Path
    ) -> None:
        """Prepare to write.

        :param text: the calibration text
        :param scratch: directory for temporary files
        """
        self._checkpoint, self._model = checkpoint, model
        self._text, self._scratch = text, scratch

    @cached_property
    def _exported(self) -> ExportedGraph:
        path = export(self._checkpoint, self._model.model_class, self._scratch)
        return fold(path, self._scratch)

    @cached_property
    def reference(self) -> Reference:
        """The exported graph's scores of the held-out text, in float32."""
        path, held_out = self._scratch / "original.onnx", self._text.held_out
        graph = write_rewritten(self._exported, path, Float32(), self._model.pad_token_id)
        scores = score_graph(path, held_out)
        graph.data_path.unlink()
        return Reference(self._text.name, held_out, scores)

    def write(self, path: Path, recipe: Recipe, keep: Sequence[str]) -> WrittenGraph:
        """Write the graph.

        :param keep: patterns of matrices to leave in float32
        :raises QuantizeError: the checkpoint cannot be exported
        """
        precision, pad = recipe.graph_precision({}, keep), self._model.pad_token_id
        return WrittenGraph(
            write_rewritten(self._exported, path, precision, pad, is_plain=recipe.is_half)
        )

    def measure_sensitivities(self, recipe: Recipe) -> list[Sensitivity]:
        """Refuse: the errors of single matrices are measured only in layers that run one by one.

        :raises QuantizeError: always
        """
        raise QuantizeError(
            f"{self._checkpoint.directory}: keep_fp32 'auto' or a number: not for an architecture"
            " that is exported by optimum; name the matrices to keep"
        )
