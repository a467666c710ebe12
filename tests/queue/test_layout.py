"""Which partition has a job: a hash that moves few jobs, and tells all homes that a job ever had."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videopoll.policies import DeliveryPolicy, KeyTtls
from videopoll.queue.layout import Layout, Moved, homes, horizon_ms, leavings, prefix_of

IDS = [f"job_{number}" for number in range(20_000)]

PUBLISHED = [12, 8, 1, 10, 4]
"""Had with an implementation of their own, in the words of the paper."""

ALL_OF_JOB_1 = (0, 3, 7, 8, 12, 24, 25, 42, 127, 138, 164, 444, 546, 906)

numbers = st.integers(1, 300)
texts = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


def home(job_id: str, partitions: int) -> int:
    """Give the partition of a job."""
    return homes(job_id, partitions)[-1]


def test_the_homes_of_some_ids_are_what_they_were():
    """Producers of all versions have to agree: another hash would make two jobs of one."""
    assert [home(job_id, 16) for job_id in ("job_1", "job_2", "job_3", "vid-é", "x" * 200)] == PUBLISHED
    assert homes("job_1", 1000) == ALL_OF_JOB_1
    # Of 400,000 ids the two whose homes are others if the divisor is off by one.
    assert homes("job_166904", 1000) == (0, 1, 3, 398, 623)
    assert homes("job_242402", 1000) == (0, 1, 2, 3, 693, 752)


@pytest.mark.parametrize("partitions", [2, 3, 5, 16])
def test_jobs_are_spread_evenly(partitions):
    """Each partition has its share, within a tenth."""
    share = len(IDS) / partitions
    held = Counter(home(job_id, partitions) for job_id in IDS)
    assert set(held) == set(range(partitions))
    assert all(abs(count - share) < 0.1 * share for count in held.values())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 3), (3, 5), (15, 16)])
def test_a_raise_moves_no_more_jobs_than_the_new_partitions_take(before, after):
    """And those that move go to the new ones."""
    moved = [job_id for job_id in IDS if home(job_id, before) != home(job_id, after)]
    assert all(home(job_id, after) >= before for job_id in moved)
    assert len(moved) == pytest.approx(len(IDS) * (after - before) / after, rel=0.05)


@given(texts, numbers)
def test_the_homes_under_all_smaller_numbers_are_among_those_of_the_number(job_id, partitions):
    """So nobody has to know what the numbers were."""
    every = {home(job_id, number) for number in range(1, partitions + 1)}
    assert list(homes(job_id, partitions)) == sorted(every)
    assert homes(job_id, partitions)[0] == 0
    for former, left_at in leavings(job_id, partitions):
        assert home(job_id, left_at - 1) == former
        assert home(job_id, left_at) != former


@pytest.mark.parametrize(
    ("prefix", "partition", "expected"),
    [
        ("{video}", 0, "{video}"),
        ("{video}", 2, "{video:2}"),
        ("a{shop}b", 12, "a{shop:12}b"),
        ("video", 0, "video"),
        ("video", 3, "video:3"),
    ],
)
def test_the_prefix_of_a_partition_is_a_hash_tag_of_its_own(prefix, partition, expected):
    """Each may be in another slot; the first has the keys of a queue without partitions."""
    assert prefix_of(prefix, partition) == expected


def test_what_is_noted_of_the_number_is_read_with_its_times():
    """Since when at least so many are known tells how long ago a job can have been taken in at a former home."""
    layout = Layout.read(b"5:1700000003000 3:1700000002000 2:1700000001000")
    assert layout.partitions == 5
    assert [layout.since_ms(number) for number in (2, 3, 4, 5, 6)] == [
        1_700_000_001_000,
        1_700_000_002_000,
        1_700_000_003_000,
        1_700_000_003_000,
        None,
    ]


def test_that_a_queue_has_one_partition_is_noted_too():
    """Whoever takes a raise back leaves that behind."""
    layout = Layout.read(b"3:1700000002000 1:1700000001000")
    assert layout.since_ms(1) == 1_700_000_001_000
    assert layout.since_ms(2) == 1_700_000_002_000
    assert Layout.read(None).since_ms(1) is None


def test_the_largest_number_and_the_longest_time_are_read():
    """1,000 partitions, as the pages say, and sixteen digits; what is more is damage, and so is what comes after it."""
    assert Layout.read(b"1000:9999999999999999").raises == ((1000, 9_999_999_999_999_999),)
    assert Layout.read(b"3:2 1001:1 2:1").raises == ((3, 2),)
    assert Layout.read(b"3:2 2:10000000000000000").raises == ((3, 2),)


def test_a_job_may_be_known_for_twice_as_long_as_it_is_polled_delivered_and_remembered():
    """Ten minutes, an hour and a half, two hours."""
    delivery = DeliveryPolicy(deadline_s=3600, retention_s=1800)
    assert horizon_ms(KeyTtls(job_s=600, completed_s=7200), delivery) == 2 * (600 + 5400 + 7200) * 1000


def test_that_a_queue_has_moved_says_to_how_many_partitions():
    assert (Moved(5).partitions, str(Moved(5))) == (5, "5")


@pytest.mark.parametrize("stored", [None, b"", b"many", b"5", b"-1:5", b"99999999:1", b"\xff:1", "٣:1".encode()])
def test_what_is_no_layout_says_nothing(stored):
    """Somebody else's value must not have a producer make a million clients."""
    assert Layout.read(stored).partitions == 1
