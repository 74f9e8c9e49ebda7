// What a queue knows of one request between pop and push, as plain bytes in memory that was allocated before the first
// request. The block codec reads and trims it in place; nothing here is reference-counted, boxed or moved.
public import Glibc

/// One descriptor chain (virtio 1.3, sections 2.7.5 and 2.8.6), copied and checked.
@safe public struct DescriptorChain: BitwiseCopyable {
    /// The buffers in order: `readableCount` that the device reads, then `writableCount` that it writes. The decoder
    /// may trim the list; it is valid until the chain is pushed.
    public internal(set) var iovecs: UnsafeMutablePointer<iovec>
    /// Buffers that the device reads.
    public internal(set) var readableCount: Int32 = 0
    /// Buffers that the device writes.
    public internal(set) var writableCount: Int32 = 0
    /// Bytes that the device may read, as the driver gave them; trimming does not change the number.
    public internal(set) var readableBytes: UInt64 = 0
    /// Bytes that the device may write, as the driver gave them; trimming does not change the number.
    public internal(set) var writableBytes: UInt64 = 0
    /// The last byte the device may write: where a block request has its status. Nil when there is none.
    public internal(set) var lastWritable: UnsafeMutablePointer<UInt8>?
    /// The chain's index in the queue's array of chains, `0..<size`; unique among the requests in flight.
    public internal(set) var slot: UInt32
    /// What is wrong with the chain; `.none` for one that can be decoded.
    public internal(set) var fault: ChainFault = .none

    /// Popped and not pushed yet.
    var isInFlight = false
    /// Head index (split) or buffer id (packed): what the driver gets back.
    var id: UInt16 = 0
    /// Entries of the ring that the chain occupies (packed).
    var ringEntries: UInt16 = 0
    /// Head of the chain's in-flight record (packed).
    var record: UInt16 = 0
    /// Steps of the walk that took no room in the list.
    var slowSteps: UInt16 = 0
    /// The list of the pool that holds the iovecs when they are many; -1 when the short one does.
    var longList: Int32 = -1
    var memory: GuestMemorySnapshot

    init(slot: UInt32, iovecs: UnsafeMutablePointer<iovec>, memory: GuestMemorySnapshot) {
        self.slot = slot
        unsafe self.iovecs = unsafe iovecs
        self.memory = memory
    }

    /// The first buffer that the device reads.
    @inlinable public var readable: UnsafeMutablePointer<iovec> { unsafe iovecs }
    /// The first buffer that the device writes.
    @inlinable public var writable: UnsafeMutablePointer<iovec> { unsafe iovecs + Int(readableCount) }
}

/// Named maxima of a chain.
public enum ChainLimits {
    /// Data segments a request can have, and what one readv takes (IOV_MAX). Windows sends 512 + 3 descriptors.
    public static let segments = 1024
    /// With a header and a status of their own.
    static let iovecs = segments + 2
    /// Iovecs of the short list: most requests have three.
    static let shortList = 8
    /// Long lists a queue has; only those in use touch memory.
    static let longLists = 1024
    /// Descriptors walked, beyond those that fit the list, before a chain counts as endless.
    public static let descriptors = 2048
    /// Entries an indirect table may have (virtio: at most the queue size; drivers exceed it, `next` is 16 bits wide).
    public static let indirectEntries = 65535
}

/// Memory for `count` records, allocated once; its owner frees it.
@inline(__always) func slab<Record: BitwiseCopyable>(
    _ count: Int, of record: Record
) -> UnsafeMutablePointer<Record> {
    let memory = UnsafeMutablePointer<Record>.allocate(capacity: max(count, 1))
    unsafe memory.initialize(repeating: record, count: max(count, 1))
    return unsafe memory
}

/// A handle on a stack of free indices; copies share the stack. Last in, first out: the index that was in use last,
/// whose memory may be in a CPU cache, is taken first.
@safe struct IndexStack: BitwiseCopyable {
    /// The count, then the indices.
    private let words: UnsafeMutablePointer<Int32>

    /// A stack of all indices `0..<count`.
    init(count: Int) {
        unsafe words = unsafe slab(count + 1, of: 0)
        unsafe words[0] = Int32(count)
        for i in 0..<count { unsafe words[i + 1] = Int32(count - 1 - i) }
    }
    @inline(__always) var isEmpty: Bool { unsafe words[0] == 0 }
    /// The stack must not be empty.
    @inline(__always) func take() -> Int32 {
        unsafe words[0] &-= 1
        return unsafe words[Int(words[0]) &+ 1]
    }
    @inline(__always) func give(_ index: Int32) {
        unsafe words[Int(words[0]) &+ 1] = index
        unsafe words[0] &+= 1
    }
    func free() { unsafe words.deallocate() }
}

/// The long iovec lists of a queue: address space for the worst case, memory only for what was ever used.
@safe struct ListPool: BitwiseCopyable {
    private let lists: UnsafeMutablePointer<iovec>
    let free: IndexStack

    init(count: Int) {
        // Left as it comes: initialising would touch every page of it.
        unsafe lists = .allocate(capacity: count * ChainLimits.iovecs)
        free = IndexStack(count: count)
    }
    @inline(__always) func list(_ index: Int32) -> UnsafeMutablePointer<iovec> {
        unsafe lists + Int(index) &* ChainLimits.iovecs
    }
    func deallocate() {
        unsafe lists.deallocate()
        free.free()
    }
}
