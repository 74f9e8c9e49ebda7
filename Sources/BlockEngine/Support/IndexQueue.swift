// The two containers of the data path, an array that never grows and a queue threaded through
// records that exist already. The standard library's would count references and allocate.

/// Memory for `count` records, made once; its owner deallocates it.
@inline(__always) func slab<Record: BitwiseCopyable>(
    _ count: Int, of record: Record
) -> UnsafeMutablePointer<Record> {
    let memory = UnsafeMutablePointer<Record>.allocate(capacity: max(count, 1))
    memory.initialize(repeating: record, count: max(count, 1))
    return memory
}

/// A record that can be in one list at a time.
protocol Linked: BitwiseCopyable {
    var next: Int32 { get set }
}
extension Request: Linked {}
extension Transfer: Linked {}

/// First in, first out, linked through the records themselves.
struct IndexQueue: BitwiseCopyable {
    private(set) var head: Int32 = none
    private var tail: Int32 = none

    @inline(__always) var isEmpty: Bool { head < 0 }

    @inline(__always) mutating func push<Record: Linked>(_ index: Int32, in records: UnsafeMutablePointer<Record>) {
        records[Int(index)].next = none
        if tail < 0 { head = index } else { records[Int(tail)].next = index }
        tail = index
    }

    /// Takes the first one out; `none` when empty.
    @inline(__always) mutating func pop<Record: Linked>(from records: UnsafeMutablePointer<Record>) -> Int32 {
        let index = head
        guard index >= 0 else { return none }
        head = records[Int(index)].next
        if head < 0 { tail = none }
        return index
    }

    /// The whole list; the queue is empty afterwards.
    @inline(__always) mutating func takeAll() -> IndexQueue {
        let all = self
        self = IndexQueue()
        return all
    }

    init() {}
}

/// Free indices `0..<count`, last in first out: the warmest record is used again.
struct FreeList: BitwiseCopyable {
    private let indices: UnsafeMutablePointer<Int32>
    private(set) var available: Int

    init(count: Int) {
        indices = slab(count, of: 0)
        available = max(count, 0)
        for i in 0..<available { indices[i] = Int32(available - 1 - i) }
    }

    @inline(__always) mutating func take() -> Int32 {
        guard available > 0 else { return none }
        available &-= 1
        return indices[available]
    }
    @inline(__always) mutating func give(_ index: Int32) {
        indices[available] = index
        available &+= 1
    }
    func free() { indices.deallocate() }
}

/// First in, first out, for what has no record to link: `user_data` of reads that have to be prepared again.
struct TagQueue: BitwiseCopyable {
    private let tags: UnsafeMutablePointer<UInt64>
    private let capacity: Int
    private var first = 0
    private(set) var count = 0

    /// `capacity`: as many as can ever be in it.
    init(capacity: Int) {
        tags = slab(capacity, of: 0)
        self.capacity = max(capacity, 1)
    }

    @inline(__always) var isEmpty: Bool { count == 0 }

    mutating func push(_ tag: UInt64) {
        tags[(first &+ count) % capacity] = tag
        count &+= 1
    }
    /// The oldest; the queue must not be empty.
    mutating func pop() -> UInt64 {
        let tag = tags[first]
        first = (first &+ 1) % capacity
        count &-= 1
        return tag
    }
    func free() { tags.deallocate() }
}
