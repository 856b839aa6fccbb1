"""Lenses: hidden states in, words out. `make_lens` makes one by name."""
