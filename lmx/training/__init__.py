"""The LightningModule, the callbacks, checkpoints, and assembling the Trainer from `hardware`."""

from lmx.training.fit import Outcome, train

__all__ = ["Outcome", "train"]
