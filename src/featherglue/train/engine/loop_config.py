"""Settings of the training loop."""

from __future__ import annotations

from dataclasses import dataclass

from featherglue.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Settings of the training loop.

    Attributes:
        steps: number of optimizer steps; the cosine ends there. 0 trains until the time limit of
            the run; the number of steps is then estimated from the warm-up.
        batch_size: number of samples per step, over all processes.
        learning_rate: peak learning rate.
        weight_decay: weight decay of AdamW.
        warmup: number of steps of linear warm-up.
        ema: decay of the exponential moving average of the weights, in [0, 1).
        clip: maximum norm of the gradient.
        workers: number of processes that make training data.
        accumulate: number of forward passes per step; more need less memory.
        bf16: run the forward pass in bfloat16 if the device supports it.
        validate_steps: number of steps between validations.
        save_seconds: time between checkpoints in seconds.

    Raises:
        ConfigError: a value is out of range.
    """

    steps: int
    batch_size: int = 8
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 200
    ema: float = 0.999
    clip: float = 1.0
    workers: int = 1
    accumulate: int = 1
    bf16: bool = True
    validate_steps: int = 1000
    save_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulate", "validate_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not self.clip > 0:
            raise ConfigError(f"clip must be positive, not {self.clip}")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema must be in [0, 1), not {self.ema}")
        for name in ("steps", "learning_rate", "weight_decay", "warmup", "workers"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
