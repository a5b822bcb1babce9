"""Graph encoders: a batch of crystals to one feature vector per crystal."""
