// Why this file exists: what a worker and an image's helper thread share: a bell, and how many of the worker's requests are
// in flight, so that no cluster is given to somebody else while an old request may still touch it.

public import LinuxIO
public import Synchronization

/// One worker's place at an `ImageWriter`.
public final class WriterSeat: Sendable {
    /// Its own among those of the image at the same time.
    public let number: Int
    /// Rung when something has changed, while the worker `waits`.
    public let bell: EventFD
    public let waits = Atomic<Bool>(false)
    private nonisolated(unsafe) let counts: UnsafeMutablePointer<Atomic<Int>>

    init(_ number: Int, _ bell: consuming EventFD) {
        self.number = number
        self.bell = bell
        counts = .allocate(capacity: 2)
        for i in 0..<2 { (counts + i).initialize(to: Atomic(0)) }
    }
    deinit { counts.deallocate() }

    func count(_ parity: Int) -> Int { counts[parity].load(ordering: .acquiring) }

    /// Requests in flight by the parity of the epoch that they began in. Only the worker changes them.
    @inline(__always) public func change(_ parity: Int, by step: Int) {
        counts[parity].store(counts[parity].load(ordering: .relaxed) &+ step, ordering: .releasing)
    }
}

extension ImageWriter {
    /// Which count a request that begins now belongs to.
    @inline(__always) public var parity: Int { Int(epoch.load(ordering: .relaxed) & 1) }
}
