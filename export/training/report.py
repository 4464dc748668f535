"""What a training brought, per width: a table's rows and a picture of accuracy against FLOPs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.errors import ExportError
from export.network.subnet import cut_subnet, flops_per_image
from export.training.checkpoint import Checkpoint
from export.width import Width, render_ratio


@dataclass(frozen=True, slots=True)
class WidthResult:
    """One width of a trained network.

    Attributes:
        accuracy: Top-1 in 0..1 on the test split.
        flops: The work of one image; a multiply-add counts as two.
        parameters: Weights and biases of the cut network, batch norms folded in.
    """

    width: Width
    accuracy: float
    flops: int
    parameters: int


def width_results(checkpoint: Checkpoint) -> list[WidthResult]:
    """Return a result for each width of a finished training, narrowest first."""
    network = checkpoint.network()
    results = []
    for width in checkpoint.widths:
        subnet = cut_subnet(network, width, checkpoint.images.shape)
        flops = flops_per_image(subnet, checkpoint.images.shape)
        parameters = sum(p.numel() for p in subnet.parameters())
        results.append(WidthResult(width, checkpoint.accuracy[width], flops, parameters))
    return results


def plot_accuracy_flops(results: list[WidthResult], title: str, path: Path) -> None:
    """Write a PNG of accuracy against FLOPs, a labelled point for each width; raises ExportError when it can't."""
    from matplotlib.figure import Figure  # only here: training itself does without

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    mflops = [result.flops / 1e6 for result in results]
    percent = [100 * result.accuracy for result in results]
    axes.plot(mflops, percent, marker="o", color="#1f5fa8", linewidth=1.5)
    for result, x, y in zip(results, mflops, percent, strict=True):
        label = f"{render_ratio(result.width)}: {y:.2f} %"
        # Below and to the right, where the rising line never is; the last one to the left, inside the frame.
        offset, side = ((0, -16), "right") if result is results[-1] else ((8, -12), "left")
        axes.annotate(label, (x, y), xytext=offset, textcoords="offset points", ha=side, fontsize=9)
    axes.set_xlabel("MFLOPs per image")
    axes.set_ylabel("top-1 accuracy on the test split (%)")
    axes.set_title(title)
    axes.set_xlim(left=0)
    axes.margins(x=0.15, y=0.2)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        # Without the software's name and version, equal results give an equal file.
        figure.savefig(path, dpi=150, metadata={"Software": None})
    except OSError as exc:
        raise ExportError(f"can't write {path} ({exc.strerror}); choose another --out") from exc
