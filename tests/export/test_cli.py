from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from export.cli import export, train, verify
from export.training.train import TrainSettings
from export.width import Width
from tests.export.toys import write_image_folder

COMMANDS = {"train": train, "export": export, "verify": verify}


def slimsched(command: str, *arguments: object) -> Result:
    return CliRunner().invoke(COMMANDS[command], [str(argument) for argument in arguments])


def assert_one_line(result: Result, message: str) -> None:
    assert result.exit_code == 1, result.output
    assert len(result.output.strip().splitlines()) == 1, result.output
    assert result.output.startswith("Error: ")
    assert message in result.output


def train_arguments(folder: Path, out: Path, *more: object) -> tuple[object, ...]:
    usual = ("--data", "imagefolder", "--widths", "0.5,1.0", "--image-size", 16, "--batch-size", 8)
    return ("--data-dir", folder, "--out", out, *usual, "--device", "cpu", "--threads", 1, *more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    write_image_folder(root, {"train": 12, "val": 8})
    return root


@pytest.fixture(scope="module")
def run(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "toys"
    result = slimsched("train", *train_arguments(folder, out, "--epochs", 2))
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def exported(run: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported") / "models"
    arguments = (run / "model.pt", "--repository", place, "--data-dir", folder, "--widths", "0.5,1.0")
    result = slimsched("export", *arguments)
    assert result.exit_code == 0, result.output
    assert result.output.count("written") == 2
    assert slimsched("export", *arguments).output.count("unchanged") == 2
    return place


@pytest.fixture
def repository(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "models")


def test_training_leaves_checkpoint_metrics_and_picture(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {"model.pt", "last.pt", "metrics.jsonl", "accuracy_flops.png"}


def test_training_prints_a_line_an_epoch_and_a_table(folder: Path, tmp_path: Path) -> None:
    result = slimsched("train", *train_arguments(folder, tmp_path / "out", "--epochs", 2, "--no-flip"))
    assert result.exit_code == 0, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("epoch ")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("0.50: " in line and "1.00: " in line for line in lines)
    for heading in ("width", "top-1 %", "MFLOPs", "parameters"):
        assert heading in result.output


def test_export_and_verify_go_together(repository: Path, run: Path, folder: Path) -> None:
    names = ["imagefolder_w050", "imagefolder_w100"]
    assert sorted(os.listdir(repository)) == names
    result = slimsched("verify", repository)
    assert result.exit_code == 0, result.output
    assert all(name in result.output for name in names)
    result = slimsched("verify", repository, "--checkpoint", run / "model.pt", "--data-dir", folder)
    assert result.exit_code == 0, result.output


def test_verify_fails_on_errors_and_not_on_notes(repository: Path) -> None:
    config = repository / "imagefolder_w050" / "config.pbtxt"
    text = config.read_text()
    config.write_text(text.replace("max_batch_size: 64", "max_batch_size: 8"))
    result = slimsched("verify", repository)
    assert result.exit_code == 0
    assert "note: imagefolder_w050: config.pbtxt was edited by hand: max_batch_size is 8" in result.output
    config.write_text(text.replace("pixels", "image"))
    result = slimsched("verify", repository)
    assert result.exit_code == 1
    assert "error: imagefolder_w050: " in result.output


def test_options_reach_the_configuration(run: Path, folder: Path, tmp_path: Path) -> None:
    options = ["--widths", "1.0", "--family", "photos", "--device", "gpu", "--max-batch-size", "16", "--instances", "2"]
    result = slimsched("export", run / "model.pt", "--repository", tmp_path, "--data-dir", folder, *options)
    assert result.exit_code == 0, result.output
    text = (tmp_path / "photos_w100" / "config.pbtxt").read_text()
    for part in ('name: "photos_w100"', "max_batch_size: 16", "count: 2", "KIND_GPU", "batch_16"):
        assert part in text


def test_defaults_are_those_of_the_settings() -> None:
    options = train.make_context("train", ["--epochs", "1", "--out", "x"]).params
    settings = {field.name: field.default for field in fields(TrainSettings) if field.default is not MISSING}
    shared = options.keys() & settings.keys()
    assert shared == settings.keys() - {"warmup_ratio", "momentum"}
    assert {name: options[name] for name in shared} == {name: settings[name] for name in shared}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = slimsched(command, "--help")
    assert result.exit_code == 0
    assert f"Example:\n    slimsched {command} " in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "0.5,wide"), "width 'wide' is not a number"),
        (("--model", "resnet-huge"), "unknown network 'resnet-huge'"),
        (("--model", "slimresnet20", "--network", "mynets:make"), "--model and --network each name a network"),
        (("--network", "mynets:"), "network 'mynets:' is not of the form package.module:function"),
        (("--network", "no.such.module:make"), "--network no.such.module:make: can't be imported (ModuleNotFoundError"),
        (("--data-dir", "/nowhere"), "/nowhere has no folder train"),
        (("--out", "/proc/none/out"), "can't write to /proc/none/out"),
    ],
)
def test_bad_input_to_train_is_one_line(arguments: tuple[str, str], message: str, folder: Path, tmp_path: Path) -> None:
    usual = train_arguments(folder, tmp_path / "out", "--epochs", 1)
    assert_one_line(slimsched("train", *usual, *arguments), message)


def test_a_second_training_into_the_same_folder_is_one_line(run: Path, folder: Path) -> None:
    assert_one_line(slimsched("train", *train_arguments(folder, run, "--epochs", 2)), "add --resume")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--widths", "0.3"), "the checkpoint has no width 0.30; it was trained for 0.50, 1.00"),
        (("--widths", "2"), "outside 0.01 to 1.00"),
        (("--family", "Big One"), "family name 'Big One'"),
        (("--data-dir", "/nowhere"), "/nowhere has no folder val or test"),
        (("--repository", "/proc/none"), "can't write /proc/none"),
    ],
)
def test_bad_input_to_export_is_one_line(
    arguments: tuple[str, str], message: str, run: Path, folder: Path, tmp_path: Path
) -> None:
    usual = ("--repository", tmp_path / "models", "--data-dir", folder, "--widths", "0.5")
    assert_one_line(slimsched("export", run / "model.pt", *usual, *arguments), message)
    assert not (tmp_path / "models").exists()


def test_bad_checkpoints_and_repositories_are_one_line(run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes((run / "model.pt").read_bytes()[:1000])
    assert_one_line(slimsched("export", broken), "truncated")
    assert_one_line(slimsched("export", tmp_path / "none.pt"), "no checkpoint at")
    assert_one_line(slimsched("verify", tmp_path / "none"), "can't read")


BASE_INSTALL = """
import sys
sys.modules.update(dict.fromkeys(["torch", "torchvision", "onnx", "onnxscript", "matplotlib"]))
import export.cli
getattr(export.cli, sys.argv[1])(sys.argv[2:], prog_name=sys.argv[1])
"""


@pytest.mark.parametrize(
    "arguments", [("train", "--epochs", "1", "--out", "x"), ("export", "x.pt"), ("verify", "--help")]
)
def test_without_the_export_extra_the_commands_say_what_to_install(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BASE_INSTALL, *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    if arguments[0] == "verify":
        assert done.returncode == 0, done.stderr
    else:
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert "pip install 'slim-scheduler[export]'" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_an_interrupted_training_says_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    arguments = [str(a) for a in train_arguments(folder, tmp_path / "out", "--epochs", 10_000)]
    with subprocess.Popen(
        [sys.executable, "-c", "from export.cli import train; train()", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline().startswith("epoch 1/10000")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().strip().endswith("the same command with --resume goes on from there.")
    assert (tmp_path / "out" / "last.pt").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("--learning-rate", "nan"),
        ("--learning-rate", "inf"),
        ("--learning-rate", "0"),
        ("--learning-rate", "-1"),
        ("--weight-decay", "nan"),
        ("--seed", "99999999999999999999"),
        ("--epochs", "0"),
        ("--network", "slimresnet18"),
    ],
)
def test_values_that_can_only_waste_a_training_are_refused(
    arguments: tuple[str, str], folder: Path, tmp_path: Path
) -> None:
    result = slimsched("train", *train_arguments(folder, tmp_path / "out", "--epochs", 1, *arguments))
    assert result.exit_code == 2
    assert f"Invalid value for '{arguments[0]}'" in result.output
    assert not (tmp_path / "out").exists()


def test_a_finished_network_is_never_overwritten(run: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copy(run / "model.pt", tmp_path)
    result = slimsched("train", *train_arguments(folder, tmp_path, "--epochs", 1))
    assert_one_line(result, "holds a training already")
    assert (tmp_path / "model.pt").read_bytes() == (run / "model.pt").read_bytes()


def test_an_unfinished_training_is_not_exported(run: Path, folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "models"
    result = slimsched("export", run / "last.pt", "--repository", place, "--data-dir", folder, "--widths", "0.5")
    assert_one_line(result, "the training was not finished")
    assert not place.exists()


def test_a_text_file_among_the_images_is_named(folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder, tmp_path / "images")
    (images / "train" / "dark" / "0.png").write_text("no image")
    result = slimsched("train", *train_arguments(images, tmp_path / "out", "--epochs", 1))
    assert_one_line(result, "dark/0.png is no image that can be read")


def test_splits_of_different_classes_are_refused_before_the_training(folder: Path, tmp_path: Path) -> None:
    images = shutil.copytree(folder, tmp_path / "images")
    shutil.rmtree(images / "val" / "dark")
    result = slimsched("train", *train_arguments(images, tmp_path / "out", "--epochs", 1))
    assert_one_line(result, "training and test split differ in labels: ('dark', 'light') and ('light',)")
    assert not (tmp_path / "out").exists()


OWN_NETWORK = """
import torch
from export.network.convnet import SlimConvNet

def make(widths, task):
    return SlimConvNet(widths, task)

def broken(widths, task):
    raise ValueError("no such width")
"""


@pytest.fixture
def own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module in the folder where the commands are run."""
    (tmp_path / "clinet.py").write_text(OWN_NETWORK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("clinet", None)


@pytest.mark.usefixtures("own_network")
def test_a_network_that_can_not_be_made_leaves_no_folder(folder: Path, tmp_path: Path) -> None:
    Path("clinet.py").write_text("def make(widths, task):\n    raise RuntimeError('no weights')\n")
    result = slimsched("train", *train_arguments(folder, tmp_path / "out", "--epochs", 1, "--network", "clinet:make"))
    assert_one_line(result, "--network clinet:make raises RuntimeError: no weights; called with")
    assert "mend it, or give another" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("own_network")
def test_a_network_of_ones_own_goes_all_the_way(folder: Path, tmp_path: Path) -> None:
    out, place = tmp_path / "out", tmp_path / "models"
    own = ("--network", "clinet:make")
    result = slimsched("train", *train_arguments(folder, out, "--epochs", 1, *own))
    assert result.exit_code == 0, result.output
    assert "clinet:make, test split" in result.output
    usual = ("--repository", place, "--data-dir", folder, "--widths", "0.5,1.0")
    assert_one_line(
        slimsched("export", out / "model.pt", *usual),
        "is of the network clinet:make; give --network clinet:make, if you trust that code",
    )
    assert not place.exists()
    result = slimsched("export", out / "model.pt", *usual, *own)
    assert result.exit_code == 0, result.output
    check = ("--checkpoint", out / "model.pt", "--data-dir", folder)
    result = slimsched("verify", place, *check, *own)
    assert result.exit_code == 0, result.output
    broken = slimsched("export", out / "model.pt", *usual, "--network", "clinet:broken")
    assert_one_line(broken, "clinet:broken raises ValueError: no such width")


INTERRUPTED_NETWORK = """
from pathlib import Path
from export.network.convnet import SlimConvNet

class Network(SlimConvNet):
    def forward(self, pixels, width):
        if Path("interrupt").exists() and Path("out", "last.pt").exists():
            raise KeyboardInterrupt
        return super().forward(pixels, width)

def make(widths, task):
    return Network(widths, task)
"""


@pytest.mark.usefixtures("own_network")
def test_a_training_of_an_own_network_goes_on_where_it_was_interrupted(folder: Path, tmp_path: Path) -> None:
    Path("clinet.py").write_text(INTERRUPTED_NETWORK)
    usual = ("--epochs", 3, "--network", "clinet:make")
    assert slimsched("train", *train_arguments(folder, tmp_path / "whole", *usual)).exit_code == 0
    Path("interrupt").touch()
    stopped = slimsched("train", *train_arguments(folder, tmp_path / "out", *usual))
    assert stopped.exit_code == 130, stopped.output
    assert not (tmp_path / "out" / "model.pt").exists()
    Path("interrupt").unlink()
    other = slimsched("train", *train_arguments(folder, tmp_path / "out", "--resume", "--epochs", 3))
    assert_one_line(other, "is of the network clinet:make; give --network clinet:make, if you trust that code")
    resumed = slimsched("train", *train_arguments(folder, tmp_path / "out", "--resume", *usual))
    assert resumed.exit_code == 0, resumed.output
    epochs = [line.split()[1] for line in resumed.output.splitlines() if line.startswith("epoch ")]
    assert epochs == ["1/3", "2/3", "3/3"], "the first was learnt, and not measured yet"
    whole, weights = (torch.load(tmp_path / run / "model.pt", weights_only=True)["model"] for run in ("whole", "out"))
    assert whole.keys() == weights.keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in whole.items())


@pytest.mark.parametrize("name", ["slimmobilenet-v2", "slimconvnet"])
def test_networks_of_other_kinds_are_trained_and_exported_at_two_widths_with_parity(
    name: str, folder: Path, tmp_path: Path
) -> None:
    out, place = tmp_path / "out", tmp_path / "models"
    # At 16 pixels a MobileNet's deep maps are one pixel: float32 alone is then off by as much as the proof allows.
    gently = ("--middle-widths", 0, "--learning-rate", 0.001, "--image-size", 32)
    result = slimsched("train", *train_arguments(folder, out, "--epochs", 2, "--model", name, *gently))
    assert result.exit_code == 0, result.output
    usual = ("--repository", place, "--data-dir", folder, "--widths", "0.5,1.0")
    result = slimsched("export", out / "model.pt", *usual)
    assert result.exit_code == 0, result.output
    assert sorted(os.listdir(place)) == ["imagefolder_w050", "imagefolder_w100"]
    result = slimsched("verify", place, "--checkpoint", out / "model.pt", "--data-dir", folder)
    assert result.exit_code == 0, result.output
    assert "error: " not in result.output


@pytest.mark.usefixtures("own_network")
def test_a_state_dict_that_another_program_trained_is_exported(folder: Path, tmp_path: Path) -> None:
    from export.network.factories import make_network
    from export.network.protocol import Task

    task = Task(2, (3, 16, 16), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    network = make_network("slimconvnet", (Width(50), Width(100)), task)
    parallel = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": parallel}, tmp_path / "theirs.pt")
    place = tmp_path / "models"
    usual = ("--repository", place, "--data-dir", folder, "--network", "clinet:make", "--image-size", 16)
    export = ("export", tmp_path / "theirs.pt", *usual)
    assert_one_line(slimsched(*export), "is a file of another program")
    data = ("--data", "imagefolder")
    assert_one_line(slimsched(*export, *data, "--widths", "0.75"), "the weights do not fit clinet:make")
    assert not place.exists()
    result = slimsched(*export, *data, "--widths", "0.5,1.0")
    assert result.exit_code == 0, result.output
    assert slimsched("verify", place).exit_code == 0


def test_a_stem_that_does_not_fit_is_told_before_the_training(folder: Path, tmp_path: Path) -> None:
    size = ("--model", "slimresnet50", "--epochs", 1, "--widths", "0.5,0.5")
    assert_one_line(slimsched("train", *train_arguments(folder, tmp_path, *size)), "width 0.50 is given twice")
    sizes = ("--image-size", 96, "--epochs", 1, "--widths", "0.25", "--model", "slimconvnet")
    result = slimsched("train", *train_arguments(folder, tmp_path, *sizes))
    assert result.exit_code == 0, result.output
    assert "Warning: the stem of slimconvnet is for images of 16 to 40 pixels, not 96;" in result.output


def test_training_starts_from_a_trained_network(run: Path, folder: Path, tmp_path: Path) -> None:
    arguments = train_arguments(folder, tmp_path / "out", "--epochs", 1, "--init", run / "model.pt")
    result = slimsched("train", *arguments)
    assert result.exit_code == 0, result.output
    assert "channels sorted by importance." in result.output
    other = (*arguments, "--model", "slimresnet20", "--out", tmp_path / "other")
    assert_one_line(slimsched("train", *other), "give a state dict of the same network")
    assert_one_line(slimsched("train", *other, "--init", tmp_path / "none.pt"), "no checkpoint at")
