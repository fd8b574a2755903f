"""Proofs that take long: a soak, planted violations, an ablation, a picture of the UI."""
