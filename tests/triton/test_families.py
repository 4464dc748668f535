from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.config.families import FamilySettings, PreprocessingSettings
from orchestrator.snapshot import ModelName, Preprocessing, ServedModel, TensorSpec
from orchestrator.triton.families import (
    Misfit,
    choose_interfaces,
    describe_models,
    find_misfits,
    interfaces_of,
    read_width,
)
from orchestrator.triton.trial_items import blank_batch

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def config(width: int = 25) -> ModelConfig:
    text = (REPOSITORY / f"fashion_w{width:03d}" / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


@pytest.mark.parametrize("width", [25, 50, 75, 100])
def test_an_exported_config_says_all_that_a_router_must_know(width: int) -> None:
    model = read_width(config(width), {})
    assert isinstance(model, ServedModel)
    assert (model.name, model.family, model.width) == (f"fashion_w{width:03d}", "fashion", width)
    assert (model.max_batch_size, model.instances) == (64, 1)
    assert model.inputs == (TensorSpec("pixels", "FP32", (1, 28, 28)),)
    assert model.outputs == (TensorSpec("logits", "FP32", (10,)),)
    assert model.labels[0] == "T-shirt/top"
    assert 0.9 < model.accuracy < 1
    assert model.flops is not None
    assert model.sha256 is not None


def test_what_the_exporter_did_not_say_is_none() -> None:
    plain = config()
    for key in ("slim.flops", "slim.sha256", "slim.labels"):
        del plain.parameters[key]
    model = read_width(plain, {})
    assert isinstance(model, ServedModel)
    assert (model.flops, model.sha256, model.labels) == (None, None, ())
    plain.parameters["slim.flops"].string_value = "0"
    model = read_width(plain, {})
    assert isinstance(model, ServedModel)
    assert model.flops is None, "an importer counts what it knows"


def test_other_models_are_passed_over_in_silence() -> None:
    other = config()
    del other.parameters["slim.family"]
    assert read_width(ModelConfig(name="other"), {}) is None
    assert read_width(other, {}) is None


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("slim.width", None, "lacks slim.width"),
        ("slim.width", "a quarter", "slim.width 'a quarter' is no whole percentage from 1 to 100"),
        ("slim.width", "0", "slim.width '0' is no"),
        ("slim.width", "101", "slim.width '101' is no"),
        ("slim.accuracy", None, "lacks slim.accuracy"),
        ("slim.accuracy", "good", "slim.accuracy 'good' is no number"),
        ("slim.accuracy", "nan", "slim.accuracy 'nan' is not finite"),
        ("slim.flops", "few", "slim.flops 'few' is no number"),
        ("slim.labels", "{}", "slim.labels is no JSON list"),
        ("slim.labels", "[", "slim.labels is no JSON list"),
    ],
)
def test_a_model_that_looks_meant_for_a_family_says_why_it_is_none(key: str, value: str | None, reason: str) -> None:
    changed = config()
    if value is None:
        del changed.parameters[key]
    else:
        changed.parameters[key].string_value = value
    misfit = read_width(changed, {})
    assert isinstance(misfit, Misfit)
    assert reason in misfit.reason
    assert "'families' in the fleet file" in misfit.reason


def test_what_the_router_cannot_group_is_a_misfit() -> None:
    unknown_type, decoupled, stateful, silent = config(), config(), config(), config()
    unknown_type.input[0].data_type = 99
    decoupled.model_transaction_policy.decoupled = True
    stateful.sequence_batching.max_sequence_idle_microseconds = 1
    del silent.output[:]
    for changed, reason in [
        (unknown_type, "type"),
        (decoupled, "decoupled"),
        (stateful, "batches sequences"),
        (silent, "0 outputs"),
    ]:
        misfit = read_width(changed, {})
        assert isinstance(misfit, Misfit)
        assert reason in misfit.reason


def test_several_tensors_of_any_type_and_models_without_a_batch_dimension_are_widths() -> None:
    changed = config()
    changed.max_batch_size = 0
    changed.input.add(name="text", data_type=13, dims=[-1])
    changed.output.add(name="boxes", data_type=11, dims=[-1, 4])
    model = read_width(changed, {})
    assert isinstance(model, ServedModel)
    assert (model.max_batch_size, model.is_batching) == (1, False)
    assert model.inputs[1] == TensorSpec("text", "BYTES", (-1,))
    assert model.outputs[1] == TensorSpec("boxes", "FP32", (-1, 4))


def described() -> FamilySettings:
    variants = [{"width": 100, "model": "large", "quality": 0.7}, {"width": 30, "model": "small", "quality": 0.61}]
    return FamilySettings.model_validate({"name": "plates", "variants": variants, "labels": ["no", "yes"]})


def test_what_the_fleet_file_describes_is_a_width_whatever_its_own_config_says() -> None:
    known = describe_models([described()])
    plain = config()
    plain.name = "small"
    plain.parameters["slim.width"].string_value = "nonsense"
    model = read_width(plain, known)
    assert isinstance(model, ServedModel)
    assert (model.name, model.family, model.width, model.accuracy) == ("small", "plates", 30, 0.61)
    assert (model.sha256, model.flops, model.labels) == (None, None, ("no", "yes"))


def test_a_variant_that_is_no_better_than_a_narrower_one_is_left_out_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    variants = [{"width": w, "model": f"m{w}", "quality": q} for w, q in ((10, 0.5), (50, 0.4), (90, 0.6))]
    family = FamilySettings.model_validate({"name": "plates", "variants": variants})
    assert describe_models([family]).keys() == {"m10", "m90"}
    assert "model m50 is left out of family plates: its quality 0.4 is no better" in caplog.text


def test_what_an_image_goes_through_is_read_from_the_config_or_the_fleet_file() -> None:
    said = config()
    said.parameters["slim.preprocessing"].string_value = '{"resize": 256, "colours": "BGR", "mean": [0.5, 0.4, 0.3]}'
    model = read_width(said, {})
    assert isinstance(model, ServedModel)
    assert model.preprocessing == Preprocessing(resize=256, colours="BGR", mean=(0.5, 0.4, 0.3))
    said.parameters["slim.preprocessing"].string_value = '{"colours": "CMYK"}'
    misfit = read_width(said, {})
    assert isinstance(misfit, Misfit)
    assert "slim.preprocessing: colours" in misfit.reason
    family = described().model_copy(update={"preprocessing": PreprocessingSettings(resize=20)})
    assert describe_models([family])["small"].preprocessing == Preprocessing(resize=20)


def test_a_config_says_what_a_usual_item_is_and_an_item_that_its_input_does_not_take_is_told() -> None:
    said = config()
    said.input.add(name="ids", data_type=9, dims=[-1])
    said.parameters["slim.item"].string_value = '{"ids": [7]}'
    model = read_width(said, {})
    assert isinstance(model, ServedModel)
    assert model.usual_item == ((1, 28, 28), (7,))
    for text, reason in [('{"ids": [7, 7]}', "slim.item has [7, 7] for 'ids'"), ("[7]", "slim.item '[7]' is no JSON")]:
        said.parameters["slim.item"].string_value = text
        misfit = read_width(said, {})
        assert isinstance(misfit, Misfit)
        assert reason in misfit.reason


def test_the_fleet_file_says_what_a_usual_item_is_and_one_that_the_inputs_do_not_take_is_told() -> None:
    said = config()
    said.name = "small"
    said.input[0].dims[:] = [1, -1, 2]
    family = described().model_copy(update={"item": {"pixels": (1, 3, 2)}, "fill": {"pixels": 0.5}})
    model = read_width(said, describe_models([family]))
    assert isinstance(model, ServedModel)
    (batch,) = blank_batch(model, 2) or ()
    np.testing.assert_array_equal(batch, np.full((2, 1, 3, 2), 0.5, np.float32))
    for update, reason in [
        ({"fill": {"pixels": "word"}}, "slim.fill has 'word' for 'pixels', which takes FP32"),
        ({"fill": {"image": 1}}, "slim.fill is about 'image', and the inputs are pixels"),
        ({"item": {"pixels": (3,)}}, "slim.item has [3] for 'pixels', which takes [1, -1, 2]"),
    ]:
        misfit = read_width(said, describe_models([family.model_copy(update=update)]))
        assert isinstance(misfit, Misfit)
        assert reason in misfit.reason
        assert misfit.reason.endswith("; correct what 'families' in the fleet file says of it, or take it out there")


def test_a_width_that_takes_something_else_than_most_is_a_misfit_and_what_was_chosen_stays_among_equals() -> None:
    models = []
    for width in (25, 50, 75):
        model = read_width(config(width), {})
        assert isinstance(model, ServedModel)
        models.append(model)
    odd = replace(models[0], inputs=(TensorSpec("pixels", "FP32", (3, 32, 32)),))
    chosen = choose_interfaces(interfaces_of([odd, *models[1:]]), {})
    reasons = find_misfits([odd, *models[1:]], chosen)
    assert reasons.keys() == {odd.name}
    assert "it takes pixels FP32 [3, 32, 32]" in reasons[odd.name]
    assert "family fashion takes pixels FP32 [1, 28, 28]" in reasons[odd.name]
    even = [odd, models[1]]
    assert find_misfits(even, choose_interfaces(interfaces_of(even), {})).keys() == {models[1].name}, (
        "the narrowest goes first"
    )
    assert find_misfits(even, choose_interfaces(interfaces_of(even), chosen)).keys() == {odd.name}


def test_of_two_models_of_one_width_on_a_server_the_second_by_name_is_a_misfit() -> None:
    model = read_width(config(50), {})
    assert isinstance(model, ServedModel)
    twins = [replace(model, name=ModelName(name)) for name in ("b", "a")]
    misfits = find_misfits(twins, choose_interfaces(interfaces_of(twins), {}))
    assert misfits.keys() == {"b"}
    assert "it is width 50 of family fashion, as a is" in misfits["b"]
