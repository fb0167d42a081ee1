"""Training of small Vision Transformers: data, network, schedule."""
