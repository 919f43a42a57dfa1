"""Side-by-side speed measurements against named baselines: ``make bench``, or ``-m benchmarks``.

A benchmark is not a test: it guards nothing and may show that ours is slower.
Each one runs its candidates in turn in the same process, round after round, so that whatever else
the machine does hits all of them alike; what is reported are ratios and their intervals.
"""
