// The in-flight record of a packed ring, by which a restarted process repeats the requests of a killed one. In a packed
// ring the device overwrites descriptors while others are in flight, so the record has copies of them, in a list whose
// free entries are updated as a transaction: the "old" fields are what a restarted process goes by.

/// The in-flight record of one packed ring: 32 bytes of header, then 32 bytes for each descriptor (vhost-user
/// specification: "Inflight I/O tracking", QueueRegionPacked).
@safe public struct InflightPacked: BitwiseCopyable {
    static let version: UInt16 = 1
    static let headerBytes = 32
    static let entryBytes = 32
    /// Bytes of the record of a ring of `size` entries.
    public static func bytes(size: Int) -> Int { headerBytes + entryBytes * size }

    /// Offsets in the header, in bytes.
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
    /// Offsets in an entry, in bytes.
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
    // The chain whose descriptors are being copied.
    private var head = 0
    private var last = 0
    private var noted: UInt16 = 0
    private var free = 0

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

    @inline(__always) private func entry(_ index: Int) -> UnsafeMutableRawPointer {
        unsafe base + (Self.headerBytes &+ index &* Self.entryBytes)
    }

    // MARK: while running

    /// Copies a descriptor of the chain that is being read; false when the record is damaged.
    @inline(__always) mutating func note(_ descriptor: Descriptor, isHead: Bool) -> Bool {
        if isHead {
            free = unsafe Int(load16(base + Field.oldFreeHead))
            head = free
            noted = 0
        }
        guard free < size, Int(noted) < size else { return false }
        let place = unsafe entry(free)
        if isHead {
            unsafe store64(place + Entry.counter, counter)
            counter &+= 1
            unsafe release8(place + Entry.inflight, 1)
        }
        unsafe store64(place + Entry.address, descriptor.address)
        unsafe store16(place + Entry.id, descriptor.packedID)
        unsafe store16(place + Entry.flags, descriptor.packedFlags)
        unsafe (place + Entry.length).storeBytes(of: descriptor.length.littleEndian, as: UInt32.self)
        last = free
        noted &+= 1
        free = unsafe Int(load16(place + Entry.next))
        return true
    }

    /// The chain is complete: from here on it survives a crash. Returns the index of its first entry.
    @inline(__always) mutating func enter() -> UInt16 {
        let place = unsafe entry(head)
        unsafe store16(place + Entry.last, UInt16(truncatingIfNeeded: last))
        unsafe store16(place + Entry.count, noted)
        unsafe release16(base + Field.freeHead, UInt16(truncatingIfNeeded: free))
        unsafe release16(base + Field.oldFreeHead, UInt16(truncatingIfNeeded: free))
        return UInt16(truncatingIfNeeded: head)
    }

    /// The chain at `index` is about to be published: its entries are free in the new state.
    @inline(__always) func retire(_ index: Int) {
        let last = unsafe Int(load16(entry(index) + Entry.last))
        guard last < size else { return }
        unsafe release16(entry(last) + Entry.next, load16(base + Field.freeHead))
        unsafe release16(base + Field.freeHead, UInt16(truncatingIfNeeded: index))
    }

    /// Records the used position of the ring once the batch is published.
    @inline(__always) func announce(usedIndex: UInt16, wrap: Bool) {
        unsafe release16(base + Field.usedIndex, usedIndex)
        unsafe release8(base + Field.usedWrap, wrap ? 1 : 0)
    }

    /// The chain at `index` is no longer in flight.
    @inline(__always) func clear(_ index: Int) { unsafe release8(entry(index) + Entry.inflight, 0) }

    /// Makes the new state the one that a restarted process goes by.
    @inline(__always) func commit() {
        unsafe release16(base + Field.oldFreeHead, load16(base + Field.freeHead))
        unsafe release16(base + Field.oldUsedIndex, load16(base + Field.usedIndex))
        unsafe release8(base + Field.oldUsedWrap, (base + Field.usedWrap).load(as: UInt8.self))
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

    /// Completes or undoes the batch that was being published, and returns what is in flight. A new record starts at
    /// the position given. `ring` is the descriptor ring. Throws `.badInflightRegion` for a record that is damaged or
    /// another queue's.
    mutating func recover(
        usedIndex: UInt16, usedWrap: Bool, ring: UnsafeMutableRawPointer
    ) throws(VirtqueueError) -> Recovered {
        if isNew {
            reset(usedIndex: usedIndex, usedWrap: usedWrap)
            return Recovered(usedIndex: usedIndex, usedWrap: usedWrap)
        }
        guard unsafe load16(base + Field.version) == Self.version else { throw .badInflightRegion("unknown version") }
        guard unsafe Int(load16(base + Field.count)) == size else {
            throw .badInflightRegion("made for another queue size")
        }
        try unsafe settle(ring)
        clearFreeList()
        var result = unsafe Recovered(
            usedIndex: load16(base + Field.usedIndex), usedWrap: (base + Field.usedWrap).load(as: UInt8.self) != 0)
        var found: [(counter: UInt64, index: UInt16)] = []
        for index in 0..<size where unsafe entry(index).load(as: UInt8.self) != 0 {
            let count = unsafe Int(load16(entry(index) + Entry.count))
            guard count > 0, count <= size - result.ringEntries else {
                throw .badInflightRegion("more descriptors in flight than the ring has")
            }
            result.ringEntries += count
            unsafe found.append((load64(entry(index) + Entry.counter), UInt16(index)))
        }
        found.sort { $0.counter < $1.counter }
        if let last = found.last { counter = last.counter &+ 1 }
        result.chains = found.map(\.index)
        return result
    }

    /// Writes a new record.
    private func reset(usedIndex: UInt16, usedWrap: Bool) {
        unsafe base.initializeMemory(as: UInt8.self, repeating: 0, count: Self.bytes(size: size))
        for index in 0..<size { unsafe store16(entry(index) + Entry.next, UInt16(truncatingIfNeeded: index + 1)) }
        unsafe store16(base + Field.count, UInt16(truncatingIfNeeded: size))
        announce(usedIndex: usedIndex, wrap: usedWrap)
        commit()
        unsafe release16(base + Field.version, Self.version)
    }

    /// Decides whether the batch that was under way was published, and makes new and old state the same.
    private func settle(_ ring: UnsafeMutableRawPointer) throws(VirtqueueError) {
        let old = unsafe Int(load16(base + Field.oldUsedIndex))
        guard old < size, unsafe Int(load16(base + Field.usedIndex)) < size else {
            throw .badInflightRegion("the used index is outside the ring")
        }
        let oldWrap = unsafe (base + Field.oldUsedWrap).load(as: UInt8.self) != 0
        let wrap = unsafe (base + Field.usedWrap).load(as: UInt8.self) != 0
        if unsafe Int(load16(base + Field.usedIndex)) != old || wrap != oldWrap {
            // Still as the driver made it available: the driver has seen nothing of the batch.
            let bits = RingLayout.flagAvail | RingLayout.flagUsed
            let flags = unsafe load16(ring + old * RingLayout.descriptorBytes + 14) & bits
            if flags != (oldWrap ? RingLayout.flagAvail : RingLayout.flagUsed) { commit() }
        }
        unsafe release16(base + Field.freeHead, load16(base + Field.oldFreeHead))
        unsafe announce(
            usedIndex: load16(base + Field.oldUsedIndex), wrap: (base + Field.oldUsedWrap).load(as: UInt8.self) != 0)
    }

    /// Marks the entries of the free list as not in flight, whatever they say.
    private func clearFreeList() {
        var index = unsafe Int(load16(base + Field.freeHead))
        for _ in 0..<size {
            guard index < size else { return }
            clear(index)
            index = unsafe Int(load16(entry(index) + Entry.next))
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
            left = unsafe min(Int(load16(record.entry(index) + Entry.count)), record.size)
        }

        mutating func next() -> Descriptor? {
            guard left > 0, index < record.size else { return nil }
            let place = unsafe record.entry(index)
            left -= 1
            index = unsafe Int(load16(place + Entry.next))
            let length = unsafe UInt64(UInt32(littleEndian: (place + Entry.length).load(as: UInt32.self)))
            let word =
                unsafe length | UInt64(load16(place + Entry.id)) << 32 | UInt64(load16(place + Entry.flags)) << 48
            return unsafe Descriptor(address: load64(place + Entry.address), word: word)
        }
    }
}

/// A window on shared memory.
extension InflightPacked: @unchecked Sendable {}
