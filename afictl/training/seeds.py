"""Seeds of the random streams of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from afictl.data.sampler import second_seed


@dataclass(frozen=True)
class Seeds:
    """One seed for each random stream of a training; ``--seed N`` sets all of them to N.

    The streams are independent of one another, so that one can vary while the others stay as they are.
    """

    weights: int
    """Of initial weights: of the interpolator and of all other modules that no checkpoint fills."""
    order: int
    """Of the permutation of the training images in each epoch."""
    augmentation: int
    """Of flips and image sizes."""
    sampling: int
    """Of the random numbers inside a step: samples of anchors and regions, and dropout."""

    @classmethod
    def of(cls, seed: int | Seeds) -> Seeds:
        """The seeds of all streams from one for all, or ``seed`` itself."""
        return seed if isinstance(seed, Seeds) else cls(seed, seed, seed, seed)

    def second(self) -> Seeds:
        """Seeds for a second stream of batches in the same training."""
        return Seeds(self.weights, second_seed(self.order), second_seed(self.augmentation), self.sampling)

    def as_config(self) -> dict[str, object]:
        """``seed`` of ``config.yaml``; seeds that differ are listed in ``seeds`` too."""
        streams = asdict(self)
        return {"seed": self.weights, **({"seeds": streams} if len(set(streams.values())) > 1 else {})}
