"""Text encoders: packed texts to one feature vector per text."""
