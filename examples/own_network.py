"""Your own network, your own training loop: binarize, train, export, run the bits.

python examples/own_network.py [OUT]
"""

import sys

import torch
from sklearn.datasets import load_digits
from torch import nn

import bindeploy
from bindeploy.train import updates
from bindeploy.train.schedules import Moment, sharpness_at
from bindeploy.train.states import harden, set_sharpness
from bindeploy.train.to_onnx import export

EPOCHS, BATCH = 10, 64


def network() -> nn.Module:
    """Any torch module; a layer's input is binarized, so BatchNorm stands before it."""
    return nn.Sequential(
        *(nn.Conv2d(1, 48, 3, padding=1, bias=False), nn.BatchNorm2d(48)),
        *(nn.Conv2d(48, 72, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(72)),
        *(nn.Conv2d(72, 100, 3, padding=1, bias=False), nn.BatchNorm2d(100)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(100, 10)),
    )


def main(out: str) -> float:
    torch.manual_seed(0)
    images, labels = load_digits(return_X_y=True)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    y = torch.from_numpy(labels)
    train, test = slice(0, 1440), slice(1440, None)

    model = bindeploy.binarize(network(), method="bnn++", mode="bwa")  # all but first and last
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    updates.start(model)
    steps = EPOCHS * (1440 // BATCH)
    for step in range(steps):
        set_sharpness(model, sharpness_at("sharpness", Moment(step, steps)))
        batch = torch.randint(0, 1440, (BATCH,))
        loss = nn.functional.cross_entropy(model(x[train][batch]), y[train][batch])
        optimizer.zero_grad()
        loss.backward()
        updates.before_step(model)
        optimizer.step()
        updates.after_step(model)

    harden(model).eval()
    bundle = bindeploy.export(export(model, x[:2]), target="host", out=out)
    with bindeploy.Session(bundle.path) as session:
        (logits,) = session.run(None, {"input": x[test].numpy()})
    accuracy = float((logits.argmax(1) == y[test].numpy()).mean())
    print(f"{100 * accuracy:.1f} % of {len(logits)} digits, by bits: {bundle.path}")
    return accuracy


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "own_network")
