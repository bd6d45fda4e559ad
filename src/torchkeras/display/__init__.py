"""Show runs: callbacks that draw, and the pure functions they draw with.

``progress`` is the display that ``fit`` adds; when a run begins it chooses ``notebook`` (one view,
updated in place) or ``live`` (terminal and logs). ``protocols`` says what they read of a model.
``report`` writes a run to one HTML file, ``figures`` draws with matplotlib, ``epochlines`` prints
as Keras does, ``stopwatch`` measures the parts of a run.

The rest are functions from numbers to text: ``html`` (the notebook's view) and ``page`` (the
report) use ``svg`` and ``png``; ``plot`` draws curves in a terminal; ``digest`` and ``samples``
keep few points of long histories; ``classes`` runs a classifier over data for the report;
``boxed`` formats tables, ``targets`` checks paths before any work.
"""
