"""Deliveries to the letter: what is stored, until when, and in which words; without a queue."""

from __future__ import annotations

import attrs
import pytest

from videopoll._reasons import Reason, told
from videopoll.core.delivery import (
    Done,
    GetLink,
    GiveUp,
    Later,
    LookUp,
    Send,
    Watch,
    after_link,
    after_lookup,
    after_no_place,
    after_send,
    deliverable,
    next_delivery_action,
    open_outbox,
    resume_abandoned,
    resume_delivery,
)
from videopoll.jobs import (
    Asset,
    BucketObject,
    FailureReason,
    LockedLink,
    MessageForm,
    OutboxEntry,
    Outcome,
    OutcomeKind,
    PublicLink,
    VideoJob,
)
from videopoll.jobs.transition import Abandoned
from videopoll.jobs.video import AssetKind
from videopoll.messages import Accepted, Delivered, Failed, Found, LookupResult, NotSent, Refused, RepeatSafe, Unknown
from videopoll.observations import Fault, FaultKind, NotAsked, VideoFailed, VideoMissing, VideoReady, VideoWorking
from videopoll.policies import DeliveryPolicy, OnUnknown

T0 = 1_757_157_518_000
JOB = VideoJob("job_1", "conversation-1", T0)
POLICY = DeliveryPolicy(jitter=0)
SPREAD = DeliveryPolicy(jitter=0.5)
AT_MOST_ONCE = DeliveryPolicy(jitter=0, on_unknown=OnUnknown.AT_MOST_ONCE)
TEXT, VIDEO, UPLOAD = MessageForm.TEXT, MessageForm.VIDEO, MessageForm.UPLOAD
MADE = Outcome(OutcomeKind.COMPLETED, T0, video_url="https://v/1.mp4", file_id="f1", timestamp="2025")
NOTICE = Outcome(OutcomeKind.FAILED, T0, error="no")
LOCKED = Asset(LockedLink("https://api/1?sig=2"))
THUMBNAIL = Asset(PublicLink("https://v/1.png"), AssetKind.THUMBNAIL)
FAULT = Fault(FaultKind.SERVER, Reason("HTTP 503 busy", "HTTP 503"))
UNKNOWN_AFTER_ONE = "nobody can say whether the message went out, after 1 send: the user may have it already"


def at(seconds: float) -> int:
    return T0 + round(seconds * 1000)


def entry(outcome: Outcome = MADE, **changes) -> OutboxEntry:
    """Give a delivery that was not tried yet."""
    plain = OutboxEntry(JOB, outcome, VIDEO if outcome.success else TEXT, at(3600))
    return attrs.evolve(plain, **changes)


def sent(outcome: Outcome = MADE, **changes) -> OutboxEntry:
    """Give a delivery with its first send under way, since the job's start."""
    return entry(outcome, **{"tries": 1, "sending_ms": at(0), "begun_ms": at(0), **changes})


def repeated(**changes) -> OutboxEntry:
    """Give a delivery whose first send is of unknown fate, and a repeat of it under way."""
    return sent(**{"tries": 2, "sending_ms": at(9), "unknowns": 1, **changes})


# --- the beginning ---


def test_the_time_for_a_delivery_begins_with_its_outcome():
    policy = DeliveryPolicy(deadline_s=1.5)
    assert open_outbox(JOB, attrs.evolve(MADE, at_ms=at(60)), policy) == OutboxEntry(
        JOB, attrs.evolve(MADE, at_ms=at(60)), VIDEO, at(61.5)
    )


def test_what_may_be_delivered_stays_as_it_is():
    for one in (MADE, NOTICE, attrs.evolve(MADE, video_url=None, assets=(LOCKED,))):
        assert deliverable(one) is one


def test_a_link_with_odd_characters_is_handed_on_encoded_and_what_is_no_link_is_left_out():
    odd = Outcome(OutcomeKind.COMPLETED, T0, video_url="https://v/ü.mp4", file_id="f1", refreshable=True)
    bad = Asset(PublicLink("ftp://v/1.png"), AssetKind.THUMBNAIL)
    given = deliverable(attrs.evolve(odd, assets=(*odd.assets, bad, THUMBNAIL)))
    assert given == attrs.evolve(
        odd, video_url="https://v/%C3%BC.mp4", assets=(Asset(PublicLink("https://v/%C3%BC.mp4")), THUMBNAIL)
    )
    assert given.video_url == "https://v/%C3%BC.mp4"


def test_a_video_whose_link_must_not_be_sent_is_a_failure_and_the_operator_keeps_the_link():
    bad = Outcome(OutcomeKind.COMPLETED, T0, video_url="ftp://v/1.mp4", file_id="f1", timestamp="2025")
    failed = deliverable(bad)
    assert failed == Outcome(
        OutcomeKind.FAILED,
        T0,
        file_id="f1",
        error="the video was made, but its video URL cannot be delivered: it is not http or https",
        timestamp="2025",
        undeliverable_url="ftp://v/1.mp4",
    )


def test_a_video_counts_however_much_else_was_made():
    many = tuple(Asset(PublicLink(f"https://v/{number}.png"), AssetKind.THUMBNAIL) for number in range(30))
    behind = Outcome(OutcomeKind.COMPLETED, T0, assets=(*many, Asset(PublicLink("https://v/1.mp4"))))
    assert deliverable(behind).video_url == "https://v/1.mp4"


def test_a_video_without_any_link_is_a_failure():
    failed = deliverable(Outcome(OutcomeKind.COMPLETED, T0))
    assert failed == Outcome(OutcomeKind.FAILED, T0, error="the video API says completed, but gives no video URL")


# --- going on with what others left ---


def test_an_abandoned_job_counts_as_one_send_of_unknown_fate():
    assert resume_abandoned(Abandoned(JOB, MADE), at(9), POLICY) == entry(deadline_ms=at(3609), unknowns=1)
    two = attrs.evolve(POLICY, unknown_attempts=2)
    assert resume_abandoned(Abandoned(JOB, MADE), at(9), two) == entry(deadline_ms=at(3609), unknowns=1)


def test_an_abandoned_job_is_given_up_where_one_send_of_unknown_fate_is_enough():
    one = attrs.evolve(POLICY, unknown_attempts=1)
    ended = resume_abandoned(Abandoned(JOB, MADE), at(9), one)
    assert ended == GiveUp(entry(deadline_ms=at(3609), unknowns=1), UNKNOWN_AFTER_ONE)
    assert told(ended.reason) == UNKNOWN_AFTER_ONE
    ended = resume_abandoned(Abandoned(JOB, MADE), at(9), AT_MOST_ONCE)
    says = "another worker died around the send, and the policy is at most once"
    assert ended == GiveUp(entry(deadline_ms=at(3609)), says)
    assert told(ended.reason) == says


def test_a_stored_video_whose_link_must_not_be_sent_goes_on_as_a_text():
    bad = Outcome(OutcomeKind.COMPLETED, T0, video_url="ftp://v/1.mp4")
    resumed = resume_delivery(entry(bad, tries=3), at(9), taken_over=False)
    assert resumed == entry(deliverable(bad), form=TEXT, tries=3)
    upload = entry(form=UPLOAD)
    assert resume_delivery(upload, at(9), taken_over=False) == upload


def test_a_send_that_was_taken_over_is_remembered_as_a_death():
    resumed = resume_delivery(sent(), at(9), taken_over=True)
    assert resumed == sent(sending_ms=at(9), reasons=("a worker died around this send",))
    assert told(resumed.reasons[0]) == "a worker died around this send"
    assert resume_delivery(sent(), at(-9), taken_over=True).sending_ms == at(0), "no clock is turned back"


# --- the next action ---


def test_a_send_is_noted_with_its_beginning_and_forgets_the_look_ups_before():
    assert next_delivery_action(entry(lookups=3), at(9), POLICY) == Send(
        entry(tries=1, sending_ms=at(9), begun_ms=at(9))
    )


def test_a_delivery_that_has_used_up_its_sends_says_how_many_and_the_last_reason():
    spent = entry(tries=40, reasons=("first", Reason("busy 549", "busy")))
    ended = next_delivery_action(spent, at(9), POLICY)
    assert ended == GiveUp(spent, "40 sends failed: busy 549")
    assert told(ended.reason) == "40 sends failed: busy"
    assert told(next_delivery_action(entry(tries=41), at(9), POLICY).reason) == "41 sends failed"


def test_a_video_whose_link_has_ended_is_told_as_expired_in_our_own_words():
    ended = Asset(PublicLink("https://v/1.mp4", at(1)))
    old = Outcome(OutcomeKind.COMPLETED, T0, assets=(ended, THUMBNAIL))
    step = next_delivery_action(entry(old, lookups=3, form_failures=2), at(2), POLICY)
    says = "the link to the video had ended before it could be sent"
    outcome = Outcome(
        OutcomeKind.FAILED, T0, error=says, undeliverable_url="https://v/1.mp4", reason=FailureReason.EXPIRED
    )
    assert step == Send(entry(outcome, tries=1, sending_ms=at(2), begun_ms=at(2)))
    assert told(step.entry.outcome.error) == says


# --- getting a link ---

ENDED = Asset(PublicLink("https://v/1.mp4", at(0)))
OLD = Outcome(OutcomeKind.COMPLETED, T0, assets=(ENDED,), refreshable=True)
ENDED_TOO = Outcome(OutcomeKind.COMPLETED, T0, assets=(ENDED, LOCKED))


def told_without_video(step, error: str, reason: str, kept: str = "https://v/1.mp4", *, at_s: float = 9) -> None:
    """Check that a text goes out, and what the operator finds."""
    outcome = Outcome(OutcomeKind.FAILED, T0, error=error, undeliverable_url=kept, reason=FailureReason(reason))
    noted = step.entry
    assert step == Send(entry(outcome, tries=1, sending_ms=at(at_s), begun_ms=at(at_s), reasons=noted.reasons))


def test_a_link_that_was_just_given_is_sent_at_once():
    ready = VideoReady(assets=(Asset(PublicLink("https://v/2.mp4", lives_s=60)),))
    step = after_link(entry(OLD, lookups=5), ready, at(9), POLICY)
    outcome = Outcome(
        OutcomeKind.COMPLETED, T0, assets=(Asset(PublicLink("https://v/2.mp4", at(69))),), refreshable=True
    )
    assert step == Send(entry(outcome, tries=1, sending_ms=at(9), begun_ms=at(9)))


def test_a_fresh_link_to_what_is_locked_forgets_the_faults_before():
    """Publishing it has its tries for itself."""
    step = after_link(entry(OLD, lookups=5), VideoReady(assets=(LOCKED,)), at(9), POLICY)
    outcome = Outcome(OutcomeKind.COMPLETED, T0, assets=(LOCKED,), refreshable=True)
    assert step == GetLink(entry(outcome), LOCKED)


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        ((ENDED, LOCKED), ("https://v/2.mp4",), ["https://v/2.mp4", "https://api/1?sig=2"]),
        ((LOCKED, THUMBNAIL), ("https://v/2.mp4",), ["https://v/2.mp4", "https://api/1?sig=2", "https://v/1.png"]),
        ((ENDED, THUMBNAIL), ("https://v/2.mp4",), ["https://v/2.mp4"]),
    ],
)
def test_a_published_link_stands_before_what_it_was_made_of(before, given, after):
    old = Outcome(OutcomeKind.COMPLETED, T0, assets=before)
    step = after_link(entry(old), VideoReady(*given), at(9), POLICY)
    assert [one.place.url for one in step.entry.outcome.assets] == after


def test_what_is_locked_and_given_anew_takes_the_place_of_what_was_locked():
    fresh = Asset(LockedLink("https://api/2"))
    step = after_link(entry(ENDED_TOO), VideoReady("https://v/2.mp4", assets=(fresh,)), at(9), POLICY)
    assert [one.place.url for one in step.entry.outcome.assets] == ["https://v/2.mp4", "https://api/2"]


def test_an_old_link_is_sent_as_it_is_if_there_is_no_better_one():
    lives = Outcome(OutcomeKind.COMPLETED, T0, assets=(Asset(PublicLink("https://v/1.mp4", at(20))),), refreshable=True)
    step = after_link(entry(lives), NotAsked(5), at(9), POLICY)
    assert step == Send(entry(lives, tries=1, sending_ms=at(9), begun_ms=at(9)))


def test_where_the_api_was_not_asked_the_delivery_waits_as_it_is():
    assert after_link(entry(OLD, lookups=1), NotAsked(1.5), at(9), POLICY) == Later(entry(OLD, lookups=1), at(10.5))


@pytest.mark.parametrize(
    ("answer", "says", "ours"),
    [
        (FAULT, "HTTP 503 busy", "HTTP 503"),
        (VideoWorking(), *["the video API calls a video unfinished that it called finished before"] * 2),
        (VideoMissing(), *["the video API does not know the job any more"] * 2),
    ],
)
def test_what_gave_no_link_is_remembered_and_tried_again(answer, says, ours):
    step = after_link(entry(OLD), answer, at(9), POLICY)
    assert step == Later(entry(OLD, lookups=1, reasons=(says,)), at(11))
    assert told(step.entry.reasons[0]) == ours


@pytest.mark.parametrize(("fraction", "wait_s"), [(0.0, 2), (0.5, 4), (1.0, 6)])
def test_the_wait_for_a_link_doubles_and_is_spread(fraction, wait_s):
    assert after_link(entry(OLD, lookups=1), FAULT, at(9), SPREAD, fraction).due_ms == at(9 + wait_s)
    assert after_link(entry(OLD, lookups=1), FAULT, at(9), SPREAD).due_ms == at(13)


def test_a_hint_of_the_api_lengthens_the_wait_for_a_link_up_to_the_bound():
    brisk = DeliveryPolicy(jitter=0, backoff_base_s=0.5)
    assert after_link(entry(OLD), FAULT, at(9), brisk).due_ms == at(9.5)
    for hint_s, wait_s in ((0.25, 0.5), (90, 90), (3600, 600)):
        assert after_link(entry(OLD), attrs.evolve(FAULT, retry_after_s=hint_s), at(9), brisk).due_ms == at(9 + wait_s)


def test_a_video_that_the_api_says_has_failed_is_told_with_its_reason():
    step = after_link(entry(OLD), VideoFailed("a filter", reason=FailureReason.MODERATED), at(9), POLICY)
    told_without_video(step, "a filter", "moderated")
    told_without_video(after_link(entry(OLD), VideoFailed("why"), at(9), POLICY), "why", "expired")


def test_an_api_that_does_not_know_the_job_twice_is_believed_in_our_words():
    step = after_link(
        entry(Outcome(OutcomeKind.COMPLETED, T0, assets=(LOCKED,)), lookups=1), VideoMissing(), at(9), POLICY
    )
    told_without_video(step, "the video API does not know the job any more", "expired", "https://api/1")


@pytest.mark.parametrize(
    ("lookups", "now_s"), [(39, 9), (2, 3600), (2, 9999)], ids=["tries", "deadline", "long after the deadline"]
)
def test_after_the_last_try_to_get_a_link_the_user_is_told(lookups, now_s):
    step = after_link(entry(OLD, lookups=lookups), FAULT, at(now_s), POLICY)
    told_without_video(step, "there was no link to the video in time: HTTP 503 busy", "expired", at_s=now_s)
    assert told(step.entry.outcome.error) == "there was no link to the video in time: HTTP 503"


@pytest.mark.parametrize(("lookups", "now_s"), [(38, 9), (1, 3600), (2, 3599.999)])
def test_before_that_it_is_tried_again(lookups, now_s):
    assert isinstance(after_link(entry(OLD, lookups=lookups), FAULT, at(now_s), POLICY), Later)


@pytest.mark.parametrize(
    ("place", "kept"),
    [
        (LockedLink("https://api/1?sig=2?x"), "https://api/1"),
        (LockedLink("https://api/1"), "https://api/1"),
        (BucketObject("s3://b/1?x"), "s3://b/1?x"),
    ],
)
def test_where_a_locked_video_was_is_kept_without_what_may_be_a_signature(place, kept):
    step = after_link(
        entry(Outcome(OutcomeKind.COMPLETED, T0, assets=(Asset(place),))), VideoFailed("no"), at(9), POLICY
    )
    told_without_video(step, "no", "unknown", kept)


# --- after a send ---


@pytest.mark.parametrize("receipt", [Delivered("1"), Accepted("1")])
def test_a_send_that_went_out_is_under_way_no_longer(receipt):
    kind = Watch if isinstance(receipt, Accepted) else Done
    assert after_send(sent(), receipt, at(1), POLICY) == kind(entry(tries=1), receipt)


def test_a_send_that_failed_is_remembered_and_counted():
    step = after_send(sent(unknowns=1), NotSent("busy"), at(1), POLICY)
    assert step == Later(entry(tries=1, form_failures=1, unknowns=1, reasons=("busy",)), at(3))


def test_a_send_that_was_held_back_is_remembered_and_not_counted():
    step = after_send(sent(tries=3), NotSent("offline", counts=False), at(1), POLICY)
    assert step == Later(entry(tries=2, reasons=("offline",)), at(5))


def test_a_repeat_that_was_not_sent_is_remembered_and_leaves_the_mark():
    step = after_send(repeated(), NotSent("busy"), at(10), POLICY)
    assert step == Later(repeated(unknowns=0, reasons=("busy",)), at(14))
    late = after_send(repeated(deadline_ms=at(5)), NotSent("busy"), at(10), POLICY)
    assert late.due_ms == at(14), "no deadline ends what is of unknown fate"


@pytest.mark.parametrize(("fraction", "wait_s", "hinted_s"), [(0.0, 2, 60), (0.5, 4, 75), (1.0, 6, 90)])
def test_a_wait_is_spread_and_never_shorter_than_the_hint(fraction, wait_s, hinted_s):
    some = sent(tries=2)
    assert after_send(some, NotSent("busy"), at(1), SPREAD, fraction).due_ms == at(1 + wait_s)
    assert after_send(some, NotSent("busy", 60), at(1), SPREAD, fraction).due_ms == at(1 + hinted_s)
    assert after_send(some, NotSent("busy"), at(1), SPREAD).due_ms == at(5)


@pytest.mark.parametrize(("hint_s", "wait_s"), [(0, 2), (0.5, 2), (2.5, 2.5)])
def test_a_hint_does_not_shorten_a_wait(hint_s, wait_s):
    assert after_send(sent(), NotSent("busy", hint_s), at(1), POLICY).due_ms == at(1 + wait_s)


def test_at_the_deadline_a_delivery_that_failed_is_given_up_with_its_last_reason():
    ended = after_send(sent(), NotSent(Reason("busy 549", "busy")), at(3600), POLICY)
    assert ended == GiveUp(
        entry(tries=1, form_failures=1, reasons=("busy 549",)), "not delivered within 3600 s: busy 549"
    )
    assert told(ended.reason) == "not delivered within 3600 s: busy"
    assert isinstance(after_send(sent(), NotSent("busy"), at(3599.999), POLICY), Later)


def test_what_was_held_back_has_ten_minutes_more():
    held = NotSent("held", counts=False)
    assert isinstance(after_send(sent(), held, at(4199.999), POLICY), Later)
    assert isinstance(after_send(sent(), held, at(4200), POLICY), GiveUp)
    assert after_send(sent(), held, at(4199), POLICY).due_ms == at(4200)


def test_a_repeat_that_has_used_up_the_sends_is_of_unknown_fate():
    ended = after_send(repeated(tries=40), NotSent("busy"), at(10), POLICY)
    assert ended == GiveUp(repeated(tries=40, reasons=("busy",)), f"{UNKNOWN_AFTER_ONE}; the last reason: busy")


def test_a_video_that_failed_five_times_goes_as_a_text_after_its_hint_or_at_once():
    some = sent(tries=5, form_failures=4)
    at_once = after_send(some, NotSent("busy"), at(1), POLICY)
    assert at_once == Send(entry(form=TEXT, tries=6, sending_ms=at(1), begun_ms=at(1), reasons=("busy",)))
    hinted = after_send(some, NotSent("busy", 90), at(1), POLICY)
    assert hinted == Later(entry(form=TEXT, tries=5, reasons=("busy",)), at(91))
    four = after_send(sent(tries=4, form_failures=3), NotSent("busy"), at(1), POLICY)
    assert (four.entry.form, four.entry.form_failures) == (VIDEO, 4)


def test_the_text_after_a_video_has_the_longest_hint_to_wait_even_at_the_deadline():
    step = after_send(sent(tries=5, form_failures=4), NotSent("busy", 9999), at(3599), POLICY)
    assert step.due_ms == at(4199)
    spread = after_send(sent(tries=5, form_failures=4), NotSent("busy", 9999), at(3599), SPREAD, 1.0)
    assert spread.due_ms == at(4199)


def test_a_refusal_is_remembered_and_names_the_form_that_it_refused():
    step = after_send(sent(form_failures=2), Refused("too large"), at(1), POLICY)
    assert step == Send(
        entry(
            form=TEXT,
            tries=2,
            sending_ms=at(1),
            begun_ms=at(1),
            reasons=("too large",),
            refused_forms=frozenset({VIDEO}),
        )
    )


def test_a_refusal_of_the_quote_is_remembered_and_refuses_no_form():
    step = after_send(sent(), Refused("no such message", try_unquoted=True), at(1), POLICY)
    assert step == Send(entry(tries=2, sending_ms=at(1), begun_ms=at(1), reasons=("no such message",), unquoted=True))
    text = after_send(sent(unquoted=True), Refused("no", try_unquoted=True), at(1), POLICY)
    assert (text.entry.form, text.entry.refused_forms) == (TEXT, {VIDEO})


def test_a_refusal_for_good_is_given_up_without_a_send_under_way():
    ended = after_send(sent(), Refused(Reason("blocked 549", "blocked"), try_text=False), at(1), POLICY)
    assert ended == GiveUp(
        entry(tries=1, reasons=("blocked 549",), refused_forms=frozenset({VIDEO})),
        "refused by the channel: blocked 549",
    )
    assert told(ended.reason) == "refused by the channel: blocked"


def test_a_send_of_unknown_fate_is_remembered_and_looked_for_after_the_first_wait():
    step = after_send(sent(), Unknown("lost"), at(1), attrs.evolve(POLICY, backoff_base_s=1.5))
    assert step == Later(sent(sending_ms=at(1), reasons=("lost",)), at(2.5))


# --- waiting for a place ---


def test_a_send_that_found_no_place_leaves_nothing_under_way():
    assert after_no_place(sent(), 1.5, at(1)) == Later(entry(), at(2.5))


def test_a_send_that_had_to_wait_for_its_place_is_no_repeat():
    """That it failed is known: no channel has to be asked for it, and at most once does not end it."""
    waited = after_no_place(sent(), 1.5, at(1))
    begun = next_delivery_action(waited.entry, waited.due_ms, AT_MOST_ONCE)
    assert begun == Send(sent(sending_ms=at(2.5), begun_ms=at(2.5)))
    failed = after_send(begun.entry, NotSent("busy"), at(3), AT_MOST_ONCE)
    assert failed == Later(entry(tries=1, form_failures=1, reasons=("busy",)), at(5))
    assert isinstance(next_delivery_action(failed.entry, failed.due_ms, AT_MOST_ONCE), Send)


def test_a_repeat_that_found_no_place_leaves_the_first_as_unknown_as_before():
    """Past the time for repeats, at most once means that nothing goes out any more."""
    waited = after_no_place(repeated(), 60, at(10))
    assert waited == Later(repeated(tries=1, unknowns=0), at(70))
    assert next_delivery_action(waited.entry, at(70), AT_MOST_ONCE) == LookUp(waited.entry)
    again = after_lookup(waited.entry, RepeatSafe(71), at(70), AT_MOST_ONCE)
    assert again == Send(repeated(sending_ms=at(70)))
    assert isinstance(after_lookup(waited.entry, RepeatSafe(70), at(70), AT_MOST_ONCE), GiveUp)


# --- after a look-up ---


@pytest.mark.parametrize("accepted", [True, False])
def test_a_message_that_was_found_is_under_way_no_longer(accepted):
    step = after_lookup(sent(lookups=2), Found("7", TEXT, accepted=accepted), at(9), POLICY)
    receipt = Accepted("7", "found at the channel") if accepted else Delivered("7", "found at the channel")
    assert step == (Watch if accepted else Done)(entry(tries=1, lookups=2), receipt)
    assert (step.receipt.form, told(step.receipt.detail)) == (TEXT, "found at the channel")


def test_a_message_that_was_found_without_more_is_done():
    assert after_lookup(sent(), LookupResult.FOUND, at(9), POLICY) == Done(
        entry(tries=1), Delivered(None, "found at the channel")
    )


def test_a_message_that_the_channel_could_not_send_goes_as_a_text_without_its_quote():
    step = after_lookup(sent(), LookupResult.FAILED, at(9), POLICY)
    says = "the channel took the message and could not send it"
    noted = entry(tries=2, sending_ms=at(9), begun_ms=at(9), reasons=(says,), refused_forms=frozenset({VIDEO}))
    assert step == Send(attrs.evolve(noted, form=TEXT, unquoted=True))
    assert told(step.entry.reasons[0]) == says


def test_a_failure_that_says_more_goes_on_as_it_says():
    step = after_lookup(sent(), Failed("codec", then=UPLOAD, try_text=False), at(9), POLICY)
    noted = entry(tries=2, sending_ms=at(9), begun_ms=at(9), reasons=("codec",), refused_forms=frozenset({VIDEO}))
    assert step == Send(attrs.evolve(noted, form=UPLOAD))
    ended = after_lookup(sent(), Failed("codec", try_text=False), at(9), POLICY)
    assert ended.reason == "refused by the channel: codec"
    assert ended.entry.sending_ms is None


@pytest.mark.parametrize(("fraction", "wait_s"), [(0.0, 4), (0.5, 8), (1.0, 12)])
def test_a_channel_that_does_not_answer_is_asked_again_later(fraction, wait_s):
    step = after_lookup(sent(lookups=2), LookupResult.NO_ANSWER, at(9), SPREAD, fraction)
    assert step == Later(sent(lookups=3), at(9 + wait_s))
    assert after_lookup(sent(lookups=2), LookupResult.NO_ANSWER, at(9), SPREAD).due_ms == at(17)


def test_a_channel_that_does_not_answer_until_the_deadline_is_believed_to_say_nothing():
    ended = after_lookup(sent(), LookupResult.NO_ANSWER, at(3600), POLICY)
    says = "nobody can say whether the message went out: the channel does not answer"
    assert ended == GiveUp(sent(), says)
    assert told(ended.reason) == says
    assert isinstance(after_lookup(sent(), LookupResult.NO_ANSWER, at(3599.999), POLICY), Later)


def test_where_nobody_can_be_asked_at_most_once_says_so_and_keeps_the_mark():
    ended = after_lookup(sent(), LookupResult.CANNOT_TELL, at(9), AT_MOST_ONCE)
    says = "nobody can say whether the message went out, and the policy is at most once"
    assert ended == GiveUp(sent(), says)
    assert told(ended.reason) == says
    redriven = after_lookup(sent(tries=0), LookupResult.CANNOT_TELL, at(9), AT_MOST_ONCE)
    assert isinstance(redriven, Send)


def test_where_nobody_can_be_asked_the_deadline_ends_what_is_of_unknown_fate():
    ended = after_lookup(sent(), LookupResult.CANNOT_TELL, at(3600), POLICY)
    assert ended == GiveUp(sent(unknowns=1), UNKNOWN_AFTER_ONE)
    assert told(ended.reason) == UNKNOWN_AFTER_ONE
    more = after_lookup(sent(unknowns=1, reasons=("a", "lost")), LookupResult.CANNOT_TELL, at(3600), POLICY)
    assert more.reason == (
        "nobody can say whether the message went out, after 2 sends: the user may have it already; the last reason: lost"
    )
    assert more.entry.unknowns == 2
    assert isinstance(after_lookup(sent(), LookupResult.CANNOT_TELL, at(3599.999), POLICY), Send)


def test_where_nobody_can_be_asked_it_is_sent_again_after_the_wait_of_a_failed_send():
    step = after_lookup(sent(), LookupResult.CANNOT_TELL, at(1.5), POLICY)
    assert step == Later(sent(lookups=1), at(2))
    step = after_lookup(sent(), LookupResult.CANNOT_TELL, at(2), POLICY)
    assert step == Send(entry(tries=2, sending_ms=at(2), begun_ms=at(2), form_failures=1, unknowns=1))
    brisk = DeliveryPolicy(jitter=0, backoff_base_s=0.5)
    assert isinstance(after_lookup(sent(), LookupResult.CANNOT_TELL, at(0.5), brisk), Send)


@pytest.mark.parametrize(("tries", "wait_s"), [(0, 2), (1, 2), (2, 4), (3, 8), (4, 16)])
def test_each_send_of_unknown_fate_has_a_longer_time_to_show_up(tries, wait_s):
    some = sent(tries=tries)
    assert isinstance(after_lookup(some, LookupResult.CANNOT_TELL, at(wait_s - 0.001), POLICY), Later)
    assert isinstance(after_lookup(some, LookupResult.CANNOT_TELL, at(wait_s), POLICY), Send)


def test_an_absent_message_is_asked_for_again_and_less_and_less_often():
    patient = DeliveryPolicy(jitter=0, appear_within_s=100)
    assert after_lookup(sent(), LookupResult.ABSENT, at(1), patient) == Later(sent(lookups=1), at(3))
    assert after_lookup(sent(lookups=2), LookupResult.ABSENT, at(1), patient) == Later(sent(lookups=3), at(9))
    assert after_lookup(sent(lookups=5), LookupResult.ABSENT, at(99), patient).due_ms == at(100)
    assert after_lookup(sent(lookups=5), LookupResult.ABSENT, at(99), patient, took_ms=500).due_ms == at(100.5)


@pytest.mark.parametrize(("shows", "limit"), [(False, 3), (True, 12)])
def test_an_absent_message_is_believed_absent_more_often_where_the_channel_shows_messages(shows, limit):
    some = sent(unknowns=limit - 2, form=TEXT)
    assert isinstance(after_lookup(some, LookupResult.ABSENT, at(99), POLICY, shows=shows), Send)
    some = sent(unknowns=limit - 1, form=TEXT)
    ended = after_lookup(some, LookupResult.ABSENT, at(99), POLICY, shows=shows)
    assert ended == GiveUp(
        sent(unknowns=limit, form=TEXT),
        f"nobody can say whether the message went out, after {limit} sends: the user may have it already",
    )


def test_a_redriven_send_is_not_counted_twice():
    step = after_lookup(sent(tries=0, unknowns=2), LookupResult.ABSENT, at(99), POLICY)
    assert (step.entry.unknowns, step.entry.tries) == (2, 1)
    step = after_lookup(sent(tries=0, unknowns=2), RepeatSafe(60), at(9), POLICY)
    assert (step.entry.unknowns, step.entry.tries) == (2, 1)


def test_the_last_send_of_unknown_fate_is_a_text():
    last = after_lookup(sent(unknowns=1, lookups=4), LookupResult.ABSENT, at(99), POLICY)
    assert last == Send(entry(form=TEXT, tries=2, sending_ms=at(99), begun_ms=at(99), unknowns=2))
    before = after_lookup(sent(lookups=4), LookupResult.ABSENT, at(99), POLICY)
    assert before == Send(entry(tries=2, sending_ms=at(99), begun_ms=at(99), unknowns=1, form_failures=1))
    refused = after_lookup(sent(unknowns=1, refused_forms=frozenset({TEXT})), LookupResult.ABSENT, at(99), POLICY)
    assert refused.entry.form is VIDEO


def test_a_video_of_unknown_fate_goes_as_a_text_after_five():
    many = DeliveryPolicy(jitter=0, unknown_attempts=20)
    step = after_lookup(sent(form_failures=4), LookupResult.ABSENT, at(99), many)
    assert (step.entry.form, step.entry.form_failures) == (TEXT, 0)
    step = after_lookup(sent(form_failures=3), LookupResult.ABSENT, at(99), many)
    assert (step.entry.form, step.entry.form_failures) == (VIDEO, 4)


def test_a_repeat_is_of_the_same_message_and_keeps_the_time_of_the_first():
    step = after_lookup(sent(lookups=3), RepeatSafe(60), at(9), POLICY)
    assert step == Send(repeated())
    unnoted = after_lookup(sent(begun_ms=None), RepeatSafe(60), at(9), POLICY)
    assert unnoted == Send(repeated()), "an earlier version did not note the beginning"
    assert isinstance(after_lookup(sent(begun_ms=None), RepeatSafe(9), at(9), AT_MOST_ONCE), GiveUp)
    assert isinstance(after_lookup(sent(begun_ms=None), RepeatSafe(9.001), at(9), AT_MOST_ONCE), Send)


def test_repeats_end_with_the_sends_and_with_the_budget_of_unknown_fates():
    ended = after_lookup(sent(tries=40), RepeatSafe(60), at(9), POLICY)
    assert ended == GiveUp(sent(tries=40, unknowns=1), UNKNOWN_AFTER_ONE)
    assert isinstance(after_lookup(sent(tries=39), RepeatSafe(60), at(9), POLICY), Send)
    assert isinstance(after_lookup(sent(unknowns=1), RepeatSafe(60), at(9), POLICY), Send)
    assert after_lookup(sent(unknowns=2), RepeatSafe(60), at(9), POLICY).entry == sent(unknowns=3)


def test_a_repeat_whose_time_is_over_follows_the_hosts_choice():
    assert isinstance(after_lookup(sent(), RepeatSafe(60), at(60), AT_MOST_ONCE), GiveUp)
    assert isinstance(after_lookup(sent(), RepeatSafe(60), at(60), POLICY), Send)
    assert isinstance(after_lookup(sent(), RepeatSafe(60), at(59.999), AT_MOST_ONCE), Send)


# --- the last send of all ---


def test_before_the_last_send_a_video_that_failed_becomes_a_text_and_one_that_never_failed_does_not():
    few = DeliveryPolicy(jitter=0, max_attempts=3)
    failed = after_send(sent(tries=2), NotSent("busy"), at(1), few)
    assert (failed.entry.form, type(failed)) == (TEXT, Send)
    earlier = after_send(sent(tries=1), NotSent("busy"), at(1), few)
    assert (earlier.entry.form, type(earlier)) == (VIDEO, Later)
    blameless = after_send(sent(tries=2), NotSent("no database", channel_fault=False), at(1), few)
    assert (blameless.entry.form, type(blameless)) == (VIDEO, Later)


def test_before_the_last_send_a_text_goes_before_the_form_that_the_channel_names():
    few = DeliveryPolicy(jitter=0, max_attempts=3)
    assert after_send(sent(tries=2), Refused("no", then=UPLOAD), at(1), few).entry.form is TEXT
    assert after_send(sent(tries=1), Refused("no", then=UPLOAD), at(1), few).entry.form is UPLOAD
    no_text = frozenset({TEXT, UPLOAD})
    ended = after_send(sent(tries=2, refused_forms=no_text), Refused("no", then=UPLOAD), at(1), few)
    assert ended == GiveUp(
        entry(tries=2, reasons=("no",), refused_forms=frozenset({TEXT, UPLOAD, VIDEO})), "refused by the channel: no"
    )
