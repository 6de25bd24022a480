"""Mixers that know no modality, one per file. Each returns logits, so that `core.kl` and its kin take them."""
