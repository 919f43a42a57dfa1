"""Sparse layers: their structure, the operators that multiply them, and who computes those."""
