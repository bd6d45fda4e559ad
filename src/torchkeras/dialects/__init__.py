"""What Keras and this library's first versions called things, in terms of the one engine."""
