"""Static checks: what certainly keeps a program from working, and the walks that find it; `genomes.contract` is the door."""
