"""Behind what a notifier of a host's own hides another one: where is looked, how far, and what is said."""

from __future__ import annotations

import logging
from functools import partial

import pytest

from videopoll.core.wrappers import check_notifier, hidden_behind, warn_of_hidden_look_up
from videopoll.errors import ConfigurationError


class Channel:
    """Can be asked for its messages."""

    def notify(self, message):
        return message

    def look_up(self, message):
        return message


class AsyncChannel:
    async def notify(self, message):
        return message

    async def alook_up(self, message):
        return message


class Wrapper:
    def __init__(self, inner):
        self.inner = inner

    def notify(self, message):
        return self.inner.notify(message)


CHANNEL = Channel()


class UsingGlobal:
    """A global in one of its methods, or in none."""

    def notify(self, message):
        return CHANNEL.notify(message)


class UsingGlobalUnderAsyncio:
    def notify(self, message):
        return message

    async def anotify(self, message):
        return CHANNEL.notify(message)


class Called:
    def __call__(self, message):
        return CHANNEL.notify(message)


class OneSlot:
    __slots__ = "inner"  # noqa: PLC0205 - a host may write it like this

    def __init__(self, inner):
        self.inner = inner

    def notify(self, message):
        return self.inner.notify(message)


class Child(OneSlot):
    """Its slots are those of its parent, and two of its own, one of which is empty."""

    __slots__ = ("empty", "second")

    def __init__(self, inner, second=None):
        super().__init__(inner)
        self.second = second


class Passing(Wrapper):
    """One that does it right."""

    def look_up(self, message):
        return self.inner.look_up(message)


class ClassOfClasses(type):
    """What a class has of it is no method of an object."""

    def notify(cls, message):
        return message

    def look_up(cls, message):
        return message


def with_default(message, channel=CHANNEL):
    return channel.notify(message)


def enclosing(inner):
    return lambda message: inner.notify(message)  # noqa: PLW0108 - a closure is what it is about


def method_of_a_class_of_its_own(inner):
    class Service:
        def __init__(self):
            self.held = inner

        def send(self, message):
            return self.held.notify(message)

    return Service().send


@pytest.mark.parametrize(
    "notifier",
    [
        Wrapper(CHANNEL),
        Wrapper([None, CHANNEL]),
        Wrapper((None, CHANNEL)),
        Wrapper({"one": CHANNEL}),
        Wrapper({CHANNEL}),
        Wrapper(frozenset({CHANNEL})),
        Wrapper(CHANNEL.notify),
        Wrapper(partial(CHANNEL.notify)),
        Wrapper(partial(print, CHANNEL)),
        Wrapper(partial(print, channel=CHANNEL)),
        Wrapper(with_default),
        Wrapper(enclosing(CHANNEL)),
        Wrapper(method_of_a_class_of_its_own(CHANNEL)),
        Wrapper(Called()),
        Wrapper(Wrapper(CHANNEL)),
        OneSlot(CHANNEL),
        Child(CHANNEL),
        Child(None, CHANNEL),
        UsingGlobal(),
        UsingGlobalUnderAsyncio(),
    ],
)
def test_what_a_notifier_holds_or_its_functions_use_is_seen(notifier):
    assert hidden_behind(notifier) == "Channel"


def test_a_look_up_for_asyncio_is_hidden_as_well_as_another():
    assert hidden_behind(Wrapper(AsyncChannel())) == "AsyncChannel"


@pytest.mark.parametrize(
    "notifier",
    [
        CHANNEL,
        AsyncChannel(),
        Passing(CHANNEL),
        Wrapper(print),
        Wrapper(Channel),
        Wrapper(ClassOfClasses("Odd", (), {})),
        Wrapper("text"),
    ],
)
def test_who_can_be_asked_or_holds_nobody_who_can_hides_nothing(notifier):
    assert hidden_behind(notifier) is None


def test_a_part_that_can_be_asked_and_sends_nothing_is_no_notifier():
    class Cache:
        def look_up(self, key):
            return key

    assert hidden_behind(Wrapper(Cache())) is None


def test_three_steps_deep_is_looked_and_no_further():
    assert hidden_behind(Wrapper(Wrapper(Wrapper(CHANNEL)))) == "Channel"
    assert hidden_behind(Wrapper(Wrapper(Wrapper(Wrapper(CHANNEL))))) is None


@pytest.mark.parametrize(("others", "hidden"), [(199, "Channel"), (200, None)])
def test_two_hundred_parts_of_each_are_looked_at(others, hidden):
    """A notifier may hold a table of all users: it is not read to its end."""
    assert hidden_behind(Wrapper([*map(str, range(others)), CHANNEL])) == hidden


@pytest.mark.parametrize(("others", "hidden"), [(199, "Channel"), (200, None)])
def test_behind_two_hundred_parts_is_looked_at_a_time(others, hidden):
    class Many:
        def __init__(self):
            for number in range(others):
                setattr(self, f"part_{number:03}", [number])
            self.zone = [CHANNEL]

        def notify(self, message):
            return message

    # The 200th attribute is still among those of the notifier that are looked at; a level more has all of them.
    assert hidden_behind(Many()) == hidden


def test_what_holds_itself_is_looked_at_once():
    one = Wrapper(None)
    one.inner = [one, one]

    assert hidden_behind(one) is None


def test_what_was_looked_at_before_hides_nothing_that_comes_after_it():
    one = Wrapper(None)
    one.inner = [one, one, CHANNEL]

    assert hidden_behind(one) == "Channel"


def test_what_is_there_two_hundred_times_is_looked_behind_once():
    class Service:
        pass

    one = Wrapper([Service()] * 200)
    one.others = [[CHANNEL]]

    assert hidden_behind(one) == "Channel"


def test_an_object_whose_attributes_raise_is_passed_over():
    class Odd:
        __slots__ = ("missing",)

    assert hidden_behind(Wrapper([Odd(), CHANNEL])) == "Channel"


def test_a_hidden_look_up_is_warned_of_with_both_names_and_what_to_do(caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_hidden_look_up(Wrapper(CHANNEL))
        warn_of_hidden_look_up(CHANNEL)

    [record] = caplog.records
    assert record.getMessage() == (
        "Wrapper has no look_up, and holds a Channel that has one: a message whose reply was lost cannot be looked up,"
        " and is sent twice. Pass look_up on (alook_up, too), or use videopoll.notifiers.TeeNotifier"
    )


@pytest.mark.parametrize(
    ("notifier", "why"),
    [
        (Channel, "it is a class: build one of it"),
        (None, "it has no method 'notify'"),
        (type("Odd", (), {"notify": "text"})(), "it has no method 'notify'"),
    ],
)
def test_what_is_no_notifier_is_refused_by_its_name(notifier, why):
    with pytest.raises(ConfigurationError) as refused:
        check_notifier(notifier, "the channel 'one'")

    assert str(refused.value) == f"the channel 'one' is no notifier: {why}"
    check_notifier(CHANNEL, "the channel 'one'")
