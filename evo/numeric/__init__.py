"""Numbers of a species, tuned by a model of what was seen: pure functions of samples and a generator, in numpy alone.

space     knobs as coordinates in the unit cube, on the scale that suits each
lore      what the field knows: which knobs move together, and how
process   a Gaussian process: additive and interacting parts, noise by sample
memory    what a program will need, and what will not fit
moves     candidates: steps, coupled moves and crossings of the better points
propose   one proposal: which way to look for it, and the best candidate that way

attribution   what each edit of a run is worth; used by the lineage alone
"""
