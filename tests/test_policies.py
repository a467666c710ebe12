"""The numbers that a host may tune: what is refused, what is allowed, and what the refusal says."""

from __future__ import annotations

import math

import pytest

from videopoll import (
    ConfigurationError,
    DeadLetterPolicy,
    DeliveryPolicy,
    KeyTtls,
    LeasePolicy,
    OnUnknown,
    PollingStrategy,
)
from videopoll.queue.schema import Keys

NO_NUMBERS = (None, "10", math.nan, math.inf, -math.inf, True, 10**300)

POSITIVE = {
    PollingStrategy: (
        "interval_s",
        "timeout_s",
        "backoff_base_s",
        "backoff_cap_s",
        "request_timeout_s",
        "max_retry_after_s",
    ),
    LeasePolicy: ("duration_s", "renew_every_s"),
    DeliveryPolicy: (
        "backoff_base_s",
        "backoff_cap_s",
        "deadline_s",
        "retention_s",
        "max_retry_after_s",
        "send_timeout_s",
    ),
}
NOT_NEGATIVE = {
    PollingStrategy: ("initial_delay_s", "jitter", "not_found_grace_s"),
    DeliveryPolicy: ("jitter", "appear_within_s"),
}
WHOLE = {
    PollingStrategy: ("max_attempts",),
    DeliveryPolicy: ("max_attempts", "video_attempts"),
    KeyTtls: ("job_s", "lock_s", "completed_s", "attempts_s"),
    DeadLetterPolicy: ("max_count", "max_age_s"),
}


def fields_of(*tables):
    """Give each class with each of its fields, as parameters."""
    return [
        pytest.param(policy, name, id=f"{policy.__name__}.{name}")
        for table in tables
        for policy, names in table.items()
        for name in names
    ]


def refuse(policy, **values) -> str:
    """Build it in vain, and give the sentence."""
    with pytest.raises(ConfigurationError) as caught:
        policy(**values)
    return str(caught.value)


@pytest.mark.parametrize(("policy", "name"), fields_of(POSITIVE, NOT_NEGATIVE, WHOLE))
@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_number_is_refused_by_name(policy, name, value):
    """A typo in a configuration file has to be found by its name, at the start and not at the first job."""
    assert f"{policy.__name__}.{name}" in refuse(policy, **{name: value})


@pytest.mark.parametrize(("policy", "name"), fields_of(POSITIVE))
@pytest.mark.parametrize("value", [0, -1, -0.001])
def test_a_span_of_nothing_is_refused(policy, name, value):
    """Zero seconds between two polls would be a busy loop against somebody's API."""
    assert f"{policy.__name__}.{name} must be more than 0" in refuse(policy, **{name: value})


@pytest.mark.parametrize(("policy", "name"), fields_of(NOT_NEGATIVE))
def test_a_negative_span_is_refused_where_zero_is_fine(policy, name):
    """Zero means "without" here, less than that means nothing."""
    assert f"{policy.__name__}.{name} must be at least 0" in refuse(policy, **{name: -0.1})
    assert getattr(policy(**{name: 0}), name) == 0


@pytest.mark.parametrize(("policy", "name"), fields_of(WHOLE))
@pytest.mark.parametrize("value", [0, -1, 1.5, 30.0])
def test_a_count_that_is_not_whole_or_less_than_one_is_refused(policy, name, value):
    """Half an attempt cannot be made, and Redis takes whole seconds only."""
    assert f"{policy.__name__}.{name} must be a whole number" in refuse(policy, **{name: value})


@pytest.mark.parametrize("policy", [PollingStrategy, DeliveryPolicy])
def test_a_jitter_above_one_is_refused(policy):
    """A wait that is drawn from below zero is no wait."""
    assert "jitter is a fraction from 0 to 1" in refuse(policy, jitter=1.01)
    assert policy(jitter=1).jitter == 1


@pytest.mark.parametrize("policy", [PollingStrategy, DeliveryPolicy])
def test_a_cap_below_its_base_is_refused(policy):
    """It would silently shorten the first wait as well."""
    assert "backoff_cap_s (4) must be at least backoff_base_s (5)" in refuse(policy, backoff_base_s=5, backoff_cap_s=4)
    assert policy(backoff_base_s=5, backoff_cap_s=5).backoff_s(9) == 5


@pytest.mark.parametrize("timeout_s", [5, 4])
def test_a_timeout_that_ends_before_the_first_poll_is_refused(timeout_s):
    """Such a job would time out without having been asked for once."""
    said = refuse(PollingStrategy, timeout_s=timeout_s)
    assert f"timeout_s ({timeout_s}) must be longer than initial_delay_s (5)" in said


def test_an_interval_of_one_second_with_thirty_attempts_and_five_minutes_is_allowed():
    """Whichever limit comes first ends the job: the two need not agree."""
    strategy = PollingStrategy(interval_s=1, max_attempts=30, timeout_s=300)
    assert (strategy.interval_s, strategy.max_attempts, strategy.timeout_s) == (1, 30, 300)


def test_an_interval_longer_than_the_timeout_is_allowed():
    """One poll and a last one at the deadline: odd, and sound."""
    assert PollingStrategy(interval_s=600, timeout_s=300).interval_s == 600


@pytest.mark.parametrize("name", ["job_s", "attempts_s"])
def test_a_record_that_cannot_outlive_the_timeout_is_refused(name):
    """The user of a job whose record is gone could not be told that it timed out."""
    ttls = KeyTtls(**{name: 300})
    with pytest.raises(ConfigurationError, match=rf"KeyTtls\.{name} \(300\) must be longer .* Raise {name} or lower"):
        ttls.check_outlive(PollingStrategy())
    KeyTtls(**{name: 301}).check_outlive(PollingStrategy())


def test_the_defaults_go_together():
    """Nobody has to configure anything to start."""
    KeyTtls().check_outlive(PollingStrategy())
    assert LeasePolicy() == LeasePolicy(duration_s=12, renew_every_s=4)
    assert DeliveryPolicy().on_unknown is OnUnknown.AT_LEAST_ONCE
    assert DeadLetterPolicy().max_count == 10_000


def test_a_lease_that_one_late_renewal_loses_is_refused():
    """A single hiccup of Redis must not hand the job to another worker."""
    assert "must be at most half of duration_s (10)" in refuse(LeasePolicy, duration_s=10, renew_every_s=5.1)
    assert LeasePolicy(duration_s=10, renew_every_s=5).renew_every_s == 5


def test_a_lease_that_lasts_is_renewed_three_times():
    """One number is enough on the command line."""
    lease = LeasePolicy.lasting(3)
    assert (lease.duration_s, lease.renew_every_s) == (3, 1)
    with pytest.raises(ConfigurationError, match=r"LeasePolicy\.duration_s must be more than 0"):
        LeasePolicy.lasting(0)


def test_an_unknown_choice_about_unknown_sends_is_refused():
    """Only the two promises exist; a third one must not be understood as either."""
    assert DeliveryPolicy(on_unknown="at_most_once").on_unknown is OnUnknown.AT_MOST_ONCE
    with pytest.raises(ValueError, match="exactly_once"):
        DeliveryPolicy(on_unknown="exactly_once")


def test_the_outbox_is_kept_beyond_its_deadline():
    """No worker may be alive at the deadline, and the video must still be there afterwards."""
    assert DeliveryPolicy(deadline_s=3600, retention_s=86400).keep_s == 90000
    assert DeliveryPolicy(deadline_s=0.2, retention_s=0.2).keep_s == 1


@pytest.mark.parametrize("policy", [PollingStrategy(), KeyTtls(), LeasePolicy(), DeliveryPolicy(), DeadLetterPolicy()])
def test_a_policy_cannot_be_changed_under_a_running_worker(policy):
    """Threads share it."""
    with pytest.raises(AttributeError):
        policy.jitter = 1


@pytest.mark.parametrize("faults", [63, 64, 1_000, 10**9])
def test_a_back_off_never_overflows(faults):
    """A job with a large count of faults must not kill the worker with an OverflowError."""
    assert PollingStrategy().backoff_s(faults) == 60
    assert DeliveryPolicy().backoff_s(faults) == 120


@pytest.mark.parametrize(
    "prefix", ["", "a b", "vídeo", "video*", "video?", "[video]", "vi\\deo", "a\nb", "'v", 'v"', "x" * 101]
)
def test_a_prefix_that_cannot_be_typed_is_refused(prefix):
    """The documented redis-cli commands have to work with it as it is, and KEYS must not read it as a pattern."""
    with pytest.raises(ConfigurationError, match="key prefix must be"):
        Keys(prefix)


@pytest.mark.parametrize("prefix", ["video", "{video}", "v", "staging:video", "x" * 100])
def test_a_prefix_may_be_a_hash_tag(prefix):
    """One slot of a Redis Cluster then holds all keys."""
    assert Keys(prefix).queue == f"{prefix}:poll:queue"


@pytest.mark.parametrize(("make", "name"), [(PollingStrategy, "interval_s"), (DeliveryPolicy, "max_attempts")])
def test_a_number_from_an_environment_variable_is_refused_with_the_advice_to_convert_it(make, name):
    with pytest.raises(ConfigurationError, match=rf"{make.__name__}\.{name} .* got '10' \(a string: convert it\)"):
        make(**{name: "10"})
