"""The learning rate as a pure function of where the run stands."""

from training.config import TrainConfig


def learning_rate(config: TrainConfig, epoch: float) -> float:
    """Learning rate at `epoch`, which counts from 0 and may be fractional.

    "step" divides by ten at every epoch of `decay_epochs`. "linear" rises from zero during the
    warm-up, then falls in a straight line to zero at the end.
    """
    if config.schedule == "step":
        return config.learning_rate * 0.1 ** sum(epoch >= e for e in config.decay_epochs)
    if epoch < config.warmup_epochs:
        return config.learning_rate * epoch / config.warmup_epochs
    left = (config.epochs - epoch) / (config.epochs - config.warmup_epochs)
    return config.learning_rate * left
