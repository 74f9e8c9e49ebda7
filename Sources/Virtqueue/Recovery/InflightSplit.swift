// A server that is killed takes the requests in flight with it, and a guest waits for them for ever. The front-end
// keeps this record (vhost-user, INFLIGHT_SHMFD) and hands it to the next process, which does them again. Every store
// is a step between two crashes: the order is the specification's.

/// The in-flight record of one split ring: 16 bytes of header, then 16 bytes for each head.
public struct InflightSplit: BitwiseCopyable {
    static let version: UInt16 = 1
    static let headerBytes = 16
    static let entryBytes = 16
    public static func bytes(size: Int) -> Int { headerBytes + entryBytes * size }

    enum Field {
        static let features = 0
        static let version = 8
        static let count = 10
        static let lastBatchHead = 12
        static let usedIndex = 14
    }
    enum Entry {
        static let inflight = 0
        static let next = 6
        static let counter = 8
    }

    let base: UnsafeMutableRawPointer
    let size: Int
    /// Order in which requests came in; higher than any in the record.
    private var counter: UInt64 = 0

    /// The record in `bytes` of shared memory at `base`, which is written as new when its version is 0.
    public init(base: UnsafeMutableRawPointer, bytes: Int, size: Int) throws(VirtqueueError) {
        guard bytes >= Self.bytes(size: size) else { throw .badInflightRegion("\(bytes) bytes for \(size) entries") }
        guard UInt(bitPattern: base) & 7 == 0 else { throw .badInflightRegion("misaligned") }
        self.base = base
        self.size = size
    }

    /// Not written yet.
    var isNew: Bool { load16(base + Field.version) == 0 }

    @inline(__always) private func entry(_ head: Int) -> UnsafeMutableRawPointer {
        base + (Self.headerBytes &+ head &* Self.entryBytes)
    }

    // MARK: while running

    /// A request came in.
    @inline(__always) mutating func enter(_ head: Int) {
        let place = entry(head)
        store64(place + Entry.counter, counter)
        counter &+= 1
        release8(place + Entry.inflight, 1)
    }

    /// The used element of a request is about to be published: links it to the batch.
    @inline(__always) func retire(_ head: Int) {
        store16(entry(head) + Entry.next, load16(base + Field.lastBatchHead))
        release16(base + Field.lastBatchHead, UInt16(truncatingIfNeeded: head))
    }

    /// The used index that covers the request is out.
    @inline(__always) func clear(_ head: Int) { release8(entry(head) + Entry.inflight, 0) }

    /// The whole batch is cleared.
    @inline(__always) func commit(usedIndex: UInt16) { release16(base + Field.usedIndex, usedIndex) }

    // MARK: after a crash

    /// Puts the record in order and gives the heads to do again, oldest first. `usedIndex` is what the ring says.
    public mutating func recover(usedIndex: UInt16) throws(VirtqueueError) -> [UInt16] {
        if isNew {
            base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes(size: size))
            store16(base + Field.count, UInt16(truncatingIfNeeded: size))
            store16(base + Field.usedIndex, usedIndex)
            release16(base + Field.version, Self.version)
            return []
        }
        guard load16(base + Field.version) == Self.version else { throw .badInflightRegion("unknown version") }
        guard Int(load16(base + Field.count)) == size else { throw .badInflightRegion("made for another queue size") }
        // The crash came between the used index and the clearing of what it covers.
        let batch = usedIndex &- load16(base + Field.usedIndex)
        guard Int(batch) <= size else { throw .badInflightRegion("the used index is not the ring's") }
        var head = Int(load16(base + Field.lastBatchHead))
        for _ in 0..<Int(batch) {
            guard head < size else { throw .badInflightRegion("a batch leaves the queue") }
            clear(head)
            head = Int(load16(entry(head) + Entry.next))
        }
        commit(usedIndex: usedIndex)
        var found: [(counter: UInt64, head: UInt16)] = []
        for head in 0..<size where entry(head).load(as: UInt8.self) != 0 {
            found.append((load64(entry(head) + Entry.counter), UInt16(head)))
        }
        found.sort { $0.counter < $1.counter }
        if let last = found.last { counter = last.counter &+ 1 }
        return found.map(\.head)
    }
}

/// A window on shared memory.
extension InflightSplit: @unchecked Sendable {}
