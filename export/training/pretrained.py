"""A training that starts from a trained network of full width: ``--init``.

Tensors are matched by name. Where the names are those of another program, they are matched by their order, and every
shape must fit: torchvision's ``resnet50`` and ``mobilenet_v2`` have their tensors in the order of ``slimresnet50`` and
``slimmobilenet-v2``. A classifier for another number of classes is left new.

Then the channels are sorted by importance (``export.network.channels``), where the network says which belong
together, and each width gets the leading part of every tensor, of the statistics of batch norms too. Those are wrong
for narrow widths until these have learnt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from export.errors import CheckpointError
from export.network.channels import sort_channels
from export.network.factories import make_network
from export.network.protocol import SlimmableNetwork, Task
from export.training.checkpoint import Checkpoint, read_tensors
from export.training.datasets import ImageSpec
from export.width import Width, width_key

State = Mapping[str, torch.Tensor]

_FULL = Width(100)
_WIDTH = re.compile(r"w\d{3}")


def start_from(path: Path, network: SlimmableNetwork, name: str, task: Task) -> str:
    """Put the weights in a file into a new network and return, in a sentence, what was done.

    The name is the network's. What belongs to one width has a part in its name that is the width, ``w050`` or ``50``,
    or stays new. The file is of ``torch.save``: a state dict, one under ``state_dict`` or ``model``, or a checkpoint of
    ours with the full width. Raises CheckpointError when it is none of these or does not fit.
    """
    full = make_network(name, (_FULL,), task)
    taken, is_classifier_new = _match(_tensors(read_tensors(path), path), full.state_dict(), task, path)
    full.load_state_dict({**full.state_dict(), **taken})
    groups = getattr(full, "channel_groups", None)
    if groups is not None:
        sort_channels(groups())
    spread, new = _spread(full.state_dict(), network.state_dict())
    network.load_state_dict(spread)
    return (
        f"Started from {path}, "
        + (
            "channels sorted by importance"
            if groups
            else f"channels in their order, because {name} has no channel_groups"
        )
        + (", with a new classifier" if is_classifier_new else "")
        + (f"; {len(new)} tensors of narrower widths are new, {new[0]} among them." if new else ".")
    )


def trained_elsewhere(path: Path, name: str, widths: tuple[Width, ...], images: ImageSpec) -> Checkpoint:
    """Return the checkpoint of a network of one's own that another program trained, from its state dict.

    Nothing is measured: its accuracy is empty. Raises CheckpointError when the file holds no state dict.
    """
    state = _tensors(read_tensors(path), path)
    return Checkpoint(name, widths, images, state, epoch=0, settings={}, history=())


def _tensors(values: Mapping[str, Any], path: Path) -> State:
    inner = next((values[key] for key in ("state_dict", "model") if isinstance(values.get(key), dict)), values)
    state = {str(key): value for key, value in inner.items()}
    if all(key.startswith("module.") for key in state):  # as torch.nn.DataParallel saves
        state = {key.removeprefix("module."): value for key, value in state.items()}
    foreign = next((key for key, value in state.items() if not isinstance(value, torch.Tensor)), None)
    if foreign is not None or not state:
        raise CheckpointError(
            f"{path} is no state dict (it holds {foreign!r}); save network.state_dict() of a trained one"
        )
    return state


def _match(state: State, wanted: State, task: Task, path: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """Return tensors under the wanted names, and whether those of the classifier are left out."""
    # Old files have no counts of batches, which matter in no network that was trained.
    source, target = ({k: v for k, v in s.items() if not k.endswith("num_batches_tracked")} for s in (state, wanted))
    if target.keys() <= source.keys():  # more are those of narrower widths
        source = {key: source[key] for key in target}
    else:
        if len(source) != len(target):
            raise CheckpointError(
                f"{path} has {len(source)} tensors and the network at full width {len(target)}, "
                f"{next(key for key in target if key not in source)} among them; give a state dict of the same network"
            )
        source = dict(zip(target, source.values(), strict=True))
    last = list(target)[-2:]
    taken = {}
    for key, tensor in target.items():
        found = source[key]
        if found.shape == tensor.shape:
            taken[key] = found
        elif key not in last or found.shape[1:] != tensor.shape[1:] or len(tensor) != task.classes:
            raise CheckpointError(
                f"{path} does not fit: {key} has shape {list(found.shape)} there and {list(tensor.shape)} in the "
                "network at full width; give a state dict of the same network"
            )
    return taken, len(taken) < len(target)


def _spread(full: State, target: State) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Return the state of all widths, and the names of what is new in it.

    Of each tensor it has the leading part of the full width's, where there is one.
    """
    spread, new = {}, []
    for key, tensor in target.items():
        source = _at_full_width(key, full)
        if source is not None and source.ndim == tensor.ndim and all(map(int.__ge__, source.shape, tensor.shape)):
            spread[key] = source[tuple(slice(side) for side in tensor.shape)]
        else:
            spread[key] = tensor
            new.append(key)
    return spread, new


def _at_full_width(key: str, full: State) -> torch.Tensor | None:
    """Return a tensor's counterpart of the full width: its own, or where a part of its name is a width, that one's."""
    parts = key.split(".")
    names = [key]
    for index, part in enumerate(parts):
        if part.isdecimal() or _WIDTH.fullmatch(part):
            wide = str(int(_FULL)) if part.isdecimal() else width_key(_FULL)
            names.append(".".join((*parts[:index], wide, *parts[index + 1 :])))
    return next((full[name] for name in names if name in full), None)
