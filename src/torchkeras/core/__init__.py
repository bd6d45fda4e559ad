"""The ground floor: what every other folder may import; it imports torch and numpy alone.

``types.py`` defines the words of the project (batch, step, pass, row) and its protocols: read it
first. ``errors.py`` writes messages in four parts (argument, received, expected, fix); with
``keywords.py`` and ``tracebacks.py`` a wrong call to a public function shows which argument was
meant, in a short traceback. ``tree.py`` applies functions to nested batches, ``modes.py`` switches
training and evaluation mode, ``rng.py`` reads and sets random states, ``optimizers.py`` lets
several optimizers act as one. ``files.py`` writes atomically, ``leftover.py`` removes what killed
processes left, ``interval.py`` says when a checkpoint is due. ``communicator.py`` has the
collectives for one process, ``distributed/`` those for several; both pass on the requests of
``stop.py``. ``screen.py`` and ``text.py`` write lines for terminals and logs.
"""
