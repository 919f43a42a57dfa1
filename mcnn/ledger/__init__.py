"""The wing of the records: experiments and their trials, records, provenance, claims, verdicts.

It knows no chapter: :mod:`mcnn.ledger.registry` finds the experiments.
"""
