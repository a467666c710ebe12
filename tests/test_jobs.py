"""Jobs, outcomes and outbox entries: what is accepted, what hostile bytes come to, and that nothing changes on the way."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from videopoll.errors import InvalidJobError
from videopoll.jobs import (
    Asset,
    AssetKind,
    BucketObject,
    FailureReason,
    JobState,
    LockedLink,
    MessageForm,
    OutboxEntry,
    Outcome,
    OutcomeKind,
    PublicLink,
    VideoJob,
)
from videopoll.jobs.codec import Poison, dump
from videopoll.jobs.job import (
    EARLIEST_START_MS,
    FUTURE_START_MS,
    MAX_METADATA_BYTES,
    RECORD_FIELDS,
    TRANSITIONS,
    check_id,
    check_metadata,
    split_record,
)

NOW_MS = 1_757_157_518_747
JOB_ID = "job_1757157518747_grhexcfhk"
RECORD = {"jobId": JOB_ID, "conversationId": "68bb3c3585425ee98e9f4f12", "startTime": NOW_MS, "status": "polling"}

# What JSON can hold in Python and Redis alike. Surrogates are in: a hostile record has them escaped.
leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters())
)
values = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ids = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=512).filter(
    lambda text: text.isprintable() and text.strip(".")
)
metadata = st.dictionaries(st.text(max_size=10).filter(lambda name: name not in RECORD_FIELDS), values, max_size=4)
times = st.integers(EARLIEST_START_MS, NOW_MS)
jobs = st.builds(VideoJob, ids, st.text(min_size=1), times, metadata)
texts = st.none() | st.text()
places = st.one_of(
    st.builds(PublicLink, st.text(), st.none() | times),
    st.builds(LockedLink, st.text()),
    st.builds(BucketObject, st.text()),
)
assets = st.builds(Asset, places, st.sampled_from(AssetKind), st.none() | st.text(max_size=100))
outcomes = st.builds(
    Outcome,
    st.sampled_from(OutcomeKind),
    times,
    video_url=texts,
    file_id=texts,
    error=texts,
    timestamp=values,
    reason=st.sampled_from(FailureReason),
    assets=st.lists(assets, max_size=5).map(tuple),
    refreshable=st.booleans(),
)
numbers = st.integers(0, 2**53)
entries = st.builds(
    OutboxEntry,
    jobs,
    outcomes,
    st.sampled_from(MessageForm),
    numbers,
    tries=numbers,
    form_failures=numbers,
    sending_ms=st.none() | numbers,
    lookups=numbers,
    reasons=st.lists(st.text(), max_size=10).map(tuple),
    unquoted=st.booleans(),
)


def record(**changes) -> bytes:
    """Give a sound record with some fields changed; None takes a field out."""
    fields = {name: value for name, value in {**RECORD, **changes}.items() if value is not None}
    return json.dumps(fields).encode()


# --- ids ---


@pytest.mark.parametrize("value", [None, 7, b"job", ["job"]], ids=repr)
def test_an_id_that_is_no_string_is_refused(value):
    """Bytes would become a key with b'' in its name."""
    with pytest.raises(InvalidJobError, match="job_id must be a string"):
        check_id(value, "job_id")


@pytest.mark.parametrize("value", ["", "x" * 513])
def test_an_id_too_short_or_too_long_is_refused(value):
    """A megabyte as an id would be stored in six keys."""
    with pytest.raises(InvalidJobError, match=r"1 to 512 characters"):
        check_id(value, "job_id")


@pytest.mark.parametrize(
    "value",
    ["a b", "a\nb", "a\tb", "a\0b", "a\x7f", "\ud800", "a\udcffb", "a\u2028b", "a\u00a0b", "\u202eab"],
    ids=ascii,
)
def test_an_id_with_what_cannot_be_seen_is_refused(value):
    """It could forge log lines, and nobody could type it into redis-cli."""
    with pytest.raises(InvalidJobError, match="must not contain control characters"):
        check_id(value, "job_id")


@pytest.mark.parametrize("value", [".", "..", "..."])
def test_an_id_of_dots_is_refused(value):
    """GET /job/.. is the API's own root."""
    with pytest.raises(InvalidJobError, match="must not consist of dots"):
        check_id(value, "job_id")


@pytest.mark.parametrize("value", [JOB_ID, "a", "x" * 512, "a:b:c", "../x", "ñ", "*", "{a}", "🎥", "%2e%2e"])
def test_an_odd_id_that_harms_nothing_is_accepted(value):
    """Ids come from outside: keys and URLs must bear them, not the producer."""
    assert check_id(value, "job_id") == value


@given(st.text() | st.binary() | st.integers())
def test_any_id_is_accepted_or_refused_with_a_sentence(value):
    """A producer catches one kind of error."""
    try:
        checked, refusal = check_id(value, "job_id"), None
    except InvalidJobError as error:
        checked, refusal = value, str(error)
    assert checked == value
    assert refusal is None or refusal.startswith("job_id must")


# --- metadata ---


@pytest.mark.parametrize("name", RECORD_FIELDS)
def test_metadata_may_not_take_the_records_own_names(name):
    """A producer's "status" or "startTime" would break every worker on this Redis."""
    with pytest.raises(InvalidJobError, match=f"own fields: {name}"):
        check_metadata({name: "x"})


@pytest.mark.parametrize(
    "value",
    [{"a": float("nan")}, {"a": float("inf")}, {"a": b"x"}, {"a": {1, 2}}, {"a": object()}],
    ids=["nan", "infinity", "bytes", "set", "object"],
)
def test_metadata_that_is_no_json_is_refused(value):
    """It is refused where it comes from, not later in a worker."""
    with pytest.raises(InvalidJobError, match="metadata must be JSON"):
        check_metadata(value)


def test_metadata_that_contains_itself_is_refused():
    """A loop must not become a RecursionError in a web request."""
    loop: dict = {}
    loop["self"] = loop
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    for value in (loop, {"deep": deep}):
        with pytest.raises(InvalidJobError, match="metadata must be JSON"):
            check_metadata(value)


@pytest.mark.parametrize("value", [[], "text", 7, [("a", 1)]], ids=repr)
def test_metadata_that_is_no_mapping_is_refused(value):
    """Its parts stand at the top level of the record."""
    with pytest.raises(InvalidJobError, match="metadata must be a mapping"):
        check_metadata(value)


def test_metadata_with_a_name_that_is_no_string_is_refused():
    """JSON would turn 1 into "1", and the host would not find it again."""
    with pytest.raises(InvalidJobError, match="strings as names"):
        check_metadata({1: "x"})


def test_metadata_is_bounded():
    """It is read back on every poll."""
    fits = {"a": "x" * (MAX_METADATA_BYTES - len('{"a":""}'))}
    assert check_metadata(fits) == fits
    with pytest.raises(InvalidJobError, match="at most 16384 bytes as JSON, got 16385"):
        check_metadata({"a": fits["a"] + "x"})
    with pytest.raises(InvalidJobError, match="at most 16384 bytes"):
        check_metadata({"a": "ñ" * 3000})


def test_a_prompt_is_cut_to_a_hundred_characters_and_the_callers_mapping_stays():
    """The contract of the record; the host may go on using its own mapping."""
    given_by_host = {"prompt": "x" * 101}
    assert check_metadata(given_by_host) == {"prompt": "x" * 100}
    assert len(given_by_host["prompt"]) == 101
    assert check_metadata({"prompt": 7}) == {"prompt": 7}
    assert check_metadata(None) == {}


@given(ids, ids, metadata, times)
def test_an_enqueued_record_reads_back_as_the_job_it_was(job_id, conversation_id, extra, start_ms):
    """The script puts the time between the two halves; whatever the metadata are, the result is one JSON object."""
    checked = check_metadata(extra)
    head, tail = split_record(job_id, conversation_id, checked)
    text = f"{head}{start_ms}{tail}"
    assert text.isascii()
    read = VideoJob.from_record(job_id, text.encode(), NOW_MS)
    assert read == VideoJob(job_id, conversation_id, start_ms, checked)
    assert json.loads(text) == read.to_record()


# --- hostile bytes ---


@given(ids | st.text(), st.binary(), st.integers(0, 2**53))
@example("x", b"\x00{\x00}", 0)
def test_any_bytes_as_a_record_are_a_job_or_poison(job_id, raw, now_ms):
    """One exception here and the whole batch of a claim is lost."""
    assert isinstance(VideoJob.from_record(job_id, raw, now_ms), VideoJob | Poison)


@given(st.binary())
def test_any_bytes_as_a_completed_record_are_an_outcome_or_poison(raw):
    """Other kinds of workers write that key."""
    assert isinstance(Outcome.from_completed(raw), Outcome | Poison)


@given(ids, st.binary())
def test_any_bytes_as_an_outbox_entry_are_an_entry_or_poison(job_id, raw):
    """A damaged outbox must become a dead letter, not a crash loop."""
    assert isinstance(OutboxEntry.from_json(job_id, raw, NOW_MS), OutboxEntry | Poison)


@given(st.dictionaries(st.sampled_from([*RECORD_FIELDS, "prompt"]), values))
@example({**RECORD, "startTime": float(NOW_MS)})
@example({**RECORD, "startTime": True})
def test_any_fields_in_a_record_are_a_job_or_poison(fields):
    """Nearly right is the dangerous kind of wrong."""
    read = VideoJob.from_record(JOB_ID, json.dumps(fields).encode(), NOW_MS)
    if isinstance(read, VideoJob):
        assert isinstance(read.start_ms, int)
        assert isinstance(read.conversation_id, str)
        assert read.job_id == JOB_ID


NAMES = ("success", "outcome", "completedAt", "failedAt", "videoUrl", "fileId", "error", "timestamp")


@given(st.dictionaries(st.sampled_from(NAMES), values | st.sampled_from(OutcomeKind)))
def test_any_fields_in_a_completed_record_are_an_outcome_that_can_be_stored(fields):
    """What is read from another worker goes into our own outbox."""
    read = Outcome.from_completed(json.dumps(fields).encode())
    job = VideoJob(JOB_ID, "c", NOW_MS)
    entry = OutboxEntry(job, read, MessageForm.TEXT, NOW_MS)
    assert OutboxEntry.from_json(JOB_ID, entry.to_json().encode(), NOW_MS) == entry


@example({"success": True, "completedAt": 10**400})
@example({"success": False, "failedAt": -(10**400)})
@given(st.dictionaries(st.sampled_from(NAMES), st.integers()))
def test_an_integer_of_any_length_in_a_completed_record_is_no_error(fields):
    """`math.isfinite` raises at 309 digits, and the whole batch of a claim would be lost."""
    assert isinstance(Outcome.from_completed(json.dumps(fields).encode()), Outcome)


@given(entries, st.data())
def test_an_outbox_entry_with_any_part_replaced_is_an_entry_or_poison(entry, data):
    """Every field is checked, not only the outermost."""
    fields = json.loads(entry.to_json())
    target = data.draw(st.sampled_from([fields, fields["record"], fields["outcome"]]))
    name = data.draw(st.sampled_from(sorted(target)))
    if data.draw(st.booleans()):
        del target[name]
    else:
        target[name] = data.draw(values)
    read = OutboxEntry.from_json(entry.job.job_id, json.dumps(fields).encode(), NOW_MS)
    assert isinstance(read, OutboxEntry | Poison)
    if isinstance(read, OutboxEntry):
        assert isinstance(OutboxEntry.from_json(entry.job.job_id, read.to_json().encode(), NOW_MS), OutboxEntry)


def test_an_outbox_entry_with_a_number_of_hundreds_of_digits_is_poison():
    """It would be counted with when the message has been sent."""
    entry = OutboxEntry(VideoJob(JOB_ID, "c", NOW_MS), Outcome(OutcomeKind.FAILED, NOW_MS), MessageForm.TEXT, 7)
    written = entry.to_json().replace('"deadline":7', f'"deadline":{10**400}').encode()
    assert isinstance(OutboxEntry.from_json(JOB_ID, written, NOW_MS), Poison)


@pytest.mark.parametrize(
    "number", ["1e999", "-1e999", "NaN", "Infinity", "-Infinity", "1" * 5000], ids=lambda text: text[:9]
)
def test_a_number_that_is_none_makes_a_record_poison(number):
    """Python reads 1e999 as infinity, and cannot write it again: the job would fail when its outcome is stored."""
    sound = record(extra="HERE").decode()
    raw = sound.replace('"HERE"', number).encode()
    assert raw != sound.encode()
    assert VideoJob.from_record(JOB_ID, raw, NOW_MS) == Poison("record is not JSON")
    assert isinstance(Outcome.from_completed(b'{"success":true,"timestamp":%s}' % number.encode()), Poison)
    entry = OutboxEntry(VideoJob(JOB_ID, "c", NOW_MS), Outcome(OutcomeKind.FAILED, NOW_MS), MessageForm.TEXT, 7)
    written = entry.to_json().replace('"deadline":7', f'"deadline":{number}').encode()
    assert isinstance(OutboxEntry.from_json(JOB_ID, written, NOW_MS), Poison)


@pytest.mark.parametrize("depth", [1_000, 200_000])
def test_a_bottomless_record_is_poison(depth):
    """Two hundred kilobytes of brackets must not end a worker."""
    raw = b"[" * depth + b"]" * depth
    assert isinstance(VideoJob.from_record(JOB_ID, raw, NOW_MS), Poison)
    nested = b'{"a":' * depth + b"1" + b"}" * depth
    assert isinstance(VideoJob.from_record(JOB_ID, nested, NOW_MS), Poison)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "record is not JSON"),
        (b"\xff\xfe", "record is not JSON"),
        (b"{", "record is not JSON"),
        (b"[]", "record is not a JSON object"),
        (b"null", "record is not a JSON object"),
        (b'"polling"', "record is not a JSON object"),
        (record(jobId="other"), "record names no job id, or that of another job"),
        (record(jobId=None), "record names no job id, or that of another job"),
        (record(conversationId=None), "record has no conversationId"),
        (record(conversationId=""), "record has no conversationId"),
        (record(conversationId=7), "record has no conversationId"),
        (record(startTime=None), "record has no startTime in milliseconds"),
        (record(startTime=str(NOW_MS)), "record has no startTime in milliseconds"),
        (record(startTime=NOW_MS + 0.5), "record has no startTime in milliseconds"),
        (record(startTime=[NOW_MS]), "record has no startTime in milliseconds"),
        (record(startTime=True), "record has no startTime in milliseconds"),
        (record(startTime=NOW_MS // 1000), "startTime is not in milliseconds"),
        (record(startTime=0), "startTime is not in milliseconds"),
        (record(startTime=-NOW_MS), "startTime is not in milliseconds"),
        (record(startTime=NOW_MS + FUTURE_START_MS + 1), "startTime is in the future"),
        (record(startTime=NOW_MS * 1000), "startTime is in the future"),
        (record(startTime=1e300), "startTime is in the future"),
    ],
)
def test_a_record_that_is_no_job_says_why(raw, reason):
    """The dead letter's reason is all that the operator sees."""
    assert VideoJob.from_record(JOB_ID, raw, NOW_MS) == Poison(reason)


@pytest.mark.parametrize("ahead_ms", [0, 1, FUTURE_START_MS])
def test_a_start_a_little_ahead_of_redis_is_a_clock_that_differs(ahead_ms):
    """Existing producers write their own time."""
    read = VideoJob.from_record(JOB_ID, record(startTime=NOW_MS + ahead_ms), NOW_MS)
    assert read.start_ms == NOW_MS + ahead_ms


def test_a_start_that_is_a_whole_float_is_a_start():
    """JavaScript knows no integers."""
    assert VideoJob.from_record(JOB_ID, record(startTime=float(NOW_MS)), NOW_MS).start_ms == NOW_MS


# --- round trips ---


@given(jobs)
def test_a_job_survives_its_record(job):
    """Unknown fields are kept, whatever they are."""
    assert VideoJob.from_record(job.job_id, dump(job.to_record()).encode(), NOW_MS) == job


@given(entries)
def test_an_outbox_entry_survives_its_json(entry):
    """A crash in the middle of a delivery resumes with exactly this."""
    text = entry.to_json()
    assert text.isascii()
    assert OutboxEntry.from_json(entry.job.job_id, text.encode(), NOW_MS) == entry


@given(jobs, outcomes)
def test_an_outcome_survives_the_completed_record(job, outcome):
    """It is read back by a look-up, and by a redrive."""
    read = Outcome.from_completed(dump(outcome.to_completed(job)).encode())
    if outcome.success:
        # A locked link is for whoever delivers, and for nobody who reads how a job ended.
        told = tuple(one for one in outcome.assets if not isinstance(one.place, LockedLink))
        kept = attrs.evolve(outcome, error=None, assets=told)
    else:
        kept = attrs.evolve(outcome, video_url=None, assets=(), file_id=None, timestamp=None, refreshable=False)
    assert read == kept


@given(entries)
def test_the_fields_of_one_outbox_entry_do_not_fit_another_job(entry):
    """A key that was copied by hand must not send one user's video to another."""
    other = entry.job.job_id[:-1] + ("x" if entry.job.job_id[-1] != "x" else "y")
    assert isinstance(OutboxEntry.from_json(other, entry.to_json().encode(), NOW_MS), Poison)


def test_a_completed_record_of_another_deployment_is_understood():
    """Existing workers write these fields and no more."""
    done = {
        "success": True, "videoUrl": "https://v/1.mp4", "fileId": "f", "jobId": JOB_ID, "completedAt": NOW_MS,
        "processingTime": 65000, "timestamp": "2025-09-06T11:19:43Z",
    }  # fmt: skip
    read = Outcome.from_completed(json.dumps(done).encode())
    assert read == Outcome(
        OutcomeKind.COMPLETED, NOW_MS, video_url="https://v/1.mp4", file_id="f", timestamp="2025-09-06T11:19:43Z"
    )
    failed = {"success": False, "error": "nope", "jobId": JOB_ID, "failedAt": NOW_MS, "processingTime": 1}
    assert Outcome.from_completed(json.dumps(failed).encode()) == Outcome(OutcomeKind.FAILED, NOW_MS, error="nope")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"success": False, "outcome": "completed"}, OutcomeKind.FAILED),
        ({"success": False}, OutcomeKind.FAILED),
        ({"success": "true", "videoUrl": "https://v"}, OutcomeKind.FAILED),
        ({"success": True, "videoUrl": "https://v", "outcome": "failed"}, OutcomeKind.COMPLETED),
        ({"success": True, "videoUrl": "https://v", "outcome": "no such word"}, OutcomeKind.COMPLETED),
        ({"success": False, "outcome": "timed_out"}, OutcomeKind.TIMED_OUT),
    ],
)
def test_the_success_of_a_completed_record_rules_over_its_other_fields(fields, kind):
    """It is the one field that every deployment writes and reads; a failure must never become "your video is ready"."""
    assert Outcome.from_completed(json.dumps(fields).encode()).kind is kind


# --- references, secrets, states ---


def test_a_reference_is_stable_over_restarts_and_versions():
    """A message is looked up at the channel by it: a change between two releases would send every video twice."""
    job = VideoJob(JOB_ID, "68bb3c3585425ee98e9f4f12", NOW_MS, {"prompt": "x"})
    assert job.reference == "vp-ad27089f20acaf98d6aebfceab3e9290"
    assert attrs.evolve(job, metadata={}).reference == job.reference
    assert attrs.evolve(job, conversation_id="other").reference == job.reference


@given(jobs)
def test_a_reference_is_plain_and_of_one_length(job):
    """It goes into query strings of channels; an id of any characters must not break them."""
    assert len(job.reference) == 35
    assert job.reference[3:].isalnum()
    assert job.reference.isascii()
    assert job.reference == attrs.evolve(job).reference


@given(jobs, jobs)
def test_two_jobs_have_two_references(one, other):
    """Otherwise the message of one would be found for the other."""
    same = (one.job_id, one.start_ms) == (other.job_id, other.start_ms)
    assert (one.reference == other.reference) == same


def test_a_job_and_an_outcome_do_not_print_their_secrets():
    """Prompts, phone numbers and signed URLs stay out of logs and tracebacks."""
    job = VideoJob(JOB_ID, "c", NOW_MS, {"prompt": "a secret wish", "to": "5491100000001"})
    outcome = Outcome(OutcomeKind.COMPLETED, NOW_MS, video_url="https://v/1.mp4?signature=abc")
    shown = repr(OutboxEntry(job, outcome, MessageForm.VIDEO, 0))
    assert "secret" not in shown
    assert "5491100000001" not in shown
    assert "signature" not in shown


def test_reasons_are_bounded():
    """Forty failed sends must not grow the entry without end."""
    entry = OutboxEntry(VideoJob(JOB_ID, "c", NOW_MS), Outcome(OutcomeKind.FAILED, NOW_MS), MessageForm.TEXT, 0)
    for number in range(40):
        entry = entry.noting(f"{number} " + "x" * 1000)
    assert [reason.split()[0] for reason in entry.reasons] == [str(number) for number in range(30, 40)]
    assert max(map(len, entry.reasons)) == 300


def test_every_state_has_its_moves_and_only_a_settled_job_rests():
    """The docs draw this table."""
    assert set(TRANSITIONS) == set(JobState)
    assert [state for state, moves in TRANSITIONS.items() if not moves] == [JobState.SETTLED]


def test_the_ascii_space_is_the_only_printable_white_space():
    """The check of an id relies on it, on every version of Python."""
    assert [one for one in map(chr, range(0x110000)) if one.isprintable() and one.isspace()] == [" "]
