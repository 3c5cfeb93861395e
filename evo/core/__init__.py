"""The pure core of the search: what is believed of the records of a run, and what to do next. No clock, no files, no processes.

records      candidates, proposals, records: the values that everything else is a function of
history      the records, indexed by genome; standing.py: what a finished or running search has come to
belief       what is known of each genome; statistics.py: noise, intervals, announcements
population   who survives; policies.py: what to try next; yields.py: what each operator has brought
stopping     which running candidate cannot survive any more; rule.py: the rule that goes with it
flags        what is odd about a score; health.py: which slot is broken
"""
