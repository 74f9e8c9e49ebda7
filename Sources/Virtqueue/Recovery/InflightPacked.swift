// The in-flight record of a packed ring. There the device overwrites descriptors while others are in flight, so the
// record keeps copies of them, in a list of free entries that is updated as a transaction: the "old" fields are what
// a restarted process believes.

/// The in-flight record of one packed ring: 32 bytes of header, then 32 bytes for each descriptor.
public struct InflightPacked: BitwiseCopyable {
    static let version: UInt16 = 1
    static let headerBytes = 32
    static let entryBytes = 32
    public static func bytes(size: Int) -> Int { headerBytes + entryBytes * size }

    enum Field {
        static let features = 0
        static let version = 8
        static let count = 10
        static let freeHead = 12
        static let oldFreeHead = 14
        static let usedIndex = 16
        static let oldUsedIndex = 18
        static let usedWrap = 20
        static let oldUsedWrap = 21
    }
    enum Entry {
        static let inflight = 0
        static let next = 2
        static let last = 4
        static let count = 6
        static let counter = 8
        static let id = 16
        static let flags = 18
        static let length = 20
        static let address = 24
    }

    let base: UnsafeMutableRawPointer
    let size: Int
    private var counter: UInt64 = 0
    // The chain that is being noted.
    private var head = 0
    private var last = 0
    private var noted: UInt16 = 0
    private var free = 0

    public init(base: UnsafeMutableRawPointer, bytes: Int, size: Int) throws(VirtqueueError) {
        guard bytes >= Self.bytes(size: size) else { throw .badInflightRegion("\(bytes) bytes for \(size) entries") }
        guard UInt(bitPattern: base) & 7 == 0 else { throw .badInflightRegion("misaligned") }
        self.base = base
        self.size = size
    }

    /// Not written yet.
    var isNew: Bool { load16(base + Field.version) == 0 }

    @inline(__always) private func entry(_ index: Int) -> UnsafeMutableRawPointer {
        base + (Self.headerBytes &+ index &* Self.entryBytes)
    }

    // MARK: while running

    /// Copies a descriptor of the chain that comes in; false when the record is damaged.
    @inline(__always) mutating func note(_ descriptor: Descriptor, isHead: Bool) -> Bool {
        if isHead {
            free = Int(load16(base + Field.oldFreeHead))
            head = free
            noted = 0
        }
        guard free < size, Int(noted) < size else { return false }
        let place = entry(free)
        if isHead {
            store64(place + Entry.counter, counter)
            counter &+= 1
            release8(place + Entry.inflight, 1)
        }
        store64(place + Entry.address, descriptor.address)
        store16(place + Entry.id, descriptor.packedID)
        store16(place + Entry.flags, descriptor.packedFlags)
        (place + Entry.length).storeBytes(of: descriptor.length.littleEndian, as: UInt32.self)
        last = free
        noted &+= 1
        free = Int(load16(place + Entry.next))
        return true
    }

    /// The chain is complete: from here on it survives a crash. Gives its entry.
    @inline(__always) mutating func enter() -> UInt16 {
        let place = entry(head)
        store16(place + Entry.last, UInt16(truncatingIfNeeded: last))
        store16(place + Entry.count, noted)
        release16(base + Field.freeHead, UInt16(truncatingIfNeeded: free))
        release16(base + Field.oldFreeHead, UInt16(truncatingIfNeeded: free))
        return UInt16(truncatingIfNeeded: head)
    }

    /// The chain at `index` is about to be published: its entries are free in the new state.
    @inline(__always) func retire(_ index: Int) {
        let last = Int(load16(entry(index) + Entry.last))
        guard last < size else { return }
        release16(entry(last) + Entry.next, load16(base + Field.freeHead))
        release16(base + Field.freeHead, UInt16(truncatingIfNeeded: index))
    }

    /// Where the ring stands once the batch is out.
    @inline(__always) func announce(usedIndex: UInt16, wrap: Bool) {
        release16(base + Field.usedIndex, usedIndex)
        release8(base + Field.usedWrap, wrap ? 1 : 0)
    }

    @inline(__always) func clear(_ index: Int) { release8(entry(index) + Entry.inflight, 0) }

    /// The new state is the true one.
    @inline(__always) func commit() {
        release16(base + Field.oldFreeHead, load16(base + Field.freeHead))
        release16(base + Field.oldUsedIndex, load16(base + Field.usedIndex))
        release8(base + Field.oldUsedWrap, (base + Field.usedWrap).load(as: UInt8.self))
    }

    // MARK: after a crash

    /// What a restarted queue goes on with.
    struct Recovered {
        var usedIndex: UInt16
        var usedWrap: Bool
        /// Entries of the chains to do again, oldest first, and how many ring entries they occupy.
        var chains: [UInt16] = []
        var ringEntries = 0
    }

    /// Puts the record in order. A new record starts at the position given. `ring` is the descriptor ring.
    mutating func recover(
        usedIndex: UInt16, usedWrap: Bool, ring: UnsafeMutableRawPointer
    ) throws(VirtqueueError) -> Recovered {
        if isNew {
            reset(usedIndex: usedIndex, usedWrap: usedWrap)
            return Recovered(usedIndex: usedIndex, usedWrap: usedWrap)
        }
        guard load16(base + Field.version) == Self.version else { throw .badInflightRegion("unknown version") }
        guard Int(load16(base + Field.count)) == size else { throw .badInflightRegion("made for another queue size") }
        try settle(ring)
        clearFreeList()
        var result = Recovered(
            usedIndex: load16(base + Field.usedIndex), usedWrap: (base + Field.usedWrap).load(as: UInt8.self) != 0)
        var found: [(counter: UInt64, index: UInt16)] = []
        for index in 0..<size where entry(index).load(as: UInt8.self) != 0 {
            let count = Int(load16(entry(index) + Entry.count))
            guard count > 0, count <= size - result.ringEntries else {
                throw .badInflightRegion("more descriptors in flight than the ring has")
            }
            result.ringEntries += count
            found.append((load64(entry(index) + Entry.counter), UInt16(index)))
        }
        found.sort { $0.counter < $1.counter }
        if let last = found.last { counter = last.counter &+ 1 }
        result.chains = found.map(\.index)
        return result
    }

    private func reset(usedIndex: UInt16, usedWrap: Bool) {
        base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes(size: size))
        for index in 0..<size { store16(entry(index) + Entry.next, UInt16(truncatingIfNeeded: index + 1)) }
        store16(base + Field.count, UInt16(truncatingIfNeeded: size))
        announce(usedIndex: usedIndex, wrap: usedWrap)
        commit()
        release16(base + Field.version, Self.version)
    }

    /// Decides whether the batch that was under way got out, and makes new and old state the same.
    private func settle(_ ring: UnsafeMutableRawPointer) throws(VirtqueueError) {
        let old = Int(load16(base + Field.oldUsedIndex))
        guard old < size, Int(load16(base + Field.usedIndex)) < size else {
            throw .badInflightRegion("the used index is outside the ring")
        }
        let oldWrap = (base + Field.oldUsedWrap).load(as: UInt8.self) != 0
        let wrap = (base + Field.usedWrap).load(as: UInt8.self) != 0
        if Int(load16(base + Field.usedIndex)) != old || wrap != oldWrap {
            // Still as the driver made it available: the driver has seen nothing of the batch.
            let bits = RingLayout.flagAvail | RingLayout.flagUsed
            let flags = load16(ring + old * RingLayout.descriptorBytes + 14) & bits
            if flags != (oldWrap ? RingLayout.flagAvail : RingLayout.flagUsed) { commit() }
        }
        release16(base + Field.freeHead, load16(base + Field.oldFreeHead))
        announce(
            usedIndex: load16(base + Field.oldUsedIndex), wrap: (base + Field.oldUsedWrap).load(as: UInt8.self) != 0)
    }

    /// Entries of the free list are in flight no more, whatever they say.
    private func clearFreeList() {
        var index = Int(load16(base + Field.freeHead))
        for _ in 0..<size {
            guard index < size else { return }
            clear(index)
            index = Int(load16(entry(index) + Entry.next))
        }
    }

    /// The copies of the descriptors of the chain at `index`.
    func descriptors(of index: Int) -> Walk { Walk(record: self, index: index) }

    /// Goes through the copies of one chain's descriptors.
    struct Walk {
        let record: InflightPacked
        var index: Int
        var left: Int

        init(record: InflightPacked, index: Int) {
            self.record = record
            self.index = index
            left = min(Int(load16(record.entry(index) + Entry.count)), record.size)
        }

        mutating func next() -> Descriptor? {
            guard left > 0, index < record.size else { return nil }
            let place = record.entry(index)
            left -= 1
            index = Int(load16(place + Entry.next))
            let length = UInt64(UInt32(littleEndian: (place + Entry.length).load(as: UInt32.self)))
            let word = length | UInt64(load16(place + Entry.id)) << 32 | UInt64(load16(place + Entry.flags)) << 48
            return Descriptor(address: load64(place + Entry.address), word: word)
        }
    }
}

/// A window on shared memory.
extension InflightPacked: @unchecked Sendable {}
