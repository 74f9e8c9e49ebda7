// The target BlockEngine.
