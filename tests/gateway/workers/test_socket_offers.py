"""What another process says of the sockets that it hands over."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.gateway.workers.takeover import activated_sockets, read_offer, take_over

NAMED = [["grpc", "127.0.0.1:1"], ["http", "127.0.0.1:2"]]


def test_an_offer_names_each_socket() -> None:
    assert read_offer(json.dumps(NAMED).encode(), 2) == [tuple(pair) for pair in NAMED]


@pytest.mark.parametrize("message", [b"", b"[]", b"[1]", b"{}", b"nonsense", b'["ab"]', b"[" * 100_000, b"\xff"])
def test_an_offer_that_does_not_fit_is_refused_in_a_line(message: bytes) -> None:
    with pytest.raises(ConfigError, match="stop it, and start without --replace"):
        read_offer(message, 2)


def test_a_gateway_that_offers_nonsense_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "offer"
    with socket.socket(socket.AF_UNIX) as listening, socket.socket() as offered:
        listening.bind(str(path))
        listening.listen()

        def give() -> None:
            end, _ = listening.accept()
            with end:
                socket.send_fds(end, [b"nonsense"], [offered.fileno()])

        giving = threading.Thread(target=give)
        giving.start()
        with pytest.raises(ConfigError, match="offers 1 sockets in a way that this version does not know"):
            take_over(path, {})
        giving.join()


def test_sockets_of_systemd_are_those_of_one_process() -> None:
    given = {"LISTEN_PID": "7", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "grpc:http"}
    assert activated_sockets(given, 7) == [("grpc", 3), ("http", 4)]
    assert activated_sockets(given, 8) == []
    with pytest.raises(ConfigError, match="FileDescriptorName"):
        activated_sockets(given | {"LISTEN_FDS": "x"}, 7)
