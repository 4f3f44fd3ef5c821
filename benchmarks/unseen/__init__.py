"""What ``benchmarks/zero_shot.py`` is made of."""
