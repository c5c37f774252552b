"""The simulation of servers behind a load balancer, against what queueing theory says."""

from __future__ import annotations

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import main
from benchmarks.serving.fleet import (
    Load,
    by_query,
    draw_load,
    least_requests,
    round_robin,
    simulate,
)

REQUESTS = 40_000


def load_of(rate, works):
    rng = np.random.default_rng(0)
    queries = rng.integers(0, 1000, len(works))
    return draw_load(rng, rate, works, queries)


@pytest.mark.parametrize("share", [0.3, 0.7])
@pytest.mark.parametrize("kind", ["exponential", "constant"])
def test_one_server_takes_as_long_as_theory_says_whatever_the_sizes(share, kind):
    works = np.ones(REQUESTS)
    if kind == "exponential":
        works = np.random.default_rng(1).exponential(1, REQUESTS)
    found = simulate(load_of(share, works), 1, round_robin)
    assert found.mean() == pytest.approx(1 / (1 - share), rel=0.05)  # M/G/1, shared equally


def test_two_requests_share_a_server():
    load = Load(np.array([0.0, 1.0]), np.array([2.0, 2.0]), np.array([0, 1]))
    # alone for 1 s, then at half speed until the first ends at 3 s
    assert simulate(load, 1, round_robin).tolist() == [3.0, 3.0]


def test_the_fewest_requests_are_quicker_than_turns_and_both_than_queries():
    load = load_of(0.8 * 8, np.random.default_rng(1).exponential(1, REQUESTS))
    fewest, turns, queries = (
        np.quantile(simulate(load, 8, policy), 0.99)
        for policy in (least_requests, round_robin, by_query(8))
    )
    assert fewest < turns < queries


def test_equal_queries_go_to_one_server_and_few_move_when_one_is_added():
    seven, eight = by_query(7), by_query(8)

    class Idle:
        active = ()

    def owners(policy, count):
        return np.array([policy([Idle()] * count, n, query) for n, query in enumerate(range(2000))])

    assert (owners(seven, 7) == owners(seven, 7)).all()
    assert len(set(owners(eight, 8))) == 8
    assert np.bincount(owners(eight, 8)).min() > 2000 / 8 / 2


def test_a_kept_query_saves_its_share():
    load = Load(np.array([0.0, 10.0, 20.0]), np.ones(3), np.array([1, 1, 2]))
    found = simulate(load, 1, round_robin, saved=0.25, kept_queries=1)
    np.testing.assert_allclose(found, [1.0, 0.75, 1.0])


def test_the_benchmark_gives_latencies_and_costs():
    done = CliRunner().invoke(
        main,
        ["capacity", "--servers", "2", "--requests", "300", "--machine", "box=4:0.5"],
        catch_exceptions=False,
    )
    assert done.exit_code == 0, done.output
    for shown in ("fewest requests", "mxbai-rerank-large-v2", "1,000,000,000", "box"):
        assert shown in done.output
