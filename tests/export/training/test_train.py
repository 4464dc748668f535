from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional

from export.errors import CheckpointError, ExportError
from export.network.protocol import Task
from export.training.calibration import accuracy_of, calibrate, memory_order, to_unit
from export.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from export.training.datasets import InMemoryImages
from export.training.train import (
    CHECKPOINT_INTERVAL_S,
    EpochDone,
    Started,
    StepDone,
    TrainSettings,
    augment,
    learning_rate_at,
    sandwich_widths,
    train,
)
from export.width import Width
from tests.export.toys import WIDTHS, lively_network, toy_images, toy_spec

SETTINGS = TrainSettings("slimresnet-tiny", WIDTHS, epochs=5, batch_size=32, learning_rate=0.1, flip=False)
TRAIN, TEST = toy_images(192), toy_images(60, seed=1)
CPU = torch.device("cpu")


def run(out: Path, settings: TrainSettings = SETTINGS, *, resume: bool = False) -> Checkpoint:
    *_, last = train(settings, TRAIN, TEST, out, device="cpu", resume=resume)
    assert isinstance(last, Checkpoint)
    return last


def without_seconds(history: tuple[Mapping[str, Any], ...]) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return run(tmp_path_factory.mktemp("run") / "out")


def test_it_learns(uninterrupted: Checkpoint) -> None:
    assert set(uninterrupted.accuracy) == set(WIDTHS)
    assert min(uninterrupted.accuracy.values()) > 0.8  # one in three by chance


@pytest.mark.parametrize("steps_into_epoch_2", [0, 3])
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(
    uninterrupted: Checkpoint, steps_into_epoch_2: int, tmp_path: Path
) -> None:
    events = train(SETTINGS, TRAIN, TEST, tmp_path, device="cpu", resume=False)
    while not isinstance(next(events), EpochDone):
        pass
    for _ in range(steps_into_epoch_2):
        assert isinstance(next(events), StepDone)
    events.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "model.pt").exists()

    resumed = run(tmp_path, resume=True)

    assert resumed.model.keys() == uninterrupted.model.keys()
    for name, tensor in uninterrupted.model.items():
        assert torch.equal(resumed.model[name], tensor), name
    assert without_seconds(resumed.history) == without_seconds(uninterrupted.history)
    assert resumed.accuracy == uninterrupted.accuracy


class Ticks:
    """A clock that moves by a given time, in seconds, whenever it is read."""

    def __init__(self, tick_s: float) -> None:
        self.tick_s = tick_s
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += self.tick_s
        return self.now_s


@pytest.mark.parametrize("steps", [1, 4, 9, 12])
def test_a_training_resumed_within_an_epoch_equals_an_uninterrupted_one_bit_for_bit(
    uninterrupted: Checkpoint, steps: int, tmp_path: Path
) -> None:
    events = train(SETTINGS, TRAIN, TEST, tmp_path, device="cpu", resume=False, clock=Ticks(CHECKPOINT_INTERVAL_S))
    taken = 0
    while taken < steps:
        taken += isinstance(next(events), StepDone)
    events.close()  # type: ignore[attr-defined]
    saved = load_checkpoint(tmp_path / "last.pt")
    assert saved.partial_epoch is not None
    assert saved.epoch * 6 + len(saved.partial_epoch["losses"]) == steps

    first = next(train(SETTINGS, TRAIN, TEST, tmp_path, device="cpu", resume=True))
    assert isinstance(first, StepDone | EpochDone)
    if isinstance(first, StepDone):
        assert (first.epoch - 1) * 6 + first.step == steps + 1
    resumed = run(tmp_path, resume=True)

    for name, tensor in uninterrupted.model.items():
        assert torch.equal(resumed.model[name], tensor), name
    assert without_seconds(resumed.history) == without_seconds(uninterrupted.history)


class Forgetful(torch.nn.Module):
    """A network that draws on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.dropout = torch.nn.Linear(12, 3), torch.nn.Dropout(0.5)

    def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
        out: torch.Tensor = self.layer(self.dropout(pixels.mean(dim=(1, 2))) * width / 100)
        return out


def make_forgetful(widths: tuple[Width, ...], task: Task) -> Forgetful:
    return Forgetful()


def test_what_a_network_draws_is_the_same_after_an_interruption(tmp_path: Path) -> None:
    settings = replace(SETTINGS, architecture=f"{__name__}:make_forgetful", epochs=2)
    whole = run(tmp_path / "whole", settings)
    clock = Ticks(CHECKPOINT_INTERVAL_S)
    events = train(settings, TRAIN, TEST, tmp_path / "two", device="cpu", resume=False, clock=clock)
    for _ in range(3):
        next(events)
    events.close()  # type: ignore[attr-defined]
    torch.manual_seed(99)
    resumed = run(tmp_path / "two", settings, resume=True)
    assert torch.equal(resumed.model["layer.weight"], whole.model["layer.weight"])


def test_checkpoints_are_as_close_as_the_docs_say() -> None:
    """Half of the ten minutes that an interruption may cost: a step may be long, and so may saving."""
    assert CHECKPOINT_INTERVAL_S <= 300


def test_an_interruption_of_the_measuring_costs_no_step(
    uninterrupted: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large test split and many widths it takes longer than many steps."""

    def end(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("export.training.train.accuracy_of", end)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    saved = load_checkpoint(tmp_path / "last.pt")
    assert (saved.epoch, saved.partial_epoch and len(saved.partial_epoch["losses"])) == (0, 6)
    first = next(train(SETTINGS, TRAIN, TEST, tmp_path, device="cpu", resume=True))
    assert isinstance(first, EpochDone), "it is measured again, and nothing is learnt again"
    resumed = run(tmp_path, resume=True)
    for name, tensor in uninterrupted.model.items():
        assert torch.equal(resumed.model[name], tensor), name
    assert without_seconds(resumed.history) == without_seconds(uninterrupted.history)


def test_checkpoints_come_by_time_and_not_by_step(tmp_path: Path) -> None:
    """A step that saves nothing reads the clock once, one that saves twice."""
    settings = replace(SETTINGS, epochs=1)
    clock = Ticks(CHECKPOINT_INTERVAL_S / 2)
    saved = []
    for event in train(settings, TRAIN, TEST, tmp_path, device="cpu", resume=False, clock=clock):
        if isinstance(event, StepDone) and (tmp_path / "last.pt").exists():
            checkpoint = load_checkpoint(tmp_path / "last.pt")
            assert checkpoint.partial_epoch is not None
            saved.append(len(checkpoint.partial_epoch["losses"]))
    assert saved == [1, 1, 3, 3, 5, 6], "the last step is saved before it is measured"
    assert load_checkpoint(tmp_path / "last.pt").partial_epoch is None


def test_to_resume_without_a_checkpoint_starts_anew_and_says_so(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    first, second, *_ = train(settings, TRAIN, TEST, tmp_path, device="cpu", resume=True)
    assert first == Started(f"No last.pt in {tmp_path} to go on from: the training starts at its beginning.")
    assert isinstance(second, StepDone)


def test_to_resume_a_finished_network_without_its_training_is_refused(tmp_path: Path) -> None:
    run(tmp_path, replace(SETTINGS, epochs=1))
    (tmp_path / "last.pt").unlink()
    with pytest.raises(CheckpointError, match=r"a training already, without last\.pt; choose another --out"):
        run(tmp_path, replace(SETTINGS, epochs=1), resume=True)


def test_a_training_starts_from_a_pretrained_network_once(uninterrupted: Checkpoint, tmp_path: Path) -> None:
    save_checkpoint(uninterrupted, tmp_path / "trained.pt")
    settings = replace(SETTINGS, epochs=2, learning_rate=1e-9, init=str(tmp_path / "trained.pt"))
    events = train(settings, TRAIN, TEST, tmp_path / "out", device="cpu", resume=False)
    assert isinstance(next(events), Started)
    while not isinstance(event := next(events), EpochDone):
        pass
    events.close()  # type: ignore[attr-defined]
    assert event.metrics["accuracy"]["100"] > 0.8  # nothing can be learnt at this rate
    *kinds, last = train(settings, TRAIN, TEST, tmp_path / "out", device="cpu", resume=True)
    assert not any(isinstance(kind, Started) for kind in kinds)
    assert isinstance(last, Checkpoint)


def test_norms_that_several_widths_share_get_the_mean_over_all_of_them() -> None:
    class Shared(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

        def forward(self, pixels: torch.Tensor, width: Width) -> torch.Tensor:
            out: torch.Tensor = self.norm(pixels * width).mean(dim=(2, 3))
            return out

    network = Shared()
    calibrate(network, (Width(25), Width(75)), TRAIN, device=CPU)
    mean = float(TRAIN.images.float().mean() / 255)
    assert float(network.norm.running_mean) == pytest.approx(50 * mean, rel=1e-4)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    one, two = run(tmp_path / "1", settings), run(tmp_path / "2", settings)
    other = run(tmp_path / "3", replace(settings, seed=1))
    assert torch.equal(one.model["stem.weight"], two.model["stem.weight"])
    assert not torch.equal(one.model["stem.weight"], other.model["stem.weight"])


def test_events_metrics_and_files_agree(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    events = list(train(settings, TRAIN, TEST, tmp_path, device="cpu", resume=False))
    assert [type(event) for event in events] == [StepDone] * 6 + [EpochDone, Checkpoint]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 1
    assert set(rows[0]["accuracy"]) == {"25", "50", "75", "100"}
    final = load_checkpoint(tmp_path / "model.pt")
    assert final.optimizer is None
    network = final.network()
    assert {w: accuracy_of(network, TEST, w, device=CPU) for w in WIDTHS} == final.accuracy


@pytest.mark.parametrize(
    ("change", "message"),
    [({"learning_rate": 0.2}, "learning_rate is 0.2 now and was 0.1"), ({"epochs": 2}, "epochs")],
)
def test_other_settings_do_not_continue_a_training(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    events = train(replace(SETTINGS, epochs=1), TRAIN, TEST, tmp_path, device="cpu", resume=False)
    list(events)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, replace(SETTINGS, **{"epochs": 1, **change}), resume=True)


def test_other_images_do_not_continue_a_training(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    run(tmp_path, settings)
    others = toy_images(64, spec=toy_spec(labels=("a", "b", "c")))
    with pytest.raises(CheckpointError, match="can't resume"):
        list(train(settings, others, others, tmp_path, device="cpu", resume=True))


def test_a_training_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    run(tmp_path, settings)
    with pytest.raises(CheckpointError, match="--resume"):
        run(tmp_path, settings)


def test_a_folder_that_another_training_writes_is_refused_until_that_has_ended(tmp_path: Path) -> None:
    first = train(SETTINGS, TRAIN, TEST, tmp_path, device="cpu", resume=False)
    next(first)
    with pytest.raises(CheckpointError, match=f"another training is at work in {tmp_path}; wait until"):
        run(tmp_path)
    first.close()  # type: ignore[attr-defined]
    assert run(tmp_path, replace(SETTINGS, epochs=1)).epoch == 1


def test_the_rate_climbs_to_its_peak_and_falls_to_nothing() -> None:
    rates = [learning_rate_at(step, 100, SETTINGS) for step in range(100)]
    peak = rates.index(max(rates))
    assert max(rates) == SETTINGS.learning_rate
    assert peak in (19, 20)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert 0 < rates[0] < 0.1 * SETTINGS.learning_rate
    assert rates[-1] < 0.001 * SETTINGS.learning_rate


def test_students_are_middle_widths_and_last_the_narrowest() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [sandwich_widths(WIDTHS, 1, generator) for _ in range(40)]
    assert {students[-1] for students in drawn} == {25}
    assert {students[0] for students in drawn} == {50, 75}
    assert {len(students) for students in drawn} == {2}
    assert set(sandwich_widths(WIDTHS, 9, generator)) == {25, 50, 75}
    assert sandwich_widths((Width(100),), 2, generator) == ()


def test_augmentation_shifts_and_mirrors_each_image_on_its_own() -> None:
    images = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).repeat(64, 1, 1, 1)
    settings = replace(SETTINGS, crop_padding=2, flip=True)
    result = augment(images, settings, torch.Generator().manual_seed(0))
    assert result.shape == images.shape
    assert result.dtype == torch.uint8
    padded = torch.nn.functional.pad(images[0, 0], (2, 2, 2, 2))
    allowed = {
        view.numpy().tobytes()
        for rows in range(5)
        for columns in range(5)
        for crop in [padded[rows : rows + 8, columns : columns + 8]]
        for view in (crop.contiguous(), crop.flip(1).contiguous())
    }
    found = {image.contiguous().numpy().tobytes() for image in result[:, 0]}
    assert found <= allowed
    assert len(found) > 20


def test_augmentation_can_be_turned_off() -> None:
    images = toy_images(5).images
    settings = replace(SETTINGS, crop_padding=0, flip=False)
    assert torch.equal(augment(images, settings, torch.Generator()), images)


def test_calibration_sets_statistics_to_those_of_the_images_as_served() -> None:
    widths = (Width(25), Width(100))
    network = lively_network(widths=widths)
    calibrate(network, widths, TRAIN, device=CPU)
    assert not network.training
    pixels = TRAIN.images.float() / 255
    for width in widths:
        norm = network.stem.norm.norm(width)
        raw = torch.nn.functional.conv2d(network.normalise(pixels), network.stem.active_weight(width), padding=1)
        torch.testing.assert_close(norm.running_mean, raw.mean(dim=(0, 2, 3)), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(norm.running_var, raw.var(dim=(0, 2, 3)), atol=1e-3, rtol=1e-3)
        assert norm.momentum == 0.1


def test_the_metrics_are_whole_after_an_interrupt_behind_the_last_checkpoint(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=2)
    run(tmp_path, settings)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "metrics.jsonl").write_text(lines[0])
    run(tmp_path, settings, resume=True)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines(keepends=True) == lines


def test_a_last_batch_of_one_image_joins_the_one_before_it(tmp_path: Path) -> None:
    # At 8×8 pixels the last feature map of slimresnet18 is one pixel, so one image alone has no variance.
    spec = replace(toy_spec(), height=8, width=8)
    images = InMemoryImages(spec, torch.randint(0, 255, (17, 1, 8, 8), dtype=torch.uint8), torch.arange(17) % 3)
    settings = TrainSettings("slimresnet18", (Width(25),), epochs=1, batch_size=8, crop_padding=0)
    events = list(train(settings, images, images, tmp_path, device="cpu", resume=False))
    assert [(e.step, e.steps_per_epoch) for e in events if isinstance(e, StepDone)] == [(1, 2), (2, 2)]


def test_calibration_weighs_every_image_alike() -> None:
    images = InMemoryImages(toy_spec(), torch.zeros(501, 1, 12, 12, dtype=torch.uint8), torch.zeros(501).long())
    images.images[-1] = 255
    network = lively_network()
    calibrate(network, WIDTHS, images, device=CPU)
    with torch.no_grad():
        x = network.normalise(images.images.float() / 255)
        weight = network.stem.active_weight(Width(100))
        means = torch.nn.functional.conv2d(x, weight, padding=1).mean(dim=(0, 2, 3))
    torch.testing.assert_close(network.stem.norm.norm(Width(100)).running_mean, means, rtol=0.02, atol=1e-4)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    settings = replace(SETTINGS, learning_rate=1e30, warmup_ratio=0.0)
    with pytest.raises(ExportError, match=r"the loss is (nan|inf) at step \d+ of epoch \d+; lower --learning-rate"):
        run(tmp_path, settings)
    assert not (tmp_path / "model.pt").exists()


def test_gradients_of_a_narrow_convolution_that_skips_pixels_are_right_on_large_images() -> None:
    """Channels last this ends the process on many CPUs, see ``memory_order``."""
    pixels = torch.randint(0, 256, (16, 8, 224, 224), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images, gradient = to_unit(pixels, CPU), torch.full((16, 16, 112, 112), 1e-3)
    weight = torch.ones(32, 16, 1, 1).contiguous(memory_format=memory_order(CPU)).requires_grad_()
    functional.conv2d(images, weight[:16, :8], stride=2).backward(gradient)
    assert weight.grad is not None
    wanted = 1e-3 * images[:, :, ::2, ::2].sum(dim=(0, 2, 3))
    torch.testing.assert_close(weight.grad[:16, :8, 0, 0], wanted.expand(16, 8), rtol=1e-4, atol=0)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_that_were_cut_out_pixel_by_pixel_have_the_order_of_the_device(channels: int) -> None:
    cut_out = torch.zeros(2, 6, 5, channels, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert to_unit(cut_out, CPU).stride() == torch.empty(2, channels, 6, 5).stride()
