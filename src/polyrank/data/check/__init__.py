"""The audit of a log before training: faults that no model can repair, and what is good to know.

Findings on labels are in `outcomes`, on one column in `columns`, on several splits in `splits`;
`one_feature` and `drift` are the two measurements, `coding` gives the codes that they count.
"""

from polyrank.data.check.audit import Audit, Finding
from polyrank.data.check.log import check

__all__ = ["Audit", "Finding", "check"]
