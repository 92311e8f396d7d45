"""The audit of a log before training: what no model can make good, and what is good to know.

A finding about labels is in `outcomes`, about one column in `columns`, about several splits in
`splits`; `one_feature` and `drift` are the two measurements, `coding` what they count.
"""

from polyrank.data.check.audit import Audit, Finding
from polyrank.data.check.log import check

__all__ = ["Audit", "Finding", "check"]
