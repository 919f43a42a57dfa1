"""The wing of the records: experiments and their trials, records, provenance, claims, verdicts.

It knows no chapter: :mod:`mcnn.ledger.registry` finds the experiments.
"""

from mcnn import lazy_modules

__getattr__ = lazy_modules(__name__, __path__)
