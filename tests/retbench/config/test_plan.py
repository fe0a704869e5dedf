import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest

from retbench.config.plan import Contender, Plan, Point
from retbench.errors import UserError

CONTENDERS = tuple(Contender(name, name) for name in ("retnet", "transformer", "gqa"))
POINTS = (Point(8192, 1), Point(512, 1), Point(1024, 16), Point(1024, 1))


def plan(blocks: int = 4, seed: int = 0) -> Plan:
    return Plan("inference", CONTENDERS, POINTS, blocks, seed)


def test_a_point_is_named_after_its_coordinates() -> None:
    assert Point(2048, 4).id == "context=2048,batch=4"


def test_every_cell_comes_once_in_every_block() -> None:
    times = Counter((block, c.label, point.id) for block, c, point in plan().cells())
    assert len(times) == 4 * len(CONTENDERS) * len(POINTS)
    assert set(times.values()) == {1}


def test_points_ascend_by_the_tokens_of_the_batch() -> None:
    ascending = [Point(512, 1), Point(1024, 1), Point(8192, 1), Point(1024, 16)]
    first = plan().order(0)[0].label
    block = [point for n, c, point in plan().cells() if (n, c.label) == (0, first)]
    assert block == ascending


def test_the_cells_of_a_point_follow_each_other() -> None:
    points = [point.id for block, _, point in plan().cells() if block == 0]
    assert sum(a != b for a, b in pairwise(points)) == len(POINTS) - 1


def test_the_order_is_the_same_for_the_same_seed_on_any_machine() -> None:
    assert [c.label for c in plan().order(0)] == [c.label for c in plan().order(0)]
    # Written down, so that a change of the generator does not go unseen.
    orders = [[c.label for c in plan(seed=7).order(block)] for block in (0, 2)]
    assert orders == ORDERS_OF_SEED_7


ORDERS_OF_SEED_7 = [["transformer", "retnet", "gqa"], ["transformer", "retnet", "gqa"]]


def test_every_other_block_has_the_reverse_of_the_order_before() -> None:
    for more in ((), ("context=16,batch=1",)):
        for block in range(0, 8, 2):
            assert plan().order(block + 1, *more) == plan().order(block, *more)[::-1]


def test_a_block_alone_has_the_cells_and_the_order_that_it_has_among_others() -> None:
    alone = replace(plan(), only=2)
    assert list(alone.cells()) == [cell for cell in plan().cells() if cell[0] == 2]
    assert alone.to_json() == plan().to_json() | {"only": 2}


def test_a_part_of_a_block_has_orders_of_its_own_that_the_seed_decides() -> None:
    def draws(seed: int, *more: object) -> list[float]:
        draw = plan(seed=seed).shuffler(0, *more)
        return [draw.random() for _ in range(3)]

    assert draws(0, "a") == draws(0, "a")
    assert len({tuple(draws(*which)) for which in ((0,), (0, "a"), (0, "b"), (1, "a"))}) == 4


def test_a_plan_survives_json() -> None:
    point = Point(512, 4, (("stage", "tune"), ("lr", 0.001)), once=True, sweeps=("context",))
    whole = replace(plan(), points=(point, *POINTS), only=1, least=3)
    again = Plan.from_json(json.loads(json.dumps(whole.to_json())))
    assert again == whole
    assert again.points[0].sweeps == ("context",)


def test_what_is_certain_of_a_plan_are_the_fewest_blocks_that_it_may_end_after() -> None:
    assert plan().certain == plan()
    may_end = replace(plan(blocks=15), least=3)
    assert may_end.certain == plan(blocks=3)
    assert may_end.to_json()["least"] == 3


def test_only_a_slowed_contender_says_so_in_the_plan() -> None:
    slowed = replace(CONTENDERS[0], slowdown=0.05)
    assert Contender(**slowed.to_json()) == slowed
    assert "slowdown" not in CONTENDERS[0].to_json()


def test_every_contender_comes_first_about_as_often() -> None:
    first = Counter(plan().order(block)[0].label for block in range(600))
    # Binomial(600, 1/3): 200 with a standard deviation of 11.5; five of them either way.
    assert all(140 < times < 260 for times in first.values())


def test_the_seed_changes_the_order() -> None:
    orders = [[c.label for c in plan(seed=s).order(b)] for s in (0, 1) for b in range(8)]
    assert orders[:8] != orders[8:]


def test_two_contenders_of_one_label_are_refused() -> None:
    with pytest.raises(UserError, match="'retnet' occurs twice"):
        Plan("inference", (CONTENDERS[0], CONTENDERS[0]), POINTS, 1, 0)


def test_a_point_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="'context=512,batch=1' occurs twice"):
        Plan("inference", CONTENDERS, (Point(512, 1), Point(512, 1)), 1, 0)
