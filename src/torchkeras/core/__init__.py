"""The ground: words, errors, files, trees; imports torch and numpy alone."""
