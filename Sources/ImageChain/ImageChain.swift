// The target ImageChain.
