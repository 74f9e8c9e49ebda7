// A verb that runs for minutes must stop when it is told to, between two pieces of work, with its files closed and
// its message said.

import DiskTypes
import Synchronization

/// Set once, from a signal handler or another thread; long verbs look at it between pieces of work.
public final class CancelFlag: Sendable {
    private let flag = Atomic<Bool>(false)

    /// Not set.
    public init() {}
    /// Stops the verb at the next look. Safe in a signal handler.
    public func set() { flag.store(true, ordering: .relaxed) }
    /// Whether the verb is to stop.
    public var isSet: Bool { flag.load(ordering: .relaxed) }

    func check() throws(ImageError) {
        if isSet { throw ImageError(.system, "interrupted") }
    }
}
