// Records of the data path lie in tables that are allocated once, and refer to each other by index. Each table has an
// index type of its own, so that the number of a request is never taken for that of a transfer.

/// Where a record is in its table.
protocol RecordIndex: BitwiseCopyable, Sendable {
    var position: Int { get }
}

/// The files of a chain have numbers already.
extension UInt16: RecordIndex {
    @inline(__always) var position: Int { Int(self) }
}

/// An index that can also be `none`: no record.
protocol LinkIndex: RecordIndex, Equatable {
    var raw: Int32 { get }
    init(raw: Int32)
}

extension LinkIndex {
    @inline(__always) static var none: Self { Self(raw: -1) }
    @inline(__always) var exists: Bool { raw >= 0 }
    @inline(__always) var position: Int { Int(raw) }
    @inline(__always) init(_ position: Int) { self.init(raw: Int32(truncatingIfNeeded: position)) }
}

/// A request, by the number that the door gave it.
struct RequestIndex: LinkIndex { let raw: Int32 }
/// A transfer.
struct TransferIndex: LinkIndex { let raw: Int32 }
/// An allocating write.
struct AllocationIndex: LinkIndex { let raw: Int32 }
/// A mapping table on its way.
struct TableLoadIndex: LinkIndex { let raw: Int32 }
/// A compressed stream on its way.
struct ClusterLoadIndex: LinkIndex { let raw: Int32 }
/// A decoded cluster, or the place of one on its way.
struct CachedClusterIndex: LinkIndex { let raw: Int32 }
/// A bounce buffer.
struct BounceIndex: LinkIndex { let raw: Int32 }
/// A list of ranges of memory.
struct ListIndex: LinkIndex { let raw: Int32 }

/// What a `RecordTable` holds: plain bytes with an index type of their own.
protocol TableRecord: BitwiseCopyable {
    associatedtype Index: RecordIndex
}

/// Records `0..<count`, allocated once. They are read and changed where they are.
///
/// Its owner calls `deallocate` when no transfer can touch what the records name: the kernel may still write into
/// buffers of an engine that is dropped with transfers in flight.
@safe struct RecordTable<Record: TableRecord>: ~Copyable {
    private let memory: UnsafeMutablePointer<Record>
    let count: Int

    init(count: Int, of record: Record) {
        self.count = count
        unsafe memory = unsafe slab(count, of: record)
    }

    @inline(__always) subscript(_ index: Record.Index) -> Record {
        @inline(__always) unsafeAddress {
            assert(index.position >= 0 && index.position < count, "no such record")
            return unsafe UnsafePointer(memory + index.position)
        }
        @inline(__always) nonmutating unsafeMutableAddress {
            assert(index.position >= 0 && index.position < count, "no such record")
            return unsafe memory + index.position
        }
    }

    func deallocate() { unsafe memory.deallocate() }
}

/// Memory for `count` records, made once; its owner deallocates it.
@inline(__always) func slab<Record: BitwiseCopyable>(
    _ count: Int, of record: Record
) -> UnsafeMutablePointer<Record> {
    let memory = UnsafeMutablePointer<Record>.allocate(capacity: max(count, 1))
    unsafe memory.initialize(repeating: record, count: max(count, 1))
    return unsafe memory
}
