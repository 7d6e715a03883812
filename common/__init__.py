"""The shared core of the three reproductions: data, models, cost, evaluation, training, search, report.

It knows no paper. Arrows inside go down only; pyproject.toml holds the contracts that `make test` checks.
"""

__version__ = "0.2.0"
