"""Everything that changes the world: plans that can be read first, the runner, its journal, and the planners."""
