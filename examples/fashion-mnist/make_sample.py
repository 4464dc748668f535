"""Write the sample of Fashion-MNIST that the demo and the tests use.

The first 1,000 images of the test split, in their order, so that nothing is chosen; and the first image of each
class as a PNG file for ``slimsched infer``.

    python examples/fashion-mnist/make_sample.py --data-dir data
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from export.training.datasets import InMemoryImages, load_images

COUNT = 1000


def main() -> None:
    """Read the test split and write the files next to this script."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    folder = Path(__file__).parent
    images = load_images("fashion-mnist", parser.parse_args().data_dir, train=False)
    assert isinstance(images, InMemoryImages)
    pixels, labels = images.images[:COUNT].numpy(), images.labels[:COUNT].numpy().astype(np.uint8)
    np.savez_compressed(folder / "test_1000.npz", images=pixels, labels=labels, names=np.array(images.spec.labels))
    for index, name in enumerate(images.spec.labels):
        first = pixels[np.flatnonzero(labels == index)[0], 0]
        Image.fromarray(first).save(folder / "images" / f"{name.lower().replace('/top', '').replace(' ', '-')}.png")


if __name__ == "__main__":
    main()
