"""What a router makes of models by their configurations: its own code reads and judges them, so no rule is here twice.

What a configuration leaves to Triton, a router learns from
Triton, so that much is not judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tritonclient.grpc.model_config_pb2 import ModelConfig

from export.errors import RepositoryError
from orchestrator.config import load_fleet
from orchestrator.errors import ConfigError
from orchestrator.images import image_size
from orchestrator.snapshot import Family, ModelName, Preprocessing, ServedModel, TensorSpec
from orchestrator.snapshot import Width as ServedWidth
from orchestrator.triton.families import (
    DESCRIBED_REMEDY,
    REMEDY,
    Identity,
    as_served,
    choose_interfaces,
    describe_family,
    interface_of,
    misfits_among,
    read_identity,
)
from orchestrator.triton.families import (
    read_preprocessing as read_preprocessing,  # for who writes it
)

DescribedModel = Identity
"""What a configuration written by hand, or a fleet file, says of a model."""


@dataclass(frozen=True, slots=True)
class DescribedFleet:
    """What a fleet file says of models whose configurations say nothing.

    Attributes:
        models: What it says of each, by name.
        repositories: The repositories of its servers, where it names them.
    """

    models: Mapping[str, DescribedModel] = field(default_factory=dict)
    repositories: tuple[Path, ...] = ()

    def missing(self, repository: Path) -> dict[str, DescribedModel]:
        """Return the models that are in no repository, one more beside the servers' included, by name."""
        places = (repository, *self.repositories)
        return {
            name: model for name, model in self.models.items() if not any((place / name).is_dir() for place in places)
        }


def read_fleet(path: Path) -> DescribedFleet:
    """Return what a fleet file says of models; raises RepositoryError when it can't be read or makes no sense."""
    try:
        fleet = load_fleet(path)
    except ConfigError as exc:
        raise RepositoryError(str(exc)) from exc
    models = {name: model for family in fleet.families for name, model in describe_family(family).items()}
    return DescribedFleet(models, tuple(server.repository for server in fleet.servers if server.repository))


@dataclass(frozen=True, slots=True)
class Routed:
    """What a router knows of a model by its configuration.

    Attributes:
        identity: None where what the configuration says makes no sense.
        served: As it would be served; None where it would be none of its family, or where inputs and outputs are left
            to Triton.
        problem: Why it is none of its family, or why no image file can be made its input; empty: there is nothing.
    """

    identity: DescribedModel | None = None
    served: ServedModel | None = None
    problem: str = ""


def read_routed(name: str, config: ModelConfig, described: DescribedModel | None) -> Routed:
    """Return what a router makes of a configuration with parameters ``slim.*``, or of a model that is described."""
    identity, served = described, None
    named = ModelConfig()
    named.CopyFrom(config)
    named.name = name
    try:
        identity = described or read_identity({key: value.string_value for key, value in config.parameters.items()})
        if identity is None:
            raise ValueError("it has slim.* parameters and lacks slim.family")
        if config.input and config.output:
            served = as_served(named, identity)
            if served.preprocessing is not None:
                shapes = served.usual_item or tuple(spec.shape for spec in served.inputs)
                usual = [replace(spec, shape=shape) for spec, shape in zip(served.inputs, shapes, strict=True)]
                _require_image(served.preprocessing, usual)
    except ValueError as exc:
        return Routed(identity, served, f"{exc}; {DESCRIBED_REMEDY if described else REMEDY}")
    return Routed(identity, served)


def require_image(said: str, inputs: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
    """Raise ValueError when what ``slim.preprocessing`` says does not fit inputs of these names, types and shapes."""
    preprocessing = read_preprocessing(said)
    if preprocessing is not None:
        _require_image(preprocessing, [TensorSpec(*each) for each in inputs])


def _require_image(said: Preprocessing, inputs: Sequence[TensorSpec]) -> None:
    if len(inputs) != 1:
        raise ValueError(
            f"slim.preprocessing: an image is one input, and there are {', '.join(spec.name for spec in inputs)}"
        )
    (spec,) = inputs
    try:
        image_size(replace(spec, shape=tuple(max(1, side) for side in spec.shape)), said)  # sides may vary
    except ConfigError as exc:
        raise ValueError(
            f"slim.preprocessing: {said.colours} as {said.layout} is made of an image, and {spec.name!r} takes "
            f"{list(spec.shape)} of {spec.datatype}"
        ) from exc


def judge_siblings(models: Iterable[tuple[str, str, int, ServedModel]]) -> dict[str, str]:
    """Return why models, given with family and width, are none of their families beside the others, by name."""
    known = [
        (ModelName(name), Family(family), ServedWidth(width), interface_of(served))
        for name, family, width, served in models
    ]
    return misfits_among(known, choose_interfaces((each[1:] for each in known), {}))
