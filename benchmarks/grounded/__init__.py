"""Questions about real cells, their keys, and who answers them; for ``benchmarks/questions.py``."""
