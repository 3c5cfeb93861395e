"""Three-way merge, level by level: statements, heads and what stands in them; `genomes.merge` is the door."""
