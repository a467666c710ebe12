"""How many jobs may stand in line for a place, and for how long: the judgement alone, on made-up times."""

from __future__ import annotations

from videopoll.worker.line import Line


def steady(per_s: float, for_s: float = 5.0) -> Line:
    """Give the line of a worker that has been busy for a while: so many places a second got free, in turns 20 ms apart."""
    made = Line()
    made.backlog = True
    freed = 0.0
    for turn in range(round(for_s / 0.02)):
        made.look(turn * 0.02)
        freed += per_s * 0.02
        while freed >= 1:
            made.place_freed()
            freed -= 1
    return made


def busy(made: Line, *, backlog: bool | None = True) -> Line:
    """Let 500 places get free in one turn of half a second."""
    if backlog is not None:
        made.backlog = backlog
    made.look(1000.0)
    for _ in range(500):
        made.place_freed()
    made.look(1000.5)
    return made


def test_a_line_lasts_until_the_next_claim_is_answered():
    """Claims are 20 ms apart, and take some milliseconds."""
    assert 20 < steady(1000).room < 60
    assert 40 < steady(2000).room < 120


def test_half_a_second_after_polls_have_begun_the_line_has_its_share_of_what_it_will_have():
    """1 - 1/e of the 40 places that get free in 40 ms; and one more, as jobs do not come in evenly."""
    assert steady(1000, for_s=0.52).room == 25 + 1


def test_the_length_of_a_line_does_not_depend_on_how_long_a_turn_takes():
    made = busy(Line())

    assert made.room == 25 + 1


def test_two_turns_at_the_same_time_count_as_one():
    """A clock may be that coarse."""
    made = Line()
    made.look(1000.0)

    assert busy(made).room == 25 + 1


def test_where_places_get_free_seldom_nobody_stands_in_line():
    """Whoever did would stand there for long: less than one place gets free within 40 ms."""
    assert steady(5).room == 0
    assert steady(20).room == 0
    assert steady(30).room == 1 + 1


def test_a_worker_that_has_claimed_nothing_knows_of_no_backlog():
    made = busy(Line(), backlog=None)

    assert made.backlog is False
    assert made.room == 0


def test_without_a_backlog_nobody_stands_in_line():
    """What nobody claims is there for a worker that has a place."""
    made = steady(1000)

    made.backlog = False

    assert made.room == 0


def test_who_stands_in_line_takes_room_there():
    made = steady(1000)
    room = made.room

    made.join(object(), 5.0)

    assert (len(made), made.room) == (1, room - 1)


def test_a_line_that_has_become_too_long_has_no_room():
    made = steady(1000)

    for _ in range(100):
        made.join(object(), 5.0)

    assert made.room == 0


def test_the_first_in_line_is_served_first_and_the_late_leave():
    first, second, third = object(), object(), object()
    made = Line()
    for number, step in enumerate((first, second, third)):
        made.join(step, number)

    assert made.first() is first
    assert made.leave(1.0) == []
    assert made.leave(1.9) == [second]
    assert made.leave() == [third]
    assert made.late_s == float("inf")


def test_nobody_stands_in_line_for_longer_than_a_quarter_of_a_second():
    early, late = object(), object()
    made = Line()
    made.join(early, 1000.0)
    made.join(late, 1000.125)

    assert made.late_s == 1000.25
    assert made.leave(1000.25) == [early]
    assert made.late_s == 1000.375
