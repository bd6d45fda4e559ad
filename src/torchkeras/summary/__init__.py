"""A net as a table: what each layer puts out, where the parameters are, what a forward pass costs."""

from torchkeras.summary.report import flop_summary, summary
from torchkeras.summary.table import Flops, Row, Summary

__all__ = ["Flops", "Row", "Summary", "flop_summary", "summary"]
