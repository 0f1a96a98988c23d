"""Train a PyTorch network whose weights (and activations) become one bit each.

The tables `methods.METHODS`, `modes.MODES`, `models.MODELS` and `data.DATASETS` import no torch, so
that the command line can list them at once; the other modules of this folder do.
"""
