// Reads whose pages are in memory wait for each other: then the processor can look for all their pages at once, which
// takes longer than the rest of a request when it is done one by one.
import LinuxIO

/// Copies out of the mapping of one file, each a whole request, that are done together.
struct MappedReadBatch: BitwiseCopyable {
    static let limit = 16
    /// The longest copy that is put off, in bytes: longer ones find their pages meanwhile.
    static let longest = 16 << 10
    let copies: UnsafeMutablePointer<PageCopy>
    let requests: UnsafeMutablePointer<RequestIndex>
    private(set) var count = 0

    init() {
        copies = slab(MappedReadBatch.limit, of: PageCopy())
        requests = slab(MappedReadBatch.limit, of: .none)
    }
    func free() {
        copies.deallocate()
        requests.deallocate()
    }

    @inline(__always) var isEmpty: Bool { count == 0 }
    @inline(__always) var isFull: Bool { count == MappedReadBatch.limit }

    @inline(__always) mutating func push(_ request: RequestIndex, _ copy: PageCopy) {
        copies[count] = copy
        requests[count] = request
        count &+= 1
    }
    @inline(__always) mutating func clear() { count = 0 }

    /// The position in the file up to which it must reach for `count` copies to be its bytes; 0: they are for certain.
    @inline(__always) func lastByteInDoubt(_ first: Int, _ count: Int, in pages: MappedPages) -> UInt64 {
        var end: UInt64 = 0
        for i in first..<first &+ count where copies[i].endsInZero { end = max(end, copies[i].end(in: pages)) }
        return end
    }
}
