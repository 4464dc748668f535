"""Listening sockets that go from a running gateway to the one that replaces it: nobody finds the address closed.

The running gateway offers them over a Unix socket, to processes of its own user alone. The other one takes copies when
it is ready to listen, listens, and says so; only then does the first one send its clients elsewhere, which connect to
the same address. A successor that fails before that changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from orchestrator.background import BackgroundTasks
from orchestrator.config import GatewaySettings
from orchestrator.config.names import address_above
from orchestrator.embedded.local_state import default_state_directory, prepare_directory
from orchestrator.errors import ConfigError
from orchestrator.gateway.listening import Sockets

log = logging.getLogger(__name__)

_DONE = b"+"
_MESSAGE_BYTES = 2**16
_MOST_DESCRIPTORS = 64
_CREDENTIALS = struct.Struct("3i")
_ANSWER_S = 5.0
_FIRST_DESCRIPTOR = 3  # of those that systemd gives
_LONGEST_PATH_BYTES = 104  # the kernel takes 107, and a process' number may be longer than the suffix
_REMEDY = "set XDG_RUNTIME_DIR to a folder of this user"


def offer_path(directory: Path, addresses: Mapping[str, str]) -> Path:
    """Return where the gateway on some addresses offers its sockets; the first of gRPC and HTTP names it."""
    first = addresses.get("grpc") or addresses["http"]
    return directory / f"gateway-{first.replace(':', '_')}.sock"


def peer_addresses(settings: GatewaySettings) -> dict[str, str]:
    """Return where each worker listens for peers, by the kind of its sockets; nothing where there are no peers."""
    if settings.peers is None:
        return {}
    kinds = ("peers" if number == 0 else f"peers-{number}" for number in range(settings.workers))
    return {kind: address_above(settings.peers.listen, number) for number, kind in enumerate(kinds)}


class Offer:
    """Offers sockets while the context is open.

    Args:
        path: Of the Unix socket; one that is there already belongs to a gateway that has ended, or is being replaced.
        addresses: Of the sockets, as they are configured, by kind.
        on_replaced: Called when another process listens on the sockets.
    """

    def __init__(
        self, path: Path, addresses: Mapping[str, str], sockets: Sockets, on_replaced: Callable[[], None]
    ) -> None:
        self._path = path
        self._addresses = addresses
        self._sockets = sockets
        self._on_replaced = on_replaced
        self._background = BackgroundTasks()
        self._listening = socket.socket(socket.AF_UNIX)
        self._inode: int | None = None

    async def __aenter__(self) -> Self:
        bound = self._path.with_suffix(f".{os.getpid()}")
        try:
            self._listening.setblocking(False)
            self._listening.bind(str(bound))
            bound.chmod(0o600)
            self._listening.listen()
            self._inode = bound.stat().st_ino
            bound.replace(self._path)
        except OSError as exc:
            log.warning("can't be replaced by another gateway: %s: %s", self._path, exc.strerror or exc)
        else:
            self._background.start("offering sockets", self._run)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._background.stop()
        self._listening.close()
        with contextlib.suppress(OSError):
            if self._path.stat().st_ino == self._inode:  # else it is another gateway's
                self._path.unlink()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            end, _ = await loop.sock_accept(self._listening)
            with end, contextlib.suppress(OSError):
                if await self._give(end):
                    self._inode = None  # the path is the successor's, which may be about to offer there
                    return

    async def _give(self, end: socket.socket) -> bool:
        """Give copies; return whether the other process listens on them."""
        if _user_of(end) != os.getuid():
            log.error("another user's process asked for the sockets, and got none")
            return False
        sockets = [(self._addresses[kind], kind, one) for kind, many in self._sockets.items() for one in many]
        named = [[kind, address] for address, kind, _ in sockets]
        socket.send_fds(end, [json.dumps(named).encode()], [one.fileno() for _, _, one in sockets])
        end.setblocking(False)
        answer = b""
        with contextlib.suppress(OSError):  # it was killed
            answer = await asyncio.get_running_loop().sock_recv(end, len(_DONE))
        if answer != _DONE:
            log.warning("a gateway that was to take over ended before it served; this one goes on")
            return False
        log.info("another gateway has taken over")
        self._on_replaced()
        return True


def take_over(path: Path, addresses: Mapping[str, str]) -> tuple[socket.socket, Sockets] | None:
    """Return the end by which ``complete`` lets the gateway at a path end, and its sockets of some addresses.

    None when there is no gateway. Raises ConfigError when it belongs to another user, or does not answer.
    """
    with contextlib.ExitStack() as stack:
        end = stack.enter_context(socket.socket(socket.AF_UNIX))
        end.settimeout(_ANSWER_S)
        try:
            end.connect(str(path))
            if _user_of(end) != os.getuid():
                raise ConfigError(f"the gateway at {path} is another user's; stop it first")
            message, descriptors, _, _ = socket.recv_fds(end, _MESSAGE_BYTES, _MOST_DESCRIPTORS)
        except (FileNotFoundError, ConnectionRefusedError):
            return None
        except OSError as exc:
            raise ConfigError(
                f"can't take over from the gateway at {path} ({exc}); stop it, and start without --replace"
            ) from exc
        if not message:
            raise ConfigError(f"the gateway at {path} ends, or another one has just replaced it; start this one again")
        offered = [stack.enter_context(socket.socket(fileno=descriptor)) for descriptor in descriptors]
        sockets: dict[str, list[socket.socket]] = {}
        for (kind, address), one in zip(read_offer(message, len(offered)), offered, strict=True):
            one.setblocking(False)
            if addresses.get(kind) == address:
                sockets.setdefault(kind, []).append(one)
            else:
                one.close()
        stack.pop_all()
    return end, sockets


def complete(end: socket.socket) -> None:
    """Let the other gateway end: this process listens on its sockets."""
    with end, contextlib.suppress(OSError):
        end.send(_DONE)


def read_offer(message: bytes, count: int) -> list[tuple[str, str]]:
    """Return what is offered on each of so many sockets, and its address; raises ConfigError when they do not fit."""
    try:
        named = [(str(kind), str(address)) for kind, address in json.loads(message)]
    except (ValueError, TypeError, RecursionError):
        named = []
    if len(named) != count or not named:
        raise ConfigError(
            f"the running gateway offers {count} sockets in a way that this version does not know; stop it, and start "
            "without --replace"
        )
    return named


def _user_of(end: socket.socket) -> int:
    """Return the user of the process at the other end."""
    _, user, _ = _CREDENTIALS.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(user)


class Succession:
    """How a gateway comes by its sockets, and gives them to the one that replaces it.

    Args:
        settings: Where it listens.
        inherited: From whoever has started this process, and keeps them for its next run: they go to nobody else.
        replaces: Whether it takes over from a gateway that runs.

    Raises ConfigError when a socket is inherited for what is not offered, or is offered on another port.

    Attributes:
        is_replaced: Whether another gateway listens on its sockets instead of it.
    """

    def __init__(self, settings: GatewaySettings, inherited: Sockets, *, replaces: bool) -> None:
        given = (("grpc", settings.grpc), ("http", settings.http), ("metrics", settings.metrics))
        offered = {kind: address for kind, address in given if address is not None}
        self._addresses = offered | peer_addresses(settings)
        _check_inherited(inherited, self._addresses)
        self._inherited = inherited
        self._replaces = replaces
        self._predecessor: socket.socket | None = None  # while it answers
        self._path: Path | None = None
        self.is_replaced = False

    def take(self) -> Sockets:
        """Return the sockets that are there already; raises ConfigError."""
        if self._inherited or any(address.endswith(":0") for address in self._addresses.values()):
            return self._inherited
        try:
            self._path = _prepare_path(self._addresses)
        except ConfigError as exc:
            if self._replaces:
                raise
            log.warning("can't be replaced by another gateway: %s", exc)
            return {}
        taken = take_over(self._path, self._addresses) if self._replaces else None
        if self._replaces:
            log.info("no gateway answers there yet" if taken is None else "taking over from another gateway")
        self._predecessor, sockets = taken or (None, {})
        return sockets

    @property
    def is_takeover(self) -> bool:
        """Whether another gateway listens on the same sockets, and answers until this one does."""
        return self._predecessor is not None

    @asynccontextmanager
    async def offering(
        self, sockets: Sockets, say_unready: Callable[[], None], stop: asyncio.Event
    ) -> AsyncIterator[None]:
        """Let the gateway that was replaced end, and the next one replace this one, which listens on the sockets.

        ``say_unready`` lets this one's end begin at once, without ``lame_duck_s``.
        """

        def leave() -> None:
            self.is_replaced = True
            say_unready()
            stop.set()

        if self._predecessor is not None:
            complete(self._predecessor)
            self._predecessor = None
        if self._path is None:
            yield
            return
        async with Offer(self._path, self._addresses, sockets, leave):
            yield


def _prepare_path(addresses: Mapping[str, str]) -> Path:
    """Return where to offer, in a directory that is there then; raises ConfigError when none can be used for that."""
    directory = default_state_directory()
    prepare_directory(directory, remedy=_REMEDY)
    path = offer_path(directory, addresses)
    length = len(os.fsencode(path))
    if length > _LONGEST_PATH_BYTES:
        raise ConfigError(
            f"{path} has {length} bytes, but a socket's path may have {_LONGEST_PATH_BYTES}; {_REMEDY} with a shorter "
            "path"
        )
    return path


def _check_inherited(inherited: Sockets, addresses: Mapping[str, str]) -> None:
    for kind, sockets in inherited.items():
        address = addresses.get(kind)
        if address is None:
            raise ConfigError(f"a socket is given for gateway.{kind}, which is null; give an address, or no socket")
        for one in sockets:
            name = one.getsockname()
            if one.family not in (socket.AF_INET, socket.AF_INET6) or str(name[1]) != address.rpartition(":")[2]:
                raise ConfigError(f"a socket on {name} is given for gateway.{kind} = {address}; make both the same")


def inherited_sockets(given: Sequence[tuple[str, int]], environment: Mapping[str, str]) -> Sockets:
    """Return sockets that were open when this process began, by what is offered on each.

    Args:
        given: Names and descriptors; none: those of systemd's socket activation (``sd_listen_fds``), if any.
        environment: Of this process.

    Raises:
        ConfigError: They are not what they should be.
    """
    found: dict[str, list[socket.socket]] = {}
    for kind, descriptor in given or activated_sockets(environment, os.getpid()):
        try:
            one = socket.socket(fileno=descriptor)
        except OSError as exc:
            raise ConfigError(f"descriptor {descriptor}, given for {kind}, is no socket ({exc.strerror})") from exc
        one.setblocking(False)
        one.set_inheritable(False)
        found.setdefault(kind, []).append(one)
    return found


def activated_sockets(environment: Mapping[str, str], pid: int) -> list[tuple[str, int]]:
    """Return names and descriptors of the sockets that systemd gives a process; raises ConfigError for other names."""
    if environment.get("LISTEN_PID") != str(pid):
        return []
    count, names = environment.get("LISTEN_FDS", "0"), environment.get("LISTEN_FDNAMES", "").split(":")
    if count == "0":
        return []
    if str(len(names)) != count or not set(names) <= {"grpc", "http", "metrics"}:
        raise ConfigError(
            f"LISTEN_FDS = {count} with LISTEN_FDNAMES = {':'.join(names)}; set FileDescriptorName to grpc, http or "
            "metrics in each socket unit"
        )
    return [(name, _FIRST_DESCRIPTOR + index) for index, name in enumerate(names)]
