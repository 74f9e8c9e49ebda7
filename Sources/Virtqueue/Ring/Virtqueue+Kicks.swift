// Kick suppression: while a worker polls, the driver need not write to its eventfd. Before the worker sleeps it asks
// for kicks, and a barrier and a second look at the ring follow; else a request published in between would wait for the
// next kick.

extension Virtqueue {
    /// Tells the driver that it need not kick, because the worker polls. A hint: kicks may come all the same.
    public mutating func disableKicks() {
        guard isRunning, damage == .none else { return }
        if isPacked { setPackedKicks(false) } else { setSplitKicks(false) }
    }

    /// Asks for kicks again. True when requests came meanwhile, for which no kick will come: the worker polls once more
    /// before it sleeps.
    public mutating func enableKicks() -> Bool {
        guard isRunning, damage == .none else { return false }
        if isPacked { setPackedKicks(true) } else { setSplitKicks(true) }
        fullFence()
        return hasAvailable
    }
}
