"""From a checkpoint to a verified family of models in a repository: cut, export, prove, and only then write.

Every width is exported and proven before the first one is written, so a repository never holds a family of which
only a part works.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from export.errors import CheckpointError, ExportError, RepositoryError
from export.network.protocol import AtWidth
from export.network.subnet import cut_subnet, flops_per_image
from export.onnx.graph import check_graph, export_onnx
from export.onnx.parity import ACCURACY_TOLERANCE, Parity, compare
from export.repository.model_config import Identity, Tuning, model_name, render_config
from export.repository.model_files import CONFIG_FILE, LABELS_FILE, MODEL_FILE, Files, render_labels
from export.repository.verification import Finding, Severity, Verification
from export.training.checkpoint import Checkpoint
from export.training.datasets import ImageSet
from export.width import Width, render_ratio, useless_widths


@dataclass(frozen=True, slots=True)
class ProvenModel:
    """One width whose graph was proven equal to the network, with the files of its folder; nothing is written yet."""

    identity: Identity
    files: Files
    parity: Parity


def default_family(dataset: str) -> str:
    """Return the family's name when none is given: ``fashion`` for Fashion-MNIST, else the data set's own."""
    return "fashion" if dataset == "fashion-mnist" else dataset.replace("-", "")


def prove_family(
    checkpoint: Checkpoint, widths: tuple[Width, ...], images: ImageSet, *, family: str, tuning: Tuning
) -> Iterator[ProvenModel]:
    """Export and prove each width; yields as it goes, so that progress can be shown.

    The training must be finished, and have had each of the widths; the images are its test split.

    Raises:
        CheckpointError: when a width is not in the checkpoint or the images are not what it was trained on.
        ParityError: when a graph does not compute what the network does.
        RepositoryError: when the family's name or a tuning value is out of range.
    """
    if checkpoint.optimizer is not None:
        raise CheckpointError(
            f"the training was not finished ({checkpoint.epoch} epochs); go on with --resume and export its model.pt"
        )
    checkpoint.require_widths(widths)
    require_same_images(checkpoint, images)
    for width in widths:
        model_name(family, width)
    network = checkpoint.network()
    for width in widths:
        subnet = cut_subnet(network, width, images.spec.shape)
        model = export_onnx(subnet, images.spec.shape)
        check_graph(network, width, model, images.spec.shape)
        parity = compare(network, width, model, images)
        identity = Identity(
            family=family,
            width=width,
            shape=images.spec.shape,
            labels=images.spec.labels,
            accuracy=round(parity.accuracy_onnx, 4),
            flops=flops_per_image(subnet, images.spec.shape),
            sha256=hashlib.sha256(model).hexdigest(),
            preprocessing=json.dumps(spec, sort_keys=True) if (spec := images.spec.preprocessing) else "",
        )
        files = {
            CONFIG_FILE: render_config(identity, tuning).encode(),
            LABELS_FILE: render_labels(identity.labels).encode(),
            MODEL_FILE: model,
        }
        yield ProvenModel(identity, files, parity)


def describe_useless(models: list[ProvenModel]) -> list[str]:
    """Return a sentence on each width that nothing is gained by: it costs as much as a wider one, or is no better."""
    by_width = sorted((model.identity for model in models), key=lambda identity: identity.width)
    accuracy = {identity.width: identity.accuracy for identity in by_width}
    return [
        f"width {render_ratio(width)} is right for {accuracy[width]:.2%}, no more than {render_ratio(better)} with "
        f"{accuracy[better]:.2%}: routers have no use for it"
        for width, better in useless_widths(accuracy).items()
    ] + [
        f"width {render_ratio(narrow.width)} takes {narrow.flops / 1e6:.4g} MFLOPs, no less than "
        f"{render_ratio(wide.width)}: a width has to slice weights, not mask them"
        for narrow, wide in pairwise(by_width)
        if narrow.flops >= wide.flops
    ]


def require_same_images(checkpoint: Checkpoint, images: ImageSet) -> None:
    """Raise CheckpointError for a test split that is not of the images the checkpoint was trained on."""
    for name in ("name", "shape", "labels"):
        trained, given = getattr(checkpoint.images, name), getattr(images.spec, name)
        if trained != given:
            raise CheckpointError(
                f"the checkpoint was trained on images whose {name} is {trained}, the test split has {given}; "
                "give the --data-dir it was trained with"
            )


def verify_against(
    checkpoint: Checkpoint, repository: Path, verification: Verification, images: ImageSet
) -> list[Finding]:
    """Prove a repository's models once more against the network they were made from.

    Models of other images or labels than the checkpoint's are left alone. Raises CheckpointError when there are only
    such models, or the images are not what it was trained on.
    """
    require_same_images(checkpoint, images)
    described = (checkpoint.images.shape, checkpoint.images.labels)
    ours = [m.identity for m in verification.models if isinstance(m.identity, Identity)]
    fitting = [identity for identity in ours if (identity.shape, identity.labels) == described]
    if not fitting:
        raise CheckpointError(
            f"no model in {repository} has the images and labels of the checkpoint; give the one it was exported from"
        )
    network = checkpoint.network()
    findings = []
    for identity in fitting:
        try:
            checkpoint.require_widths((identity.width,))
            model = (repository / identity.name / MODEL_FILE).read_bytes()
            check_graph(network, identity.width, model, identity.shape)
            parity = compare(network, identity.width, model, images)
            flops = flops_per_image(AtWidth(network, identity.width), identity.shape)
            _require_description(identity, parity, flops)
        except (ExportError, OSError) as exc:
            findings.append(Finding(identity.name, Severity.ERROR, f"against the checkpoint: {exc}"))
    return findings


def _require_description(identity: Identity, parity: Parity, flops: int) -> None:
    if identity.flops != flops:
        raise RepositoryError(f"slim.flops says {identity.flops}, counted are {flops}; export it anew")
    # Half a unit of the fourth place is lost in writing it down.
    if abs(identity.accuracy - parity.accuracy_onnx) > ACCURACY_TOLERANCE + 0.00005:
        raise RepositoryError(
            f"slim.accuracy says {identity.accuracy:.4f}, measured is {parity.accuracy_onnx:.4f}; export it anew"
        )
