"""Refuse what would train wrongly, and explain what went wrong.

Before the first update ``preflight`` checks the parts of a model, the first loss and the optimizer,
and ``label_checks`` the labels; ``broadcast`` finds losses that compare every prediction with every
label, and ``metric_checks`` tries the metrics. ``engine.checked_step`` calls these on the first
batch. When a forward, a loss or a metric raises, ``explain`` adds a note with the layer, its inputs
and the likely fix, which ``families`` knows. When a loss is NaN or infinite, ``divergence`` finds
which part was not finite first.
"""
