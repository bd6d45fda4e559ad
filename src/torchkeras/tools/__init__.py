"""Show the progress of other libraries' trainers: a ``VLogCallback`` for each, around a VLog."""
