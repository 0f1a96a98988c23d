"""Train a PyTorch network whose weights (and activations) become one bit each.

The tables that the command line lists (`methods.METHODS`, `modes.MODES`, `models.MODELS`,
`data.DATASETS`, `optimizers.OPTIMIZERS`, `settings.Settings` and so on) import no torch; the other
modules of this folder do.
"""
