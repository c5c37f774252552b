"""What a layer's attention sees: everything or a window, and the angles of its positions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from quantize.graph.builder import Graph
from quantize.graph.grid import GraphInputs, Grid, with_mask
from quantize.graph.rotary import Angles, rotary_angles
from quantize.rounding.rounding import Floats


@dataclass(frozen=True)
class Span:
    """The grids and angles of layers that see alike."""

    grid: Grid
    scored_grid: Grid
    angles: Angles


def everything(g: Graph, shared: GraphInputs, frequencies: Floats) -> Span:
    """See all that the shared grids show.

    :param frequencies: of the rotary angles, [head_size / 2]
    """
    angles = rotary_angles(g, shared.positions, frequencies)
    return Span(shared.grid, shared.scored_grid, angles)


def within_window(
    g: Graph, shared: GraphInputs, frequencies: Floats, window: int, *, is_causal: bool = False
) -> Span:
    """See no farther than ``window`` tokens away.

    :param frequencies: of the rotary angles, [head_size / 2]
    :param is_causal: whether keys end with the query, and may have come before the flat axis
    """
    g.scope = "window"
    near, scored_near = (
        with_mask(g, replace(grid, window=window, is_causal=is_causal))
        for grid in (shared.grid, shared.scored_grid)
    )
    return Span(near, scored_near, rotary_angles(g, shared.positions, frequencies))
