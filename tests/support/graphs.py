"""Graphs of bundles, run on sequences of token ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgerank.bundle import read_bundle
from edgerank.engine import Engine, Output, gather
from edgerank.packing import Group, pack
from edgerank.rules import scoring_rule


@dataclass(frozen=True)
class OpenedGraph:
    """A graph, and its output that scores are made of."""

    engine: Engine
    output: Output

    def run(self, groups: Sequence[Group], max_tokens: int) -> np.ndarray:
        """Run groups; return the output by score id."""
        batches = pack(groups, max_tokens=max_tokens, causal=self.engine.is_causal)
        rows = ((batch, raw) for batch, (raw,) in self.engine.run(batches, [self.output.name]))
        results = gather(rows, self.output, sum(len(group.sequences) for group in groups))
        assert isinstance(results, np.ndarray)
        return results


def open_graph(directory: Path) -> OpenedGraph:
    """Open the graph of a bundle's only variant."""
    bundle = read_bundle(directory)
    (variant,) = bundle.manifest.variants
    rule = scoring_rule(bundle.manifest.scoring)
    path = bundle.graph_path(variant)
    engine = Engine(path, rule.outputs, threads=2)
    return OpenedGraph(engine, rule.output)
