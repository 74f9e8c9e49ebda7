// What a worker and an image's helper thread share: a bell, and how many of the worker's requests are in flight, so
// that no cluster is given to another write while an old request may still touch it.

public import LinuxIO
public import Synchronization

/// One worker's place at an `ImageWriter`.
public final class WriterClient: Sendable {
    /// Its own among those of the image at the same time.
    public let number: Int
    /// Rung when something has changed, while the worker `waits`.
    public let bell: EventFD
    public let waits = Atomic<Bool>(false)
    nonisolated(unsafe) let counts: UnsafeMutablePointer<Atomic<Int>>

    init(_ number: Int, _ bell: consuming EventFD) {
        self.number = number
        self.bell = bell
        counts = .allocate(capacity: 2)
        for i in 0..<2 { (counts + i).initialize(to: Atomic(0)) }
    }
    deinit { counts.deallocate() }

    func count(_ parity: Int) -> Int { counts[parity].load(ordering: .acquiring) }
}

/// A worker's requests in flight, by the parity of the epoch that they began in. Only that worker changes them. Plain
/// pointers: every request begins and ends here. Good as long as the writer and the client are.
@frozen public struct InFlightCounts: BitwiseCopyable {
    @usableFromInline let counts: UnsafeMutablePointer<Atomic<Int>>
    @usableFromInline let epoch: UnsafeMutablePointer<Atomic<UInt32>>

    init(_ client: WriterClient, _ writer: ImageWriter) {
        counts = client.counts
        epoch = writer.epoch
    }

    /// A request begins; what `end` wants to know.
    @inlinable @inline(__always) public func begin() -> UInt8 {
        let parity = UInt8(truncatingIfNeeded: epoch.pointee.load(ordering: .relaxed) & 1)
        change(parity, by: 1)
        return parity
    }

    @inlinable @inline(__always) public func end(_ parity: UInt8) { change(parity, by: -1) }

    @inlinable @inline(__always) func change(_ parity: UInt8, by step: Int) {
        let count = counts + Int(parity)
        count.pointee.store(count.pointee.load(ordering: .relaxed) &+ step, ordering: .releasing)
    }
}

extension ImageWriter {
    /// Where the requests of a client's worker are counted.
    public func counts(of client: WriterClient) -> InFlightCounts { InFlightCounts(client, self) }
}
