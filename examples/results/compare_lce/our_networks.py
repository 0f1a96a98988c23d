"""The same networks of our zoo with random weights: `our_networks.py FOLDER NAME ...` writes FOLDER/NAME.bd."""

import sys
from pathlib import Path

import torch

from bindeploy.convert import convert
from bindeploy.emit.plan import write_plan
from bindeploy.train.layers import binary_layers
from bindeploy.train.models import build
from bindeploy.train.to_onnx import export

PAD_VALUES = {"bi-real-18": 0.0}
"""What a padded tap of a binary layer adds in larq_zoo, where it is not +1."""


def network(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    built = build(name, 3, 1000, 224, "bnn", "bwa").eval()
    for _, layer in binary_layers(built):
        layer.pad_value = PAD_VALUES.get(name, 1.0)
    return built


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        write_plan(convert(export(network(name), torch.zeros(1, 3, 224, 224))), folder / f"{name}.bd")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
