"""Labelled images, as they ship and as they may be given."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import ConfigError
from orchestrator.loadgen.sample import load_sample


def test_the_shipped_sample_is_a_thousand_labelled_images() -> None:
    sample = load_sample(Path(__file__).parents[2] / "examples" / "fashion-mnist" / "test_1000.npz")
    assert sample.images.shape == (1000, 1, 28, 28)
    assert 0 <= sample.images.min() < sample.images.max() <= 1
    assert sorted(set(sample.labels.tolist())) == list(range(10))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 truncated"])
def test_what_is_no_sample_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ConfigError, match=r"is no \.npz file"):
        load_sample(tmp_path / "a.npz")
    with pytest.raises(ConfigError, match="no sample at"):
        load_sample(tmp_path / "b.npz")
