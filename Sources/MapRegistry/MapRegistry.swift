// The target MapRegistry.
