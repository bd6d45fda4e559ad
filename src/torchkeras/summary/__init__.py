"""The table of a net: output shapes, parameters, memory, and the cost of a forward pass.

``summary`` and ``flop_summary`` (report.py) are the two calls of a user. Both turn the user's
arguments into inputs (inputs.py; for a net of ``torchkeras.functional``, drawn.py takes them from
its graph), run one forward pass that leaves no trace in the net (watch.py), and make rows of what
it recorded. table.py holds the records ``Summary``, ``Row`` and ``Flops``, and writes them as text.
"""

from torchkeras.summary.report import flop_summary, summary
from torchkeras.summary.table import Flops, Row, Summary

__all__ = ["Flops", "Row", "Summary", "flop_summary", "summary"]
