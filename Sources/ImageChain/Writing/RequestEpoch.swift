// Tells requests in flight apart by when they began. A freed cluster may be given to another write only when no request is
// in flight that began before the mapping changed; a worker's request costs two plain stores for that.

import LinuxIO
public import Synchronization

/// The number of the current epoch of an image's requests. Wraps; only its parity counts, for two epochs at most have
/// requests in flight.
@safe struct RequestEpoch: ~Copyable, Sendable {
    nonisolated(unsafe) let number: UnsafeMutablePointer<Atomic<UInt32>>

    init() {
        unsafe number = .allocate(capacity: 1)
        unsafe number.initialize(to: Atomic(0))
    }
    deinit { unsafe number.deallocate() }

    /// Begins the next epoch, and gives the parity of the one before. One thread at a time, while no client comes or goes.
    func advance() -> Int {
        let before = unsafe number.pointee.load(ordering: .relaxed)
        unsafe number.pointee.store(before &+ 1, ordering: .sequentiallyConsistent)
        // What workers have stored before is seen from here on.
        MemoryBarrier.process()
        return Int(before & 1)
    }
}

/// A worker's requests in flight, by the parity of the epoch that they began in. Only that worker changes them. Plain
/// pointers: every request begins and ends here. Valid as long as the writer and the client are.
@safe @frozen public struct InFlightCounts: BitwiseCopyable {
    @usableFromInline let counts: UnsafeMutablePointer<Atomic<Int>>
    @usableFromInline let epoch: UnsafeMutablePointer<Atomic<UInt32>>

    init(_ client: WriterClient, _ epoch: borrowing RequestEpoch) {
        unsafe counts = unsafe client.counts
        unsafe self.epoch = unsafe epoch.number
    }

    /// Counts a request that begins. Gives the parity of its epoch, which `end` takes.
    @inlinable @inline(__always) public func begin() -> UInt8 {
        let parity = unsafe UInt8(truncatingIfNeeded: epoch.pointee.load(ordering: .relaxed) & 1)
        change(parity, by: 1)
        return parity
    }

    /// Counts a request out that `begin` gave `parity`.
    @inlinable @inline(__always) public func end(_ parity: UInt8) { change(parity, by: -1) }

    @inlinable @inline(__always) func change(_ parity: UInt8, by step: Int) {
        let count = unsafe counts + Int(parity)
        unsafe count.pointee.store(count.pointee.load(ordering: .relaxed) &+ step, ordering: .releasing)
    }
}
