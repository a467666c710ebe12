"""Every number that a host may tune, as frozen and validated values.

The defaults of `PollingStrategy` and `KeyTtls` are those of the specification
of the video polling system. A value that cannot work is refused when the object
is built, with a sentence that says what to change. Nothing here reads the
environment, and there is no global configuration.
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING

import attrs

from videopoll.errors import ConfigurationError
from videopoll.jobs.checks import quoted
from videopoll.jobs.codec import is_number

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DeadLetterPolicy",
    "DeliveryPolicy",
    "KeyTtls",
    "LeasePolicy",
    "OnUnknown",
    "PollingStrategy",
]

ENDING_S = 10.0
"""Seconds beyond `grace_s` that a stop may take: released jobs have to be written, and threads have to end."""

LONGEST_SEND_S = 30.0
"""The longest that a request of a shipped channel takes: how long a send that was left to itself may go on after a stop,
and how long closing connections waits for the requests of others."""

FOREIGN_IDLE_S = 90.0
"""A job of a foreign worker is lost after this many seconds without a poll: such a worker polls at least every 60 s."""


def _finite(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    if not is_number(value):
        msg = f"{type(instance).__name__}.{attribute.name} must be a finite number, got {quoted(value)}"
        raise ConfigurationError(msg)


def _at_least(low: float) -> Callable[[object, attrs.Attribute[float], float], None]:
    def check(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
        _finite(instance, attribute, value)
        if value < low:
            msg = f"{type(instance).__name__}.{attribute.name} must be at least {low:g}, got {value:g}"
            raise ConfigurationError(msg)

    return check


def _positive(instance: object, attribute: attrs.Attribute[float], value: float) -> None:
    _finite(instance, attribute, value)
    if value <= 0:
        msg = f"{type(instance).__name__}.{attribute.name} must be more than 0, got {value:g}"
        raise ConfigurationError(msg)


def _yes_or_no(instance: object, attribute: attrs.Attribute[bool], value: bool) -> None:  # noqa: FBT001
    if not isinstance(value, bool):
        msg = f"{type(instance).__name__}.{attribute.name} is True or False, got {quoted(value)}"
        raise ConfigurationError(msg)


def _count(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not is_number(value) or not isinstance(value, int) or value < 1:
        msg = f"{type(instance).__name__}.{attribute.name} must be a whole number of at least 1, got {quoted(value)}"
        raise ConfigurationError(msg)


def _whole_seconds(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if not is_number(value) or not isinstance(value, int) or value < 1:
        msg = (
            f"{type(instance).__name__}.{attribute.name} must be a whole number of seconds"
            f" of at least 1 (it is a Redis EX), got {quoted(value)}"
        )
        raise ConfigurationError(msg)


@attrs.frozen(kw_only=True)
class PollingStrategy:
    """When a job is polled, how often, and when to give up.

    Whichever limit comes first ends the job: `max_attempts` polls, or
    `timeout_s` since the job started.

    Args:
        interval_s: Seconds between two polls of a job that is still working.
        timeout_s: Seconds from the job's start to its deadline.
        max_attempts: Polls at most. The limit acts when the poll after the
            last would be due.
        initial_delay_s: Seconds from the job's start to its first poll.
        backoff_base_s: Seconds to wait after the first fault in a row. The wait
            doubles with each further one: ``min(base * 2**n, cap)``, where *n*
            counts the faults in a row before this one. (With *n* counting all
            polls, as a first reading of the specification has it, a single
            fault late in a job's life would cost the whole cap at once.)
        backoff_cap_s: The longest such wait, in seconds.
        jitter: A fraction of each wait, from 0 to 1, that is drawn at random:
            a wait of 10 s with a jitter of 0.1 is between 9 s and 11 s.
        request_timeout_s: Seconds that one poll may take from its start to its end.
        max_retry_after_s: The longest ``Retry-After`` of the API that is
            honoured, in seconds. It also bounds the pause after a 429.
        not_found_grace_s: Seconds after the start in which "not found" means
            "not there yet".

    Raises:
        ConfigurationError: A value, or a pair of values, cannot work.
    """

    interval_s: float = attrs.field(default=10.0, validator=_positive)
    timeout_s: float = attrs.field(default=300.0, validator=_positive)
    max_attempts: int = attrs.field(default=30, validator=_count)
    initial_delay_s: float = attrs.field(default=5.0, validator=_at_least(0))
    backoff_base_s: float = attrs.field(default=5.0, validator=_positive)
    backoff_cap_s: float = attrs.field(default=60.0, validator=_positive)
    jitter: float = attrs.field(default=0.0, validator=_at_least(0))
    request_timeout_s: float = attrs.field(default=15.0, validator=_positive)
    max_retry_after_s: float = attrs.field(default=60.0, validator=_positive)
    not_found_grace_s: float = attrs.field(default=15.0, validator=_at_least(0))

    def __attrs_post_init__(self) -> None:
        if self.timeout_s <= self.initial_delay_s:
            msg = (
                f"PollingStrategy.timeout_s ({self.timeout_s:g}) must be longer than initial_delay_s"
                f" ({self.initial_delay_s:g}), otherwise no job would ever be polled"
            )
            raise ConfigurationError(msg)
        _check_backoff(self)

    def backoff_s(self, faults_before: int) -> float:
        """Seconds to wait after a fault that followed `faults_before` others in a row."""
        return _backoff_s(self, faults_before)


@attrs.frozen(kw_only=True)
class KeyTtls:
    """How long the documented Redis keys live, in whole seconds.

    Args:
        job_s: ``video:job:{id}``, the job's record.
        lock_s: ``video:lock:{id}``, the signal to other workers.
        completed_s: ``video:completed:{id}``, the audit trail.
        attempts_s: ``video:attempts:{id}``, the poll counter.

    Raises:
        ConfigurationError: A value is not a whole number of at least 1.
    """

    job_s: int = attrs.field(default=600, validator=_whole_seconds)
    lock_s: int = attrs.field(default=60, validator=_whole_seconds)
    completed_s: int = attrs.field(default=7200, validator=_whole_seconds)
    attempts_s: int = attrs.field(default=600, validator=_whole_seconds)

    @classmethod
    def outliving(cls, *strategies: PollingStrategy) -> KeyTtls:
        """Return the times to live for jobs that are polled so: twice as long as the longest, or as by default.

        Producers need them as well as workers: a record lives as long as whoever stored it says.
        """
        polled_s = max((math.ceil(2 * one.timeout_s) for one in strategies), default=0)
        usual = cls()
        return cls(job_s=max(usual.job_s, polled_s), attempts_s=max(usual.attempts_s, polled_s))

    def check_outlive(self, strategy: PollingStrategy) -> None:
        """Refuse a strategy whose jobs would vanish from Redis before they end.

        Raises:
            ConfigurationError: The record or its counter would expire first.
        """
        for name, ttl_s in (("job_s", self.job_s), ("attempts_s", self.attempts_s)):
            if ttl_s <= strategy.timeout_s:
                msg = (
                    f"KeyTtls.{name} ({ttl_s}) must be longer than PollingStrategy.timeout_s"
                    f" ({strategy.timeout_s:g}): the key would expire before the job can time out."
                    f" Raise {name} or lower timeout_s."
                )
                raise ConfigurationError(msg)


@attrs.frozen(kw_only=True)
class LeasePolicy:
    """How a worker holds the jobs in its hands.

    A dead worker's jobs are taken up by another one when their lease ends, so
    `duration_s` is the time that a crash costs.

    Args:
        duration_s: Seconds that a lease lasts without being renewed.
        renew_every_s: Seconds between two renewals while work goes on.

    Raises:
        ConfigurationError: A value is not positive, or a single late renewal
            would lose the lease.
    """

    duration_s: float = attrs.field(default=12.0, validator=_positive)
    renew_every_s: float = attrs.field(default=4.0, validator=_positive)

    def __attrs_post_init__(self) -> None:
        if self.renew_every_s * 2 > self.duration_s:
            msg = (
                f"LeasePolicy.renew_every_s ({self.renew_every_s:g}) must be at most half of duration_s"
                f" ({self.duration_s:g}), so that one failed renewal does not lose the lease"
            )
            raise ConfigurationError(msg)

    @classmethod
    def lasting(cls, duration_s: float) -> LeasePolicy:
        """Return a policy for leases of `duration_s` seconds that are renewed three times in that time."""
        return cls(duration_s=duration_s, renew_every_s=duration_s / 3)


class OnUnknown(enum.StrEnum):
    """What to do when nobody can say whether a message went out."""

    AT_LEAST_ONCE = "at_least_once"
    """Send it again: the user may get it twice, and surely gets it."""

    AT_MOST_ONCE = "at_most_once"
    """Do not send it again: it becomes a dead letter for a person to look at."""


def _on_unknown(value: str) -> OnUnknown:
    try:
        return OnUnknown(value)
    except ValueError as error:
        msg = f"DeliveryPolicy.on_unknown is one of {', '.join(OnUnknown)}, got {quoted(value, text=True)}"
        raise ConfigurationError(msg) from error


@attrs.frozen(kw_only=True)
class DeliveryPolicy:
    """How hard videopoll tries to bring an outcome to its user.

    Args:
        max_attempts: Sends at most, all forms of the message together.
        video_attempts: Sends of the native video that may fail for a passing
            reason before the text with the link is tried instead.
        unknown_attempts: Sends of one message whose fate nobody can learn, all forms
            together, before it becomes a dead letter that says so: a user may have
            as many copies. With at most once, a channel that cannot be asked gets one.
        backoff_base_s: Seconds to wait after the first failed send; doubles each time.
        backoff_cap_s: The longest such wait, in seconds.
        jitter: A fraction of each wait, from 0 to 1, that is drawn at random.
        deadline_s: Seconds from the outcome to the dead letters.
        retention_s: Seconds that an outcome stays in Redis beyond its deadline,
            in case no worker is running.
        on_unknown: What to do when a send's fate is unknown and the channel cannot be asked.
        repeat_safely: Whether a send of unknown fate is repeated, whatever `on_unknown` says,
            where the channel promises to make one message of repeats. They count as
            `unknown_attempts`.
        appear_within_s: How long a message may take to show up at a channel that
            can be asked, in seconds, before it counts as never sent.
        max_retry_after_s: The longest ``Retry-After`` of a channel that is honoured, in seconds.
        send_timeout_s: Seconds after which a send that has not come back counts
            as of unknown fate, whatever the notifier says.
        publish_timeout_s: Seconds for fetching a video that only the API's key opens and
            publishing it, together.
        max_video_bytes: The largest video that is fetched for that.
        watch_s: Seconds for which a message is watched that its channel has accepted
            (`Accepted`): a receipt that it failed has it sent in the next form. 0 for a
            host that takes no receipts in. `Delivered` messages are never watched.

    Raises:
        ConfigurationError: A value, or a pair of values, cannot work.
    """

    max_attempts: int = attrs.field(default=40, validator=_count)
    video_attempts: int = attrs.field(default=5, validator=_count)
    unknown_attempts: int = attrs.field(default=3, validator=_count)
    backoff_base_s: float = attrs.field(default=2.0, validator=_positive)
    backoff_cap_s: float = attrs.field(default=120.0, validator=_positive)
    jitter: float = attrs.field(default=0.1, validator=_at_least(0))
    deadline_s: float = attrs.field(default=3600.0, validator=_positive)
    retention_s: float = attrs.field(default=86400.0, validator=_positive)
    on_unknown: OnUnknown = attrs.field(default=OnUnknown.AT_LEAST_ONCE, converter=_on_unknown)
    repeat_safely: bool = attrs.field(default=True, validator=_yes_or_no)
    appear_within_s: float = attrs.field(default=10.0, validator=_at_least(0))
    max_retry_after_s: float = attrs.field(default=600.0, validator=_positive)
    send_timeout_s: float = attrs.field(default=120.0, validator=_positive)
    publish_timeout_s: float = attrs.field(default=120.0, validator=_positive)
    max_video_bytes: int = attrs.field(default=500_000_000, validator=_count)
    watch_s: float = attrs.field(default=3600.0, validator=_at_least(0))

    def __attrs_post_init__(self) -> None:
        _check_backoff(self)

    @property
    def keep_s(self) -> int:
        """Whole seconds that an outcome stays in Redis: its deadline and the retention beyond."""
        return math.ceil(self.deadline_s + self.retention_s)

    def backoff_s(self, failures_before: int) -> float:
        """Seconds to wait after a failed send that followed `failures_before` others."""
        return _backoff_s(self, failures_before)


@attrs.frozen(kw_only=True)
class DeadLetterPolicy:
    """How many dead letters are kept, and for how long.

    Args:
        max_count: The oldest go when there are more.
        max_age_s: Whole seconds until a letter goes.

    Raises:
        ConfigurationError: A value is not a whole number of at least 1.
    """

    max_count: int = attrs.field(default=10_000, validator=_count)
    max_age_s: int = attrs.field(default=7 * 86400, validator=_whole_seconds)


def jittered_ms(wait_ms: float, jitter: float, fraction: float) -> int:
    """Return a wait that is spread by `jitter`, in milliseconds.

    Args:
        wait_ms: The wait without jitter.
        jitter: By which fraction of it the result may differ, from 0 to 1.
        fraction: A random number from 0 to 1: 0 gives the shortest wait, 0.5 the middle, 1 the longest.
    """
    return round(wait_ms * (1 + jitter * (2 * fraction - 1)))


def _check_backoff(policy: PollingStrategy | DeliveryPolicy) -> None:
    name = type(policy).__name__
    if policy.backoff_cap_s < policy.backoff_base_s:
        msg = (
            f"{name}.backoff_cap_s ({policy.backoff_cap_s:g}) must be at least backoff_base_s"
            f" ({policy.backoff_base_s:g})"
        )
        raise ConfigurationError(msg)
    if policy.jitter > 1:
        msg = f"{name}.jitter is a fraction from 0 to 1, got {policy.jitter:g}"
        raise ConfigurationError(msg)


def _backoff_s(policy: PollingStrategy | DeliveryPolicy, failures_before: int) -> float:
    # An exponent of 63 already exceeds any cap; more would overflow a float.
    return min(policy.backoff_base_s * 2.0 ** min(failures_before, 63), policy.backoff_cap_s)
