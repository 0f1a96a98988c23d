"""The networks of larq_zoo with random weights, converted by LCE: `lce_networks.py FOLDER NAME ...` writes FOLDER/NAME.tflite.

Runs in LCE's environment, with TF_USE_LEGACY_KERAS=1.
"""

import sys
from pathlib import Path

import tf_keras.src.applications.imagenet_utils
import tf_keras.src.engine.keras_tensor

# larq_zoo takes two names from modules of Keras 2, which this TensorFlow has under another name.
for module in ("", ".applications", ".applications.imagenet_utils", ".engine", ".engine.keras_tensor"):
    sys.modules["keras" + module] = sys.modules["tf_keras.src" + module]

import larq_compute_engine
import larq_zoo

NETWORKS = {
    "quicknet-small": larq_zoo.sota.QuickNetSmall,
    "quicknet": larq_zoo.sota.QuickNet,
    "quicknet-large": larq_zoo.sota.QuickNetLarge,
    "bi-real-18": larq_zoo.literature.BiRealNet,
}


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        converted = larq_compute_engine.convert_keras_model(NETWORKS[name](weights=None))
        (folder / f"{name}.part").write_bytes(converted)
        (folder / f"{name}.part").rename(folder / f"{name}.tflite")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
