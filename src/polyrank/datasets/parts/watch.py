"""How long those who click watch, and how long the video is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import erf

import numpy as np

from polyrank.datasets.parts.part import Log, Part, appeal
from polyrank.features import DenseFeature, Feature
from polyrank.spec import number
from polyrank.tasks import Task

MEDIAN_S, SPREAD = 30.0, 0.9  # of durations, which are log-normal


@dataclass(frozen=True, kw_only=True)
class Watch(Part):
    """Watch time given click, in seconds, of items with a `duration_s` of their own.

    log W = log m + interest·e + noise·N. With a duration effect m is half the duration d and the
    watch time min(W, d): long videos are watched longer, whoever likes them. Without one m is 15 s
    and the watch time W, which may exceed d (loops), and the duration says nothing.

    `true_watch_given_click` is its mean: with the effect E[min(W, d)] = e^(μ + σ²/2)·Φ((log d − μ −
    σ²)/σ) + d·(1 − Φ((log d − μ)/σ)) for log W ~ N(μ, σ²). `true_interest` is e, as in
    `parts.part`: what a ranker of videos should find, whatever their duration.

    Args:
        effect: whether the duration moves the watch time.
        interest: standard deviation of log W that e explains.
        noise: and that chance does.
    """

    name = "watch"
    stage = "outcome"
    effect: bool = True
    interest: float = 0.6
    noise: float = 0.6

    def __post_init__(self) -> None:
        number("watch: interest", self.interest, least=0)
        number("watch: noise", self.noise, above=0)

    @property
    def features(self) -> tuple[Feature, ...]:
        """The duration."""
        return (DenseFeature("duration_s", encoding="log"),)

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Seconds given click."""
        return (Task("watch", kind="regression", given="click"),)

    def apply(self, log: Log, to_world: np.random.Generator, to_log: np.random.Generator) -> Log:
        """Draw durations of items, and watch times of those who click."""
        of_item = SPREAD * to_world.standard_normal(log.world.sizes["item"])
        duration = (MEDIAN_S * np.exp(of_item))[log.draw.owners["item"]].astype(np.float32)
        d = duration.astype(np.float64)
        e = appeal(log, to_world, 0.4)
        mu = np.log(0.5 * d if self.effect else 15.0) + self.interest * e
        watch = np.exp(mu + self.noise * to_log.standard_normal(log.rows))
        mean = np.exp(mu + self.noise**2 / 2)
        if self.effect:
            watch = np.minimum(watch, d)
            at = (np.log(d) - mu) / self.noise
            mean = mean * normal(at - self.noise) + d * normal(-at)
        labels = log.labels.adding({"watch": log.given("click", watch)}, number=True)
        log = log.adding(duration_s=duration, true_watch_given_click=mean, true_interest=e)
        return replace(log, labels=labels)


def normal(x: np.ndarray) -> np.ndarray:
    """Return Φ(x), the distribution function of a standard normal.

    >>> normal(np.array([0.0, 1.96])).round(3).tolist()
    [0.5, 0.975]
    """
    return 0.5 + 0.5 * np.vectorize(erf, otypes=[float])(x / np.sqrt(2))
