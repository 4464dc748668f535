from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.triton.protocol_key import read_protocol_key, render_headers


@pytest.mark.parametrize("text", ["slim=se=cret", "slim=se=cret\n", "\n  slim=se=cret  \n\n"])
def test_the_first_equals_sign_ends_the_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "key").write_text(text)
    key = read_protocol_key(tmp_path / "key")
    assert key == ("slim", "se=cret")
    assert render_headers(key) == {"triton-grpc-protocol-slim": "se=cret"}


def test_without_a_key_nothing_is_sent() -> None:
    assert render_headers(None) == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "must hold one line KEY=VALUE"),
        (b"sesame", "must hold one line KEY=VALUE"),
        (b"a=sesame\nb=sesame", "must hold one line KEY=VALUE"),
        (b"Slim=sesame", "key 'Slim' can't be sent over gRPC"),
        (b"=sesame", "key '' can't be sent"),
        (b"slim=", "the value of 'slim' must be printable"),
        ("slim=sesamé".encode(), "the value of 'slim' must be printable"),
        (b"slim=\xff", "can't read"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "key").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_protocol_key(tmp_path / "key")
    assert problem in str(caught.value)
    assert str(tmp_path / "key") in str(caught.value)
    assert "sesam" not in str(caught.value)


def test_a_missing_or_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no protocol key file at .*none; write one line"):
        read_protocol_key(tmp_path / "none")
    with pytest.raises(ConfigError, match="can't read protocol key file"):
        read_protocol_key(tmp_path)
