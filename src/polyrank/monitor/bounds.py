"""The bounds that monitoring holds a model to: the `[monitor]` table of an experiment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from polyrank import spec
from polyrank.metrics.score import Score
from polyrank.monitor.drift import Drift


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What monitoring calls wrong. Each bound is crossed only beyond what chance explains.

    Args:
        psi: the population stability index of a feature, an output or the length of a list; also,
            the drift must be found at 5 % false alarms over all of them.
        pcoc: how far mean prediction / mean label may be from 1; the whole interval must be beyond.
        auc: that every score of an event must reach; the whole interval must be below. None has no
            bound.

    Raises:
        ConfigError: a bound outside its range.

    Examples:
        >>> Bounds(psi=0.2).pcoc
        0.1
    """

    psi: float = 0.1
    pcoc: float = 0.1
    auc: float | None = None

    def __post_init__(self) -> None:
        for name in ("psi", "pcoc"):
            spec.number(f"monitor.{name}", getattr(self, name), least=0)
        if self.auc is not None:
            spec.number("monitor.auc", self.auc, least=0, most=1)

    def crossed(self, drifts: Iterable[Drift], scores: Iterable[Score] = ()) -> tuple[str, ...]:
        """Return a sentence for each bound that is crossed."""
        found = [
            f"{each.facet.title} has drifted: PSI {each.psi:.3f}, bound {self.psi:g} ({each.moved})"
            for each in drifts
            if each.found and each.psi > self.psi
        ]
        for score in scores:
            pcoc, auc = score.metrics.get("pcoc", {}), score.metrics.get("auc", {})
            if "low" in pcoc and not (
                pcoc["low"] <= 1 + self.pcoc and pcoc["high"] >= 1 - self.pcoc
            ):
                found.append(
                    f"{score.name} is not calibrated: PCOC {_shown(pcoc)}, bound 1 ± {self.pcoc:g}"
                )
            if self.auc is not None and auc.get("high", 1.0) < self.auc:
                found.append(f"{score.name} ranks badly: AUC {_shown(auc)}, bound {self.auc:g}")
        return tuple(found)


def _shown(measured: Mapping[str, float]) -> str:
    return f"{measured['value']:.3f} ({measured['low']:.3f} to {measured['high']:.3f})"
