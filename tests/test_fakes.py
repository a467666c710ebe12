"""The fakes of `videopoll.testing` behave, and misbehave, as they say."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import httpx
import pytest

from videopoll.errors import ConfigurationError
from videopoll.testing import (
    FakeUltraMsg,
    FakeVideoApi,
    FakeWhatsAppFactory,
    Reply,
    async_wait_until,
    embedded,
    unused_port,
    wait_until,
)

KEY = {"X-API-Key": "secret"}
USER = "5491155550000"


@pytest.fixture
def client():
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        yield client


@pytest.fixture
def api():
    with FakeVideoApi(api_key="secret") as api:
        yield api


@pytest.fixture
def ultramsg():
    with FakeUltraMsg(token="t", instance_id="instance1") as messenger:
        yield messenger


def send_video(client, messenger, **fields):
    body = {"token": "t", "to": USER, "video": "https://files.example/v.mp4", "caption": "done", **fields}
    return client.post(f"{messenger.url}/instance1/messages/video", json=body)


class TestFakeVideoApi:
    def test_a_job_that_was_not_announced_works_once_and_completes(self, client, api):
        words = [client.get(f"{api.url}/job/job_1", headers=KEY).json()["status"] for _ in range(3)]

        assert words == ["processing", "completed", "completed"]
        assert len(api.polls("job_1")) == 3
        assert api.polls("job_1") == sorted(api.polls("job_1"))

    def test_a_completed_job_has_the_fields_of_the_contract(self, client, api):
        api.job("job_1", Reply.completed())

        body = client.get(f"{api.url}/job/job_1", headers=KEY).json()

        assert body["jobId"] == "job_1"
        assert body["videoUrl"] == api.video_url("job_1")
        assert {"fileId", "timestamp", "completedAt"} <= body.keys()

    def test_replies_come_in_order_and_the_last_one_stays(self, client, api):
        api.job("job_1", Reply.processing("queued"), Reply.fault(503, retry_after=7), Reply.vanished())

        replies = [client.get(f"{api.url}/job/job_1", headers=KEY) for _ in range(4)]

        assert [reply.status_code for reply in replies] == [200, 503, 404, 404]
        assert replies[1].headers["Retry-After"] == "7"

    def test_replies_may_come_before_an_ordinary_life(self, client, api):
        api.job("job_1", Reply.fault(500), end=Reply.failed("no"), ready_after_polls=1)

        replies = [client.get(f"{api.url}/job/job_1", headers=KEY).json() for _ in range(3)]

        assert [reply.get("status") for reply in replies] == [None, "processing", "failed"]
        assert replies[2]["error"] == "no"

    def test_a_job_may_be_ready_by_the_clock(self, client):
        with FakeVideoApi(ready_after_s=0.05) as api:

            def status():
                return client.get(f"{api.url}/job/job_1").json()["status"]

            assert status() == "processing"
            wait_until(lambda: status() == "completed")

            polls = api.polls("job_1")
            assert polls[-1] - polls[0] >= 0.05

    def test_raw_json_is_sent_as_it_is(self, client, api):
        api.job("job_1", Reply.json({"status": "completed"}))

        assert client.get(f"{api.url}/job/job_1", headers=KEY).json() == {"status": "completed"}

    def test_the_key_is_checked_everywhere_but_at_the_health_check(self, client, api):
        assert client.get(f"{api.url}/job/job_1").status_code == 401
        assert client.get(f"{api.url}/job/job_1", headers={"X-API-Key": "wrong"}).status_code == 401
        assert client.get(f"{api.url}/job/job_1", headers={"Authorization": "Bearer secret"}).status_code == 200
        assert client.get(f"{api.url}/health").json() == {"status": "ok"}

    def test_a_strict_one_does_not_know_strangers(self, client):
        with FakeVideoApi(strict=True) as api:
            assert client.get(f"{api.url}/job/job_1").status_code == 404

    def test_an_encoded_id_is_one_id(self, client, api):
        client.get(f"{api.url}/job/a%2Fb%3Fc", headers=KEY)

        assert len(api.polls("a/b?c")) == 1

    def test_generating_starts_a_job(self, client, api):
        body = {"prompt": "a cat", "mode": "async", "version": 2, "aspectRatio": "9:16"}
        reply = client.post(f"{api.url}/generate-video", headers=KEY, json=body).json()

        assert reply["status"] == "processing"
        assert reply["statusUrl"] == f"/job/{reply['jobId']}"
        assert api.generated == [reply["jobId"]]

    def test_generating_in_sync_mode_gives_the_video(self, client, api):
        reply = client.post(f"{api.url}/generate-video", headers=KEY, json={"prompt": "a cat", "mode": "sync"}).json()

        assert reply["status"] == "completed"
        assert reply["videoUrl"].startswith("http")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"prompt": ""},
            {"prompt": "x" * 1256},
            {"negativePrompt": "x" * 501},
            {"version": 4},
            {"version": 3, "aspectRatio": "9:16"},
            {"mode": "later"},
        ],
    )
    def test_a_bad_request_starts_nothing(self, client, api, wrong):
        reply = client.post(f"{api.url}/generate-video", headers=KEY, json={"prompt": "a cat", **wrong})

        assert reply.status_code == 400
        assert api.generated == []

    def test_a_lost_answer_may_have_started_a_generation(self, client, api):
        api.fail_next(Reply.dropped(accept=True), path="/generate-video")
        with pytest.raises(httpx.RemoteProtocolError):
            client.post(f"{api.url}/generate-video", headers=KEY, json={"prompt": "a cat", "mode": "async"})

        assert len(api.generated) == 1


class TestTrouble:
    def test_every_nth_request_fails_until_it_is_healed(self, client, api):
        api.fail_every(3, Reply.fault(500), path="/job/")
        statuses = [client.get(f"{api.url}/job/job_1", headers=KEY).status_code for _ in range(6)]
        assert statuses == [200, 200, 500, 200, 200, 500]

        api.heal()
        assert client.get(f"{api.url}/job/job_1", headers=KEY).status_code == 200

    def test_trouble_can_be_for_some_requests_only(self, client, api):
        api.fail_every(1, Reply.fault(500), when=lambda request: request.path.endswith("_1"))

        assert client.get(f"{api.url}/job/job_1", headers=KEY).status_code == 500
        assert client.get(f"{api.url}/job/job_2", headers=KEY).status_code == 200

    def test_zero_is_no_number(self, api):
        with pytest.raises(ConfigurationError, match="at least 1"):
            api.fail_every(0, Reply.fault(500))

    def test_hanging_dropping_redirects_and_garbage(self, client, api):
        api.fail_next(
            Reply.hang(), Reply.dropped(), Reply.redirect("https://elsewhere.example/"), Reply.garbage(b"{nonsense")
        )
        url = f"{api.url}/job/job_1"

        with pytest.raises(httpx.ReadTimeout):
            client.get(url, headers=KEY, timeout=0.1)
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(url, headers=KEY)
        reply = client.get(url, headers=KEY)
        assert (reply.status_code, reply.headers["Location"]) == (302, "https://elsewhere.example/")
        assert client.get(url, headers=KEY).content == b"{nonsense"
        assert len(api.requests) == 4
        assert api.polls("job_1") == []

    def test_an_answer_may_tell_a_wrong_length(self, client, api):
        api.reply_with(Reply(status=200, body=b"short", headers={"Content-Length": "6"}))

        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{api.url}/job/job_1", headers=KEY)

    def test_a_dripping_answer_outlives_a_read_timeout(self, client, api):
        api.fail_next(Reply.drip(0.3))
        began = time.monotonic()
        reply = client.get(f"{api.url}/job/job_1", headers=KEY, timeout=0.2)

        assert reply.json()["status"] == "processing"
        assert time.monotonic() - began >= 0.25

    def test_a_slow_answer_is_the_normal_one(self, client, api):
        api.fail_next(Reply.slow(0.1))
        reply = client.get(f"{api.url}/job/job_1", headers=KEY)

        assert reply.json()["status"] == "processing"
        assert reply.elapsed.total_seconds() >= 0.1

    def test_a_stopped_fake_refuses_and_a_started_one_remembers(self, client, api):
        url = f"{api.url}/job/job_1"
        client.get(url, headers=KEY)
        api.stop()
        with pytest.raises((httpx.ConnectError, httpx.RemoteProtocolError)):
            client.get(url, headers=KEY)
        with pytest.raises(httpx.ConnectError):
            client.get(url, headers=KEY)
        api.start()

        assert client.get(url, headers=KEY).json()["status"] == "completed"

    def test_stopping_ends_a_hanging_answer_and_leaves_no_thread(self, client):
        threads = set(threading.enumerate())
        with FakeVideoApi() as api:
            api.fail_every(1, Reply.hang())
            with socket.create_connection(("127.0.0.1", int(api.url.rpartition(":")[2]))) as connection:
                connection.sendall(b"GET /job/job_1 HTTP/1.1\r\nHost: x\r\n\r\n")
                wait_until(lambda: api.requests, describe="the request is there")
                api.stop()
                assert connection.recv(100) == b""

        wait_until(lambda: set(threading.enumerate()) <= threads, describe="all threads of the fake have ended")

    def test_hundreds_of_connections_at_once(self, api):
        async def poll_all():
            limits = httpx.Limits(max_connections=None)
            async with httpx.AsyncClient(limits=limits, headers=KEY, timeout=20.0, trust_env=False) as client:
                return await asyncio.gather(*(client.get(f"{api.url}/job/job_{number}") for number in range(200)))

        assert [reply.status_code for reply in asyncio.run(poll_all())] == [200] * 200


class TestFakeUltraMsg:
    def test_it_takes_videos_and_texts_as_json_and_as_forms(self, client, ultramsg):
        sent = send_video(client, ultramsg, referenceId="r1", priority=5, msgId="m1").json()
        form = {"token": "t", "to": f"+{USER}", "body": "hello"}
        client.post(f"{ultramsg.url}/instance1/messages/chat", data=form)

        video, text = ultramsg.inbox(f"{USER}@c.us")
        assert sent == {"sent": "true", "message": "ok", "id": int(video.id)}
        assert (video.kind, video.text, video.video) == ("video", "done", "https://files.example/v.mp4")
        assert (video.reference_id, video.reply_to, video.priority) == ("r1", "m1", 5)
        assert (text.kind, text.text, text.video, text.reference_id) == ("text", "hello", None, "")

    @pytest.mark.parametrize(
        ("fields", "error"),
        [
            ({"to": ""}, [{"to": "is required"}]),
            ({"video": "javascript:alert(1)"}, [{"video": "must be a valid http link"}]),
            ({"caption": "x" * 1025}, [{"caption": "max length : 1024 char"}]),
            ({"token": "wrong"}, "Wrong token. Please provide token as a GET parameter."),
        ],
    )
    def test_it_refuses_with_http_200(self, client, ultramsg, fields, error):
        reply = send_video(client, ultramsg, **fields)

        assert (reply.status_code, reply.json()) == (200, {"error": error})
        assert ultramsg.messages == []

    def test_another_instance_is_unknown(self, client, ultramsg):
        assert client.get(f"{ultramsg.url}/instance2/messages?token=t").status_code == 404

    def test_it_refuses_videos_to_one_number_or_to_all(self, client, ultramsg):
        ultramsg.refuse_videos(to=f"+{USER}")
        assert "error" in send_video(client, ultramsg).json()
        assert "id" in send_video(client, ultramsg, to="34600000000").json()

        ultramsg.refuse_videos()
        assert "error" in send_video(client, ultramsg, to="34600000000").json()

    def test_a_message_may_be_taken_without_an_answer_or_not_at_all(self, client, ultramsg):
        ultramsg.fail_next(Reply.dropped(accept=True), Reply.dropped())
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                send_video(client, ultramsg)

        assert len(ultramsg.inbox(USER)) == 1

    def test_a_comma_fans_out(self, client, ultramsg):
        send_video(client, ultramsg, to="111,222")

        assert [message.to for message in ultramsg.messages] == ["111", "222"]

    def test_messages_are_found_by_their_reference(self, client, ultramsg):
        for reference in ("r1", "r2"):
            send_video(client, ultramsg, referenceId=reference)
        found = client.get(f"{ultramsg.url}/instance1/messages", params={"token": "t", "referenceId": "r1"}).json()

        assert found["total"] == found["pages"] == 1
        assert [(message["referenceId"], message["status"]) for message in found["messages"]] == [("r1", "sent")]

    def test_the_list_has_pages_and_may_be_bare_and_late(self, client):
        with FakeUltraMsg(bare_list=True, visible_after_s=0.1) as messenger:
            for _ in range(3):
                send_video(client, messenger)

            def listed(page):
                params = {"token": "t", "page": page, "limit": 2}
                return client.get(f"{messenger.url}/instance1/messages", params=params).json()

            assert listed(1) == []
            wait_until(lambda: len(listed(1)) == 2 and len(listed(2)) == 1, describe="all three show")

    def test_the_line_may_be_off(self, client, ultramsg):
        def status():
            reply = client.get(f"{ultramsg.url}/instance1/instance/status", params={"token": "t"}).json()
            return reply["status"]["accountStatus"]["status"]

        assert status() == "authenticated"
        ultramsg.online = False
        assert status() != "authenticated"

    def test_a_failed_message_can_be_sent_again_by_its_id(self, client, ultramsg):
        message_id = send_video(client, ultramsg).json()["id"]
        url = f"{ultramsg.url}/instance1/messages/resendById"

        assert client.post(url, json={"token": "t", "id": message_id}).json() == {"success": "done"}
        assert "error" in client.post(url, json={"token": "t", "id": 1}).json()
        assert ultramsg.resent == [str(message_id)]
        assert len(ultramsg.messages) == 1


class TestFakeWhatsAppFactory:
    def test_it_takes_texts_with_a_key(self, client):
        with FakeWhatsAppFactory(token="t") as messenger:
            url = f"{messenger.url}/v1/api/whatsapp/i1/send/text"
            body = {"to": USER, "text": "hello", "quotedMessageId": "m1"}

            assert client.post(url, json=body).status_code == 401
            assert client.post(url, json={"to": USER}, headers={"x-api-key": "t"}).status_code == 400
            assert "messageId" in client.post(url, json=body, headers={"x-api-key": "t"}).json()
            (message,) = messenger.inbox(USER)
            assert (message.text, message.reply_to, message.instance_id) == ("hello", "m1", "i1")


class TestWaiting:
    def test_it_gives_what_it_waited_for(self):
        values = iter([0, 0, 7])

        assert wait_until(lambda: next(values)) == 7

    def test_in_vain_it_names_the_condition(self):
        with pytest.raises(AssertionError, match="waiting for: pigs fly"):
            wait_until(lambda: False, timeout_s=0.01, describe="pigs fly")

    def test_the_asynchronous_one_lets_the_loop_run(self):
        async def main():
            done = asyncio.Event()
            asyncio.get_running_loop().call_later(0.01, done.set)
            await async_wait_until(done.is_set)
            with pytest.raises(AssertionError, match="pigs fly"):
                await async_wait_until(lambda: False, timeout_s=0.01, describe="pigs fly")

        asyncio.run(main())


def test_processes_side_by_side_draw_from_ports_of_their_own(monkeypatch):
    """A server that is stopped for a while comes back on its port: no test beside it may have taken that."""
    drawn: list[set[int]] = []
    for pid in (4000, 4003):
        monkeypatch.setattr(embedded.os, "getpid", lambda pid=pid: pid)
        drawn.append({unused_port() for _ in range(200)})

    assert len(drawn[0]) > 100
    assert not drawn[0] & drawn[1]
