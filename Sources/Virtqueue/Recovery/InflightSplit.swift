// The in-flight record of a split ring. A server that is killed loses the requests in flight, and the guest would wait
// for their answers for ever; the front-end keeps this record (vhost-user, INFLIGHT_SHMFD) and gives it to the next
// process, which repeats them. A crash may come between any two stores: their order is the specification's.

/// The in-flight record of one split ring: 16 bytes of header, then 16 bytes for each head (vhost-user specification:
/// "Inflight I/O tracking", QueueRegionSplit).
@safe public struct InflightSplit: BitwiseCopyable {
    static let version: UInt16 = 1
    static let headerBytes = 16
    static let entryBytes = 16
    /// Bytes of the record of a ring of `size` entries.
    public static func bytes(size: Int) -> Int { headerBytes + entryBytes * size }

    /// Offsets in the header, in bytes.
    enum Field {
        static let features = 0
        static let version = 8
        static let count = 10
        static let lastBatchHead = 12
        static let usedIndex = 14
    }
    /// Offsets in an entry, in bytes.
    enum Entry {
        static let inflight = 0
        static let next = 6
        static let counter = 8
    }

    let base: UnsafeMutableRawPointer
    let size: Int
    /// The number of the next request, in order of arrival; higher than any in the record.
    private var counter: UInt64 = 0

    /// The record in `bytes` of shared memory at `base`, which `recover` writes as new when its version is 0. Throws
    /// `.badInflightRegion` when the memory is too short for `size` entries or not aligned to 8 bytes.
    public init(base: UnsafeMutableRawPointer, bytes: Int, size: Int) throws(VirtqueueError) {
        guard bytes >= Self.bytes(size: size) else { throw .badInflightRegion("\(bytes) bytes for \(size) entries") }
        guard UInt(bitPattern: base) & 7 == 0 else { throw .badInflightRegion("misaligned") }
        unsafe self.base = unsafe base
        self.size = size
    }

    /// The record has not been written yet.
    var isNew: Bool { unsafe load16(base + Field.version) == 0 }

    @inline(__always) private func entry(_ head: Int) -> UnsafeMutableRawPointer {
        unsafe base + (Self.headerBytes &+ head &* Self.entryBytes)
    }

    // MARK: while running

    /// The request at `head` is in flight.
    @inline(__always) mutating func enter(_ head: Int) {
        let place = unsafe entry(head)
        unsafe store64(place + Entry.counter, counter)
        counter &+= 1
        unsafe release8(place + Entry.inflight, 1)
    }

    /// The used element of a request is about to be published: links it to the batch.
    @inline(__always) func retire(_ head: Int) {
        unsafe store16(entry(head) + Entry.next, load16(base + Field.lastBatchHead))
        unsafe release16(base + Field.lastBatchHead, UInt16(truncatingIfNeeded: head))
    }

    /// The request at `head` is no longer in flight: the used index that covers it is published.
    @inline(__always) func clear(_ head: Int) { unsafe release8(entry(head) + Entry.inflight, 0) }

    /// The batch is complete: no request before `usedIndex` is in flight.
    @inline(__always) func commit(usedIndex: UInt16) { unsafe release16(base + Field.usedIndex, usedIndex) }

    // MARK: after a crash

    /// Completes the clearing of the batch that was published last, and returns the heads of the requests to repeat,
    /// oldest first. `usedIndex` is the ring's. Throws `.badInflightRegion` for a record that is damaged, another
    /// queue's or of an unknown version.
    public mutating func recover(usedIndex: UInt16) throws(VirtqueueError) -> [UInt16] {
        if isNew {
            unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes(size: size))
            unsafe store16(base + Field.count, UInt16(truncatingIfNeeded: size))
            unsafe store16(base + Field.usedIndex, usedIndex)
            unsafe release16(base + Field.version, Self.version)
            return []
        }
        guard unsafe load16(base + Field.version) == Self.version else { throw .badInflightRegion("unknown version") }
        guard unsafe Int(load16(base + Field.count)) == size else {
            throw .badInflightRegion("made for another queue size")
        }
        // The crash may have come between the used index and the clearing of what it covers.
        let batch = unsafe usedIndex &- load16(base + Field.usedIndex)
        guard Int(batch) <= size else { throw .badInflightRegion("the used index is not the ring's") }
        var head = unsafe Int(load16(base + Field.lastBatchHead))
        for _ in 0..<Int(batch) {
            guard head < size else { throw .badInflightRegion("a batch leaves the queue") }
            clear(head)
            head = unsafe Int(load16(entry(head) + Entry.next))
        }
        commit(usedIndex: usedIndex)
        var found: [(counter: UInt64, head: UInt16)] = []
        for head in 0..<size where unsafe entry(head).load(as: UInt8.self) != 0 {
            unsafe found.append((load64(entry(head) + Entry.counter), UInt16(head)))
        }
        found.sort { $0.counter < $1.counter }
        if let last = found.last { counter = last.counter &+ 1 }
        return found.map(\.head)
    }
}

/// A window on shared memory.
extension InflightSplit: @unchecked Sendable {}
