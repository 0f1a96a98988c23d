"""From latent weights to packed sign bits: the dialect, and the passes that lead into it."""
