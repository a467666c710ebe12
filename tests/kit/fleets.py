"""Fleets of real servers on loopback: a Redis Cluster with its replicas, and a primary that sentinels watch.

Each process is killed with its owner: a watcher holds the other end of a pipe.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import redis
import redis.asyncio
from redis.crc import key_slot

from kit import until
from videopoll.queue.connect import async_client_of, client_of
from videopoll.queue.schema import Keys
from videopoll.testing import unused_port
from videopoll.testing.embedded import _require_binary

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

SLOTS = 16384

NODE_TIMEOUT_MS = 2500
"""After so long without a sign of life the others hold a node for dead: the default is 15 s, and a busy machine is slow."""

_WATCHER = 'read -r line; for file in "$1"/*.pid; do [ -e "$file" ] && kill -9 "$(cat "$file")" 2>/dev/null; done; rm -rf -- "$1"'


_taken: set[int] = set()


def port_of_its_own() -> int:
    """Return a port that no other server of ours has, also none that does not listen yet."""
    while (port := unused_port()) in _taken:
        pass
    _taken.add(port)
    return port


class Server:
    """One process of a fleet."""

    def __init__(self, folder: Path, binary: Path, *options: str, port: int | None = None) -> None:
        self.port = port or port_of_its_own()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self._command = [str(binary), *options, "--port", str(self.port), "--dir", str(self.folder)]
        if "--sentinel" not in options:
            self._command += ["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0"]
        self._pid_file = folder / f"{self.port}.pid"
        self.process: subprocess.Popen[bytes] | None = None
        self.db = redis.Redis(port=self.port, socket_timeout=5.0)
        self.start()

    @property
    def password(self) -> str:
        return str(self.db.connection_pool.connection_kwargs["password"] or "")

    @password.setter
    def password(self, password: str) -> None:
        """Have the test's own client know it."""
        self.db = redis.Redis(port=self.port, socket_timeout=5.0, password=password)

    def start(self, replica_of: Server | None = None) -> None:
        """Start its process.

        What is to be a replica has to begin as one: an empty primary, if only for a moment, takes writes of those who
        still take it for the old one.
        """
        self._replica_of = replica_of
        options = () if replica_of is None else ("--replicaof", "127.0.0.1", str(replica_of.port))
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, *options], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._pid_file.write_text(str(self.process.pid))

    def is_up(self) -> bool:
        with contextlib.suppress(redis.RedisError):
            return bool(self.db.ping())
        if self.process is not None and self.process.poll() is not None:
            said = (self.folder / "log").read_text()[-2000:]
            assert "Address already in use" in said, said
            # Somebody's tests took the port while the server was down. They need it no longer than we need ours.
            self.start(self._replica_of)
        return False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
            self._pid_file.unlink()

    def upgrade(self, binary: Path, replica_of: Server | None = None) -> None:
        """Have another version take its place, with the same port and folder."""
        self.kill()
        self._command[0] = str(binary)
        self.start(replica_of)
        until(self.is_up, "the other version answers", 20)

    def pause(self) -> None:
        """Let it hang."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def stop_writing(self) -> None:
        """Let no write begin any more, and wait until a replica has all that was written."""
        # Sentinels look at replicas every 10 s, and fail over to no one whom they have not seen.
        self.ask("CLIENT", "PAUSE", 60_000, "WRITE")

        def has_caught_up() -> bool:
            info = self.db.info("replication")
            return any(info.get(f"slave{n}", {}).get("offset") == info["master_repl_offset"] for n in range(2))

        until(has_caught_up, "a replica has all that was written")

    def sync(self, slot_of: str = "") -> None:
        """Wait until a replica has all that was written so far."""
        # WAIT waits for the writes of its own connection: after one of them, all before it are there.
        with self.db.pipeline(transaction=False) as pipe:
            pipe.set(f"{slot_of}:fleet", "written", px=1)
            pipe.execute_command("WAIT", 1, 5000)
            assert pipe.execute()[1] == 1

    def ask(self, *words: Any) -> Any:
        """Run a command as it is."""
        return self.db.execute_command(*words)


class Fleet:
    """Servers that live and die together."""

    def __init__(self, which: str = "redis") -> None:
        self.name = which
        self.binary = _require_binary(which)  # type: ignore[arg-type]
        self.folder = Path(tempfile.mkdtemp(prefix="videopoll-fleet-"))
        self._watcher = subprocess.Popen(
            ["/bin/sh", "-c", _WATCHER, "watcher", str(self.folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        self.servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add(self, *options: str) -> Server:
        """Start one more server; it may not answer yet."""
        server = Server(self.folder, self.binary, *options)
        self.servers.append(server)
        return server

    def add_sentinel(self, primary: Server, service: str, *lines: str, down_after_s: float = 2.0) -> Server:
        """Start a sentinel that watches a primary, and holds it for dead after so many seconds without an answer."""
        port = port_of_its_own()
        path = self.folder / f"sentinel-{port}.conf"
        path.write_text(
            f"sentinel monitor {service} 127.0.0.1 {primary.port} 2\n"
            f"sentinel down-after-milliseconds {service} {round(down_after_s * 1000)}\n"
            f"sentinel failover-timeout {service} 3000\n" + "".join(f"{line}\n" for line in lines)
        )
        server = Server(self.folder, self.binary, str(path), "--sentinel", port=port)
        self.servers.append(server)
        return server

    def wait(self) -> None:
        """Wait until all answer."""
        for server in self.servers:
            until(server.is_up, f"the server on {server.port} answers", 20)

    def close(self) -> None:
        """End all."""
        for server in self.servers:
            server.db.close()
            server.kill()
        self._watcher.communicate(b"\n")
        shutil.rmtree(self.folder, ignore_errors=True)


class Cluster(Fleet):
    """A Redis Cluster: three masters, and a replica of each."""

    def __init__(
        self,
        which: str = "redis",
        *,
        masters: int = 3,
        replicas: bool = True,
        options: tuple[str, ...] = (),
        tls: bool = False,
    ) -> None:
        super().__init__(which)
        self.tls_ports: list[int] = []
        for _ in range(masters * (1 + replicas)):
            if tls:
                self.tls_ports.append(port_of_its_own())
            # The bus has a port of its own; by default it is the other's + 10,000, which may be somebody's.
            self.add(
                *("--cluster-enabled", "yes", "--cluster-port", str(port_of_its_own())),
                *("--cluster-node-timeout", str(NODE_TIMEOUT_MS), "--cluster-replica-validity-factor", "0"),
                *options,
                *(("--tls-port", str(self.tls_ports[-1])) if tls else ()),
            )
        self.wait()
        self._join(masters)

    def _join(self, masters: int) -> None:
        first = self.servers[0]
        step = SLOTS // masters
        for number, server in enumerate(self.servers):
            server.ask("CONFIG", "SET", "cluster-announce-ip", "127.0.0.1")
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < masters:
                last = SLOTS - 1 if number == masters - 1 else (number + 1) * step - 1
                server.ask("CLUSTER", "ADDSLOTSRANGE", number * step, last)
            if server is not first:
                bus = server.db.config_get("cluster-port")["cluster-port"]
                first.ask("CLUSTER", "MEET", "127.0.0.1", server.port, bus)
        until(lambda: all(self._knows_all(one) for one in self.servers), "every node knows every other", 20)
        for number, server in enumerate(self.servers[masters:]):
            self._replicate(server, self.servers[number % masters])
        until(self.is_well, "the cluster is well", 20)

    def _knows_all(self, server: Server) -> bool:
        info = self.info(server)
        return int(info["cluster_known_nodes"]) == len(self.servers) and info["cluster_state"] == "ok"

    def _replicate(self, server: Server, master: Server) -> None:
        def done() -> bool:
            with contextlib.suppress(redis.ResponseError):
                return bool(server.ask("CLUSTER", "REPLICATE", self.id_of(master)))
            return False

        until(done, "it is a replica")

    @staticmethod
    def info(server: Server) -> dict[str, str]:
        """Read what a node says of the cluster."""
        text = server.ask("CLUSTER", "INFO")
        if isinstance(text, dict):
            return text
        lines = (text.decode() if isinstance(text, bytes) else text).split("\r\n")
        return dict(line.split(":", 1) for line in lines if ":" in line)

    @staticmethod
    def id_of(server: Server) -> str:
        found = server.ask("CLUSTER", "MYID")
        return found.decode() if isinstance(found, bytes) else found

    def is_well(self) -> bool:
        """Whether every slot has an owner, and every replica has caught up."""
        with contextlib.suppress(redis.RedisError):
            for server in self.living:
                role = server.db.info("replication")
                if role["role"] == "slave" and role["master_link_status"] != "up":
                    return False
                if self.info(server)["cluster_state"] != "ok":
                    return False
            return True
        return False

    @property
    def living(self) -> list[Server]:
        return [server for server in self.servers if server.process is not None]

    @property
    def masters(self) -> list[Server]:
        return [server for server in self.living if server.db.info("replication")["role"] == "master"]

    @property
    def url(self) -> str:
        """All nodes, in no order that helps."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in reversed(self.servers))

    @property
    def tls_url(self) -> str:
        return f"rediss+cluster://127.0.0.1:{self.tls_ports[0]}"

    def port_for_nodes(self, server: Server) -> int:
        """Return the port at which a node takes keys from another."""
        return self.tls_ports[self.servers.index(server)] if self.tls_ports else server.port

    def owner(self, prefix: str, but: Server | None = None) -> Server:
        """Return the node that has the slot of a prefix, as the nodes say now; one of them is not asked."""
        slot = key_slot(prefix.encode())
        for server in self.living:
            if server is but:
                continue
            # Each knows best what it has itself.
            with contextlib.suppress(redis.RedisError):
                for first, last, (_, port, *_rest), *_ in server.db.execute_command("CLUSTER SLOTS", NEVER_DECODE=True):
                    if first <= slot <= last and port == server.port:
                        return server
        msg = "nobody has the slot"
        raise AssertionError(msg)

    def db(self, prefix: str) -> redis.Redis:
        """Return a client to the node that has the keys of a prefix now."""
        return self.owner(prefix).db

    @contextlib.contextmanager
    def failed_over(self, prefix: str, how: str = "crash", *, wait: bool = True) -> Iterator[Server]:
        """End the master of a prefix, have it hang, or have its replica take over; it comes back at the end.

        A master that crashes has given its replica all that it has answered, unless it crashes "unsynced".
        """
        was = self.owner(prefix)
        if how.startswith("crash"):
            if how == "crash":
                was.stop_writing()
            was.kill()
        elif how == "hang":
            was.pause()
        else:
            replica = self.replica_of(prefix)

            def asked() -> bool:
                # It is given up after five seconds if the replica does not catch up in time.
                replica.ask("CLUSTER", "FAILOVER")
                with contextlib.suppress(AssertionError):
                    until(lambda: self.taken_over(prefix, was), "a replica has taken over", 6)
                return self.taken_over(prefix, was)

            until(asked, "the replica does as it is told", 20)
        try:
            if wait:
                until(lambda: self.taken_over(prefix, was), "a replica has taken over", 20)
            yield was
        finally:
            if how.startswith("crash"):
                was.start()
            elif how == "hang":
                was.resume()
            until(was.is_up, "it answers")
            until(self.is_well, "the cluster is well", 20)

    def hand_over(self, prefix: str, choose: random.Random) -> None:
        """Move the slot of a prefix, some keys first and the others later."""
        move = self.begin_move(prefix)
        move.keys(choose.randrange(20) + 1)
        time.sleep(choose.uniform(0, 0.3))
        move.keys()
        move.end()

    def replica_of(self, prefix: str) -> Server:
        """Return the replica of the master of a prefix."""
        port = str(self.owner(prefix).port)
        return next(one for one in self.living if str(one.db.info("replication").get("master_port")) == port)

    def taken_over(self, prefix: str, was: Server) -> bool:
        """Whether somebody else has the slot of a prefix by now."""
        try:
            owner = self.owner(prefix, was)
        except AssertionError:
            return False
        return owner is not was and owner.process is not None and self.info(owner)["cluster_state"] == "ok"

    def begin_move(self, prefix: str) -> Move:
        """Begin to move the slot of a prefix to another master."""
        return Move(self, prefix)

    def move(self, prefix: str) -> None:
        """Move the slot of a prefix to another master, all of it."""
        move = Move(self, prefix)
        move.keys()
        move.end()


class Move:
    """A slot on its way from one master to another, as far as the test says."""

    def __init__(self, cluster: Cluster, prefix: str) -> None:
        self.cluster = cluster
        self.slot = key_slot(prefix.encode())
        self.source = cluster.owner(prefix)
        self.target = next(one for one in cluster.masters if one is not self.source)
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", cluster.id_of(self.source))
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", cluster.id_of(self.target))

    def keys(self, most: int | None = None) -> int:
        """Move so many of its keys; return how many there were."""
        moved = 0
        while most is None or moved < most:
            keys = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 1 if most else 100)
            if not keys:
                break
            self.source.ask(
                "MIGRATE", "127.0.0.1", self.cluster.port_for_nodes(self.target), "", 0, 5000, "KEYS", *keys
            )
            moved += len(keys)
        return moved

    def end(self) -> None:
        """Give the slot away."""
        for server in self.target, self.source, *self.cluster.masters:
            server.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.cluster.id_of(self.target))

    def back(self) -> None:
        """Leave the slot where it was; keys that have moved are moved back."""
        while keys := self.target.ask("CLUSTER", "GETKEYSINSLOT", self.slot, 100):
            self.target.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.cluster.id_of(self.source))
            self.source.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.cluster.id_of(self.target))
            self.target.ask(
                "MIGRATE", "127.0.0.1", self.cluster.port_for_nodes(self.source), "", 0, 5000, "KEYS", *keys
            )
        for server in self.source, self.target:
            server.ask("CLUSTER", "SETSLOT", self.slot, "STABLE")


class Watched(Fleet):
    """A primary with a replica, and three sentinels that fail it over.

    Args:
        which: Redis or Valkey.
        down_after_s: After so many seconds without an answer.
    """

    service = "video-redis"

    def __init__(self, which: str = "redis", *, down_after_s: float = 2.0) -> None:
        super().__init__(which)
        self.data = [self.add(), self.add()]
        self.wait()
        self.data[1].ask("REPLICAOF", "127.0.0.1", self.data[0].port)
        self.sentinels = [self.add_sentinel(self.data[0], self.service, down_after_s=down_after_s) for _ in range(3)]
        self.wait()
        until(self.is_well, "all sentinels know each other and the replica", 30)

    def is_well(self) -> bool:
        """Whether the sentinels would fail over now, and name one and the same primary."""
        states = [sentinel.db.sentinel_master(self.service) for sentinel in self.sentinels]
        if len({state["port"] for state in states}) > 1:
            # One of them has not heard of the last failover, and would lead whoever asks it first to a replica.
            return False
        for state in states:
            if (state["num-other-sentinels"], state["num-slaves"]) != (2, 1) or state["flags"] != "master":
                return False
        try:
            replicas = [one.db.info("replication") for one in self.data]
        except redis.RedisError:
            return False
        return sorted((one["role"], one.get("master_link_status")) for one in replicas) == [
            ("master", None),
            ("slave", "up"),
        ]

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{self.service}/0"

    @property
    def primary(self) -> Server:
        """Return who the sentinels say is the primary."""
        _, port = self.sentinels[0].db.sentinel_get_master_addr_by_name(self.service)
        return next(one for one in self.data if one.port == int(port))

    @contextlib.contextmanager
    def failed_over(self, _prefix: str = "", how: str = "crash") -> Iterator[Server]:
        """Kill the primary, or have it hang; it comes back as a replica at the end. See `Cluster.failed_over`."""
        was, hang = self.primary, how == "hang"
        if how == "crash":
            was.stop_writing()
        was.pause() if hang else was.kill()
        until(
            lambda: self.primary is not was and self.primary.db.info("replication")["role"] == "master",
            "a failover",
            20,
        )
        try:
            yield was
        finally:
            # The sentinels would come to it, too, but in ten seconds.
            if hang:
                was.resume()
                was.ask("REPLICAOF", "127.0.0.1", self.primary.port)
            else:
                was.start(self.primary)
            until(self.is_well, "it is a replica", 30)

    def hand_over(self, _prefix: str = "", _choose: random.Random | None = None) -> None:
        """Have the primary and its replica change places while jobs are done."""
        self.switch()

    def fail_over_in_peace(self) -> Server:
        """Have the sentinels make the replica the primary; return who was it, and lives on without a write.

        What it took between the promotion of the other and its own end as a primary would be lost: seconds, as
        sentinels come to it last, and do not stop it first.
        """
        was = self.primary
        was.stop_writing()

        def asked() -> bool:
            with contextlib.suppress(redis.ResponseError):
                return bool(self.sentinels[0].ask("SENTINEL", "FAILOVER", self.service))
            return False

        until(asked, "the sentinels know a good replica", 20)
        until(lambda: self.primary is not was, "a failover", 20)
        until(lambda: self.primary.db.info("replication")["role"] == "master", "it takes writes")
        return was

    def switch(self) -> None:
        """Have the sentinels fail over while the primary lives."""
        was = self.fail_over_in_peace()
        # The sentinels would come to it, too, but in ten seconds, and would close its connections.
        was.ask("REPLICAOF", "127.0.0.1", self.primary.port)
        was.ask("CLIENT", "UNPAUSE")
        until(self.is_well, "the old one is a replica", 30)


SLOT_OF_TESTS = "{t}"
"""What the prefixes of all tests begin with where they run on a cluster."""


def is_cluster(url: str) -> bool:
    return "+cluster://" in url


def lead_clients_of_tests(patch: pytest.MonkeyPatch) -> None:
    """Have ``redis.Redis.from_url`` understand the URLs of fleets, as the tests look at Redis with it."""
    for module, make in ((redis, client_of), (redis.asyncio, async_client_of)):

        def from_url(url: str, *, _make: Any = make, _old: Any = module.Redis.from_url, **options: Any) -> Any:
            if "+" not in url.partition("://")[0]:
                return _old(url, **options)
            client = _make(url, Keys(SLOT_OF_TESTS), 5.0)
            client.connection_pool.connection_kwargs.update(options)
            return client

        patch.setattr(module.Redis, "from_url", from_url)
