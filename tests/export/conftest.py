from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from export.family import ProvenModel, prove_family
from export.repository.model_config import Tuning
from export.repository.model_files import write_models
from export.training.checkpoint import Checkpoint
from export.training.datasets import InMemoryImages
from export.width import Width
from tests.export.toys import lively_network, toy_checkpoint, toy_images


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    return toy_checkpoint(lively_network(seed=15))  # by chance it is right more often at full width


@pytest.fixture(scope="session")
def unseen_images() -> InMemoryImages:
    return toy_images(45, seed=7)


@pytest.fixture(scope="session")
def proven(checkpoint: Checkpoint, unseen_images: InMemoryImages) -> list[ProvenModel]:
    widths = (Width(25), Width(100))
    return list(prove_family(checkpoint, widths, unseen_images, family="toys", tuning=Tuning()))


@pytest.fixture
def repository(proven: list[ProvenModel], tmp_path: Path) -> Path:
    write_models(tmp_path / "models", {model.identity.name: model.files for model in proven})
    return tmp_path / "models"
