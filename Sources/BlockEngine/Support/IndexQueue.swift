// The containers of the data path: a queue threaded through records that exist already, the free indices of a table,
// and a queue of fixed capacity. The standard library's would count references and allocate.

/// A record that can be in one list at a time.
protocol Linked: TableRecord where Index: LinkIndex {
    /// The record behind this one in its list.
    var next: Index { get set }
}

/// First in, first out, linked through the records themselves.
struct IndexQueue<Record: Linked>: BitwiseCopyable {
    private(set) var head = Record.Index.none
    private var tail = Record.Index.none

    @inline(__always) var isEmpty: Bool { !head.exists }

    @inline(__always) mutating func push(_ index: Record.Index, in records: borrowing RecordTable<Record>) {
        records[index].next = .none
        if tail.exists { records[tail].next = index } else { head = index }
        tail = index
    }

    /// Takes the first one out; `none` when empty.
    @inline(__always) mutating func pop(from records: borrowing RecordTable<Record>) -> Record.Index {
        let index = head
        guard index.exists else { return .none }
        head = records[index].next
        if !head.exists { tail = .none }
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
@safe struct FreeList<Index: LinkIndex>: BitwiseCopyable {
    private let indices: UnsafeMutablePointer<Index>
    private(set) var available: Int

    init(count: Int) {
        unsafe indices = unsafe slab(count, of: .none)
        available = max(count, 0)
        for i in 0..<available { unsafe indices[i] = Index(available - 1 - i) }
    }

    @inline(__always) mutating func take() -> Index {
        guard available > 0 else { return .none }
        available &-= 1
        return unsafe indices[available]
    }
    @inline(__always) mutating func give(_ index: Index) {
        unsafe indices[available] = index
        available &+= 1
    }
    func free() { unsafe indices.deallocate() }
}

/// First in, first out, for what has no record to link: `user_data` of reads that have to be prepared again.
@safe struct TagQueue: BitwiseCopyable {
    private let tags: UnsafeMutablePointer<UInt64>
    private let capacity: Int
    private var first = 0
    private(set) var count = 0

    /// `capacity`: as many as can ever be in it.
    init(capacity: Int) {
        unsafe tags = unsafe slab(capacity, of: 0)
        self.capacity = max(capacity, 1)
    }

    @inline(__always) var isEmpty: Bool { count == 0 }

    mutating func push(_ tag: UInt64) {
        unsafe tags[(first &+ count) % capacity] = tag
        count &+= 1
    }
    /// The oldest; the queue must not be empty.
    mutating func pop() -> UInt64 {
        let tag = unsafe tags[first]
        first = (first &+ 1) % capacity
        count &-= 1
        return tag
    }
    func free() { unsafe tags.deallocate() }
}
