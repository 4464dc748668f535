from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.errors import ConfigError
from orchestrator.planner.host import Batching
from orchestrator.snapshot import Family, Width
from orchestrator.triton.families import Identity
from orchestrator.triton.repository import Repository, RepositoryEntry, build_override

SHIPPED = Path(__file__).parents[2] / "model_repository"
CONFIG = """
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
instance_group [{ kind: KIND_CPU count: 2 }]
dynamic_batching { preferred_batch_size: [2, 4] max_queue_delay_microseconds: 700 preserve_ordering: true }
parameters { key: "slim.family" value { string_value: "toy" } }
parameters { key: "slim.width" value { string_value: "50" } }
parameters { key: "slim.accuracy" value { string_value: "0.5" } }
backend: "onnxruntime"
runtime: "model.py"
"""


def write(repository: Path, name: str, config: str = CONFIG, versions: dict[str, bytes] | None = None) -> Path:
    for version, weights in (versions or {"1": b"12345"}).items():
        (repository / name / version).mkdir(parents=True)
        (repository / name / version / "model.onnx").write_bytes(weights)
    (repository / name / "config.pbtxt").write_text(config)
    return repository / name


def only(repository: Path) -> RepositoryEntry:
    (entry,) = Repository(repository).entries()
    return entry


def refuse(repository: Path, family: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        Repository(repository, family).entries()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_shipped_repository_is_read_ascending() -> None:
    models = [entry.model for entry in Repository(SHIPPED).entries()]
    assert [model.width for model in models] == [25, 50, 75, 100]
    assert [model.name for model in models] == [f"fashion_w{width:03d}" for width in (25, 50, 75, 100)]
    sizes = [(SHIPPED / model.name / "1" / "model.onnx").stat().st_size for model in models]
    assert [model.weights_bytes for model in models] == sizes
    assert {(model.family, model.max_batch_size, model.instances, model.batching) for model in models} == {
        ("fashion", 64, 1, Batching())
    }


def test_a_config_says_what_a_load_starts_with(tmp_path: Path) -> None:
    write(tmp_path, "toy_w050", versions={"1": b"1", "3": b"123", "10": b"1234567890", "x": b""})
    model = only(tmp_path).model
    assert (model.name, model.family, model.width, model.accuracy) == ("toy_w050", "toy", 50, 0.5)
    assert (model.instances, model.batching, model.max_batch_size) == (2, Batching((2, 4), 700), 8)
    assert model.weights_bytes == 10, "the newest version is served"


def test_weights_are_held_against_their_digest_and_read_only_when_they_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = b"12345", b"1234x"
    digest = hashlib.sha256(good).hexdigest()
    config = CONFIG + f'parameters {{ key: "slim.sha256" value {{ string_value: "{digest}" }} }}'
    weights = write(tmp_path, "toy_w050", config) / "1" / "model.onnx"
    reads: list[Any] = []
    hashed = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *args: reads.append(args) or hashed(*args))
    repository = Repository(tmp_path)

    def damage() -> str:
        (entry,) = repository.entries()
        return entry.model.damage

    assert [damage(), damage()] == ["", ""]
    assert len(reads) == 1
    before = weights.stat()
    weights.write_bytes(bad)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert damage() == damage() != "", "of the same size and time, and found all the same"
    assert all(part in damage() for part in ("model.onnx", hashlib.sha256(bad).hexdigest()[:12], digest[:12]))
    assert len(reads) == 2
    (tmp_path / "new").write_bytes(good)
    (tmp_path / "new").rename(weights)
    assert damage() == ""
    write(tmp_path, "toy_w051", CONFIG.replace("50", "51"))
    assert [entry.model.damage for entry in repository.entries()] == ["", ""], "without a digest nobody knows"


def test_weights_that_are_no_file_are_not_read(tmp_path: Path) -> None:
    weights = write(tmp_path, "toy_w050") / "1" / "model.onnx"
    weights.unlink()
    os.mkfifo(weights)
    assert "has no <version>/model.onnx" in refuse(tmp_path)


def test_others_models_are_passed_over_unread(tmp_path: Path) -> None:
    write(tmp_path, "toy_w050")
    write(tmp_path, "bert", 'a_field_of_next_year: "{" \n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "README").write_text("hello")
    assert only(tmp_path).model.name == "toy_w050"


def test_every_family_is_read_unless_one_is_named(tmp_path: Path) -> None:
    write(tmp_path, "toy_w050")
    write(tmp_path, "car_w050", CONFIG.replace("toy", "car"))
    assert [entry.model.name for entry in Repository(tmp_path).entries()] == ["car_w050", "toy_w050"]
    (entry,) = Repository(tmp_path, "car").entries()
    assert entry.model.name == "car_w050"
    assert "holds no width of family 'cat'; it has car, toy; run 'slimsched export'" in refuse(tmp_path, "cat")


def test_an_empty_or_missing_repository_is_named(tmp_path: Path) -> None:
    assert f"repository {tmp_path} holds no width of any family; run 'slimsched export'" in refuse(tmp_path)
    assert "can't read repository" in refuse(tmp_path / "none")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("instance_group [{ kind: KIND_CPU count: 2 }]", "", "has 0 instance groups; write exactly one"),
        ("count: 2 }", "count: 2 }, { kind: KIND_CPU count: 1 }", "has 2 instance groups"),
        ("count: 2", "", "an instance group without count"),
        ('"slim.width"', '"slim.with"', "lacks slim.width; run 'slimsched export', or 'import', again"),
        ('"50"', '"half"', "slim.width 'half' is no whole percentage"),
        ('"50"', '"101"', "slim.width '101' is no whole percentage"),
        ('"0.5"', '"nan"', "slim.accuracy 'nan' is not finite"),
        ('"0.5"', '"good"', "slim.accuracy 'good' is no number"),
        ("[2, 4]", "[2, 9]", "can't prefer batches of 2, 9; give ascending sizes from 1 to its max_batch_size 8"),
        ("backend:", "nonsense:", 'has no field named "nonsense"'),
    ],
)
def test_a_config_that_cannot_be_used_is_explained(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in CONFIG
    write(tmp_path, "toy_w050", CONFIG.replace(old, new))
    message = refuse(tmp_path)
    assert problem in message
    assert "model toy_w050" in message


def test_one_bad_model_leaves_the_others_in_charge_and_is_told(tmp_path: Path) -> None:
    for width, dims in ((25, "[4]"), (50, "[4]"), (75, "[3]")):
        config = CONFIG.replace('"50"', f'"{width}"').replace("dims: [4] }]\noutput", f"dims: {dims} }}]\noutput")
        write(tmp_path, f"toy_w{width:03d}", config)
    write(tmp_path, "toy_w100", CONFIG.replace('"50"', '"full"'))
    repository = Repository(tmp_path)
    assert [entry.model.width for entry in repository.entries()] == [25, 50]
    assert repository.misfits.keys() == {"toy_w075", "toy_w100"}
    assert "it takes x FP32 [3]" in repository.misfits["toy_w075"]
    assert "slim.width 'full' is no whole percentage" in repository.misfits["toy_w100"]
    (tmp_path / "toy_w100" / "config.pbtxt").write_text(CONFIG.replace('"50"', '"100"'))
    assert [entry.model.width for entry in repository.entries()] == [25, 50, 100]
    assert repository.misfits.keys() == {"toy_w075"}


def test_a_model_that_has_gone_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("toy_w050", "toy_w100"):
        write(tmp_path, name, CONFIG.replace('"50"', f'"{int(name[-3:])}"'))
    repository, gone = Repository(tmp_path), "is not in repository"
    assert len(repository.entries()) == 2
    (tmp_path / "toy_w100" / "config.pbtxt").rename(tmp_path / "aside")
    for _ in range(2):
        assert [entry.model.name for entry in repository.entries()] == ["toy_w050"]
        assert caplog.text.count(f"model toy_w100 {gone} {tmp_path} any more") == 1
    (tmp_path / "aside").rename(tmp_path / "toy_w100" / "config.pbtxt")
    assert len(repository.entries()) == 2
    shutil.rmtree(tmp_path / "toy_w100")
    assert len(repository.entries()) == 1
    assert caplog.text.count(gone) == 2


def test_a_model_whose_config_is_damaged_is_not_told_to_have_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("toy_w050", "toy_w100"):
        write(tmp_path, name, CONFIG.replace('"50"', f'"{int(name[-3:])}"'))
    repository, path = Repository(tmp_path), tmp_path / "toy_w100" / "config.pbtxt"
    assert len(repository.entries()) == 2
    path.write_text("garbage {")
    for _ in range(2):
        assert len(repository.entries()) == 1
    said = f"model toy_w100 is not looked after any more: {path} names no slim.family; run 'slimsched export'"
    assert caplog.text.count(said) == 1
    assert "is not in repository" not in caplog.text


def test_what_the_fleet_file_describes_is_looked_after_without_a_word_in_its_config(tmp_path: Path) -> None:
    identity = Identity(Family("plates"), Width(30), 0.61)
    described = dict.fromkeys(("small", "many", "bare", "joint", "elsewhere"), identity)
    folder = write(tmp_path, "small", 'backend: "pytorch" max_batch_size: 4')
    (folder / "1" / "more.bin").write_bytes(b"123")
    (tmp_path / "bare" / "1").mkdir(parents=True)
    write(tmp_path, "joint", 'platform: "ensemble" ensemble_scheduling { }')
    repository = Repository(tmp_path, described=described)
    (entry,) = repository.entries()
    model = entry.model
    assert (model.family, model.width, model.accuracy, model.instances) == ("plates", 30, 0.61, 1)
    assert model.weights_bytes == 8, "all files of the version"
    config = build_override(entry, instances=3, batching=Batching(), nonce="n")
    assert config["instance_group"] == [{"count": 3}]
    assert config["backend"] == "pytorch"
    assert "slim.family" not in config["parameters"]
    assert repository.misfits.keys() == {"bare", "joint"}
    (folder / "1" / "more.bin").write_bytes(b"1234")
    (again,) = repository.entries()
    assert again.model.files_stamp != model.files_stamp


def test_a_described_model_that_cant_be_looked_at_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = {name: Identity(Family("plates"), Width(w), 0.61) for name, w in (("good", 30), ("closed", 60))}
    for name in described:
        write(tmp_path, name, 'backend: "pytorch" max_batch_size: 4')
    list_folder = Path.iterdir

    def refuse_one(folder: Path) -> Iterator[Path]:  # as for another user than root, whom a mode stops
        if folder.name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(Path, "iterdir", refuse_one)
    repository = Repository(tmp_path, described=described)
    assert [entry.model.name for entry in repository.entries()] == ["good"]
    assert "can't read" in repository.misfits["closed"]


def test_missing_weights_are_named(tmp_path: Path) -> None:
    write(tmp_path, "toy_w050")
    shutil.rmtree(tmp_path / "toy_w050" / "1")
    assert "model toy_w050 has no <version>/model.onnx" in refuse(tmp_path)


def test_another_model_file_is_found(tmp_path: Path) -> None:
    folder = write(tmp_path, "toy_w050", CONFIG + 'default_model_filename: "w.onnx"')
    (folder / "1" / "w.onnx").write_bytes(b"123")
    assert only(tmp_path).model.weights_bytes == 3


def test_a_new_export_is_noticed(tmp_path: Path) -> None:
    folder = write(tmp_path, "toy_w050")
    repository = Repository(tmp_path)
    (before,) = repository.entries()
    (again,) = repository.entries()
    assert before == again
    assert before.config is again.config, "nothing is parsed twice"
    (folder / "config.pbtxt").write_text(CONFIG.replace('"0.5"', '"0.6"'))
    os.utime(folder / "config.pbtxt", ns=(1, 1))
    (folder / "2").mkdir()
    (folder / "2" / "model.onnx").write_bytes(b"1234567")
    write(tmp_path, "toy_w100", CONFIG.replace('"50"', '"100"'))
    after = [entry.model for entry in repository.entries()]
    assert [(m.width, m.accuracy, m.weights_bytes) for m in after] == [(50, 0.6, 7), (100, 0.5, 5)]
    shutil.rmtree(folder)
    assert [entry.model.width for entry in repository.entries()] == [100]


def test_an_override_is_the_file_with_three_things_set(tmp_path: Path) -> None:
    write(tmp_path, "toy_w050")
    config = build_override(only(tmp_path), instances=3, batching=Batching((1, 8), 50), nonce="n1")
    parsed = json_format.ParseDict(json.loads(json.dumps(config)), ModelConfig())
    assert parsed.max_batch_size == 8
    assert [(group.count, group.kind) for group in parsed.instance_group] == [(3, 2)]
    assert list(parsed.dynamic_batching.preferred_batch_size) == [1, 8]
    assert parsed.dynamic_batching.max_queue_delay_microseconds == 50
    assert parsed.dynamic_batching.preserve_ordering, "what else the file says of batching stays"
    assert parsed.parameters["slim.nonce"].string_value == "n1"
    assert parsed.parameters["slim.width"].string_value == "50"
    assert parsed.runtime == ""
    assert "max_batch_size" in config, "protobuf's own field names, which Triton wants"


def test_an_override_without_batching_or_nonce_says_neither(tmp_path: Path) -> None:
    nonce = 'parameters { key: "slim.nonce" value { string_value: "old" } }'
    write(tmp_path, "toy_w050", CONFIG.replace("preserve_ordering: true", "") + nonce)
    entry = only(tmp_path)
    config = build_override(entry, instances=1, batching=Batching(), nonce="")
    assert config["dynamic_batching"] == {}
    assert "slim.nonce" not in config["parameters"]
    assert config["instance_group"] == [{"kind": "KIND_CPU", "count": 1}]
    config["parameters"]["slim.width"] = "spoilt"
    assert build_override(entry, instances=1, batching=Batching(), nonce="") != config, "the entry stays as it is"


def test_a_file_without_dynamic_batching_gets_it(tmp_path: Path) -> None:
    lines = [line for line in CONFIG.splitlines() if not line.startswith("dynamic_batching")]
    write(tmp_path, "toy_w050", "\n".join(lines))
    entry = only(tmp_path)
    assert entry.model.batching == Batching()
    assert build_override(entry, instances=1, batching=Batching(), nonce="")["dynamic_batching"] == {}


@pytest.mark.parametrize(
    ("instances", "batching", "problem"),
    [
        (0, Batching(), "can't run with 0 instances"),
        (1, Batching((), -1), "can't delay batches by -1 µs"),
        (1, Batching((9,)), "give ascending sizes from 1 to its max_batch_size 8"),
        (1, Batching((4, 2)), "can't prefer batches of 4, 2"),
        (1, Batching((2, 2)), "can't prefer batches of 2, 2"),
        (1, Batching((0,)), "can't prefer batches of 0"),
    ],
)
def test_what_triton_would_refuse_is_refused_first(
    tmp_path: Path, instances: int, batching: Batching, problem: str
) -> None:
    write(tmp_path, "toy_w050")
    with pytest.raises(ConfigError, match=problem):
        build_override(only(tmp_path), instances=instances, batching=batching, nonce="")
