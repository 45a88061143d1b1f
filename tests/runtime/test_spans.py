"""Spans of candidates start small, grow as memory allows, and shrink after pressure."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from noveltyflow.runtime.spans import QUIET_TASKS, SpanSize, SpanSizes


def room_for(most: int) -> Callable[[int], bool]:
    return lambda blocks: blocks <= most


def grown(size: SpanSize, tasks: int, most: int) -> SpanSize:
    for _ in range(tasks):
        size = size.after_task(room_for(most))
    return size


def test_spans_grow_as_far_as_there_is_room() -> None:
    assert SpanSize().after_task(room_for(0)).blocks == 1
    assert SpanSize().after_task(room_for(5)).blocks == 4
    assert SpanSize().after_task(room_for(27)).blocks == 24
    assert SpanSize(24).after_task(room_for(40)).blocks == 32


def test_spans_shrink_to_what_still_fits() -> None:
    assert SpanSize(16).after_task(room_for(5)).blocks == 4
    assert SpanSize(16).after_task(room_for(14)).blocks == 12
    assert SpanSize(16).after_task(room_for(0)).blocks == 1


def test_where_there_was_room_for_less_no_more_is_tried_for_a_while() -> None:
    size = SpanSize(12).limited(6)
    assert grown(size, QUIET_TASKS - 1, 1000).blocks == 6
    assert grown(size, QUIET_TASKS, 1000).blocks == 12
    assert [SpanSize(20).limited(blocks).blocks for blocks in (1, 2, 3, 5, 7, 11, 13)] == [
        1,
        2,
        3,
        4,
        6,
        8,
        12,
    ]


def test_what_brought_pressure_is_tried_again_only_later() -> None:
    size = SpanSize(16).after_pressure()
    assert size.blocks == 8
    assert grown(size, QUIET_TASKS - 1, 1000).blocks == 8
    assert grown(size, QUIET_TASKS, 1000).blocks == 16
    assert SpanSize(1).after_pressure().blocks == 1


def test_who_replaces_a_lost_worker_starts_small_and_stays_smaller() -> None:
    sizes = SpanSizes()
    sizes.reached("a", SpanSize(16))
    sizes.reached("b", SpanSize(4))
    sizes.lost("a")
    assert sizes.of("b") == SpanSize(4)
    assert sizes.of("c").blocks is None
    assert grown(sizes.of("c"), QUIET_TASKS - 1, 1000).blocks == 8
    sizes.lost("c")
    assert grown(sizes.of("d"), QUIET_TASKS - 1, 1000).blocks == 1


@given(st.lists(st.one_of(st.none(), st.integers(0, 300)), max_size=60))
def test_no_span_is_larger_than_its_room(rooms: list[int | None]) -> None:
    size = SpanSize()
    for room in rooms:
        before = size.blocks or 1
        size = size.after_pressure() if room is None else size.after_task(room_for(room))
        assert size.blocks is not None
        assert size.blocks >= 1
        if room is not None:
            assert size.blocks <= max(room, 1)
        else:
            assert size.blocks <= max(before // 2, 1)
