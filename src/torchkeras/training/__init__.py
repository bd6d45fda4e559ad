"""What the faces share: arguments, names, saving, one session for each run."""
