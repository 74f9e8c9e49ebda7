// A driver that is told not to kick must not be forgotten. Between "kick me" and sleep there is a barrier and a
// second look, or the request published in between would wait for the next one.

extension Virtqueue {
    /// The driver need not kick while the worker looks by itself. A hint: kicks may come all the same.
    public mutating func disableKicks() {
        guard isRunning, damage == .none else { return }
        if isPacked { setPackedKicks(false) } else { setSplitKicks(false) }
    }

    /// Asks for kicks again. True when requests came meanwhile, for which no kick will come: poll before sleeping.
    public mutating func enableKicks() -> Bool {
        guard isRunning, damage == .none else { return false }
        if isPacked { setPackedKicks(true) } else { setSplitKicks(true) }
        fullFence()
        return hasAvailable
    }
}
