// The target ImageOperations.
