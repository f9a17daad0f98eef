"""Ablation platform for distortion-aware adapters of monocular metric-depth networks."""
